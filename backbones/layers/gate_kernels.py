"""The spectral gate in Triton: a map is read once and written once, its spectrum stays on the chip.

A program holds the maps of one image, or of a few small ones, for a block of channels. Both transforms are products
with small constant matrices, and the channels are the batch of these products:

    (c, w, h) -> (c, F, h)      along W, from real to complex: cosines and sines
    (c, F, h) -> (c, F, K)      along H, complex: k and -k share their cosines and sines, so that K = H // 2 + 1
    multiply by the filter at k and at -k, and back the same way

The order matters: each product but the last contracts the axis that the one before left innermost, as attention does,
so that hardly anything moves between threads. All axes are padded to powers of two by zeros in the matrices and by
masks at the maps; where F is below 16, the smallest product of the hardware, `PACK` images share one product.

Half precision goes through TF32 products, whose operands are rounded here, not cut off by the hardware: that is finer
than bfloat16's own rounding and as fine as float16's. float32 goes through three of them, which is float32 precision.

This module needs Triton; `fused_gate` imports it where it is wanted.
"""

import triton
import triton.language as tl

SIZES = ["batch", "height", "width", "groups"]  # one compiled kernel serves them all, whatever they are divisible by


@triton.jit
def _operand(x, ROUND: tl.constexpr):
    """`x` rounded to TF32, 10 bits of mantissa, to nearest."""
    if ROUND:
        bits = x.to(tl.int32, bitcast=True) + 0x1000
        x = (bits & -0x2000).to(tl.float32, bitcast=True)
    return x


@triton.jit
def _matrix(pointer, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """A table of (ROWS, COLUMNS), the same for all BLOCK channels."""
    rows = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, COLUMNS)[None, :]
    table = tl.load(pointer + rows * COLUMNS + columns)
    return tl.broadcast_to(table[None, :, :], (BLOCK, ROWS, COLUMNS))


@triton.jit
def _transform(x, cos_w, sin_w, cos_h, sin_h, PRECISION: tl.constexpr, ROUND: tl.constexpr):
    """(c, w, h) -> the spectrum (c, F, K) at k and at -k, real and imaginary part each."""
    real = _operand(tl.dot(cos_w, x, input_precision=PRECISION), ROUND)  # c F h
    imag = _operand(tl.dot(sin_w, x, input_precision=PRECISION), ROUND)
    real_cos = tl.dot(real, cos_h, input_precision=PRECISION)  # c F K
    imag_sin = tl.dot(imag, sin_h, input_precision=PRECISION)
    imag_cos = tl.dot(imag, cos_h, input_precision=PRECISION)
    real_sin = tl.dot(real, sin_h, input_precision=PRECISION)
    return real_cos + imag_sin, imag_cos - real_sin, real_cos - imag_sin, imag_cos + real_sin


@triton.jit
def _inverse(
    real, imag, mirror_real, mirror_imag, cos_h, sin_h, cos_w, sin_w, PRECISION: tl.constexpr, ROUND: tl.constexpr
):
    """The spectrum (c, F, K) at k and at -k -> (c, w, h)."""
    even_real = _operand(real + mirror_real, ROUND)
    even_imag = _operand(imag + mirror_imag, ROUND)
    odd_real = _operand(real - mirror_real, ROUND)
    odd_imag = _operand(mirror_imag - imag, ROUND)
    real = tl.dot(even_real, cos_h, input_precision=PRECISION)  # c F h
    real = tl.dot(odd_imag, sin_h, acc=real, input_precision=PRECISION)
    imag = tl.dot(even_imag, cos_h, input_precision=PRECISION)
    imag = tl.dot(odd_real, sin_h, acc=imag, input_precision=PRECISION)
    x = tl.dot(cos_w, _operand(real, ROUND), input_precision=PRECISION)  # c w h
    return tl.dot(sin_w, _operand(imag, ROUND), acc=x, input_precision=PRECISION)


@triton.jit
def _map_offsets(c, height, width, dim, PACK: tl.constexpr, W: tl.constexpr, H: tl.constexpr):
    """Places (c, PACK w, h) in maps (PACK, height, width, dim), the image of each, and which of them exist."""
    row = tl.arange(0, PACK * W)
    image, w = row // W, row % W
    h = tl.arange(0, H)
    inside = (c < dim)[:, None, None] & (w < width)[None, :, None] & (h < height)[None, None, :]
    position = image[:, None] * (height * width) + h[None, :] * width + w[:, None]
    return position[None, :, :] * dim + c[:, None, None], image[None, :, None], inside


