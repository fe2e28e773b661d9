"""Which parameter is updated how: groups with their own decay and learning rate, and the three optimizers.

Decay is in the authors' units, θ ← θ − lr · (u + λ θ): matrices of the body λ = 0.03, the head's 3.0
(paper §3.1, App. B), biases, norms, positions and tokens none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scalevit import config
from scalevit.adafactor import Adafactor
from scalevit.kernels.updates import Elements, Kind, Rates
from scalevit.layout import plain
from scalevit.momentum import Decoupled, Due, batches, descend_all, flat, follow_all, rates, rounded

__all__ = ["SGD", "Adafactor", "Adam", "Rule", "assign", "build", "group_table", "parameter_groups"]


class Adam(Decoupled):
    """Adam (Kingma and Ba 2015) whose first moment is kept in bf16; the second stays in fp32, which the
    paper found it needs (§3.4). Decay is decoupled."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        momentum_dtype: torch.dtype = torch.bfloat16,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            key: value for key, value in locals().items() if key not in ("self", "params", "__class__")
        }
        super().__init__(params, defaults)

    def _moments(self, parameter: Tensor, group: dict[str, Any], index: int) -> dict[str, Tensor]:
        return {"second_moment": torch.zeros_like(parameter, dtype=torch.float32)}

    def _kind(self, group: dict[str, Any], index: int, parameter: Tensor) -> Kind:
        return Elements("adam", ("second_moment",))

    def _rates(self, group: dict[str, Any], step: float) -> Rates:
        debiased = [debias(group[beta], torch.tensor(step)) for beta in ("beta1", "beta2")]
        return rates(group, 1 - group["beta1"], group["beta2"], group["eps"], *debiased)

    def _apply(self, due: list[Due]) -> None:
        alike: dict[tuple[int, float], tuple[dict[str, Any], list[list[Tensor]]]] = {}
        for group, index, parameter in due:
            state = self._start(parameter, group, index)
            state["step"] += 1
            row = [parameter, parameter.grad, state["momentum"], state["second_moment"]]
            _, rows = alike.setdefault((id(group), state["step"].item()), (group, []))
            rows.append([flat(tensor) for tensor in row])  # pyright: ignore[reportArgumentType]
        for (_, step), (group, rows) in alike.items():
            self._update(group, torch.tensor(step), rows)

    def _update(self, group: dict[str, Any], step: Tensor, rows: list[list[Tensor]]) -> None:
        decay, lr, ours = (
            rounded(group["beta1"], group["momentum_dtype"]),
            group["lr"].item(),
            1 - group["beta1"],
        )
        # torch's fused step weights momentum and gradient with b and 1 - b. With this b their ratio is ours,
        # and what comes out is too large by a factor that the rate and the stored momentum undo, as the rate
        # undoes torch's own debiasing, which knows only b
        large = 1 / (decay + ours)
        b = decay * large
        debiased = (1 - b ** step.item()) / debias(group["beta1"], step)
        exact = 1 - group["beta2"] ** step.item()  # theirs is in double precision
        root = (debias(group["beta2"], step) / exact) ** 0.5
        rate = lr / large * debiased * root
        settings = {"lr": rate, "beta1": b, "beta2": group["beta2"], "eps": group["eps"] * root}
        settings["weight_decay"] = group["weight_decay"] * lr / rate if rate else 0.0
        step = step.to(rows[0][0].device)
        for batch in batches(rows):
            weights, gradients, momenta, second = batch.columns
            torch._foreach_copy_(batch.rooms, momenta)
            torch._fused_adamw_(
                weights, gradients, batch.rooms, second, [], [step] * len(weights),
                amsgrad=False, maximize=False, **settings,
            )  # fmt: skip
            batch.room.div_(large)
            torch._foreach_copy_(momenta, batch.rooms)


def debias(beta: float, step: Tensor) -> float:
    """1 − β^t, the share of a moment that is not its start at 0; in fp32, as the authors' (else 1e-5 off)."""
    return float(1 - torch.tensor(beta) ** step)


