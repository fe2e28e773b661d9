"""Parity with the authors' numbers: recomputes golden files and measures the largest error of each.

A file is recognised by its keys and everything else is read from its shapes, so files for other widths,
depths, patches, heads or seeds are replayed as well. Formats and tolerances: docs/parity.md.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scalevit import config, optim
from scalevit.config.lr_schedule import Schedule, lr_at
from scalevit.evals.probes import ridge_probe
from scalevit.model import losses, weights
from scalevit.model.formats import bigvision
from scalevit.model.vit import ViT
from scalevit.train.loop import Recipe, State, take_step

Arrays = Mapping[str, np.ndarray]

#: Constants of the recorded training runs that the files do not hold.
RECORDED_SCHEDULE = Schedule("rsqrt", lr=1e-3, warmup=4, timescale=5, cooldown=6)
CLIP, BODY_DECAY, HEAD_DECAY = 1.0, 0.03, 3.0
#: Share of a tensor's entries whose momentum may round to the neighbouring bf16 number.
MAX_TIPPED_SHARE = 2e-3


@dataclass(frozen=True)
class Check:
    """Error of one quantity of one file. tolerance: None for quantities that are shown but not judged; the
    note says why."""

    case: str
    quantity: str
    error: float
    tolerance: float | None
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.tolerance is None or self.error <= self.tolerance


def replay_folder(folder: Path) -> tuple[list[Check], list[str]]:
    """Checks of every golden file in `folder`, and the names of npz files that are not recognised.

    Raises ValueError when there is none, or one holds something else than plain arrays."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected one with golden files (.npz)")
    checks, unknown = [], []
    for path in sorted(folder.glob("*.npz")):
        arrays = bigvision.read(path)
        kind = kind_of(arrays)
        if kind is None:
            unknown.append(path.name)
        else:
            checks += _replay(path, kind, arrays)
    if not checks:
        raise ValueError(
            f"{folder} holds no golden file that is known by its keys; known: {', '.join(GOLDEN_KINDS)}"
        )
    return checks, unknown


def kind_of(arrays: Arrays) -> str | None:
    """The kind of a golden file, from its keys alone."""
    return next((name for name, kind in GOLDEN_KINDS.items() if kind.known_by(arrays)), None)


def _replay(path: Path, kind: str, arrays: Arrays) -> list[Check]:
    try:
        return list(GOLDEN_KINDS[kind].replay(path.stem, arrays))
    except (KeyError, IndexError, RuntimeError, ValueError, TypeError) as error:
        reason = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise ValueError(
            f"{path} looks like a golden file ({kind}) but cannot be replayed: {reason}"
        ) from None


# --------------------------------------------------------------------------- errors


def max_error(ours: np.ndarray | Tensor, theirs: np.ndarray, scale: float | None = None) -> float:
    """Largest absolute difference over the largest absolute value (or over `scale`)."""
    difference = float(np.abs(_float64(ours) - _float64(theirs)).max(initial=0.0))
    return _ratio(difference, float(np.abs(_float64(theirs)).max(initial=0.0)) if scale is None else scale)


def max_relative_error(ours: np.ndarray, theirs: np.ndarray, floor: float = 0.0) -> float:
    """Largest relative difference of single values; those below `floor` count as large as that."""
    pairs = zip(_float64(ours).ravel(), _float64(theirs).ravel(), strict=True)
    return max((_ratio(float(abs(a - b)), max(float(abs(b)), floor)) for a, b in pairs), default=0.0)


def _ratio(error: float, size: float) -> float:
    """NaN counts as infinitely wrong."""
    if error == 0:
        return 0.0
    found = float(error / size) if size > 0 else math.inf
    return math.inf if math.isnan(found) else found


def _float64(value: np.ndarray | Tensor) -> np.ndarray:
    return np.asarray(value.detach() if isinstance(value, Tensor) else value, np.float64)


def _same_shape(ours: np.ndarray | Tensor, theirs: np.ndarray, what: str) -> None:
    if tuple(ours.shape) != theirs.shape:
        raise ValueError(f"{what} is {theirs.shape}, but the parameters imply {tuple(ours.shape)}")


# --------------------------------------------------------------------------- the model


def _below(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): v for name, v in arrays.items() if name.startswith(prefix)}


def _model(params: Arrays, images: np.ndarray) -> ViT:
    described = bigvision.infer(params, image=images.shape[-2])
    model = ViT(described)
    model.load_state_dict(bigvision.to_ours(params, model))
    return model


def _images(images: np.ndarray) -> Tensor:
    """(…, height, width, 3) as (…, 3, height, width)."""
    return torch.from_numpy(np.moveaxis(images, -1, -3).copy()).float()


