"""Optimizers of the paper: Adafactor, Adam and SGD with bf16 momentum, and their parameter groups."""

from scalevit.optim.adafactor import Adafactor
from scalevit.optim.adam import Adam
from scalevit.optim.factory import build
from scalevit.optim.param_groups import Rule, assign, group_table, parameter_groups
from scalevit.optim.sgd import SGD

__all__ = ["SGD", "Adafactor", "Adam", "Rule", "assign", "build", "group_table", "parameter_groups"]
