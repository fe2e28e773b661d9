"""Comparison of recipes by their scaling laws: compute multipliers, crossings, verdicts."""
