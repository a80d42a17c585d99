"""The spectral gate in Triton: a map is read once and written once, its spectrum stays on the chip.

A program holds the maps of one image, or of a few small ones, for a block of channels. Both transforms are products
with small constant matrices, and the channels are the batch of these products, a warp's own:

    (c, w, h)   -> (c, 2 F, h)    along W, from real to complex: rows of cosines above rows of sines
    (c, 2 F, h) -> (c, 2 F, 2 K)  along H, complex: columns of cosines beside columns of sines; k and -k share them, so
                                  that K = H // 2 + 1, and their spectra are sums and differences of the four quarters
    multiply by the filter at k and at -k, and back the same way

The order matters: each product but the last contracts the axis that the one before left innermost, as attention does,
and the quarters lie in one thread, so that between the load and the store nothing goes through shared memory. All axes
are padded to powers of two by zeros in the matrices and by masks at the maps; where 2 F is below 16, the least that a
product of the hardware contracts, `PACK` images share one.

PRECISION says how the products are computed: "tf32", whose operands are rounded here and not cut off by the hardware,
is finer than bfloat16's own rounding and as fine as float16's; "tf32x3" and "bf16x6" have float32's precision, "bf16x3"
is between these; "bf16" is the fastest and adds about as much as bfloat16's own rounding.

This module needs Triton; `fused_gate` imports it where it is wanted.
"""

import triton
import triton.language as tl

SIZES = ["batch", "height", "width", "groups"]  # one compiled kernel serves them all, whatever they are divisible by


@triton.jit
def _operand(x, PRECISION: tl.constexpr):
    """float32 `x` as an operand of a product: for TF32 rounded to its 10 bits of mantissa, to nearest."""
    if PRECISION == "bf16":
        x = x.to(tl.bfloat16)
    elif PRECISION == "tf32":
        bits = x.to(tl.int32, bitcast=True) + 0x1000
        x = (bits & -0x2000).to(tl.float32, bitcast=True)
    return x


@triton.jit
def _dot(left, right, PRECISION: tl.constexpr):
    if PRECISION == "bf16":
        product = tl.dot(left, right)
    else:
        product = tl.dot(left, right, input_precision=PRECISION)
    return product


@triton.jit
def _matrix(pointer, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr):
    """A table of (ROWS, COLUMNS), the same for all BLOCK channels. It was rounded to TF32 where that is wanted."""
    table = tl.load(pointer + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :])
    if PRECISION == "bf16":
        table = table.to(tl.bfloat16)
    return tl.broadcast_to(table[None, :, :], (BLOCK, ROWS, COLUMNS))


@triton.jit
def _transform(x, along_w, along_h, BLOCK: tl.constexpr, F: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr):
    """(c, w, h) -> the spectrum (c, F, K) at k and at -k, real and imaginary part each."""
    rows = _operand(_dot(along_w, x, PRECISION), PRECISION)  # c 2F h
    quarters = _dot(rows, along_h, PRECISION).reshape((BLOCK, 2, F, 2, K)).permute((0, 2, 4, 3, 1))
    real, imag = tl.split(quarters)
    real_cos, real_sin = tl.split(real)
    imag_cos, imag_sin = tl.split(imag)
    return real_cos + imag_sin, imag_cos - real_sin, real_cos - imag_sin, imag_cos + real_sin


@triton.jit
def _inverse(
    real,
    imag,
    mirror_real,
    mirror_imag,
    along_h,
    along_w,
    BLOCK: tl.constexpr,
    F: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The spectrum (c, F, K) at k and at -k -> (c, w, h)."""
    of_real = tl.join(real + mirror_real, mirror_imag - imag)  # what cosines and what sines are multiplied by
    of_imag = tl.join(imag + mirror_imag, real - mirror_real)
    quarters = tl.join(of_real, of_imag).permute((0, 4, 1, 3, 2)).reshape((BLOCK, 2 * F, 2 * K))
    rows = _dot(_operand(quarters, PRECISION), along_h, PRECISION)  # c 2F h
    return _dot(along_w, _operand(rows, PRECISION), PRECISION)


@triton.jit
def _load(pointer, offsets, exists, BLOCK: tl.constexpr, EACH: tl.constexpr, PRECISION: tl.constexpr):
    """Maps (c, w, h) as an operand, channels in the order of `_channels`: read in memory's order, vectors of them."""
    x = tl.load(pointer + offsets, exists, 0.0)
    if EACH > 1:
        W: tl.constexpr = x.shape[1]
        H: tl.constexpr = x.shape[2]
        x = x.reshape((BLOCK // EACH, EACH, W, H)).permute((1, 0, 2, 3)).reshape((BLOCK, W, H))
    if PRECISION == "bf16":
        x = x.to(tl.bfloat16)
    else:
        x = x.to(tl.float32)
    return x


@triton.jit
def _store(pointer, offsets, y, exists, BLOCK: tl.constexpr, EACH: tl.constexpr):
    """Write maps as `_load` read them."""
    y = y.to(pointer.dtype.element_ty)
    if EACH > 1:
        W: tl.constexpr = y.shape[1]
        H: tl.constexpr = y.shape[2]
        y = y.reshape((EACH, BLOCK // EACH, W, H)).permute((1, 0, 2, 3)).reshape((BLOCK, W, H))
    tl.store(pointer + offsets, y, exists)


@triton.jit
def _channels(BLOCK: tl.constexpr, EACH: tl.constexpr):
    """The channels of a program in the order of its products: the EACH channels of a warp are neighbours in memory, so
    that it reads them together.
    """
    place = tl.arange(0, BLOCK)
    return tl.program_id(0) * BLOCK + (place % (BLOCK // EACH)) * EACH + place // (BLOCK // EACH)


@triton.jit
def _map_offsets(height, width, dim, BLOCK: tl.constexpr, PACK: tl.constexpr, W: tl.constexpr, H: tl.constexpr):
    """Places (c, PACK w, h) in maps (PACK, height, width, dim), the image of each, and which of them exist."""
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
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
    PRECISION: tl.constexpr,
):
    """The matrices of `fused_gate.tables_for`, in their order."""
    ROWS: tl.constexpr = 2 * PACK * F
    PW: tl.constexpr = PACK * W
    back = tables + ROWS * PW + H * 2 * K
    return (
        _matrix(tables, ROWS, PW, BLOCK, PRECISION),
        _matrix(tables + ROWS * PW, H, 2 * K, BLOCK, PRECISION),
        _matrix(back, 2 * K, H, BLOCK, PRECISION),
        _matrix(back + 2 * K * H, PW, ROWS, BLOCK, PRECISION),
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
    EACH: tl.constexpr,
    CONJUGATE: tl.constexpr,
    PRECISION: tl.constexpr,
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
        EACH: Channels of a warp.
        CONJUGATE: Whether to multiply by the conjugate of the filter.
        KEEP_FILTER, KEEP_TABLES: Whether these stay in registers from pack to pack, or are read again from the cache.
        STAGES: Packs in flight.
    """
    c = _channels(BLOCK, EACH)
    offsets, image, inside = _map_offsets(height, width, dim, BLOCK, PACK, W, H)
    at = _plane_offsets(c, PACK, F, K, 0)
    if KEEP_TABLES:
        along_w, along_h, back_h, back_w = _tables(tables_pointer, PACK, H, W, F, K, BLOCK, PRECISION)
    if KEEP_FILTER:
        g_real, g_imag, m_real, m_imag = _filter(planes_pointer, at, size)
    first = tl.program_id(1) * groups * PACK
    for group in tl.range(0, groups, num_stages=STAGES):
        start = first + group * PACK
        base = start.to(tl.int64) * height * width * dim
        exists = inside & (start + image < batch)
        x = _load(x_pointer + base, offsets, exists, BLOCK, EACH, PRECISION)
        if not KEEP_TABLES:
            along_w, along_h, back_h, back_w = _tables(tables_pointer, PACK, H, W, F, K, BLOCK, PRECISION)
        real, imag, m_r, m_i = _transform(x, along_w, along_h, BLOCK, PACK * F, K, PRECISION)
        if not KEEP_FILTER:
            g_real, g_imag, m_real, m_imag = _filter(planes_pointer, at, size)
        real, imag = _times(real, imag, g_real, g_imag, CONJUGATE)
        m_r, m_i = _times(m_r, m_i, m_real, m_imag, CONJUGATE)
        y = _inverse(real, imag, m_r, m_i, back_h, back_w, BLOCK, PACK * F, K, PRECISION)
        _store(y_pointer + base, offsets, y, exists, BLOCK, EACH)


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
    EACH: tl.constexpr,
    CONJUGATE: tl.constexpr,
    PRECISION: tl.constexpr,
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
    c = _channels(BLOCK, EACH)
    offsets, image, inside = _map_offsets(height, width, dim, BLOCK, PACK, W, H)
    at = _plane_offsets(c, PACK, F, K, 0)
    if KEEP_TABLES:
        along_w, along_h, back_h, back_w = _tables(tables_pointer, PACK, H, W, F, K, BLOCK, PRECISION)
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
        x = _load(x_pointer + base, offsets, exists, BLOCK, EACH, PRECISION)
        grad = _load(grad_pointer + base, offsets, exists, BLOCK, EACH, PRECISION)
        if not KEEP_TABLES:
            along_w, along_h, back_h, back_w = _tables(tables_pointer, PACK, H, W, F, K, BLOCK, PRECISION)
        x_real, x_imag, x_m_real, x_m_imag = _transform(x, along_w, along_h, BLOCK, PACK * F, K, PRECISION)
        real, imag, m_r, m_i = _transform(grad, along_w, along_h, BLOCK, PACK * F, K, PRECISION)
        sum_real += real * x_real + imag * x_imag
        sum_imag += imag * x_real - real * x_imag
        m_sum_real += m_r * x_m_real + m_i * x_m_imag
        m_sum_imag += m_i * x_m_real - m_r * x_m_imag
        if GRAD_X:
            if not KEEP_FILTER:
                g_real, g_imag, m_real, m_imag = _filter(planes_pointer, at, size)
            real, imag = _times(real, imag, g_real, g_imag, not CONJUGATE)
            m_r, m_i = _times(m_r, m_i, m_real, m_imag, not CONJUGATE)
            grad_x = _inverse(real, imag, m_r, m_i, back_h, back_w, BLOCK, PACK * F, K, PRECISION)
            _store(grad_x_pointer + base, offsets, grad_x, exists, BLOCK, EACH)
    counts = tl.load(counts_pointer + _plane_offsets(tl.arange(0, BLOCK) * 0, PACK, F, K, 0))
    sign_counts = -counts if CONJUGATE else counts
    known = (c < dim)[:, None, None]
    part = parts_pointer + tl.program_id(1).to(tl.int64) * (PACK * 4) * size
    at = _plane_offsets(c, PACK, F, K, 4 * size)
    tl.store(part + at, sum_real * counts, known)
    tl.store(part + size + at, sum_imag * sign_counts, known)
    tl.store(part + 2 * size + at, m_sum_real * counts, known)
    tl.store(part + 3 * size + at, m_sum_imag * sign_counts, known)