@triton.jit
def _times(real, imag, by_real, by_imag, CONJUGATE: tl.constexpr):
    """The product of two complex numbers, of the second one's conjugate with CONJUGATE."""
    if CONJUGATE:
        by_imag = -by_imag
    return real * by_real - imag * by_imag, imag * by_real + real * by_imag


@triton.jit
def _filter(planes, at, size):
    """The filter at k and at -k, real and imaginary part each, at the places `at` of planes of `size` values."""
    return (
        tl.load(planes + at),
        tl.load(planes + size + at),
        tl.load(planes + 2 * size + at),
        tl.load(planes + 3 * size + at),
    )


@triton.jit
def _tables(
    tables,
    PACK: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    F: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The matrices of `fused_gate.tables_for`, in their order."""
    PF: tl.constexpr = PACK * F
    PW: tl.constexpr = PACK * W
    back = tables + 2 * PF * PW + 2 * H * K
    return (
        _matrix(tables, PF, PW, BLOCK),
        _matrix(tables + PF * PW, PF, PW, BLOCK),
        _matrix(tables + 2 * PF * PW, H, K, BLOCK),
        _matrix(tables + 2 * PF * PW + H * K, H, K, BLOCK),
        _matrix(back, K, H, BLOCK),
        _matrix(back + H * K, K, H, BLOCK),
        _matrix(back + 2 * H * K, PW, PF, BLOCK),
        _matrix(back + 2 * H * K + PF * PW, PW, PF, BLOCK),
    )


@triton.jit
def _plane_offsets(c, PACK: tl.constexpr, F: tl.constexpr, K: tl.constexpr, STRIDE):
    """Places (c, PACK F, K) in a plane (C, F, K), each packed image's STRIDE values further."""
    row = tl.arange(0, PACK * F)
    in_plane = (row % F)[:, None] * K + tl.arange(0, K)[None, :] + (row // F)[:, None] * STRIDE
    return c[:, None, None] * (F * K) + in_plane[None, :, :]


@triton.jit(do_not_specialize=SIZES)
def gate_kernel(
    x_pointer,
    planes_pointer,
    tables_pointer,
    y_pointer,
    batch,
    height,
    width,
    dim,
    size,
    groups,
    PACK: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    F: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    CONJUGATE: tl.constexpr,
    PRECISION: tl.constexpr,
    ROUND: tl.constexpr,
    KEEP_FILTER: tl.constexpr,
    KEEP_TABLES: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Maps (B, H, W, C) and the planes of a filter -> maps.

    Args:
        x_pointer, y_pointer: The maps and the result.
        planes_pointer: The filter as `fused_gate.to_planes` arranges it, `size` values a plane.
        tables_pointer: The matrices of `fused_gate.tables_for`.
        groups: Packs of images that a program works through.
        CONJUGATE: Whether to multiply by the conjugate of the filter.
        KEEP_FILTER, KEEP_TABLES: Whether these stay in registers from pack to pack, or are read again from the cache.
        STAGES: Packs in flight.
    """
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    offsets, image, inside = _map_offsets(c, height, width, dim, PACK, W, H)
    at = _plane_offsets(c, PACK, F, K, 0)
    if KEEP_TABLES:
        cos_w, sin_w, cos_h, sin_h, back_cos_h, back_sin_h, back_cos_w, back_sin_w = _tables(
            tables_pointer, PACK, H, W, F, K, BLOCK
        )
    if KEEP_FILTER:
        g_real, g_imag, m_real, m_imag = _filter(planes_pointer, at, size)
    first = tl.program_id(1) * groups * PACK
    for group in tl.range(0, groups, num_stages=STAGES):
        start = first + group * PACK
        base = start.to(tl.int64) * height * width * dim
        exists = inside & (start + image < batch)
        x = tl.load(x_pointer + base + offsets, exists, 0.0).to(tl.float32)
        if not KEEP_TABLES:
            cos_w, sin_w, cos_h, sin_h, back_cos_h, back_sin_h, back_cos_w, back_sin_w = _tables(
                tables_pointer, PACK, H, W, F, K, BLOCK
            )
        real, imag, m_r, m_i = _transform(x, cos_w, sin_w, cos_h, sin_h, PRECISION, ROUND)
        if not KEEP_FILTER:
            g_real, g_imag, m_real, m_imag = _filter(planes_pointer, at, size)
        real, imag = _times(real, imag, g_real, g_imag, CONJUGATE)
        m_r, m_i = _times(m_r, m_i, m_real, m_imag, CONJUGATE)
        y = _inverse(real, imag, m_r, m_i, back_cos_h, back_sin_h, back_cos_w, back_sin_w, PRECISION, ROUND)
        tl.store(y_pointer + base + offsets, y.to(y_pointer.dtype.element_ty), exists)


@triton.jit(do_not_specialize=SIZES)
def gate_backward_kernel(
    x_pointer,
    grad_pointer,
    planes_pointer,
    tables_pointer,
    counts_pointer,
    grad_x_pointer,
    parts_pointer,
    batch,
    height,
    width,
    dim,
    size,
    groups,
    PACK: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    F: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    CONJUGATE: tl.constexpr,
    PRECISION: tl.constexpr,
    ROUND: tl.constexpr,
    KEEP_FILTER: tl.constexpr,
    KEEP_TABLES: tl.constexpr,
    STAGES: tl.constexpr,
    GRAD_X: tl.constexpr,
):
    """Maps and gradients (B, H, W, C) -> gradients of the maps, and of the planes a part for each program and image
    of its packs, (parts, 4, C, F, K).

    A program sums its part over its images in their order, so that the sum of all parts is the same in every run.

    Args:
        GRAD_X: Whether to write the gradients of the maps too, which `gate_kernel` can compute as well.
    """
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    offsets, image, inside = _map_offsets(c, height, width, dim, PACK, W, H)
    at = _plane_offsets(c, PACK, F, K, 0)
    if KEEP_TABLES:
        cos_w, sin_w, cos_h, sin_h, back_cos_h, back_sin_h, back_cos_w, back_sin_w = _tables(
            tables_pointer, PACK, H, W, F, K, BLOCK
        )
    if GRAD_X and KEEP_FILTER:
        g_real, g_imag, m_real, m_imag = _filter(planes_pointer, at, size)
    sum_real = tl.zeros((BLOCK, PACK * F, K), tl.float32)
    sum_imag = tl.zeros((BLOCK, PACK * F, K), tl.float32)
    m_sum_real = tl.zeros((BLOCK, PACK * F, K), tl.float32)
    m_sum_imag = tl.zeros((BLOCK, PACK * F, K), tl.float32)
    first = tl.program_id(1) * groups * PACK
    for group in tl.range(0, groups, num_stages=STAGES):
        start = first + group * PACK
        base = start.to(tl.int64) * height * width * dim
        exists = inside & (start + image < batch)
        x = tl.load(x_pointer + base + offsets, exists, 0.0).to(tl.float32)
        grad = tl.load(grad_pointer + base + offsets, exists, 0.0).to(tl.float32)
        if not KEEP_TABLES:
            cos_w, sin_w, cos_h, sin_h, back_cos_h, back_sin_h, back_cos_w, back_sin_w = _tables(
                tables_pointer, PACK, H, W, F, K, BLOCK
            )
        x_real, x_imag, x_m_real, x_m_imag = _transform(x, cos_w, sin_w, cos_h, sin_h, PRECISION, ROUND)
        real, imag, m_r, m_i = _transform(grad, cos_w, sin_w, cos_h, sin_h, PRECISION, ROUND)
        sum_real += real * x_real + imag * x_imag
        sum_imag += imag * x_real - real * x_imag
        m_sum_real += m_r * x_m_real + m_i * x_m_imag
        m_sum_imag += m_i * x_m_real - m_r * x_m_imag
        if GRAD_X:
            if not KEEP_FILTER:
                g_real, g_imag, m_real, m_imag = _filter(planes_pointer, at, size)
            real, imag = _times(real, imag, g_real, g_imag, not CONJUGATE)
            m_r, m_i = _times(m_r, m_i, m_real, m_imag, not CONJUGATE)
            grad_x = _inverse(real, imag, m_r, m_i, back_cos_h, back_sin_h, back_cos_w, back_sin_w, PRECISION, ROUND)
            tl.store(grad_x_pointer + base + offsets, grad_x.to(grad_x_pointer.dtype.element_ty), exists)
    counts = tl.load(counts_pointer + _plane_offsets(tl.arange(0, BLOCK) * 0, PACK, F, K, 0))
    sign_counts = -counts if CONJUGATE else counts
    known = (c < dim)[:, None, None]
    part = parts_pointer + tl.program_id(1).to(tl.int64) * (PACK * 4) * size
    at = _plane_offsets(c, PACK, F, K, 4 * size)
    tl.store(part + at, sum_real * counts, known)
    tl.store(part + size + at, sum_imag * sign_counts, known)
    tl.store(part + 2 * size + at, m_sum_real * counts, known)
    tl.store(part + 3 * size + at, m_sum_imag * sign_counts, known)
