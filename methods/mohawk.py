"""MOHAWK (arXiv 2408.10189) for vision: a trained vision transformer becomes a model whose first blocks are spectral.

What both have is copied: stem, positions, the blocks that attend in both, norm and head. The spectral blocks are made,
in the paper's stages: `orient` turns the teacher's mean attention into filters, `AlignmentTask` trains each block alone
to do what the teacher's does with the teacher's inputs, and after that the whole learns from the teacher's logits, by
timm's `LogitDistillationTask`.

The teacher is one of timm's vision transformers, with or without class token, or a SpectFormer that attends in all
blocks.
"""

import functools
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple, Union

import timm
import timm.models.vision_transformer as vit
import torch
import torch.nn as nn
from timm.task import DistillationTeacher
from torch import Tensor

from spectral_backbones.backbones.layers import Block, PatchEmbed
from spectral_backbones.backbones.mixers import SpectralGating
from spectral_backbones.backbones.spectformer import SpectFormer

from .mixing_matrix import gate_weight, hidden_state_loss, operator_kernel
from .plain_attention import is_plain, project
from .teacher_task import TeacherTask

STUDENTS = ("spectformer_ti", "spectformer_xs", "spectformer_s", "spectformer_b", "gfnet_ti", "gfnet_xs", "gfnet_s")
TEACHERS = ("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224")
_BLOCKS = (vit.Block, Block)  # a norm, attention, a norm and an MLP with two residuals
_LAYERS = ("norm1", "attention.qkv", "attention.proj", "norm2", "mlp.fc1", "mlp.fc2")
# What else a teacher may have; what belongs to tokens that are no patches is left out.
_AROUND = ("blocks.", "patch_embed.proj.", "pos_embed", "norm.", "head.", "head_dist.", "cls_", "reg_", "dist_")
_POSITIONS = "positions"  # of the teacher's tokens of patches, whatever it calls them and whatever comes before them
_LEAST_GAIN = 0.1  # of a filter for what is equal everywhere, in multiples of the stream's scale


class Fit(NamedTuple):
    """How a student is made of a teacher.

    Attributes:
        made: Numbers of the student's spectral blocks.
        copied: Names of the teacher's tensors, by those of the student's.
    """

    made: Tuple[int, ...]
    copied: Dict[str, str]


# What fits ------------------------------------------------------------------------------------------------------------


def fit(teacher: nn.Module, student: nn.Module) -> Fit:
    """Finds out which tensors are copied and which blocks are made.

    Args:
        teacher: See above. Models on the meta device do.
        student: An isotropic SpectFormer or GFNet; its blocks that are not spectral attend.

    Raises:
        ValueError: The two don't fit; the message says what doesn't and what would.
    """
    reasons = [*_wrong_with_teacher(teacher), *_wrong_with_student(student)]
    if not reasons:
        reasons = list(_differences(teacher, student))
    if not reasons:
        made = tuple(i for i, block in enumerate(student.blocks) if isinstance(block.mixer, SpectralGating))
        copied = _names(teacher, student, made)
        reasons = list(_unlike(teacher, student, made, copied))
    if reasons:
        raise ValueError(f"{'; '.join(reasons)}. {_what_would(teacher)}")
    return Fit(made, copied)


