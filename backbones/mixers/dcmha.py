"""Multi-head attention whose heads are composed anew for every query and key."""

from typing import Dict

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..layers.renaming import renamed
from ..layers.tracing import is_eager, untraced
from .attention import check_heads
from .registry import register_mixer

_CHUNK_BYTES = 2 * 2**20  # of logits, a usual processor's second cache
_PLACES = 4  # composed before the softmax by query and by key, and after it likewise


@register_mixer("dcmha", paper="arXiv:2405.08553")
@untraced  # whether gradients are wanted decides how many queries are computed at once
class DynamicallyComposedAttention(nn.Module):
    """Dynamically composable multi-head attention (DCMHA, arXiv 2405.08553, section 2; Caiyun-AI/DCFormer).

    (B, H, W, C) -> (B, H, W, C), any H and W. The vector over heads a of a query i and a key j becomes

        a + Σ_r (a · q1_r(i)) q2_r(i) + Σ_r (a · k1_r(j)) k2_r(j) + a ∘ g_q(i) + a ∘ g_k(j)

    twice, for the logits and for the weights after the softmax, which then neither sum to one nor stay positive. Its
    coefficients are made from the tokens that queries and keys are made from. Nothing is causal and nothing depends on
    the number of tokens: the paper's model is one of language, without a mask it is the same function.

    The public code disagrees with itself on the static part: beside the identity (JAX, as here), in its place (torch,
    when reading a prompt), or twice (torch, in training).

    All heads of a query meet, so attention cannot be fused. Training stores four tensors of heads x N x N, evaluation a
    few queries at a time: its memory grows linearly with the tokens.

    Args:
        dim: Channels C.
        num_heads: Number of heads, a divisor of `dim`.
        qk_norm: Normalise queries and keys by their root mean square, with a learned scale.
        static: Compose heads also by a learned matrix, the same for all tokens.
        attn_drop: Dropout on the composed weights.
        proj_drop: Dropout after the output projection.

    Raises:
        ValueError: `num_heads` does not divide `dim`.
    """

    memory_growth = 1

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qk_norm: bool = False,
        static: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.head_dim = check_heads(dim, num_heads)
        self.num_places = _PLACES
        self.rank = num_heads // max(1, num_heads // 2)  # 2, and 3 of three heads, as the official code has it
        self.qkv = nn.Linear(dim, 3 * dim, bias=False, **dd)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=1e-6, **dd) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(self.head_dim, eps=1e-6, **dd) if qk_norm else nn.Identity()
        hidden = 4 * num_heads
        self.reduce = nn.Parameter(torch.empty(dim, _PLACES, hidden, **dd))
        self.expand = nn.Parameter(torch.empty(_PLACES, hidden, 2 * self.rank, num_heads, **dd))
        self.gates = nn.Parameter(torch.empty(dim, _PLACES * num_heads, **dd))
        self.static = nn.Parameter(torch.empty(2, num_heads, num_heads, **dd)) if static else None
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim, bias=False, **dd)
        self.proj_drop = nn.Dropout(proj_drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw what composes heads anew: small, so that heads begin nearly as they are."""
        dim, _, hidden = self.reduce.shape
        nn.init.normal_(self.reduce, std=(2 / (dim + hidden)) ** 0.5)
        nn.init.normal_(self.expand, std=0.02 / (hidden**0.5 * (self.num_heads + 2)))
        nn.init.normal_(self.gates, std=0.05 * (2 / (self.num_heads + dim)) ** 0.5)
        if self.static is not None:
            nn.init.zeros_(self.static)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = x.shape
        x = x.flatten(1, 2)  # B N C
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q) * self.head_dim**-0.5, self.k_norm(k)
        by_query, by_key, by_query_after, by_key_after = self.coefficients(x).unbind(0)
        if torch.jit.is_scripting():
            x = self._attend(q, k, v, by_query, by_key, by_query_after, by_key_after)
        else:
            x = self._attend_in_parts(q, k, v, by_query, by_key, by_query_after, by_key_after)
        return self.proj_drop(self.proj(x.reshape(shape)))

    def coefficients(self, x: torch.Tensor) -> torch.Tensor:
        """What composes the heads of tokens (B, N, C), as queries and as keys before the softmax, and after it.

        Returns:
            (4, B, 2 rank + 1, heads, N): vectors that are multiplied with the heads, those that the products go to, and
            gates.
        """
        hidden = F.gelu(torch.einsum("bnc,cpk->pbnk", x, self.reduce))
        vectors = torch.einsum("pbnk,pkrh->pbnrh", hidden, self.expand)
        first, second = vectors[..., : self.rank, :], vectors[..., self.rank :, :]
        first = F.rms_norm(first, [self.num_heads], eps=1e-6)
        gates = torch.tanh(torch.matmul(x, self.gates)).unflatten(2, (self.num_places, 1, self.num_heads))
        return torch.cat([first, second, gates.permute(2, 0, 1, 3, 4)], 3).permute(0, 1, 3, 4, 2).contiguous()

    @torch.jit.unused
    def _attend_in_parts(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, by_query: torch.Tensor, by_key: torch.Tensor,
        by_query_after: torch.Tensor, by_key_after: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """`_attend`, eagerly for a few images or a few queries at a time, whose logits then stay in the cache: they are
        gone over many times. Evaluation shares their memory, training keeps what gradients need of all.
        """
        row = self.num_heads * k.shape[2] * q.element_size()
        images = max(1, _CHUNK_BYTES // max(1, row * q.shape[2]))
        step = max(1, _CHUNK_BYTES // max(1, row))
        if not is_eager(q) or torch.jit.is_tracing() or (images >= q.shape[0] and step >= q.shape[2]):
            return self._attend(q, k, v, by_query, by_key, by_query_after, by_key_after)
        if q.shape[0] > images:
            every = (q, k, v, by_query, by_key, by_query_after, by_key_after)
            parts = zip(*[tensor.split(images) for tensor in every])
            return torch.cat([self._attend_in_parts(*part) for part in parts])
        parts = zip(q.split(step, 2), by_query.split(step, 3), by_query_after.split(step, 3))
        return torch.cat([self._attend(part, k, v, b, by_key, a, by_key_after) for part, b, a in parts], 1)

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, by_query: torch.Tensor, by_key: torch.Tensor,
        by_query_after: torch.Tensor, by_key_after: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Scaled queries (B, heads, I, head_dim), keys and values (B, heads, N, head_dim) -> (B, I, C)."""
        logits = torch.matmul(q, k.transpose(-2, -1)).transpose(1, 2)  # B I heads N
        weights = self._compose(logits, by_query, by_key, 0).softmax(-1)
        weights = self._compose(weights, by_query_after, by_key_after, 1).transpose(1, 2)
        return torch.matmul(self.attn_drop(weights), v).transpose(1, 2).flatten(2)

    def _compose(self, a: torch.Tensor, by_query: torch.Tensor, by_key: torch.Tensor, place: int) -> torch.Tensor:
        """Heads of logits or weights (B, I, heads, J) as linear functions of one another, see `coefficients`.

        What a query says is one small matrix, heads x heads, by which all its keys are multiplied at once. One for each
        key would have to meet the logits in another order, and to copy them takes longer than all else: vectors do.
        """
        by_query = by_query.permute(0, 3, 1, 2)  # B I 2rank+1 heads
        first, second = by_query[:, :, : self.rank], by_query[:, :, self.rank : 2 * self.rank]
        matrix = torch.matmul(second.transpose(-2, -1), first) + torch.diag_embed(1 + by_query[:, :, -1])
        static = self.static
        if static is not None:
            matrix = matrix + static[place].t()
        by_key = by_key.unsqueeze(2)  # B 2rank+1 1 heads J
        out = torch.matmul(matrix, a).addcmul_(a, by_key[:, -1])
        for r in range(self.rank):
            out.addcmul_((a * by_key[:, r]).sum(2, keepdim=True), by_key[:, self.rank + r])
        return out

    def from_official(self, state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """Weights of Caiyun-AI/DCFormer by our names, see `load_official`."""
        converted = {
            "reduce": state.pop("dyn_w_proj.dw1").squeeze(1),
            "expand": state.pop("dyn_w_proj.qkw").squeeze(0),
            "gates": state.pop("dyn_w_proj.dd").squeeze(1),
        }
        if self.static is not None:
            parts = [state.pop(f"dyn_w_proj.{place}_proj.w") for place in ("pre", "post")]
            converted["static"] = torch.cat(parts)
        names = {"wqkv.": "qkv.", "wo.": "proj.", "q_norm.scale": "q_norm.weight", "k_norm.scale": "k_norm.weight"}
        return {**converted, **renamed(state, names)}
