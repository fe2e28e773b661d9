"""Fine-tuning put together from runs: the paper's protocol, the choice of a learning rate, the last run.

Every part is a run like any other (`run.pretrain`), so that it is saved, guarded and resumed as they are. A
rate is chosen by training once with each on 98 % of the train half; the last run trains on all of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scalevit import config
from scalevit.artifacts import records, run_folder
from scalevit.config.lr_schedule import Schedule
from scalevit.evals.class_order import class_names
from scalevit.evals.datasets.probe_set import ProbeSet
from scalevit.evals.finetune import finetune_split, weights_hash
from scalevit.evals.in_training import open_set_cached
from scalevit.model import weights
from scalevit.train.reporter import RowFields
from scalevit.train.run import PretrainResult, preflight_errors, pretrain

#: Where below a run's folder the runs are that choose its rate, and what they are compared by.
RATES, HELD_OUT_ACCURACY = "rates", "held_out_accuracy"


@dataclass(frozen=True)
class FinetuneProtocol:
    """rates: learning rates to choose from on held-out images; a single one is taken as it is."""

    steps: int
    rates: tuple[float, ...]


#: paper.md §2: App. D for ImageNet and alike, and its one setting for all tasks of VTAB-1k.
PROTOCOLS = {"paper": FinetuneProtocol(20_000, (0.03, 0.01)), "vtab1k": FinetuneProtocol(2_500, (0.01,))}
WARMUP = 500
#: A sigmoid's first bias (SoViT, arXiv 2305.13035, App.): about one class of a thousand is right.
SIGMOID_BIAS = -6.9


@dataclass(frozen=True)
class FinetunePlan:
    """last: the run that is wanted, its learning rate still open; rates: those to choose from."""

    last: config.Run
    rates: tuple[float, ...]

    @property
    def choose(self) -> bool:
        """Whether a rate is to be chosen."""
        return len(self.rates) > 1

    def at(self, rate: float) -> config.Run:
        """The run on all of the train half."""
        return replace(self.last, schedule=replace(self.last.schedule, lr=rate))

    def choice(self, rate: float) -> config.Run:
        """The run without the held-out images, whose accuracy there speaks for its rate."""
        run = self.at(rate)
        return replace(run, name=f"{run.name}-{rate:g}", data=replace(run.data, part="most"))


def plan(
    model: str,
    data: str,
    overrides: Sequence[str] = (),
    *,
    preset: str = "paper",
    rates: Sequence[float] = (),
) -> FinetunePlan:
    """The runs that fine-tune `model` on `data`; creates nothing.

    Raises ValueError for a model or data set that is not there, and for overrides that the weights, the data
    or the choice of a rate already decide."""
    found, protocol = open_set_cached(data), PROTOCOLS[preset]
    base = _base(model, data, found, protocol)
    run = _with_dependent_settings(
        config.override(base, overrides), {override.partition("=")[0] for override in overrides}
    )
    _require_possible(run, base)
    chosen = tuple(dict.fromkeys(rates or protocol.rates))
    if len(chosen) > 1:
        finetune_split(found, "most")
    wrong = [rate for rate in chosen if not rate > 0]
    if wrong:
        raise ValueError(f"--lr: must be positive, found {wrong[0]:g}")
    return FinetunePlan(run, chosen)


def _base(model: str, data: str, found: ProbeSet, protocol: FinetuneProtocol) -> config.Run:
    """The protocol's run for these weights and images, before the user's overrides."""
    loaded = weights.load(model)
    return config.Run(
        name=f"{Path(model).name}-{found.name}",
        model=replace(loaded.config, classes=found.classes),
        data=config.Data(
            source=data,
            part="train",
            transform="none" if found.whole else "inception",
            names=class_names(found),
        ),
        optimizer=config.Optimizer(name="sgd", body_decay=0.0, head_decay=0.0),
        schedule=Schedule("cosine", steps=protocol.steps, warmup=0, cooldown=0),
        train=config.Train(batch=512, loss="softmax"),
        start=config.Start(model, weights_hash(loaded), _parent(model), loaded.preprocessing),
    )


def _with_dependent_settings(run: config.Run, said: set[str]) -> config.Run:
    """Bias and warm-up that follow from the loss and the length, unless the user said them."""
    if "schedule.lr" in said:
        raise ValueError("schedule.lr: say --lr instead, with one rate, or several to choose from")
    if "model.head_bias" not in said:
        bias = SIGMOID_BIAS if run.train.loss == "sigmoid" else 0.0
        run = replace(run, model=replace(run.model, head_bias=bias))
    if "schedule.warmup" not in said:
        # a fifth at most, as VTAB-1k's 500 of 2 500
        run = replace(run, schedule=replace(run.schedule, warmup=min(WARMUP, run.schedule.steps // 5)))
    return run


def _require_possible(run: config.Run, base: config.Run) -> None:
    same = replace(run.model, image=base.model.image, head_bias=base.model.head_bias)
    odd = [key for key in vars(same) if getattr(same, key) != getattr(base.model, key)]
    if odd:
        raise ValueError(f"model.{odd[0]}: the weights and the data decide it; model.image can change")
    if (run.start, run.data.part, run.data.source) != (base.start, base.data.part, base.data.source):
        raise ValueError("start, data.source and data.part: MODEL and DATA decide them")
    found = config.validate(run)
    if found:
        raise config.ConfigErrors(found)


def _parent(model: str) -> str:
    """The run whose folder this is."""
    path = Path(model) / run_folder.CONFIG
    return config.run_id(config.load(str(path))) if path.is_file() else ""


# --------------------------------------------------------------------------- training


def finetune(planned: FinetunePlan, out: Path, *, max_minutes: float | None = None) -> PretrainResult:
    """Choose a rate where several are given, each in a folder below `out`/rates, then train the last run into
    `out`; or go on with what is there. What every rate reached is copied into the records of `out`."""
    began = time.monotonic()

    def left() -> float | None:
        return None if max_minutes is None else max(0.0, max_minutes - (time.monotonic() - began) / 60)

    _require_folder(planned, out)
    held: dict[float, float] = {}
    for rate in planned.rates if planned.choose else ():
        outcome = pretrain(planned.choice(rate), out / RATES / f"{rate:g}", max_minutes=left())
        if outcome.stopped is not None:
            return outcome
        held[rate] = reached(outcome.folder, HELD_OUT_ACCURACY)
    run = planned.at(max(held, key=lambda rate: held[rate]) if held else planned.rates[0])
    outcome = pretrain(run, out, max_minutes=left())
    if outcome.stopped is None and held:
        _record_rates(out, run, held)
    return outcome


def _require_folder(planned: FinetunePlan, out: Path) -> None:
    """Before rates are tried: whether `out` can hold the last run, with whichever rate."""
    found = [preflight_errors(planned.at(rate), out) for rate in planned.rates]
    if all(found):
        raise config.ConfigErrors(found[0])


def reached(folder: Path, metric: str) -> float:
    """A finished run's value of a metric of fine-tuning, at its last step."""
    rows = [
        row for row in records.read_records(folder) if row["kind"] == "finetune" and row["metric"] == metric
    ]
    return max(rows, key=lambda row: row["step"])["value"]


def _record_rates(out: Path, run: config.Run, held: dict[float, float]) -> None:
    """Rows of kind "rate" in the last run's records: what each rate reached on the held-out images."""
    there = [row for row in records.read_records(out) if row["kind"] == "rate"]
    if there or os.environ.get("RANK", "0") != "0":
        return
    facts = RowFields.of(run)
    records.append_records(
        out,
        [
            facts.row("rate", run.schedule.steps, f"{HELD_OUT_ACCURACY} at {rate:g}", value)
            | {"lr": rate, "chosen": rate == run.schedule.lr}
            for rate, value in held.items()
        ],
    )
