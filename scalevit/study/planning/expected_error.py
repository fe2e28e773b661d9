"""The error that a run should end with: by joint laws of the paper's own tables, or of a study of one's own.

The paper's tables are those of arXiv 2106.04560; their laws know models by the FLOPs of the trunk. A study's
laws count pool and classifier too, which are no small part of small models.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from scalevit.config.model_sizes import Shape, shape
from scalevit.config.run import Model
from scalevit.study.laws.joint import ExpectedError, JointLaw, fit_joint
from scalevit.study.paper.tables import BATCH, FEWSHOT, FEWSHOT_COLUMNS, FINETUNE, IMAGES, table

#: File of tables 4-13 or 14-22, column of the accuracy, column of the steps.
TABLES = {
    "imagenet_10shot": (FEWSHOT, FEWSHOT_COLUMNS["imagenet_10shot"], "steps_at_bs4096"),
    "imagenet_finetune": (FINETUNE, "ImageNet", "steps"),
}
#: So many runs must have seen images again before a law can say what that does.
FEWEST_REPEATING = 4
#: A study says nothing of models beyond so many times its largest: from L/16 to G/14 it is 8 in the paper.
FARTHEST = 8.0
#: Images count as seen once up to this number of passes.
ONCE = 1.2


@dataclass(frozen=True)
class Runs:
    """Finished runs, one entry each: model's name, forward FLOPs, images seen, unique images, error."""

    model: np.ndarray
    flops: np.ndarray
    seen: np.ndarray
    unique: np.ndarray
    error: np.ndarray

    def kept(self, mask: np.ndarray) -> Runs:
        return Runs(*(column[mask] for column in vars(self).values()))


@dataclass(frozen=True)
class Laws:
    """One joint law a task, the one to be best at first. source: whose runs, in words. whole: whether FLOPs
    count pool and classifier. largest: FLOPs of an image beyond which they are not to be asked which shape
    is best. notes: what weakens them."""

    tasks: dict[str, JointLaw]
    source: str
    whole: bool
    largest: float = np.inf
    notes: tuple[str, ...] = ()

    def named(self, task: str | None) -> str:
        """`task`, or the first one for None. ValueError for a task that is not here."""
        if task is not None and task not in self.tasks:
            raise ValueError(f"no law of {task!r} in {self.source}; there are {', '.join(self.tasks)}")
        return task or next(iter(self.tasks))

    def flops(self, resolved: Shape, model: Model) -> float:
        """Forward FLOPs of an image as these laws count them."""
        if self.whole:
            return resolved.flops(model.image, model.pool, model.classes)
        return resolved.flops(model.image)

    def predict_run(
        self, task: str, resolved: Shape, model: Model, seen: float, unique: float
    ) -> ExpectedError:
        """The error of a run that sees `seen` images, `unique` of them different."""
        law = self.tasks[task]
        given = (self.flops(resolved, model), seen, min(unique, seen))
        return law.expect(*given[: law.form.inputs])

    def errors(self, task: str, flops: np.ndarray, seen: np.ndarray, unique: float) -> np.ndarray:
        """Errors over FLOPs and images seen, broadcast."""
        law = self.tasks[task]
        return law.predict(*(flops, seen, np.minimum(seen, unique))[: law.form.inputs])


def published(task: str) -> Runs:
    """The paper's tables 4-13 (few-shot) or 14-22 (fine-tuned) as runs."""
    file, column, steps = TABLES[task]
    rows = [row for row in table(file) if row[column]]
    return Runs(
        np.array([row["model"] for row in rows]),
        np.array([shape(row["model"]).flops() for row in rows]),
        np.array([float(row[steps]) * BATCH for row in rows]),
        np.array([IMAGES[row["data_size"]] for row in rows]),
        np.array([1 - float(row[column]) / 100 for row in rows]),
    )


@cache
def paper_law(task: str) -> JointLaw:
    """The joint law of the paper's own table, models left out in turn."""
    runs = published(task)
    return fit_joint(runs.flops, runs.seen, runs.unique, runs.error, groups=runs.model, chance=1.0)


@cache
def paper_laws() -> Laws:
    """The laws of the paper's tables."""
    return Laws({task: paper_law(task) for task in TABLES}, "the paper's tables, after data like JFT", False)


def study_laws(folder: Path) -> Laws:
    """The laws of a study's finished runs, its own target first. ValueError when no task carries a law."""
    from scalevit.study.report import results

    if not folder.is_dir():
        raise ValueError(f"--study {folder}: there is no such folder")
    found, tasks, notes, refused = results.read_results(folder), {}, [], []
    for dataset, shots in found.tasks():
        points = [point for point in found.of((dataset, shots)) if 0 < point.error < 1]
        name = f"{dataset}_{shots}shot"
        models = np.array([point.facts.model for point in points])
        columns = np.array([(p.facts.forward, p.facts.seen, p.facts.unique, p.error) for p in points], float)
        try:
            tasks[name], note = law_of(Runs(models, *columns.reshape(-1, 4).T))
        except ValueError as error:
            refused.append(f"{name}: {error}")
            continue
        notes += [f"{name}: {note}"] if note else []
    if not tasks:
        raise ValueError(
            f"--study {folder}: no law: " + ("; ".join(refused) or "no run has ended in a probe")
        )
    runs = {point.facts.run: point.facts.forward for point in found.points}
    return Laws(tasks, f"the {len(runs)} runs of {folder}", True, FARTHEST * max(runs.values()), tuple(notes))


def law_of(runs: Runs) -> tuple[JointLaw, str]:
    """The law of all runs where enough of them saw images again, else of those that did not; and a note."""
    again = runs.seen > ONCE * runs.unique
    if np.sum(again) >= FEWEST_REPEATING:
        try:
            return fit_joint(
                runs.flops, runs.seen, runs.unique, runs.error, groups=runs.model, chance=1.0
            ), ""
        except ValueError:
            if np.all(again):
                raise
    once = runs.kept(~again)
    note = f"nothing is known of images seen again: {np.sum(again)} of {len(again)} runs did"
    return fit_joint(once.flops, once.seen, None, once.error, groups=once.model, chance=1.0), note