def _vit(case: str, arrays: Arrays) -> Iterator[Check]:
    """Model: outputs, loss and every gradient."""
    model = _model(_below(arrays, "params/"), arrays["image"])
    outputs = model.intermediates(_images(arrays["image"]))
    for name in ("encoded", "pre_logits", "logits"):
        _same_shape(outputs[name], arrays[name], name)
        yield Check(case, name, max_error(outputs[name], arrays[name]), 1e-5)
    loss = losses.sigmoid_xent(outputs["logits"], torch.from_numpy(arrays["labels"]).float())
    yield Check(case, "loss", max_error(loss, arrays["loss"]), 1e-5)
    loss.backward()
    values = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    yield _gradients(case, bigvision.from_ours(model, values), _below(arrays, "grads/"))


def _gradients(case: str, ours: Arrays, theirs: Arrays) -> Check:
    """The floor under the scale keeps gradients that are zero up to rounding (key biases) from deciding."""
    floor = 1e-3 * max(float(np.abs(g).max()) for g in theirs.values())
    errors = {n: max_error(ours[n], g, max(float(np.abs(g).max()), floor)) for n, g in theirs.items()}
    worst = max(errors, key=errors.__getitem__)
    return Check(case, f"gradients of {len(errors)}", errors[worst], 1e-4, f"worst: {worst}")


# --------------------------------------------------------------------------- optimizers alone


@dataclass(frozen=True)
class CandidateRule:
    """An update rule that a file may have been recorded with. words: what a file's name calls it."""

    words: tuple[str, ...]
    build: Callable[[list[Tensor]], torch.optim.Optimizer]
    coarse: bool

    @property
    def name(self) -> str:
        return " ".join(self.words)


def _rules() -> list[CandidateRule]:
    out = []
    for word, dtype in (("bf16", torch.bfloat16), ("f32", torch.float32)):
        coarse = dtype == torch.bfloat16
        factored = partial(optim.Adafactor, lr=1.0, momentum_dtype=dtype)
        out.append(CandidateRule(("adafactor", word), factored, coarse))
        out.append(CandidateRule(("adafactor", word, "clip"), partial(factored, clip_threshold=1.0), coarse))
        out.append(CandidateRule(("adam", word), partial(optim.Adam, lr=1.0, momentum_dtype=dtype), coarse))
        out.append(CandidateRule(("sgd", word), partial(optim.SGD, lr=1.0, momentum_dtype=dtype), coarse))
    return out


def _candidates(case: str) -> list[CandidateRule]:
    """The keys do not say which rule it was. What the file's name says is believed, the rest is tried."""
    said = set(re.split(r"[^a-z0-9]+", case.lower()))
    rules = _rules()
    for words in ({"adafactor", "adam", "sgd"}, {"bf16", "f32"}):
        rules = [rule for rule in rules if not said & words or said & words & set(rule.words)]
    return [rule for rule in rules if "clip" not in said or "clip" in rule.words] or rules


@dataclass(frozen=True)
class DirectionError:
    """Of one tensor: ‖error‖ / ‖update‖ of the worst step without tipped entries; those entries' share, and
    their largest error in bf16 steps."""

    error: float
    tipped: float
    steps: float


def _optimizer(case: str, arrays: Arrays) -> Iterator[Check]:
    """The update direction before learning rate and decay, of the rule that fits best."""
    names = [name.removeprefix("param/") for name in arrays if name.startswith("param/")]
    fits = {r: {name: _directions(r, name, arrays) for name in names} for r in _candidates(case)}
    rule = min(fits, key=lambda r: max(d.error + d.tipped for d in fits[r].values()))
    found = fits[rule]
    worst = max(found, key=lambda name: found[name].error)
    note = f"{rule.name}; worst: {worst}"
    yield Check(case, "update direction", found[worst].error, 1e-4 if rule.coarse else 1e-5, note)
    if rule.coarse:
        sizes = {name: arrays[f"param/{name}"].size for name in names}
        share = sum(found[n].tipped * sizes[n] for n in names) / sum(sizes.values())
        yield Check(
            case, "share rounded the other way", share, MAX_TIPPED_SHARE, "neighbouring bf16 momentum"
        )
        yield Check(case, "  their error in bf16 steps", max(d.steps for d in found.values()), 1.0)


