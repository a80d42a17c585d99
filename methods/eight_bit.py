"""What a forward pass keeps for the backward pass, in eight bits (after Mesa, arXiv 2111.11124)."""

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Optional, Tuple, Union
from weakref import ref

import torch
import torch.nn as nn
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

LEAST_VALUES = 4096  # of a tensor that is worth it
LEAST_WIDTH = 32  # values of a row, whose scale and shift take eight bytes; shorter rows are joined
BLOCK_BYTES = 33 * 2**20  # more than the C library ever takes from its heap; only what is used of it is real
SMALL_BYTES = 2**18  # of a tensor that is kept beside codes, as it is

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COMPLEX = (torch.complex64, torch.complex128)
# Their gradient goes to values that equal the largest or smallest, which eight bits would find nowhere.
_COMPARING = frozenset(getattr(where, name) for where in (torch, Tensor) for name in ("amax", "amin", "max", "min"))


class Codes:
    """A matrix in eight bits, with a scale and a shift for each row.

    Mesa has running estimates of a range for each layer, which values can leave; a row's own range needs none, and is
    nearer to its values. A row with an infinity or a not-a-number becomes not-a-number as a whole.

    Args:
        rows: A floating matrix (R, W).
        of_relu: It is what a ReLU gives: whatever is above zero stays so, since its gradient passes there. Without,
            one value in some hundreds would round to zero.
    """

    def __init__(self, rows: Tensor, of_relu: bool = False) -> None:
        self.dtype = rows.dtype
        self.scale: Optional[Tensor] = None  # (R, 1), what a step is worth, where `codes` does not hold it
        self.shift: Optional[Tensor] = None  # (R, 1), the value of code 0
        if rows.device.type == "cpu" and rows.dtype != torch.float64:
            # torch's own kernel for tables of embeddings: a row is read once. In place of aminmax, a product and a
            # rounding it takes a tenth of the time. The last eight bytes of a row are its scale and shift.
            self.codes = torch.ops.quantized.embedding_bag_byte_prepack(rows.float())
        else:
            values = rows.to(torch.promote_types(rows.dtype, torch.float32))
            low, high = torch.aminmax(values, dim=1, keepdim=True)
            self.shift, self.scale = low, (high - low) / 255
            steps = torch.where(self.scale > 0, self.scale.reciprocal(), self.scale)  # equal values are their shift
            self.codes = (values - low).mul_(steps).round_().to(torch.uint8)
        if of_relu:
            codes = self.codes[:, : rows.shape[1]]
            torch.maximum(codes, (rows > 0).view(torch.uint8), out=codes)

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return sum(part.nbytes for part in (self.codes, self.scale, self.shift) if part is not None)

    def restore(self) -> Tensor:
        """The matrix, as near as eight bits are."""
        if self.scale is None or self.shift is None:
            return torch.ops.quantized.embedding_bag_byte_unpack(self.codes).to(self.dtype)
        return self.codes.to(self.scale.dtype).mul_(self.scale).add_(self.shift).to(self.dtype)


class Kept:
    """A tensor in eight bits, with its shape and layout.

    Args:
        codes: Of its values in the order of memory.
        shape: Of its axes in the order of memory, with real and imaginary part as a last one.
        order: Where each of its own axes is in that.
        is_complex: Whether pairs of values are complex numbers.
    """

    def __init__(self, codes: Codes, shape: Tuple[int, ...], order: Tuple[int, ...], is_complex: bool) -> None:
        self.codes, self.shape, self.order, self.is_complex = codes, shape, order, is_complex

    def restore(self) -> Tensor:
        """The tensor, as near as eight bits are."""
        values = self.codes.restore().view(self.shape)
        if self.is_complex:
            values = torch.view_as_complex(values)
        return values.permute(self.order)


