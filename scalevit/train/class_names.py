"""Class names of a run's model: they come from its images and travel with the exported weights."""

from __future__ import annotations

import numpy as np

from scalevit import config


def class_names(run: config.Run) -> tuple[str, ...]:
    """Names of the head's classes in the order of its outputs; empty where the images carry no names.

    Configured names (`data.names`) come first, then those of the labelled set or of the source. Of a mixture
    and of procedural images there are none."""
    names = run.data.names or _names_of_source(run.data)
    return names if len(names) == run.model.classes else ()


def _names_of_source(data: config.Data) -> tuple[str, ...]:
    from scalevit.data.registry import FAMILIES

    if data.more or data.source in FAMILIES:
        return ()
    if data.part != "all":
        from scalevit.evals.in_training import open_set_cached

        labels = np.unique(open_set_cached(data.source).support_labels)
        return tuple(map(str, labels)) if labels.dtype.kind in "US" else ()
    from scalevit.data.dataset import open_dataset
    from scalevit.data.options import options_of

    return open_dataset(data.source, options_of(data)).class_names
