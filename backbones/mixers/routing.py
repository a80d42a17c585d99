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
        self._compared = 1 if shared_qk else 2  # parts of a token that are compared with centroids
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
        parts = self._parts(x)  # B N parts heads head_dim
        q = parts[:, :, 0].transpose(1, 2)  # B heads N head_dim
        scores = self._scores(parts[:, :, : self._compared])  # of queries, and of keys where they are others
        taken = scores.topk(-(-parts.shape[1] // self.clusters), dim=-1)[1]  # parts B heads K w
        q_taken, k_taken = taken[0], taken[-1]
        bias: Optional[torch.Tensor] = None
        if self.shared_qk:
            itself = q_taken[..., :, None] == k_taken[..., None, :]
            bias = torch.zeros(itself.shape, dtype=q.dtype, device=q.device).masked_fill(itself, self.itself)
        queries, keys, values = self._gather(parts, q_taken, k_taken)
        answers = self._attend(queries, keys, values, bias)  # B heads K w head_dim

        # Rows of the tokens' heads, as the output projection reads them: the first axis is what torch scatters fastest.
        places = self._rows(q_taken, parts.shape[1], 1)
        number = parts.shape[0] * parts.shape[1] * self.num_heads
        total = torch.zeros(number, self.head_dim, dtype=answers.dtype, device=x.device)
        answers = answers.reshape(-1, self.head_dim)
        total = total.scatter_add(0, places[:, None].expand(-1, self.head_dim), answers)
        ones = torch.ones(places.shape, dtype=total.dtype, device=x.device)
        count = torch.zeros(number, dtype=total.dtype, device=x.device).scatter_add(0, places, ones)[:, None]
        out = total / (count + 1e-5)  # as the public code divides
        out = out.view(parts.shape[0], parts.shape[1], self.num_heads, self.head_dim)
        if self.untaken == "nearest":
            untaken = count.view(out.shape[:3]).transpose(1, 2) == 0
            others = self._ask_nearest(q, scores[0].argmax(2), untaken, keys, values)
            out = torch.where(untaken.transpose(1, 2)[..., None], others.transpose(1, 2).to(out.dtype), out)
        out = self.proj_drop(self.proj(out.to(x.dtype).reshape(shape)))
        if not torch.jit.is_scripting() and self.training:
            self._learn(out, q, parts[:, :, 1].transpose(1, 2))
        return out

    def _parts(self, x: torch.Tensor) -> torch.Tensor:
        """What a map is projected to, (B, N, parts, heads, head_dim)."""
        return self.qkv(x.flatten(1, 2)).unflatten(2, (-1, self.num_heads, self.head_dim))

    def tokens(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of a map, (B, heads, N, head_dim) each."""
        parts = self._parts(x).permute(2, 0, 3, 1, 4)
        q, v = parts[0], parts[-1]
        return q, F.normalize(q, dim=-1) if self.shared_qk else parts[1], v

    def _scores(self, parts: torch.Tensor) -> torch.Tensor:
        """How much tokens point to each centroid, (B, N, parts, heads, head_dim) -> (parts, B, heads, K, N)."""
        x = F.normalize(parts.detach().to(compute_dtype(parts.dtype)), dim=-1)
        return torch.matmul(self.centroids.to(x.dtype), x.permute(2, 0, 3, 4, 1))

    def _rows(self, taken: torch.Tensor, tokens: int, parts: int) -> torch.Tensor:
        """Where the first parts of tokens (B, heads, K, w) lie in rows of tokens, parts and heads, (B heads K w)."""
        images = torch.arange(taken.shape[0], device=taken.device) * tokens
        heads = torch.arange(self.num_heads, device=taken.device)
        rows = (taken + images[:, None, None, None]) * (parts * self.num_heads) + heads[:, None, None]
        return rows.flatten()

    def _gather(
        self, parts: torch.Tensor, q_taken: torch.Tensor, k_taken: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values by clusters, (B, heads, K, w, head_dim) each."""
        number = parts.shape[2]
        q_rows = self._rows(q_taken, parts.shape[1], number)
        k_rows = q_rows if self.shared_qk else self._rows(k_taken, parts.shape[1], number) + self.num_heads
        v_rows = k_rows + self.num_heads
        rows = torch.cat([q_rows, v_rows] if self.shared_qk else [q_rows, k_rows, v_rows])
        found = parts.flatten(0, 3).gather(0, rows[:, None].expand(-1, self.head_dim))
        found = found.view(number, q_taken.shape[0], self.num_heads, self.clusters, q_taken.shape[3], self.head_dim)
        q, v = found[0], found[-1]
        return q, F.normalize(q, dim=-1) if self.shared_qk else found[1], v

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
        self,
        q: torch.Tensor,
        nearest: torch.Tensor,
        untaken: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """What untaken queries get of the cluster whose centroid is nearest to them; of others, anything.

        Those of a cluster are laid into rows of as many places as a cluster has keys, the last of them not full.
        However they are spread, there are at most two rows a cluster: no size depends on the data. Where one may, on
        the CPU, a cluster has one row, as long as the fullest one.

        Args:
            q: Queries (B, heads, N, head_dim).
            nearest: Their clusters, (B, heads, N).
            untaken: Which of them no cluster has taken, (B, heads, N).
            keys: Of the clusters, (B, heads, K, w, head_dim).
            values: Likewise.
        """
        length, num_rows = keys.shape[3], 2 * self.clusters
        clusters = torch.arange(self.clusters, device=q.device)
        asks = ((nearest[..., None] == clusters) & untaken[..., None]).long()  # B heads N K
        rank = (asks.cumsum(2).gather(3, nearest[..., None]).squeeze(3) - 1).clamp(min=0)
        asked = asks.sum(2)  # B heads K
        is_short = False
        if not torch.jit.is_scripting() and q.device.type == "cpu" and is_eager(q) and asked.numel() > 0:
            fullest = max(int(asked.max()), 1)
            if fullest <= 2 * length:
                length, num_rows, is_short = fullest, self.clusters, True
        if is_short:
            place = nearest * length + rank
        else:
            ends = (asked + length - 1).div(length, rounding_mode="floor").cumsum(2)  # first row behind a cluster's
            starts = F.pad(ends[..., :-1], [1, 0])
            place = starts.gather(2, nearest) * length + rank
            row_numbers = torch.arange(num_rows, device=q.device)
            cluster = (row_numbers[:, None] >= ends[..., None, :]).sum(-1).clamp(max=self.clusters - 1)  # B heads rows
            index = cluster[..., None, None].expand(-1, -1, -1, length, self.head_dim)
            keys, values = keys.gather(2, index), values.gather(2, index)
        place = torch.where(untaken, place, num_rows * length)[..., None].expand(-1, -1, -1, self.head_dim)
        rows = torch.zeros_like(q[:, :, :1]).expand(-1, -1, num_rows * length + 1, -1).scatter(2, place, q)
        rows = rows[:, :, :-1].unflatten(2, (num_rows, length))
        answers = self._attend(rows, keys, values).flatten(2, 3)
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
            index = self._scores(tokens.transpose(1, 2)[:, :, None])[0].argmax(2)
            index = index[..., None].expand(-1, -1, -1, self.head_dim)
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
