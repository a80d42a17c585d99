"""Attention within clusters of tokens, which k-means finds."""

from typing import Dict, Literal, Optional, Tuple

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F

from ..layers.precision import compute_dtype
from ..layers.renaming import renamed
from ..layers.tracing import is_eager, untraced
from .attention import DotProductAttention, check_heads
from .registry import register_mixer

UNTAKEN = ("nearest", "zero")
_ROUNDS = 10  # of k-means, from which the first centroids come
_FEW = 32  # tokens of a cluster up to which plain products are faster on the CPU than fused attention
_ITSELF = -5e4  # added to the logit of a token with itself


@register_mixer("routing", paper="arXiv:2003.05997")
@untraced  # a tracer has no sizes to cut clusters by
class RoutingAttention(nn.Module):
    """Routing attention (Routing Transformer, arXiv 2003.05997, section 4; lucidrains/routing-transformer).

    (B, H, W, C) -> (B, H, W, C), any H and W. Each head has K centroids. Each takes the N / K queries, and the N / K
    keys, that point most its way, and those attend to one another: N² / K pairs. Clusters may overlap: a token that
    several have taken gets the mean of their answers.

    Where no cluster has taken a query, untrained centroids leave out a third, the public code answers 0. Here the query
    then asks the keys of the cluster whose centroid it is nearest to, by default.

    In training, every backward pass moves each centroid a thousandth of the way to the mean direction of the queries
    and keys that are nearest to it, over all processes; the first one finds them by k-means. Evaluation changes
    nothing. The paper adds 1e-4 times `commitment_loss` to the loss, which a trunk does not. The paper's model is
    causal, this is not; nothing tells where a token is, so any map works.

    Memory in evaluation grows linearly with the tokens, where attention is fused.

    Args:
        dim: Channels C.
        num_heads: Number of heads, a divisor of `dim`.
        clusters: Centroids K of a head.
        shared_qk: Keys are the queries, of length 1; a token then attends to itself only where there is no other.
        untaken: What a query gets that no cluster has taken: "nearest" or "zero".
        decay: Of the centroids.
        attn_drop: Dropout on the attention weights.
        proj_drop: Dropout after the output projection.

    Raises:
        ValueError: `num_heads` does not divide `dim`, there is no cluster, `untaken` is unknown, or `decay` is not
            between 0 and 1.
    """

    memory_growth = 1
    learns = "centroids move in every training step"
    jumps = "which cluster takes a token is decided by the order of scores, which rounding changes"

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        clusters: int = 8,
        shared_qk: bool = False,
        untaken: Literal["nearest", "zero"] = "nearest",
        decay: float = 0.999,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if clusters < 1:
            raise ValueError(f"there must be at least 1 cluster, got {clusters}")
        if untaken not in UNTAKEN:
            raise ValueError(f"untaken must be one of {', '.join(UNTAKEN)}, got {untaken!r}")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must be between 0 and 1, got {decay}")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.head_dim = check_heads(dim, num_heads)
        self.clusters = clusters
        self.shared_qk = shared_qk
        self.untaken = untaken
        self.decay = decay
        self.itself = _ITSELF
        self.qkv = nn.Linear(dim, dim * (2 if shared_qk else 3), bias=False, **dd)  # q, k, v or q, v
        self.attn = DotProductAttention(attn_drop)
        self.attn_few = DotProductAttention(attn_drop)
        self.attn_few.fused_attn = False
        self.proj = nn.Linear(dim, dim, bias=False, **dd)
        self.proj_drop = nn.Dropout(proj_drop)
        self.register_buffer("centroids", torch.empty(num_heads, clusters, self.head_dim, **dd))
        self.register_buffer("is_found", torch.empty((), dtype=torch.bool, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw centroids anew, which the first training step replaces."""
        nn.init.normal_(self.centroids)
        self.centroids.copy_(F.normalize(self.centroids, dim=-1))
        self.is_found.fill_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = x.shape
        q, k, v = self.tokens(x)
        q_taken, k_taken = self._take(q), self._take(k)  # B heads K w
        bias: Optional[torch.Tensor] = None
        if self.shared_qk:
            itself = q_taken[..., :, None] == k_taken[..., None, :]
            bias = torch.zeros(itself.shape, dtype=q.dtype, device=q.device).masked_fill(itself, self.itself)
        keys, values = self._gather(k, k_taken), self._gather(v, k_taken)
        answers = self._attend(self._gather(q, q_taken), keys, values, bias)  # B heads K w head_dim

        places = q_taken.flatten(2)  # B heads Kw
        total = torch.zeros_like(q).to(answers.dtype)
        total = total.scatter_add(2, places[..., None].expand(-1, -1, -1, self.head_dim), answers.flatten(2, 3))
        ones = torch.ones(places.shape, dtype=total.dtype, device=total.device)
        count = torch.zeros(total.shape[:3], dtype=total.dtype, device=total.device).scatter_add(2, places, ones)
        out = total / (count[..., None] + 1e-5)  # as the public code divides
        if self.untaken == "nearest":
            out = torch.where(count[..., None] > 0, out, self._ask_nearest(q, count == 0, keys, values).to(out.dtype))
        out = self.proj_drop(self.proj(out.to(x.dtype).transpose(1, 2).reshape(shape)))
        if not torch.jit.is_scripting() and self.training:
            self._learn(out, q, k)
        return out

    def tokens(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of a map, (B, heads, N, head_dim) each."""
        parts = self.qkv(x.flatten(1, 2)).unflatten(2, (-1, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        q, v = parts[0], parts[-1]
        return q, F.normalize(q, dim=-1) if self.shared_qk else parts[1], v

    def _scores(self, x: torch.Tensor) -> torch.Tensor:
        """How much tokens point to each centroid, (B, heads, N, head_dim) -> (B, heads, K, N)."""
        x = F.normalize(x.detach().to(compute_dtype(x.dtype)), dim=-1)
        return torch.matmul(self.centroids.to(x.dtype), x.transpose(-2, -1))

    def _take(self, x: torch.Tensor) -> torch.Tensor:
        """Numbers of the tokens that each centroid takes, (B, heads, K, N / K), rounded up."""
        return self._scores(x).topk(-(-x.shape[2] // self.clusters), dim=-1)[1]

    def _gather(self, x: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        """Tokens (B, heads, N, head_dim) by clusters, (B, heads, K, w, head_dim)."""
        index = taken.flatten(2)[..., None].expand(-1, -1, -1, self.head_dim)
        return x.gather(2, index).unflatten(2, (taken.shape[2], taken.shape[3]))

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: Optional[torch.Tensor] = None
    ) -> torch.Tensor:
        """Attention within clusters, which stand beside one another as heads do."""
        if bias is not None:
            bias = bias.flatten(1, 2)
        q, k, v = q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2)
        if torch.jit.is_scripting():
            x = self.attn(q, k, v, bias)
        else:
            attn = self.attn_few if q.device.type == "cpu" and is_eager(q) and q.shape[2] <= _FEW else self.attn
            x = attn(q, k, v, bias)
        return x.unflatten(1, (self.num_heads, -1))

    def _ask_nearest(
        self, q: torch.Tensor, untaken: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """What untaken queries get of the cluster whose centroid is nearest to them; of others, anything.

        Those of a cluster are laid into rows of as many places as a cluster has keys, the last of them not full.
        However they are spread, there are at most two rows a cluster: no size depends on the data.

        Args:
            q: Queries (B, heads, N, head_dim).
            untaken: Which of them no cluster has taken, (B, heads, N).
            keys: Of the clusters, (B, heads, K, w, head_dim).
            values: Likewise.
        """
        length, num_rows = keys.shape[3], 2 * self.clusters
        nearest = self._scores(q).argmax(2)  # B heads N
        clusters = torch.arange(self.clusters, device=q.device)
        asks = ((nearest[..., None] == clusters) & untaken[..., None]).long()  # B heads N K
        rank = (asks.cumsum(2).gather(3, nearest[..., None]).squeeze(3) - 1).clamp(min=0)
        ends = (asks.sum(2) + length - 1).div(length, rounding_mode="floor").cumsum(2)  # first row behind a cluster's
        starts = F.pad(ends[..., :-1], [1, 0])
        place = starts.gather(2, nearest) * length + rank
        place = torch.where(untaken, place, num_rows * length)[..., None].expand(-1, -1, -1, self.head_dim)
        rows = torch.zeros_like(q[:, :, :1]).expand(-1, -1, num_rows * length + 1, -1).scatter(2, place, q)
        rows = rows[:, :, :-1].unflatten(2, (num_rows, length))
        row_numbers = torch.arange(num_rows, device=q.device)
        cluster = (row_numbers[:, None] >= ends[..., None, :]).sum(-1).clamp(max=self.clusters - 1)  # B heads rows
        index = cluster[..., None, None].expand(-1, -1, -1, length, self.head_dim)
        answers = self._attend(rows, keys.gather(2, index), values.gather(2, index)).flatten(2, 3)
        return F.pad(answers, [0, 0, 0, 1]).gather(2, place)

    # Centroids -------------------------------------------------------------------------------------------------------

    def commitment_loss(self, x: torch.Tensor) -> torch.Tensor:
        """Mean squared distance of the queries and keys of a map (B, H, W, C), as directions, from the centroids that
        they are nearest to.
        """
        q, k, _ = self.tokens(x)
        parts = []
        for tokens in (q,) if self.shared_qk else (q, k):
            centroids = self.centroids.detach().to(tokens.dtype).expand(len(tokens), -1, -1, -1)
            index = self._scores(tokens).argmax(2)[..., None].expand(-1, -1, -1, self.head_dim)
            parts.append(F.mse_loss(F.normalize(tokens, dim=-1), centroids.gather(2, index)))
        return torch.stack(parts).mean()

    @torch.jit.unused
    def _learn(self, out: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> None:
        """Lets centroids learn when the gradient of `out` comes, once however often a checkpoint computes it."""
        if not is_eager(out) or not out.requires_grad or not out.numel():
            return
        groups = [tokens.detach() for tokens in ((q,) if self.shared_qk else (q, k))]
        out.register_hook(lambda gradient: self._update(groups))

    @torch.no_grad()
    def _update(self, groups: list) -> None:
        tokens = torch.cat(groups, 2)
        directions = F.normalize(tokens.to(compute_dtype(tokens.dtype)), dim=-1)
        if not self.is_found:
            self._find(directions)
        self.centroids.lerp_(self._means(directions).to(self.centroids.dtype), 1 - self.decay)

    def means(self, tokens: torch.Tensor) -> torch.Tensor:
        """Mean directions (heads, K, head_dim) of those of the tokens (B, heads, N, head_dim), of all processes, that
        are nearest to each centroid; a centroid without any stays.
        """
        return self._means(F.normalize(tokens, dim=-1))

    def _means(self, directions: torch.Tensor) -> torch.Tensor:
        directions = directions.transpose(0, 1).flatten(1, 2)  # heads BN head_dim
        centroids = self.centroids.to(directions.dtype)
        nearest = torch.matmul(centroids, directions.transpose(-2, -1)).argmax(1)  # heads BN
        clusters = torch.arange(self.clusters, device=nearest.device)
        nearest = (nearest[:, None] == clusters[:, None]).to(directions.dtype)  # heads K BN
        sums, counts = torch.matmul(nearest, directions), nearest.sum(2)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
            dist.all_reduce(counts)
        return torch.where(counts[..., None] > 0, F.normalize(sums, dim=-1), centroids)

    def _find(self, directions: torch.Tensor) -> None:
        """First centroids: tokens that are drawn, then k-means."""
        tokens = directions.transpose(0, 1).flatten(1, 2)  # heads BN head_dim
        drawn = torch.randint(tokens.shape[1], (self.clusters,), device=tokens.device)
        self.centroids.copy_(tokens[:, drawn])
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(self.centroids, 0)
        for _ in range(_ROUNDS):
            self.centroids.copy_(self._means(directions))
        self.is_found.fill_(True)

    def from_official(self, state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """Weights of lucidrains/routing-transformer by our names, see `load_official`. Memories of causal attention,
        which are empty without it, and the flags of k-means are left out.
        """
        for name in ("mem_key", "mem_value", "kmeans.initted", "kmeans.num_new_means", "kmeans.new_means"):
            state.pop(f"global_attn.{name}", None)
        names = ("to_q", "to_v") if self.shared_qk else ("to_q", "to_k", "to_v")
        converted = {"qkv.weight": torch.cat([state.pop(f"{name}.weight") for name in names])}
        converted["is_found"] = torch.tensor(True)
        return {**converted, **renamed(state, {"to_out.": "proj.", "global_attn.kmeans.means": "centroids"})}