def _wrong_with_teacher(teacher: nn.Module) -> Iterator[str]:
    kind = type(teacher).__name__
    if not isinstance(teacher, (vit.VisionTransformer, SpectFormer)):
        yield f"the teacher is a {kind}, no plain vision transformer"
        return
    others = {
        type(block if type(block) not in _BLOCKS else attention_of(block)).__name__
        for block in teacher.blocks
        if type(block) not in _BLOCKS or not is_plain(attention_of(block))
    }
    if others:
        yield f"the teacher's blocks are not all plain attention: it has {', '.join(sorted(others))}"
    if not hasattr(getattr(teacher, "patch_embed", None), "proj"):
        yield "the teacher's stem is no single convolution of patches"
    if isinstance(teacher, vit.VisionTransformer):
        if teacher.global_pool not in ("token", "avg") or not isinstance(teacher.fc_norm, nn.Identity):
            yield f"the teacher pools by {teacher.global_pool!r} before its last norm, a student behind it"
        if teacher.pos_embed is None:
            yield "the teacher has no table of positions"
    if others:
        return
    attention = "attn" if isinstance(teacher, vit.VisionTransformer) else "mixer"
    plain = {f"{layer}.{part}" for layer in _LAYERS for part in ("weight", "bias")}
    plain = {name.replace("attention", attention) for name in plain}
    found = set.union(*({name for name, _ in block.named_parameters()} for block in teacher.blocks))
    more = [f"blocks.*.{name}" for name in sorted(found - plain)]
    more += [name for name, _ in teacher.named_parameters() if not name.startswith(_AROUND)]
    if more:
        yield f"the teacher has {', '.join(more[:3])}, for which a student has no place"
    if fewer := sorted(plain - found):
        yield f"the teacher's blocks have no {', '.join(fewer[:3])}"


def _wrong_with_student(student: nn.Module) -> Iterator[str]:
    if not isinstance(student, SpectFormer):
        yield f"the student is a {type(student).__name__}, no isotropic SpectFormer or GFNet"
        return
    mixers = [getattr(block, "mixer", None) for block in student.blocks]
    others = {type(mixer).__name__ for mixer in mixers if not isinstance(mixer, SpectralGating) and not is_plain(mixer)}
    if others:
        yield f"the student's blocks mix by {', '.join(sorted(others))}, and not by spectral gating or plain attention"
    elif all(map(is_plain, mixers)):
        yield "the student has no spectral block to be made"
    if type(student.patch_embed) is not PatchEmbed:
        yield "the student's stem is no single convolution of patches (stem='patchify')"
    if getattr(student, "global_pool", "") != "avg":
        yield f"the student pools by {getattr(student, 'global_pool', None)!r}, and not by 'avg'"


def _shape(model: nn.Module) -> Dict[str, Any]:
    """What teacher and student must have in common before tensors are compared, for people."""
    return {
        "channels": model.embed_dim,
        "blocks": len(model.blocks),
        "tokens": "x".join(map(str, grid_of(model))),
        "pixels of a patch": "x".join(map(str, model.patch_embed.proj.weight.shape[2:])),
        "channels of the pictures": model.patch_embed.proj.weight.shape[1],
        "classes": model.num_classes,
    }


def _differences(teacher: nn.Module, student: nn.Module) -> Iterator[str]:
    theirs, own = _shape(teacher), _shape(student)
    for what, value in theirs.items():
        if own[what] != value:
            yield f"the teacher has {value} {what}, the student {own[what]}"


def _names(teacher: nn.Module, student: nn.Module, made: Sequence[int]) -> Dict[str, str]:
    """The teacher's names by the student's, of all tensors of the student that have a like."""
    new = tuple(f"blocks.{number}.{part}." for number in made for part in ("mixer", "norm1"))
    attention = "attn" if isinstance(teacher, vit.VisionTransformer) else "mixer"
    kept = [name for name in student.state_dict() if not name.startswith(new)]
    return {**{name: name.replace(".mixer.", f".{attention}.") for name in kept}, "pos_embed.weight": _POSITIONS}


def _unlike(teacher: nn.Module, student: nn.Module, made: Sequence[int], copied: Dict[str, str]) -> Iterator[str]:
    given, own = tensors_of(teacher), student.state_dict()
    wrong = [
        f"{name} is {tuple(own[name].shape)} and the teacher's "
        + (f"{source} {tuple(given[source].shape)}" if source in given else f"{source} is missing")
        for name, source in copied.items()
        if source not in given or given[source].shape != own[name].shape
    ]
    yield from wrong[:3]
    if len(wrong) > 3:
        yield f"and {len(wrong) - 3} more tensors"
    for number, (theirs, ours) in enumerate(zip(teacher.blocks, student.blocks)):
        heads = attention_of(theirs).num_heads, getattr(ours.mixer, "num_heads", None)
        if number not in made and heads[0] != heads[1]:
            yield f"block {number} has {heads[0]} heads in the teacher and {heads[1]} in the student"
            break
    acts = {type(getattr(block.mlp, "act", None)).__name__ for model in (teacher, student) for block in model.blocks}
    if len(acts) > 1:
        yield f"their MLPs have the activations {' and '.join(sorted(acts))}"


