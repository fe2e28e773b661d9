"""Parameter groups: which parameter gets which weight decay and which share of the learning rate.

Decay is in the authors' units, θ ← θ − lr · (u + λ θ): matrices of the body λ = 0.03, the head's 3.0
(paper §3.1, App. B), biases, norms, positions and tokens none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import nn

from scalevit import config
from scalevit.config.dataclass_io import nearest_names
from scalevit.model.reference_layout import ReferenceLayout, same_layout


@dataclass(frozen=True)
class Rule:
    """Weight decay rule: parameters whose whole name matches `pattern` go into `group`, with this decay."""

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
    """Rule of every parameter name: the first that matches.

    Raises ValueError when a rule matches no name at all, or no rule matches a name."""
    for rule in rules:
        if not any(re.fullmatch(rule.pattern, name) for name in names):
            near = ", ".join(nearest_names(rule.pattern.replace("\\", ""), names))
            raise ValueError(f"the pattern {rule.pattern!r} matches no parameter; nearest names: {near}")
    matches = {name: next((r for r in rules if re.fullmatch(r.pattern, name)), None) for name in names}
    for name, rule in matches.items():
        if rule is None:
            near = ", ".join(nearest_names(name, [other for other in names if matches[other]]))
            raise ValueError(f"no pattern covers the parameter {name!r}; nearest covered names: {near}")
    return {name: rule for name, rule in matches.items() if rule is not None}


def lr_scale(name: str, blocks: int, layer_decay: float) -> float:
    """Layer-wise learning rate decay: layer_decay to the number of layers above; 1 for pooling and head."""
    block = re.match(r"blocks\.(\d+)\.", name)
    if block:
        return layer_decay ** (blocks - int(block[1]))
    first = re.match(r"patch_embed\.|pos_embed|cls_token|reg_token|norm_pre\.", name)
    return layer_decay ** (blocks + 1) if first else 1.0


@runtime_checkable
class HasReferenceLayouts(Protocol):
    """A model that knows the reference's tensors in each of its parameters, as ViT does."""

    def reference_layouts(self) -> dict[str, ReferenceLayout]: ...


def parameter_groups(
    model: nn.Module, optimizer: config.Optimizer, rules: Sequence[Rule] | None = None
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: name, params, names, layouts, weight_decay, lr_scale.

    rules: the paper's when None. Raises ValueError when they do not fit the model's parameters."""
    parameters = dict(model.named_parameters())
    if isinstance(model, HasReferenceLayouts):
        layouts = model.reference_layouts()
    else:
        layouts = {name: same_layout(tuple(parameter.shape)) for name, parameter in parameters.items()}
    chosen = assign([*parameters], paper_rules(optimizer, parameters) if rules is None else rules)
    blocks = 1 + max(
        [int(b[1]) for b in map(re.compile(r"blocks\.(\d+)\.").match, parameters) if b], default=-1
    )
    groups: dict[tuple[str, float, float], dict[str, Any]] = {}
    for name, rule in chosen.items():
        scale = lr_scale(name, blocks, optimizer.layer_decay)
        start = {"name": rule.group, "params": [], "names": [], "layouts": [], "weight_decay": rule.decay}
        group = groups.setdefault((rule.group, rule.decay, scale), {**start, "lr_scale": scale})
        group["params"].append(parameters[name])
        group["names"].append(name)
        group["layouts"].append(layouts[name])
    return list(groups.values())


def group_table(run: config.Run) -> list[dict[str, Any]]:
    """Table of a run's parameters: name, group, decay, lr_scale, elements of each. Allocates nothing."""
    from scalevit.model.vit import ViT

    rows = {}
    model = ViT(run.model, device="meta")
    for group in parameter_groups(model, run.optimizer):
        shared = {"group": group["name"], "decay": group["weight_decay"], "lr_scale": group["lr_scale"]}
        for name, parameter in zip(group["names"], group["params"], strict=True):
            rows[name] = {"name": name, **shared, "elements": parameter.numel()}
    return [rows[name] for name, _ in model.named_parameters()]
