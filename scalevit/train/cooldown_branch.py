"""A cooldown branch: a run that starts from a checkpoint of another one, its trunk, whose past it shares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scalevit import config
from scalevit.artifacts import checkpoint, run_folder
from scalevit.config import lr_schedule


def branch_errors(run: config.Run) -> list[str]:
    """Why the run cannot start from its trunk's checkpoint: another past, or no such checkpoint."""
    trunk = Path(run.branch.trunk)
    try:
        past = config.load(str(trunk / run_folder.CONFIG))
    except ValueError as error:
        return [f"branch.trunk: {error}"]
    try:
        common = lr_schedule.branch_schedule(past.schedule, run.branch.step, run.schedule.cooldown)
    except ValueError as error:
        return [f"branch.trunk={trunk}: {error}"]
    odd = _differing_past(replace(past, schedule=replace(common, steps=run.schedule.steps)), run)
    if odd:
        return [f"branch.trunk={trunk}: its past is another; different: {', '.join(odd[:5])}"]
    there = [entry.step for entry in checkpoint.list_checkpoints(run_folder.checkpoint_folder(past, trunk))]
    if run.branch.step not in there:
        listed = ", ".join(map(str, there)) or "none"
        return [f"branch.trunk={trunk}: no checkpoint of step {run.branch.step}; there: {listed}"]
    return []


def _differing_past(trunk: config.Run, run: config.Run) -> list[str]:
    """What decides the weights before the branch point, and differs."""
    plain = replace(run, branch=trunk.branch)
    if config.run_id(trunk) == config.run_id(plain):
        return []
    return run_folder.config_differences(trunk, plain)


def parent_checkpoint(branch: config.Branch) -> checkpoint.SavedCheckpoint:
    """The trunk's checkpoint that the branch starts from. Raises ValueError when it is damaged."""
    folder = checkpoint.step_folder(run_folder.checkpoint_folder_in(Path(branch.trunk)), branch.step)
    wrong = checkpoint.find_damage(folder)
    if wrong:
        raise ValueError(f"the trunk's checkpoint is damaged: {'; '.join(wrong)}")
    return checkpoint.SavedCheckpoint(branch.step, folder)