def _directions(rule: CandidateRule, name: str, arrays: Arrays) -> DirectionError:
    """Every tensor stands for itself: none of the rules looks at two of them."""
    parameter = torch.nn.Parameter(torch.zeros(arrays[f"param/{name}"].shape))
    optimizer = rule.build([parameter])
    tipped = np.zeros(parameter.shape, bool)
    size, error, steps, t = np.zeros(parameter.shape), 0.0, 0.0, 0
    while f"grad/{name}/{t}" in arrays:
        parameter.data.zero_()
        parameter.grad = torch.from_numpy(arrays[f"grad/{name}/{t}"]).float()
        optimizer.step()
        ours, theirs = -_float64(parameter), _float64(arrays[f"update/{name}/{t}"])
        if rule.coarse:
            tipped |= _bf16(ours) != _bf16(theirs)
        size = np.maximum(size, np.abs(theirs))
        apart = np.where(tipped, 0.0, ours - theirs)
        error = max(error, _ratio(float(np.linalg.norm(apart)), float(np.linalg.norm(theirs))))
        if tipped.any():
            steps = max(steps, float((np.abs(ours - theirs) / _bf16_step(size))[tipped].max()))
        t += 1
    return DirectionError(error, float(tipped.mean()), steps)


def _bf16(value: np.ndarray) -> np.ndarray:
    return torch.from_numpy(value).float().bfloat16().float().numpy()


def _bf16_step(size: np.ndarray) -> np.ndarray:
    """Distance of neighbouring bf16 numbers of this size; rounding may lift a number to the next power."""
    return 2.0 ** (np.floor(np.log2(np.maximum(size, 1e-30) * (1 + 2**-8))) - 7)


# --------------------------------------------------------------------------- whole training runs


def _training(case: str, arrays: Arrays) -> Iterator[Check]:
    """clip → optimizer → learning rate × schedule → decoupled decay."""
    said = set(re.split(r"[^a-z0-9]+", case.lower()))
    names = [name for name in ("adafactor", "adam", "sgd") if name in said] or ["adafactor", "adam"]
    runs = {name: list(_run(case, name, arrays)) for name in names}
    best = min(runs, key=lambda name: sum(check.error for check in runs[name] if check.tolerance))
    yield from runs[best]


def _run(case: str, name: str, arrays: Arrays) -> Iterator[Check]:
    before = _below(arrays, "params0/")
    model = _model(before, arrays["images"])
    chosen = config.Optimizer(name=name, body_decay=BODY_DECAY, head_decay=HEAD_DECAY)  # pyright: ignore
    schedule = replace(RECORDED_SCHEDULE, steps=len(arrays["images"]))
    optimizer = optim.build(chosen, model)
    state = State(model, optimizer, None)
    recipe = Recipe(
        schedule, config.Train(precision="fp32"), CLIP, config.Guard(on=False), losses.sigmoid_xent
    )
    rates, step_losses, norms, moved = [], [], [], []
    for step, batch in enumerate(zip(_images(arrays["images"]), torch.from_numpy(arrays["labels"]).float())):
        rates.append(lr_at(schedule, step))
        state.meters.zero_()
        take_step(state, [batch], recipe)
        loss, norm, _ = state.meters.tolist()
        step_losses.append(loss)
        norms.append(norm)
        if any(key.startswith(f"params{step + 1}/") for key in arrays):
            moved += _moved(case, step + 1, bigvision.from_ours(model), before, arrays)
    yield Check(case, "learning rates", max_relative_error(np.array(rates), arrays["lr"]), 1e-6, name)
    yield Check(
        case,
        f"losses of {len(step_losses)} steps",
        max_relative_error(np.array(step_losses), arrays["losses"]),
        1e-5,
    )
    yield Check(case, "gradient norms", max_relative_error(np.array(norms), arrays["grad_norms"]), 1e-4)
    yield from moved


def _moved(case: str, step: int, ours: Arrays, before: Arrays, arrays: Arrays) -> Iterator[Check]:
    """‖ours − theirs‖ over how far theirs moved, of the worst tensor; key biases apart."""
    theirs = _below(arrays, f"params{step}/")
    errors = {name: _distance(ours[name], theirs[name], before[name]) for name in theirs}
    keys = {name: error for name, error in errors.items() if name.endswith("key/bias")}
    rest = {name: error for name, error in errors.items() if name not in keys}
    worst = max(rest, key=rest.__getitem__)
    yield Check(case, f"parameters after step {step}", rest[worst], 1e-3, f"worst: {worst}")
    if max(keys.values(), default=0.0) > 0:
        note = "left out: their gradient is exactly 0, what moves them is rounding noise"
        yield Check(case, f"key biases after step {step}", max(keys.values()), None, note)


def _distance(ours: np.ndarray, theirs: np.ndarray, before: np.ndarray) -> float:
    moved = float(np.linalg.norm(_float64(theirs) - before))
    unmoved = 1e-6 * float(np.linalg.norm(before))  # while the learning rate is 0
    return _ratio(float(np.linalg.norm(_float64(ours) - theirs)), max(moved, unmoved))


# --------------------------------------------------------------------------- the small ones