class _Shelf:
    """Puts codes side by side into large blocks on the CPU.

    Among the activations themselves they would stay where those come and go, and leave the C library gaps that fit no
    other: the process would hardly be smaller for what is spared.
    """

    def __init__(self) -> None:
        self.block = torch.empty(0, dtype=torch.uint8)
        self.used = 0

    def place(self, codes: Tensor) -> Tensor:
        """The same codes on the shelf. A block is free when all of its codes are."""
        if codes.numel() > BLOCK_BYTES or codes.device.type != "cpu":
            return codes
        return self._space(codes.numel()).view(codes.shape).copy_(codes)

    def place_small(self, x: Tensor) -> Tensor:
        """The same values on the shelf of a small tensor, such as statistics of a norm; others as they are."""
        is_whole = x.layout == torch.strided and x.is_contiguous() and x.untyped_storage().nbytes() == x.nbytes
        if not is_whole or x.is_quantized or not 0 < x.nbytes <= SMALL_BYTES or x.device.type != "cpu":
            return x
        return self._space(x.nbytes).view(x.dtype).view(x.shape).copy_(x)

    def _space(self, size: int) -> Tensor:
        if self.used + size > self.block.numel():
            self.block, self.used = torch.empty(BLOCK_BYTES, dtype=torch.uint8), 0
        begin = self.used
        self.used += -(-size // 64) * 64  # so that any dtype begins where it may
        return self.block[begin : begin + size]


class _Keeper:
    """Turns what autograd saves in one forward pass into eight bits, and what two operators save once."""

    def __init__(self) -> None:
        self.paused = False
        self.shelf = _Shelf()
        # By what a matrix is of, and held weakly: what the backward pass has used is free. A storage that is gone
        # keeps its number while somebody refers to it, so that no other is taken for it.
        self.known: Dict[tuple, Tuple[StorageWeakRef, ref[Codes]]] = {}

    def pack(self, x: Tensor) -> Union[Tensor, Kept]:
        if self.paused or not _is_activation(x):
            left = x.detach()  # with its own history it would hold itself
            return left if self.paused or type(x) is not Tensor or _is_of_parameter(x) else self.shelf.place_small(left)
        axes = sorted(range(x.ndim), key=lambda axis: -x.stride(axis))  # of memory, whatever the layout
        order = tuple(sorted(range(x.ndim), key=axes.__getitem__))
        of_relu = x.grad_fn is not None and x.grad_fn.name() == "ReluBackward0"
        x = x.detach().permute(axes)
        is_complex = x.is_complex()
        if is_complex:
            x = torch.view_as_real(x.resolve_conj())
        return Kept(self._codes(x, of_relu), tuple(x.shape), order, is_complex)

    def _codes(self, x: Tensor, of_relu: bool) -> Codes:
        width, axis = x.shape[-1], x.ndim - 1
        while width < LEAST_WIDTH and axis:
            axis -= 1
            width *= x.shape[axis]
        storage = StorageWeakRef(x.untyped_storage())
        layout = x.numel() if x.is_contiguous() else (x.shape, x.stride())
        key = (storage.cdata, x.storage_offset(), x._version, x.dtype, width, layout)
        found = self.known.get(key)
        codes = found[1]() if found and not found[0].expired() else None
        if codes is None:
            codes = Codes(x.reshape(-1, width), of_relu)
            codes.codes = self.shelf.place(codes.codes)
            self.known[key] = storage, ref(codes)
        return codes


def _unpack(kept: Union[Tensor, Kept]) -> Tensor:
    return kept.restore() if isinstance(kept, Kept) else kept


def _is_activation(x: Tensor) -> bool:
    """Whether eight bits do for a tensor. They don't for parameters and what is a view or another precision of one, for
    statistics of norms and attention, and for what no gradient flows through: indices, masks, random states, constants.
    """
    if type(x) is not Tensor or not x.requires_grad or x.numel() < LEAST_VALUES or x.layout != torch.strided:
        return False
    if x.dtype not in _FLOATS and x.dtype not in _COMPLEX:
        return False
    if 0 in x.stride() or (x.output_nr > 0 and not x._is_view()):  # repeated by expand; a second result
        return False
    return not _is_of_parameter(x)


def _is_of_parameter(x: Tensor) -> bool:
    node = x.grad_fn
    while node is not None and len(node.next_functions) == 1:
        node = node.next_functions[0][0]
    return isinstance(getattr(node, "variable", None), nn.Parameter)


class _ExactComparisons(TorchFunctionMode):
    """Lets operators whose gradient compares values keep them as they are."""

    def __init__(self, keeper: _Keeper) -> None:
        super().__init__()
        self.keeper = keeper

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Optional[dict] = None) -> Any:
        if func not in _COMPARING:
            return func(*args, **(kwargs or {}))
        self.keeper.paused, before = True, self.keeper.paused
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.keeper.paused = before


@contextmanager
def eight_bit_activations() -> Iterator[None]:
    """A context whose operators keep activations for the backward pass in eight bits.

    The forward pass is exact; gradients are off by some tenths of a percent. Kept as they are: parameters, in whatever
    view and precision, tensors below `LEAST_VALUES`, and all that is no activation, see `_is_activation`. Complex
    tensors, as the product of a spectral gate saves them, are pairs of real ones. Blocks that are checkpointed keep
    their inputs so, and are computed again from them, with everything inside as precise as ever.

    What torch.compile has compiled keeps tensors of its own, which stay as they are: there, use
    `torch._functorch.config.activation_memory_budget`.
    """
    keeper = _Keeper()
    with saved_tensors_hooks(keeper.pack, _unpack), _ExactComparisons(keeper):
        yield


class _Surround:
    """Enters the context before a module's forward pass and leaves it behind, whatever happens."""

    def __init__(self) -> None:
        self.entered: list = []

    def before(self, module: nn.Module, args: tuple) -> None:
        context = eight_bit_activations() if module.training and torch.is_grad_enabled() else None
        if context:
            context.__enter__()
        self.entered.append(context)

    def after(self, module: nn.Module, args: tuple, output: Any) -> None:
        context = self.entered.pop() if self.entered else None
        if context:
            context.__exit__(None, None, None)


def keep_eight_bits(model: nn.Module) -> Callable[[], None]:
    """Lets a model's own forward pass keep activations in eight bits while it is trained, see `eight_bit_activations`.

    Args:
        model: Any model, or the part of one that takes most of the memory.

    Returns:
        A function that takes it back.
    """
    surround = _Surround()
    handles = [
        model.register_forward_pre_hook(surround.before),
        model.register_forward_hook(surround.after, always_call=True),
    ]

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo
