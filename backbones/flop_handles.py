"""What one operator costs in FLOPs, for every operator that fvcore may meet in a trace.

A handle takes the traced inputs and outputs of an operator and returns a Counter of floating-point operations by kind:
a convolution without and with bias costs `{"conv": n}` and `{"conv": n, "bias": m}`. The unit is the FLOP; a
multiply-add is two. fvcore's own handles count a multiply-add as one and its norms in single operations, they take a
batched product's size from its first operand even where that one is broadcast, and skip what the table below adds, so
none of them is used here.

Two groups of kinds are kept apart, because published figures hold only the first:

* `PRODUCT_KINDS`: convolutions, matrix products, attention and Fourier transforms;
* everything else that computes (`norm`, `softmax`, `elementwise`, ...), at one FLOP for each value and operation,
  transcendental functions included.

Integer arithmetic (index tables) and data movement cost nothing.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from spectral_backbones.backbones.layers import dense_gate
from spectral_backbones.backbones.layers.fused_gate import gate_macs, is_dense

Handle = Callable[[Sequence[Any], Sequence[Any]], Counter]  # the inputs and the outputs, as torch._C.Value

PRODUCT_KINDS = ("conv", "linear", "matmul", "einsum", "attention", "fft", "complex product")

# Not FLOPs: the values that products write, as RegNet (arXiv 2003.13678, section 3.1) counts them for convolutions.
# They travel in the same Counter to spare a second trace.
ACTIVATIONS = "activations"

SOFTMAX_FLOPS = 5  # per value: maximum, difference, exponential, sum, quotient


def _shape(value: Any) -> list[int]:
    return value.type().sizes()


def _numel(value: Any) -> int:
    return math.prod(_shape(value))


def _dtype(value: Any) -> str:
    return value.type().scalarType() if value.isCompleteTensor() else ""


def _is_complex(value: Any) -> bool:
    return _dtype(value).startswith("Complex")


def _is_given(value: Any) -> bool:
    return value.type().kind() != "NoneType"


def _constant(value: Any) -> Any:
    """The Python value of a traced constant; a list is built by a node of its own."""
    if value.node().kind() == "prim::ListConstruct":
        return [element.toIValue() for element in value.node().inputs()]
    return value.toIValue()


# --- products -----------------------------------------------------------------------------------------------------


def _product(kind: str, macs: int, operands: Sequence[Any], out: Any, bias: bool = False) -> Counter:
    """Cost of a sum of products: 2 FLOPs a multiply-add, 8 where both operands are complex, 4 where one is."""
    flops_per_mac = 2 * math.prod(2 if _is_complex(operand) else 1 for operand in operands)
    cost = Counter({kind: flops_per_mac * macs, ACTIVATIONS: _numel(out)})
    if bias:
        cost["bias"] = _numel(out)
    return cost


def _conv(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    # _convolution(input, weight, bias, stride, padding, dilation, transposed, ...); the weight is (out, in / groups,
    # *kernel), or (in, out / groups, *kernel) transposed, where every input value meets the rest of it once.
    x, weight, bias, transposed = inputs[0], inputs[1], inputs[2], _constant(inputs[6])
    macs = _numel(x if transposed else outputs[0]) * math.prod(_shape(weight)[1:])
    return _product("conv", macs, (x, weight), outputs[0], _is_given(bias))


def _conv_same(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    # _convolution_mode(input, weight, bias, stride, padding="same", dilation, groups) is never transposed.
    x, weight, bias = inputs[:3]
    return _product(
        "conv", _numel(outputs[0]) * math.prod(_shape(weight)[1:]), (x, weight), outputs[0], _is_given(bias)
    )


def _linear(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    x, weight, bias = inputs[:3]
    return _product("linear", _numel(outputs[0]) * _shape(weight)[-1], (x, weight), outputs[0], _is_given(bias))


def _matmul(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    # Each value of the result is one inner product over the last axis of the left operand, however the rest broadcasts.
    left, right = inputs[:2]
    return _product("matmul", _numel(outputs[0]) * _shape(left)[-1], (left, right), outputs[0])


def _addmm(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    _, left, right = inputs[:3]
    return _product("matmul", _numel(outputs[0]) * _shape(left)[-1], (left, right), outputs[0], bias=True)


def _attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    """softmax(q kᵀ scale + mask) v, with the masked part of a causal product counted in full, as torch does.

    The batch and the heads are read from the result: there broadcasting and grouped queries are already resolved.
    """
    query, key, value, mask = inputs[:4]
    *batch, query_length, value_dim = _shape(outputs[0])
    scores = math.prod(batch) * query_length * _shape(key)[-2]
    cost = _product("attention", scores * (_shape(query)[-1] + value_dim), (query, value), outputs[0])
    cost["softmax"] = SOFTMAX_FLOPS * scores
    cost["elementwise"] = scores * (1 + _is_given(mask))  # the scale, the mask
    return cost


def _einsum(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    """torch.einsum(equation, operands, path) contracts its operands pair by pair."""
    equation, operands, path = _constant(inputs[0]), list(inputs[1].node().inputs()), _constant(inputs[2])
    shapes = [_shape(operand) for operand in operands]
    complex_factor = 4 if any(_is_complex(operand) for operand in operands) else 1
    contracted, multiplied = einsum_macs(equation, shapes, path)
    if not contracted:
        return Counter(elementwise=complex_factor * multiplied)
    cost = Counter({"einsum": 2 * complex_factor * contracted, ACTIVATIONS: _numel(outputs[0])})
    return cost + Counter(elementwise=complex_factor * multiplied)


def einsum_macs(equation: str, shapes: Sequence[Sequence[int]], path: Sequence[int] | None = None) -> tuple[int, int]:
    """Multiply-adds of the contractions of an einsum, and multiplications of its products without a sum.

    An index that only one operand has and the result lacks is summed before anything is multiplied, as torch does it.

    Args:
        equation: As torch.einsum takes it, `...` and a missing right-hand side included.
        shapes: Shape of each operand.
        path: Positions of the operands to contract, two for each step, the result going last; left to right if None.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [_einsum_labels(term, len(shape)) for term, shape in zip(left.split(","), shapes, strict=True)]
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for label, size in zip(term, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    if arrow:
        result = {label for label in sizes if label in right or ("..." in right and label.isdigit())}
    else:
        result = {label for label in sizes if label.isdigit() or left.count(label) == 1}

    pending = [set(term) for term in terms]
    steps = list(zip(path[::2], path[1::2], strict=True)) if path else [(0, 1)] * (len(pending) - 1)
    contracted = multiplied = 0
    for step in steps:
        second, first = pending.pop(max(step)), pending.pop(min(step))
        kept = result.union(*pending)
        summed = (first & second) - kept
        volume = math.prod(sizes[label] for label in ((first | second) & kept) | summed)
        contracted, multiplied = (contracted + volume, multiplied) if summed else (contracted, multiplied + volume)
        pending.insert(len(pending) if path else 0, (first | second) & kept)
    return contracted, multiplied


def _einsum_labels(term: str, num_axes: int) -> list[str]:
    """One label for each axis; those of an ellipsis are numbered from the right, where they align as they broadcast."""
    before, ellipsis, after = term.partition("...")
    num_hidden = num_axes - len(before) - len(after) if ellipsis else 0
    return [*before, *(str(i) for i in reversed(range(num_hidden))), *after]


def _recurrent(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    """The matrix products of an LSTM or GRU(input, states, weights, ...): each weight meets each step once."""
    *steps, _ = _shape(inputs[0])
    weights = [_shape(value) for value in inputs[2].node().inputs()]
    macs = math.prod(steps) * sum(math.prod(weight) for weight in weights if len(weight) == 2)
    return _product("linear", macs, inputs[:1], outputs[0])


# --- Fourier transforms -------------------------------------------------------------------------------------------


def fft_flops(num_points: int, num_transforms: int = 1, real: bool = False) -> int:
    """FLOPs of Fourier transforms of `num_points` points (H W for a map) by the usual convention.

    5 N log2 N for complex signals and half of it for real ones, whichever direction and whatever N's factors: the
    operation count of the radix-2 algorithm, which benchFFT (http://www.fftw.org/speed) takes as the unit for all.
    """
    return round((2.5 if real else 5.0) * num_points * math.log2(num_points) * num_transforms)


def _fft(name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    # fft_*(input, n, dim, norm) for one axis, fft_*2 and fft_*n(input, s, dim, norm) for more.
    x, length, axes = inputs[0], _constant(inputs[1]), _constant(inputs[2])
    signal = list(_shape(outputs[0]))
    if isinstance(length, int):
        length = [length]
    if axes is None:
        axes = range(-len(length or signal), 0)
    elif isinstance(axes, int):
        axes = [axes]
    if name.startswith(("rfft", "ihfft")):  # only here the result has fewer cells than the signal
        last = length[-1] if length else -1
        if last is None:  # computed from a map's sides; its parity is lost, and only even lengths are computed
            last = max(1, 2 * (signal[axes[-1]] - 1))
        signal[axes[-1]] = last if last > 0 else _shape(x)[axes[-1]]
    num_points = math.prod(signal[axis] for axis in axes)
    real = name.startswith(("rfft", "irfft", "hfft", "ihfft")) or not _is_complex(x)
    flops = fft_flops(num_points, math.prod(signal) // num_points, real)
    return Counter({"fft": flops, ACTIVATIONS: _numel(outputs[0])})


FFT_NAMES = [f"{kind}{axes}" for kind in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft") for axes in ("", "2", "n")]


def _spectral_gate(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    """As the kernel computes it, see `gate_kernels`: products with matrices along W, Fourier transforms of the columns
    along H, and a product with the filter; by `dense_gate_kernels`, products along both.
    """
    batch, height, width, dim = _shape(outputs[0])
    maps, half = batch * dim, width // 2 + 1
    dense = is_dense(_shape(inputs[1]))
    return Counter(
        {
            "matmul": 2 * maps * (dense_gate.macs if dense else gate_macs)(height, width),
            "fft": 0 if dense else 2 * fft_flops(height, maps * half),
            "complex product": 6 * maps * height * half,
            ACTIVATIONS: _numel(outputs[0]),
        }
    )


# --- the rest -----------------------------------------------------------------------------------------------------


def _elementwise(inputs: Sequence[Any], outputs: Sequence[Any], flops: int = 1, kind: str = "elementwise") -> Counter:
    dtype = _dtype(outputs[0])
    if dtype in ("Bool", "Byte", "Char", "Short", "Int", "Long"):
        return Counter()
    return Counter({kind: (2 if dtype.startswith("Complex") else 1) * flops * _numel(outputs[0])})


def _mul(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    """One FLOP a value; a product of two complex numbers is four multiplications and two additions."""
    if _is_complex(inputs[0]) and _is_complex(inputs[1]):
        return Counter({"complex product": 6 * _numel(outputs[0]), ACTIVATIONS: _numel(outputs[0])})
    return _elementwise(inputs, outputs)


def _softmax(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    return Counter(softmax=SOFTMAX_FLOPS * _numel(outputs[0]))


def _norm(inputs: Sequence[Any], outputs: Sequence[Any], flops: int, affine: slice) -> Counter:
    return Counter(norm=(flops + sum(_is_given(value) for value in inputs[affine])) * _numel(outputs[0]))


# Per value: sum, difference from the mean, square, sum of squares, scale; one more for a weight and one for a bias.
_layer_norm = partial(_norm, flops=5, affine=slice(2, 4))
_instance_norm = partial(_norm, flops=5, affine=slice(1, 3))
_rms_norm = partial(_norm, flops=3, affine=slice(2, 3))  # square, sum of squares, scale


def _batch_norm(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    if _constant(inputs[5]):  # training: the statistics are computed too
        return _instance_norm(inputs, outputs)
    return Counter(norm=2 * _numel(outputs[0]))  # constants fold into one scale and one shift


def _reduction(inputs: Sequence[Any], outputs: Sequence[Any], flops: int = 1) -> Counter:
    return Counter() if _dtype(inputs[0]) in ("Bool", "Int", "Long") else Counter(reduction=flops * _numel(inputs[0]))


def _pool(inputs: Sequence[Any], outputs: Sequence[Any], num_axes: int) -> Counter:
    kernel = _constant(inputs[1])
    area = math.prod(kernel) if len(kernel) == num_axes else kernel[0] ** num_axes
    return Counter(pool=area * _numel(outputs[0]))


def _adaptive_pool(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    return Counter(pool=_numel(inputs[0]))


def _resize(inputs: Sequence[Any], outputs: Sequence[Any], taps: int, antialias: bool = False) -> Counter:
    """A multiply-add for each tap: `taps` source values along each axis, more where antialiasing widens the kernel."""
    source, target = _shape(inputs[0])[2:], _shape(outputs[0])[2:]
    widening = [max(1.0, s / t) if antialias else 1.0 for s, t in zip(source, target, strict=True)]
    return Counter(resize=2 * math.prod(math.ceil(taps * w) for w in widening) * _numel(outputs[0]))


def _grid_sample(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    """A multiply-add for each of the neighbours; their weights are shared by all channels and left out."""
    taps = {0: 2, 1: 0, 2: 4}[_constant(inputs[2])]  # bilinear, nearest, bicubic
    num_axes = len(_shape(outputs[0])) - 2
    return Counter(grid_sample=2 * taps**num_axes * _numel(outputs[0]))


def _scatter_add(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    return Counter(elementwise=_numel(inputs[3]))  # what is added


def _col2im(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter:
    return Counter(elementwise=_numel(inputs[0]))  # overlapping patches are summed; im2col only copies


_ACTIVATION_FUNCTIONS = (
    "celu elu gelu glu hardsigmoid hardswish hardtanh leaky_relu log_sigmoid mish prelu relu relu6 selu sigmoid silu "
    "softplus softshrink tanh"
)
_ELEMENTWISE = (
    "abs acos add asin atan2 clamp clamp_max clamp_min cos cosh cumsum div erf exp exp2 expm1 floor_divide fmod log "
    "log1p log2 maximum minimum neg pow reciprocal remainder round rsqrt rsub sgn sign sin sinh sqrt square sub "
    "sum_to_size true_divide"
)
_REDUCTIONS = "amax amin logsumexp max mean min prod sum"
# Views, copies, shapes, comparisons and tables of indices; random masks of layers that evaluation switches off.
_FREE = (
    "Bool Float Int ScalarImplicit __and__ __or__ alias alpha_dropout arange argmax argmin argsort as_strided "
    "bernoulli_ bitwise_and bitwise_not bitwise_or broadcast_tensors broadcast_to cat ceil channel_shuffle chunk "
    "clone complex concat conj constant_pad_nd contiguous copy_ detach detach_ diag_embed diagonal dim dropout "
    "dropout_ embedding empty empty_like eq expand eye expand_as feature_dropout fft_fftshift fft_ifftshift fill_ "
    "flatten flip floor full full_like gather ge gt hstack im2col imag index index_add index_copy index_put "
    "index_put_ index_select isfinite le lift_fresh linspace logical_and logical_not logical_or lt mH mT masked_fill "
    "masked_fill_ masked_select meshgrid movedim narrow ne new_empty new_full new_ones new_zeros nonzero numel "
    "one_hot ones ones_like pad permute pixel_shuffle pixel_unshuffle positive rand rand_like randn randperm real "
    "reflection_pad2d repeat repeat_interleave replication_pad2d reshape reshape_as resolve_conj resolve_neg roll "
    "rot90 scalar_tensor scatter scatter_ select size slice sort split split_with_sizes squeeze stack swapaxes t "
    "take_along_dim tensor_split tile to topk transpose tril triu type_as unbind unflatten unfold unsqueeze "
    "unsqueeze_ upsample_nearest1d upsample_nearest2d upsample_nearest3d view view_as view_as_complex view_as_real "
    "vstack where zero_ zeros zeros_like _shape_as_tensor all"
)

_BY_NAME: dict[str, Handle] = {
    "_convolution": _conv,
    "_convolution_mode": _conv_same,
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    "scaled_dot_product_attention": _attention,
    "einsum": _einsum,
    **dict.fromkeys(("lstm", "gru"), _recurrent),
    **{f"fft_{name}": partial(_fft, name) for name in FFT_NAMES},
    **dict.fromkeys(("mul", "mul_", "multiply"), _mul),
    **dict.fromkeys(("softmax", "log_softmax"), _softmax),
    **dict.fromkeys(("layer_norm", "group_norm"), _layer_norm),
    "instance_norm": _instance_norm,
    "rms_norm": _rms_norm,
    "batch_norm": _batch_norm,
    **{f"{op}_pool{n}d": partial(_pool, num_axes=n) for op in ("avg", "max") for n in (1, 2, 3)},
    **{f"adaptive_{op}_pool{n}d": _adaptive_pool for op in ("avg", "max") for n in (1, 2, 3)},
    **{f"upsample_{m}": partial(_resize, taps=2) for m in ("linear1d", "bilinear2d", "trilinear3d")},
    "upsample_bicubic2d": partial(_resize, taps=4),
    "_upsample_bilinear2d_aa": partial(_resize, taps=2, antialias=True),
    "_upsample_bicubic2d_aa": partial(_resize, taps=4, antialias=True),
    "grid_sampler": _grid_sample,
    "col2im": _col2im,
    "scatter_add": _scatter_add,
    **dict.fromkeys(_REDUCTIONS.split(), _reduction),
    **dict.fromkeys(("linalg_vector_norm", "norm"), partial(_reduction, flops=2)),  # square, sum
    **dict.fromkeys(
        ("var", "std", "var_mean", "std_mean"), partial(_reduction, flops=4)
    ),  # mean, difference, square, sum
    **dict.fromkeys(("addcmul", "addcmul_", "addcdiv"), partial(_elementwise, flops=2)),
    "lerp": partial(_elementwise, flops=3),
}
for _name in _ELEMENTWISE.split():
    _BY_NAME[_name] = _BY_NAME[f"{_name}_"] = _elementwise
for _name in _ACTIVATION_FUNCTIONS.split():
    _BY_NAME[_name] = _BY_NAME[f"{_name}_"] = partial(_elementwise, kind="activation")


HANDLES: dict[str, Handle | None] = {f"aten::{name}": None for name in _FREE.split()}
HANDLES |= {f"aten::{name}": handle for name, handle in _BY_NAME.items()}
HANDLES["spectral_backbones::spectral_gate"] = _spectral_gate