def _what_would(teacher: nn.Module) -> str:
    """What fits the teacher, or other teachers where nothing does."""
    if next(_wrong_with_teacher(teacher), None):
        return f"What would: a plain vision transformer of timm, such as {', '.join(TEACHERS)}, of the student's width"
    channels, blocks = teacher.embed_dim, len(teacher.blocks)
    patch = teacher.patch_embed.proj.weight.shape[-1]
    named = [name for name in STUDENTS if _sizes(name) == (channels, blocks, grid_of(teacher), patch)]
    ratio = teacher.blocks[0].mlp.fc1.out_features / channels
    sizes = f"embed_dim={channels}, depth={blocks}, num_heads={attention_of(teacher.blocks[0]).num_heads}"
    sizes += f", mlp_ratio={ratio:g}" if ratio != 4 else ""
    pixels = grid_of(teacher)[0] * patch
    made = f"a spectformer with model.kwargs=dict({sizes}, patch_size={patch}) and model.img_size={pixels}"
    return f"What would fit this teacher: {', '.join([*named, made])}"


@functools.cache
def _sizes(name: str) -> Tuple[int, int, Tuple[int, int], int]:
    """Channels, blocks, tokens and patch of a student as it is by its name alone."""
    model = timm.create_model(name, device="meta")
    return model.embed_dim, len(model.blocks), grid_of(model), model.patch_embed.proj.weight.shape[-1]


# Parts ----------------------------------------------------------------------------------------------------------------


def attention_of(block: nn.Module) -> nn.Module:
    return getattr(block, "attn", None) or getattr(block, "mixer", None)


def grid_of(model: nn.Module) -> Tuple[int, int]:
    """Rows and columns of tokens that a model's table of positions is for."""
    return tuple(getattr(model.pos_embed, "grid_size", None) or model.patch_embed.grid_size)


def tensors_of(teacher: nn.Module) -> Dict[str, Tensor]:
    """The teacher's tensors by name, and the positions of its patches alone."""
    state = teacher.state_dict()
    table = state["pos_embed" if "pos_embed" in state else "pos_embed.weight"]
    tokens = grid_of(teacher)[0] * grid_of(teacher)[1]
    return {**state, _POSITIONS: table[:, -tokens:]}


def as_map(x: Tensor, grid_size: Tuple[int, int]) -> Tensor:
    """The tokens of patches, which come last, (B, prefix + H W, C) -> (B, H, W, C). A map stays one."""
    return x if x.ndim == 4 else x[:, -grid_size[0] * grid_size[1] :].unflatten(1, grid_size)


