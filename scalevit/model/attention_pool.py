"""MAP head: multi-head attention pooling with a learned query (paper §2; Lee et al. 2019, 1810.00825)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scalevit.config.run import Model
from scalevit.kernels.attention import dot_product_attention
from scalevit.kernels.linear import Linear
from scalevit.model.attention import output_specs, projection_specs
from scalevit.model.initialisation import ParameterSpec, xavier
from scalevit.model.layers import LayerNorm, Mlp
from scalevit.model.reference_layout import same_layout


class AttentionPool(nn.Module):
    """Multi-head attention pooling, MAP (paper §3.2): one learned query attends to all tokens; then
    x + mlp(norm(x)). No residual around the attention and no norm on the query."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        s = config.resolve()
        self.heads = s.heads
        self.latent = nn.Parameter(torch.empty(1, 1, s.width))
        self.q, self.kv = Linear(s.width, s.width), Linear(s.width, 2 * s.width)
        self.proj = Linear(s.width, s.width)
        self.norm = LayerNorm(s.width, eps=config.norm_eps)
        self.mlp = Mlp(s.width, s.mlp, config.gelu)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        b, n, d = x.shape
        e = d // self.heads
        k, v = self.kv(x).view(b, n, 2, self.heads, e).permute(2, 0, 3, 1, 4)
        q = self.q(self.latent).view(1, self.heads, 1, e).expand(b, -1, -1, -1)
        y = self.proj(dot_product_attention(q, k, v).reshape(b, d))
        return y + self.mlp(self.norm(y))

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        d = self.proj.in_features
        latent = ParameterSpec(same_layout((1, 1, d)), xavier(1, d))
        kv, q = projection_specs("kv", 2, d, self.heads), projection_specs("q", 1, d, self.heads)
        return {"latent": latent, **q, **kv, **output_specs(d, self.heads)}
