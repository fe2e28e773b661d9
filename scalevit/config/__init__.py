"""The configuration of a run, without torch: dataclasses, presets, YAML in and out, validation."""

from scalevit.config.load import dump, load, override, to_dict, with_explicit_shape
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
from scalevit.config.run_id import NOT_IDENTITY, run_id, same_run
from scalevit.config.validate import ConfigErrors, missing_source, parallel_errors, validate

__all__ = [
    "NOT_IDENTITY",
    "Branch",
    "ConfigErrors",
    "Data",
    "Guard",
    "Model",
    "Optimizer",
    "Parallel",
    "Preprocessing",
    "Probe",
    "Run",
    "Schedule",
    "Start",
    "Train",
    "dump",
    "load",
    "missing_source",
    "override",
    "parallel_errors",
    "run_id",
    "same_run",
    "to_dict",
    "validate",
    "with_explicit_shape",
]  # fmt: skip
