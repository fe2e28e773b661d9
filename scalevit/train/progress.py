"""Progress text of a training run: loss, speed, utilisation, stall and the last checkpoint as people read
them. The display itself is `config/progress.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

FORMATS = {
    "loss": "loss {:.4f}",
    "images_per_second": "{:,.0f} images/s",
    "mfu": "MFU {:.1%}",
    "stall": "stall {:.0%}",
    "grad_norm": "gradient {:.3g}",
    "lr": "lr {:.2e}",
    "saved": "saved at {:.0f}",
}


def format_values(values: Mapping[str, float | None]) -> str:
    """The values that are known, in one line of text."""
    known = ((form, values.get(key)) for key, form in FORMATS.items())
    return " · ".join(form.format(value) for form, value in known if value is not None)