@contextmanager
def _watched(blocks: Dict[int, nn.Module]) -> Iterator[Dict[int, Tuple[Tensor, Tensor]]]:
    seen: Dict[int, Tuple[Tensor, Tensor]] = {}

    def keep(number: int) -> Callable[..., None]:
        return lambda module, args, output: seen.update({number: (args[0], output)})

    handles = [block.register_forward_hook(keep(number)) for number, block in blocks.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def run_blocks(model: nn.Module, x: Tensor, numbers: Sequence[int]) -> Dict[int, Tuple[Tensor, Tensor]]:
    """What goes into blocks of a model and what comes out, by their numbers, with prefix tokens where it has some. The
    model is run no further than the last of them.

    Args:
        model: Teacher or student.
        x: Pictures (B, channels, H, W).
        numbers: Of the blocks.
    """
    with _watched({number: model.blocks[number] for number in numbers}) as seen:
        model.forward_intermediates(x, indices=[max(numbers)], stop_early=True, intermediates_only=True)
    return seen


# Copying and orientation ----------------------------------------------------------------------------------------------


@torch.no_grad()
def copy_weights(teacher: nn.Module, student: nn.Module) -> Fit:
    """Gives the student all weights that it has a place for; returns what those are.

    Of a made block these are the second norm and the MLP. A class token has none: its student pools the tokens of
    patches. Raises as `fit`.
    """
    found = fit(teacher, student)
    given = tensors_of(teacher)
    student.load_state_dict({name: given[source] for name, source in found.copied.items()}, strict=False)
    return found


class MeanAttention:
    """What the first stage needs to know of a teacher: attention of some blocks, averaged over pictures.

    Attributes:
        numbers: Of the blocks.
        images: How many were seen.
        attention: Sum of their attention among patches (blocks, heads, N, N), rows are queries. That to prefix tokens
            is left out, and rows sum to 1 without it.
        scale: Sum of the standard deviation over channels of the tokens that go into a block (blocks,).

    Args:
        teacher: See above.
        numbers: Of the blocks.
    """

    def __init__(self, teacher: nn.Module, numbers: Sequence[int]) -> None:
        self.teacher, self.numbers, self.images = teacher, tuple(numbers), 0
        tokens = grid_of(teacher)[0] * grid_of(teacher)[1]
        heads = attention_of(teacher.blocks[0]).num_heads
        device = next(teacher.parameters()).device
        self.attention = torch.zeros(len(numbers), heads, tokens, tokens, device=device)
        self.scale = torch.zeros(len(numbers), device=device)

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Sees some pictures (B, channels, H, W)."""
        grid_size = grid_of(self.teacher)
        tokens = grid_size[0] * grid_size[1]
        seen = run_blocks(self.teacher, x, self.numbers)
        for place, number in enumerate(self.numbers):
            block, stream = self.teacher.blocks[number], seen[number][0]
            attention = attention_of(block)
            heads = project(attention, block.norm1(stream))
            logits = heads.q @ heads.k.mT * heads.q.shape[-1] ** -0.5
            weights = logits[:, :, -tokens:, -tokens:].softmax(-1)  # without prefix tokens, summing to 1
            self.attention[place] += weights.sum(0)
            self.scale[place] += as_map(stream, grid_size).std(-1, correction=0).mean((1, 2)).sum()
        self.images += len(x)

    def state_dict(self) -> Dict[str, Any]:
        """What `load_state_dict` goes on from."""
        return {"images": self.images, "attention": self.attention, "scale": self.scale}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Goes on where another one of this teacher and these blocks was."""
        self.images = int(state["images"])
        self.attention.copy_(state["attention"])
        self.scale.copy_(state["scale"])


@torch.no_grad()
def orient(student: nn.Module, seen: MeanAttention) -> None:
    """The first stage in closed form: the spectral blocks get the filters that are nearest to the teacher's attention.

    A spectral block has one residual, x + MLP(norm2(F(norm1 x))), where the teacher's MLP reads norm2(x + attention).
    So the filter F carries the stream itself, too. Behind norm1 all tokens have one scale, and norm2 takes away a
    token's scale and shift: with norm1 plain, without weight and bias, a kernel

        w_c = s at offset 0, plus the sum over heads of (W_o W_v diag(g))_cc times the head's nearest kernel

    gives what norm2 makes of the stream after attention, where s is the usual scale of the stream and g the weight of
    the teacher's norm1. What attention adds to all tokens alike, by the biases of norm and projections, is W_o (W_v b +
    b_v) + b_o exactly, since its rows sum to 1; it becomes the bias of the student's norm1.

    Args:
        student: Into whose blocks the teacher's weights were copied, see `copy_weights`.
        seen: The teacher's mean attention.
    """
    grid_size = grid_of(seen.teacher)
    for place, number in enumerate(seen.numbers):
        theirs, own = seen.teacher.blocks[number], student.blocks[number]
        layer, scale = attention_of(theirs), seen.scale[place] / seen.images
        dim = layer.qkv.in_features
        value, output, scaled = layer.qkv.weight[2 * dim :], layer.proj.weight, theirs.norm1.weight
        kernel = operator_kernel(seen.attention[place] / seen.images, value * scaled, output, grid_size)  # H W C
        kernel[0, 0] += scale
        constant = value @ theirs.norm1.bias
        if layer.qkv.bias is not None:
            constant = constant + layer.qkv.bias[2 * dim :]
        constant = output @ constant
        if layer.proj.bias is not None:
            constant = constant + layer.proj.bias
        set_filter(own, gate_weight(kernel), constant, _LEAST_GAIN * scale)


@torch.no_grad()
def set_filter(block: nn.Module, weight: Tensor, constant: Tensor, least: Union[float, Tensor]) -> None:
    """Gives a spectral block a filter, and a bias of its first norm that adds a constant behind it.

    The scale of a filter is free, since norm2 takes it away: it is that of the values that the block had before, for
    which learning rates are made. Adam would hardly move a filter of the stream's own scale.

    Args:
        block: Of a student.
        weight: The complex filter (H, W // 2 + 1, C) for a first norm without weight and bias.
        constant: What is to be added (C,).
        least: What the filter is taken to make of a constant where it makes less, which no bias could make up for.
    """
    gain = weight[0, 0].real
    gain = gain.abs().clamp(min=least).copysign(gain)
    block.norm1.weight.fill_(1.0)
    block.norm1.bias.copy_(constant / gain)
    weight = torch.view_as_real(weight)
    size = block.mixer.complex_weight.square().mean() / weight.square().mean()
    block.mixer.complex_weight.copy_(weight * size.sqrt())


# Alignment ------------------------------------------------------------------------------------------------------------


class AlignmentTask(TeacherTask):
    """The second stage: each spectral block alone learns what the teacher's block does with the teacher's inputs.

    The whole block is trained, its MLP too: a gate mixes no channels, so that the MLP takes up what attention's
    projections did. All other parts of the student are frozen. `hidden_state_loss`, summed over blocks.

    Args:
        student_model: See `fit`.
        teacher_model: Likewise.

    Raises:
        ValueError: The two don't fit, see `fit`.
    """

    def __init__(self, student_model: nn.Module, teacher_model: DistillationTeacher) -> None:
        super().__init__(student_model, teacher_model)
        self.made = fit(teacher_model.model, student_model).made
        student_model.requires_grad_(False)
        for number in self.made:
            student_model.blocks[number].requires_grad_(True)

    def forward(self, input: Tensor, target: Tensor) -> Dict[str, Tensor]:
        """The losses of pictures (B, channels, H, W): `loss`, and of each block `block_<number>`."""
        teacher, student = self.teacher.model, self.trainable_module
        grid_size = grid_of(teacher)
        with torch.no_grad():
            seen = run_blocks(teacher, input, self.made)
        losses = {
            f"block_{number}": hidden_state_loss(
                student.blocks[number](as_map(seen[number][0], grid_size)), as_map(seen[number][1], grid_size)
            )
            for number in self.made
        }
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}


@torch.no_grad()
def block_errors(teacher: nn.Module, student: nn.Module, batches: Iterable[Tensor]) -> List[float]:
    """How far each block of the student is from the teacher's, on the teacher's inputs.

    Returns:
        For each block the distance of the two outputs in multiples of what the teacher's block changes: 0 is the same,
        and 1 as far off as a block that does nothing. Root of mean squares over pictures, tokens and channels.
    """
    grid_size, numbers = grid_of(teacher), range(len(teacher.blocks))
    off, changed = [0.0] * len(numbers), [0.0] * len(numbers)
    for x in batches:
        for number, (before, after) in run_blocks(teacher, x, numbers).items():
            before, after = as_map(before, grid_size), as_map(after, grid_size)
            off[number] += float((student.blocks[number](before) - after).double().square().sum())
            changed[number] += float((after - before).double().square().sum())
    return [(a / b) ** 0.5 if b else 0.0 for a, b in zip(off, changed)]