def _schedules(case: str, arrays: Arrays) -> Iterator[Check]:
    """Rates near 0 are measured by a tenth of the peak: the reference takes 1 + cos(…) in fp32."""
    for key in (key for key in arrays if key.endswith("/config")):
        number = key.removesuffix("/config")
        schedule = _schedule(json.loads(str(arrays[key])))
        ours = np.array([lr_at(schedule, int(step)) for step in arrays[f"{number}/step"]])
        error = max_relative_error(ours, arrays[f"{number}/lr"], floor=0.1 * schedule.lr)
        yield Check(f"{case}/{number}", schedule.name, error, 1e-6, f"{ours.size} steps")


def _schedule(told: Mapping[str, object]) -> Schedule:
    """big_vision's words for a schedule."""
    same = {word: word for word in ("timescale", "shift", "end")}
    words = {"total_steps": "steps", "base": "lr", "decay_type": "name", **same}
    words |= {"warmup_steps": "warmup", "cooldown_steps": "cooldown"}
    unknown = [word for word in told if word not in words]
    if unknown:
        raise ValueError(f"a schedule with {', '.join(unknown)}; known: {', '.join(words)}")
    ours = {"warmup": 0, "cooldown": 0, **{words[word]: value for word, value in told.items()}}
    return Schedule(**ours)  # pyright: ignore[reportArgumentType]


def _losses(case: str, arrays: Arrays) -> Iterator[Check]:
    logits, labels = (torch.from_numpy(arrays[key]).float() for key in ("logits", "labels"))
    for key, loss in (("sigmoid_xent", losses.sigmoid_xent_each), ("softmax_xent", losses.softmax_xent_each)):
        if key in arrays:
            yield Check(case, key, max_relative_error(_float64(loss(logits, labels)), arrays[key]), 1e-5)


def _fewshot(case: str, arrays: Arrays) -> Iterator[Check]:
    """One item may be a tie. The reference decomposes in fp32 a matrix whose largest eigenvalue is 100² n:
    where penalty and smallest eigenvalue drown in its rounding, nothing is judged."""
    sets = [arrays[key] for key in ("x_train", "y_train", "x_test", "y_test")]
    l2 = arrays["l2"]
    wrong = np.abs(np.asarray(ridge_probe(*sets, l2=l2)) - arrays["accuracy"]) * len(arrays["y_test"])
    resolved = l2 + _smallest_eigenvalue(sets[0]) >= 8 * np.finfo(np.float32).eps * 100**2 * len(sets[0])
    for chosen, allowed, note in ((resolved, 1.0, ""), (~resolved, None, "left out: fp32 noise in theirs")):
        if chosen.any():
            count = f"test items astray, {chosen.sum()} penalties"
            yield Check(case, count, round(float(wrong[chosen].max()), 3), allowed, note)


def _smallest_eigenvalue(x: np.ndarray) -> float:
    """Of the smaller Gram matrix of the standardised features."""
    z = x.astype(np.float64)
    z = (z - z.mean(0)) / (z.std(0) + 1e-5)
    return float(np.linalg.svd(z, compute_uv=False)[-1 if len(z) > z.shape[1] else -2] ** 2)


def _posemb(case: str, arrays: Arrays) -> Iterator[Check]:
    for key in (key for key in arrays if key.endswith("/old")):
        grids = key.removesuffix("/old")
        new = arrays[f"{grids}/new"]
        ours = weights.resample_positions(torch.from_numpy(arrays[key]).float(), math.isqrt(new.shape[1]))
        _same_shape(ours, new, f"{grids}/new")
        yield Check(f"{case}/{grids}", "positions", max_error(ours, new, 1.0), 1e-5)


# --------------------------------------------------------------------------- kinds


@dataclass(frozen=True)
class GoldenKind:
    known_by: Callable[[Arrays], bool]
    replay: Callable[[str, Arrays], Iterator[Check]]


def _keys(*needed: str) -> Callable[[Arrays], bool]:
    """Whether every pattern matches the start of some key."""
    return lambda arrays: all(any(re.match(pattern, key) for key in arrays) for pattern in needed)


GOLDEN_KINDS: dict[str, GoldenKind] = {
    "training run": GoldenKind(_keys("params0/", "images$", "labels$", "losses$"), _training),
    "model": GoldenKind(_keys("params/", "grads/", "image$", "logits$"), _vit),
    "optimizer": GoldenKind(_keys("param/", r"grad/.+/0$", r"update/.+/0$"), _optimizer),
    "schedules": GoldenKind(_keys(r"\w+/config$", r"\w+/step$", r"\w+/lr$"), _schedules),
    "losses": GoldenKind(_keys("logits$", "labels$", "(sigmoid|softmax)_xent$"), _losses),
    "ridge probe": GoldenKind(
        _keys("x_train$", "y_train$", "x_test$", "y_test$", "l2$", "accuracy$"), _fewshot
    ),
    "positions": GoldenKind(_keys(r"\d+to\d+/old$", r"\d+to\d+/new$"), _posemb),
}