class SGD(Decoupled):
    """Stochastic gradient descent, m ← g + β m, θ ← θ − lr · (m + λ θ), with m kept in bf16."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        beta1: float = 0.9,
        momentum_dtype: torch.dtype = torch.bfloat16,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            key: value for key, value in locals().items() if key not in ("self", "params", "__class__")
        }
        super().__init__(params, defaults)

    def _kind(self, group: dict[str, Any], index: int, parameter: Tensor) -> Kind:
        return Elements("sgd", ())

    def _rates(self, group: dict[str, Any], step: float) -> Rates:
        return rates(group, 1.0)

    def _apply(self, due: list[Due]) -> None:
        alike: dict[int, tuple[dict[str, Any], list[list[Tensor]]]] = {}
        for group, index, parameter in due:
            state = self._start(parameter, group, index)
            state["step"] += 1
            row = [flat(parameter), flat(parameter.grad), flat(state["momentum"])]  # pyright: ignore
            alike.setdefault(id(group), (group, []))[1].append(row)
        for group, rows in alike.values():
            for batch in batches(rows):
                weights, gradients, momenta = batch.columns
                torch._foreach_copy_(batch.rooms, gradients)
                follow_all(momenta, batch.rooms, group)
                descend_all(weights, batch.rooms, group)


# --------------------------------------------------------------------------- groups


@dataclass(frozen=True)
class Rule:
    """Parameters whose whole name matches `pattern` go into `group`, with this decay."""

    group: str
    pattern: str
    decay: float


def paper_rules(optimizer: config.Optimizer, names: Iterable[str]) -> list[Rule]:
    """The paper's groups for a model with these parameters; of a model without a head, only the body's."""
    head = [Rule("head", r"head\.weight", optimizer.head_decay)] if "head.weight" in names else []
    plain = r".*\.bias|(.*\.)?\w*norm\w*\.weight|.*\.gamma|pos_embed|cls_token|reg_token|attn_pool\.latent"
    return [
        *head,
        Rule("none", plain, 0.0),
        Rule("body", r"(.*\.)?(proj|qkv|q|kv|fc|fc1|fc2)\.weight", optimizer.body_decay),
    ]


def assign(names: Sequence[str], rules: Sequence[Rule]) -> dict[str, Rule]:
    """The first matching rule of every name.

    Raises ValueError when a rule matches no name at all, or no rule matches a name."""
    for rule in rules:
        if not any(re.fullmatch(rule.pattern, name) for name in names):
            near = ", ".join(config.nearest(rule.pattern.replace("\\", ""), names))
            raise ValueError(f"the pattern {rule.pattern!r} matches no parameter; nearest names: {near}")
    found = {name: next((r for r in rules if re.fullmatch(r.pattern, name)), None) for name in names}
    for name, rule in found.items():
        if rule is None:
            near = ", ".join(config.nearest(name, [other for other in names if found[other]]))
            raise ValueError(f"no pattern covers the parameter {name!r}; nearest covered names: {near}")
    return {name: rule for name, rule in found.items() if rule is not None}


def lr_scale(name: str, blocks: int, layer_decay: float) -> float:
    """layer_decay to the number of layers above: 1 for the pooling and the head, least for the patches."""
    block = re.match(r"blocks\.(\d+)\.", name)
    if block:
        return layer_decay ** (blocks - int(block[1]))
    first = re.match(r"patch_embed\.|pos_embed|cls_token|reg_token|norm_pre\.", name)
    return layer_decay ** (blocks + 1) if first else 1.0


def parameter_groups(
    model: nn.Module, optimizer: config.Optimizer, rules: Sequence[Rule] | None = None
) -> list[dict[str, Any]]:
    """Groups for an optimizer: name, params, names, views, weight_decay, lr_scale.

    rules: the paper's when None. Raises ValueError when they do not fit the model's parameters."""
    parameters = dict(model.named_parameters())
    views = getattr(model, "views", lambda: {n: plain(tuple(p.shape)) for n, p in parameters.items()})()
    chosen = assign([*parameters], paper_rules(optimizer, parameters) if rules is None else rules)
    blocks = 1 + max(
        [int(b[1]) for b in map(re.compile(r"blocks\.(\d+)\.").match, parameters) if b], default=-1
    )
    groups: dict[tuple[str, float, float], dict[str, Any]] = {}
    for name, rule in chosen.items():
        scale = lr_scale(name, blocks, optimizer.layer_decay)
        start = {"name": rule.group, "params": [], "names": [], "views": [], "weight_decay": rule.decay}
        group = groups.setdefault((rule.group, rule.decay, scale), {**start, "lr_scale": scale})
        group["params"].append(parameters[name])
        group["names"].append(name)
        group["views"].append(views[name])
    return list(groups.values())


def build(optimizer: config.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a run, at learning rate 0: fill each group's `lr` with lr_at(…) × its `lr_scale`."""
    return OPTIMIZERS[optimizer.name](parameter_groups(model, optimizer), optimizer)


#: What a run's words for its first moment mean.
KEPT = {"bf16": torch.bfloat16, "fp32": torch.float32}

#: lr 0.0 until somebody who knows the step fills it in.
OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], config.Optimizer], torch.optim.Optimizer]] = {
    "adafactor": lambda groups, o: Adafactor(
        groups, 0.0, beta1=o.beta1, beta2_cap=o.beta2, momentum_dtype=KEPT[o.momentum]
    ),
    "adam": lambda groups, o: Adam(
        groups, 0.0, beta1=o.beta1, beta2=o.beta2, momentum_dtype=KEPT[o.momentum]
    ),
    "sgd": lambda groups, o: SGD(groups, 0.0, beta1=o.beta1, momentum_dtype=KEPT[o.momentum]),
}


def group_table(run: config.Run) -> list[dict[str, Any]]:
    """Of every parameter of the run's model: name, group, decay, lr_scale, elements. Allocates nothing."""
    from scalevit.model import ViT

    rows = {}
    model = ViT(run.model, device="meta")
    for group in parameter_groups(model, run.optimizer):
        shared = {"group": group["name"], "decay": group["weight_decay"], "lr_scale": group["lr_scale"]}
        for name, parameter in zip(group["names"], group["params"], strict=True):
            rows[name] = {"name": name, **shared, "elements": parameter.numel()}
    return [rows[name] for name, _ in model.named_parameters()]
