"""Measure token mixers against plain transcriptions of their equations in torch, on this machine.

    python tools/benchmark_mixers.py
    python tools/benchmark_mixers.py --mixers dcmha coda --side 14 56 --dim 256 --batch 1

Both compute the same function with the same weights. They run in turn, one step each, in
changing order, and the ratio is taken within such pairs: a ratio below 1 says that the mixer is faster. Inference is a
forward pass without gradients, training one with those of weights and map. With one thread, the default, the clock is
the processor time of this process, which other programs disturb less.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectral_backbones.backbones.mixers import create_mixer
from spectral_backbones.backbones.mixers.lmu import impulse_response
from spectral_backbones.tools.arguments import positive_int
from spectral_backbones.tools.benchmark import Step, processor, time_in_turn
from spectral_backbones.tools.script import make_parser
from spectral_backbones.tools.tables import FORMATS, Column, render

NUM_HEADS = 8
MODES = {"infer": "inference", "train": "training"}


def _show_ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def _show_ratio(ratio: float) -> str:
    return f"{ratio:.2f}"


COLUMNS = {"mixer": Column("mixer", is_number=False), "side": Column("tokens a side")}
for _mode, _name in MODES.items():
    COLUMNS[f"{_mode}_s"] = Column(f"{_name}, mixer (ms)", _show_ms)
    COLUMNS[f"{_mode}_plain_s"] = Column(f"{_name}, plain (ms)", _show_ms)
    COLUMNS[f"{_mode}_ratio"] = Column("mixer / plain", _show_ratio)


# Transcriptions: of maps whose sides are multiples of 7, by the weights of a mixer ------------------------------------


def _heads(x: Tensor, number: int) -> Tensor:
    """(B, N, C) -> (B, heads, N, C / heads)."""
    return x.unflatten(2, (number, -1)).transpose(1, 2)


def _qkv(mixer: nn.Module, x: Tensor) -> list[Tensor]:
    """Queries, not scaled, keys and values of a map, (B, heads, N, head_dim)."""
    return [_heads(part, mixer.num_heads) for part in mixer.qkv(x.flatten(1, 2)).chunk(3, -1)]


def _joined(mixer: nn.Module, heads: Tensor, x: Tensor) -> Tensor:
    return mixer.proj(heads.transpose(1, 2).reshape(x.shape))


def plain_dcmha(mixer: nn.Module, x: Tensor) -> Tensor:
    """Heads composed by vectors, query by query and key by key."""
    q, k, v = _qkv(mixer, x)
    tokens, rank = x.flatten(1, 2), mixer.rank
    hidden = F.gelu(torch.einsum("bnc,cpk->pbnk", tokens, mixer.reduce))
    vectors = torch.einsum("pbnk,pkrh->pbnrh", hidden, mixer.expand)
    first, second = F.rms_norm(vectors[..., :rank, :], [mixer.num_heads], eps=1e-6), vectors[..., rank:, :]
    gates = torch.tanh(tokens @ mixer.gates).unflatten(2, (4, -1)).permute(2, 0, 3, 1)  # 4 B heads N

    def compose(a: Tensor, query: int, key: int) -> Tensor:
        by_query = torch.einsum("bhij,birh->brij", a, first[query])
        by_key = torch.einsum("bhij,bjrh->brij", a, first[key])
        out = a + torch.einsum("brij,birh->bhij", by_query, second[query])
        out = out + torch.einsum("brij,bjrh->bhij", by_key, second[key])
        return out + a * gates[query].unsqueeze(3) + a * gates[key].unsqueeze(2)

    logits = compose(torch.einsum("bhid,bhjd->bhij", q, k) * mixer.head_dim**-0.5, 0, 1)
    return _joined(mixer, torch.einsum("bhij,bhjd->bhid", compose(logits.softmax(-1), 2, 3), v), x)


def plain_coda(mixer: nn.Module, x: Tensor, handed: Tensor) -> Tensor:
    """The network over heads as linear layers over the last axis."""
    q, k, v = _qkv(mixer, x)
    logits = torch.einsum("bhid,bhjd->bhij", q * mixer.head_dim**-0.5, k) + handed
    hidden = logits.permute(0, 2, 3, 1)
    for layer in mixer.heads_mlp:
        is_linear = isinstance(layer, nn.Conv2d)
        hidden = F.linear(hidden, layer.weight.flatten(1), layer.bias) if is_linear else layer(hidden)
    logits = logits + hidden.permute(0, 3, 1, 2)
    return _joined(mixer, torch.einsum("bhij,bhjd->bhid", logits.softmax(-1), v), x)


def plain_combiner_fixed(mixer: nn.Module, x: Tensor) -> Tensor:
    """Segments as an axis, one softmax over what a token attends to."""
    batch, height, width, dim = x.shape
    seg_h, seg_w = mixer.segment
    cells = x.reshape(batch, height // seg_h, seg_h, width // seg_w, seg_w, dim).transpose(2, 3).flatten(3, 4)
    cells = cells.flatten(1, 2)  # B S s C
    q, k, v = mixer.qkv(cells).unflatten(3, (3, mixer.num_heads, -1)).permute(3, 0, 4, 1, 2, 5)  # B heads S s head_dim
    q = q * mixer.head_dim**-0.5
    whole_k = k.amax(3)
    weights = torch.einsum("bhsd,bhsjd->bhsj", q.amax(3), k).softmax(-1)
    whole_v = torch.einsum("bhsj,bhsjd->bhsd", weights, v)
    own = torch.einsum("bhsid,bhsjd->bhsij", q, k)
    others = torch.einsum("bhsid,bhtd->bhsit", q, whole_k)
    same = torch.eye(cells.shape[1], dtype=torch.bool, device=x.device)[:, None]
    weights = torch.cat([own, others.masked_fill(same, float("-inf"))], -1).softmax(-1)
    own, others = weights.split([own.shape[-1], others.shape[-1]], -1)
    out = torch.einsum("bhsij,bhsjd->bhsid", own, v) + torch.einsum("bhsit,bhtd->bhsid", others, whole_v)
    out = out.unflatten(2, (height // seg_h, -1)).unflatten(4, (seg_h, seg_w))
    return mixer.proj(out.permute(0, 2, 4, 3, 5, 1, 6).reshape(x.shape))


def plain_combiner_axial(mixer: nn.Module, x: Tensor) -> Tensor:
    """Rows one by one, columns by the summaries of rows."""
    q, k, v = mixer.qkv(x).unflatten(3, (3, mixer.num_heads, -1)).permute(3, 0, 4, 1, 2, 5)  # B heads H W head_dim
    q = q * mixer.head_dim**-0.5
    row = torch.einsum("bhuid,bhujd->bhuij", q, k)
    row_v = torch.einsum("bhuij,bhujd->bhuid", row.softmax(-1), v)
    row_k = mixer.key_proj(mixer.norm(x + mixer.row_proj(row_v.permute(0, 2, 3, 1, 4).flatten(3))))
    row_k = row_k.unflatten(3, (mixer.num_heads, -1)).permute(0, 3, 1, 2, 4)
    column = torch.einsum("bhuid,bhtid->bhuit", q, row_k)
    same = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)[:, None]
    weights = torch.cat([row, column.masked_fill(same, float("-inf"))], -1).softmax(-1)
    row, column = weights.split([x.shape[2], x.shape[1]], -1)
    out = torch.einsum("bhuij,bhujd->bhuid", row, v) + torch.einsum("bhuit,bhtid->bhuid", column, row_v)
    return mixer.proj(out.permute(0, 2, 3, 1, 4).flatten(3))


def plain_ponet(mixer: nn.Module, x: Tensor) -> Tensor:
    """Three poolings."""
    batch, height, width, dim = x.shape
    q, k, o, s, l = mixer.proj_in(x).chunk(5, -1)  # noqa: E741
    heads = mixer.num_heads
    mean, keys = _heads(q.mean((1, 2))[:, None], heads), _heads(k.flatten(1, 2), heads)
    weights = (torch.einsum("bhid,bhnd->bhin", mean, keys) * mixer.head_dim**-0.5).softmax(-1)
    everywhere = torch.einsum("bhin,bhnd->bhid", weights, keys).reshape(batch, 1, 1, dim)
    rows, columns = mixer.segment
    cells = s.reshape(batch, height // rows, rows, width // columns, columns, dim)
    cells = cells.amax((2, 4), keepdim=True).expand(cells.shape).reshape(x.shape)
    around = F.max_pool2d(l.permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1)
    return mixer.proj((everywhere + cells) * o + around)


def plain_routing(mixer: nn.Module, x: Tensor) -> Tensor:
    """Clusters gathered and scattered; queries that no cluster took one by one. Centroids do not learn here."""
    q, k, v = _qkv(mixer, x)
    scale = mixer.head_dim**-0.5
    length = -(-q.shape[2] // mixer.clusters)

    def scores(tokens: Tensor) -> Tensor:
        return torch.einsum("hkd,bhnd->bhkn", mixer.centroids, F.normalize(tokens.detach(), dim=-1))

    def gather(tokens: Tensor, taken: Tensor) -> Tensor:
        index = taken[..., None].expand(-1, -1, -1, -1, tokens.shape[-1])
        return tokens[:, :, None].expand(-1, -1, mixer.clusters, -1, -1).gather(3, index)

    q_taken, k_taken = scores(q).topk(length, -1)[1], scores(k).topk(length, -1)[1]
    keys, values = gather(k, k_taken), gather(v, k_taken)
    weights = (torch.einsum("bhkid,bhkjd->bhkij", gather(q, q_taken), keys) * scale).softmax(-1)
    answers = torch.einsum("bhkij,bhkjd->bhkid", weights, values).flatten(2, 3)
    places = q_taken.flatten(2)[..., None].expand_as(answers)
    total = torch.zeros_like(q).scatter_add(2, places, answers)
    count = torch.zeros_like(q).scatter_add(2, places, torch.ones_like(answers))
    out = total / (count + 1e-5)
    images, heads, rows = (count[..., 0] == 0).nonzero(as_tuple=True)
    cluster = scores(q).argmax(2)[images, heads, rows]
    weights = torch.einsum("md,mjd->mj", q[images, heads, rows], keys[images, heads, cluster]) * scale
    nearest = torch.einsum("mj,mjd->md", weights.softmax(-1), values[images, heads, cluster])
    return _joined(mixer, out.index_put((images, heads, rows), nearest), x)


def plain_lmu(mixer: nn.Module, x: Tensor) -> Tensor:
    """The memory by FFT, as in the public code, in both directions."""
    signal = F.relu(mixer.signal(x)).flatten(1)  # B N
    length = signal.shape[1]
    response = _response(mixer.dim, length)

    def remember(signal: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(signal.unsqueeze(1), n=2 * length) * torch.fft.rfft(response, n=2 * length)
        return torch.fft.irfft(spectrum, n=2 * length)[..., :length].transpose(1, 2)  # B N C

    states = 0.5 * (remember(signal) + remember(signal.flip(1)).flip(1))
    hidden = F.relu(mixer.hidden(torch.cat([states, x.flatten(1, 2)], -1)))
    return mixer.norm(mixer.proj(hidden).flatten(0, 1)).reshape(x.shape)


@functools.cache  # a buffer in the public code
def _response(order: int, length: int) -> Tensor:
    return impulse_response(order, length, torch.device("cpu")).float()


PLAIN: dict[str, Callable[..., Tensor]] = {
    "dcmha": plain_dcmha,
    "coda(noise=0)": plain_coda,
    "combiner_fixed(segment=(7, 7))": plain_combiner_fixed,
    "combiner_axial": plain_combiner_axial,
    "ponet": plain_ponet,
    "routing": plain_routing,
    "lmu": plain_lmu,
}


# Measuring ------------------------------------------------------------------------------------------------------------


def pair(name: str, side: int, dim: int, batch: int, num_heads: int = NUM_HEADS) -> tuple[list[Any], list[Tensor]]:
    """A mixer and its transcription as functions of the tensors that follow, the map first."""
    torch.manual_seed(0)
    mixer = create_mixer(name, dim, (side, side), num_heads)
    given = [torch.randn(batch, side, side, dim)]
    if getattr(mixer, "takes", None):  # logits of the block before
        given.append(torch.randn(batch, num_heads, side**2, side**2))

    def run(*given: Tensor) -> Tensor:
        found = mixer(*given)
        return found[0] if isinstance(found, tuple) else found

    return [mixer, run, functools.partial(PLAIN[name], mixer)], given


def make_step(mixer: nn.Module, run: Callable[..., Tensor], given: Sequence[Tensor], train: bool) -> Step:
    """One pass, with the backward pass or without."""
    if not train:
        return torch.inference_mode()(lambda: run(*given))
    x = given[0].clone().requires_grad_()
    grad = torch.randn_like(x)

    def step() -> None:
        run(x, *given[1:]).backward(grad)
        mixer.zero_grad()
        x.grad = None

    return step


def measure(name: str, side: int, args: argparse.Namespace) -> dict[str, Any]:
    """The row of a mixer at a size."""
    clock = time.process_time if args.threads == 1 else time.perf_counter
    row: dict[str, Any] = {"mixer": name, "side": side}
    for mode in MODES:
        (mixer, *runs), given = pair(name, side, args.dim, args.batch)
        mixer.train(mode == "train")
        own, plain = time_in_turn([make_step(mixer, run, given, mode == "train") for run in runs], args.seconds, clock)
        row[f"{mode}_s"], row[f"{mode}_plain_s"] = statistics.median(own), statistics.median(plain)
        row[f"{mode}_ratio"] = statistics.median(a / b for a, b in zip(own, plain, strict=True))
    return row


def side_of(text: str) -> int:
    """Tokens a side, which the transcriptions cut in sevens."""
    side = positive_int(text)
    if side % 7:
        raise argparse.ArgumentTypeError(f"side is {side}, it has to be a multiple of 7")
    return side


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--mixers", nargs="+", choices=PLAIN, default=list(PLAIN), metavar="NAME", help="default: all")
    parser.add_argument("--side", nargs="+", type=side_of, default=[14, 56], metavar="N", help="default: 14 56")
    parser.add_argument("--dim", type=positive_int, default=256, metavar="C", help="default: %(default)s")
    parser.add_argument("--batch", type=positive_int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=positive_int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement; default: %(default)s")
    parser.add_argument("--format", choices=FORMATS, default="table")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    print(f"{processor()}, threads: {args.threads}, float32, torch {torch.__version__}", file=sys.stderr)
    rows = [measure(name, side, args) for name in args.mixers for side in args.side]
    print(render(rows, COLUMNS, args.format))


if __name__ == "__main__":
    main()
