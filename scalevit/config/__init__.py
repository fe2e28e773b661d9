"""The configuration of a run, without torch: dataclasses, presets, YAML in and out, validation."""

from scalevit.config.load import override, dump, load, with_explicit_shape, run_id, to_dict
from scalevit.config.lr_schedule import Schedule
from scalevit.config.run import (
    Branch,
    Data,
    Guard,
    Model,
    Optimizer,
    Parallel,
    Preprocessing,
    Probe,
    Run,
    Start,
    Train,
)
from scalevit.config.validate import ConfigErrors, missing_source, parallel_errors, validate

__all__ = [
    "Branch", "Data", "Guard", "Mistakes", "Model", "Optimizer", "Parallel", "Preprocessing", "Probe", "Run",
    "Schedule", "Start", "Train", "changed", "dump", "load", "missing", "resolved", "run_id",
    "sharing_mistakes", "to_dict", "validate",
]  # fmt: skip
