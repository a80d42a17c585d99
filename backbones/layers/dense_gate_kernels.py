"""The spectral gate in Triton for maps whose rows are too many, or no even number, for `gate_kernels`.

Both transforms are products with matrices that are loaded, so that a kernel is as short for 64 rows as for 16 and is
compiled in seconds. For F frequencies along W at a time, of C channels of a map:

    (h c, w) (w, 2 F)            rows of the map, to real and imaginary parts, innermost
    cos, sin (k, h) (h, c F 2)   columns: two products, and sums of real and imaginary parts, which a thread holds both
    times the filter, then the columns and (h c, 2 F) (2 F, w) back

In one kernel a program holds its map and the sum of what goes back, and goes through all frequencies: memory is read
once and written once. Where the map does not fit on the chip, a program of a first kernel takes one block of
frequencies and writes (H, C, F, 2) in float32, and a second one transforms the rows back. That moves beside the map
twice the half spectrum, for W even 8 + 16 / W bytes for each value, so that of 16 bits 3 times the bytes are moved that
must be, and of float32 twice; the map is read once for each block of frequencies, by programs that run together,
so that the cache has it.

H, W and the frequencies are padded by zeros in the matrices and by masks at the maps. PRECISION is that of
`gate_kernels`; "bf16x6" has float32's precision.
"""

import triton
import triton.language as tl

from .gate_kernels import SIZES


@triton.jit
def _round(x):
    """float32 `x` rounded to the nearest TF32: the hardware cuts off what that does not hold."""
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def _table(pointer, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STRIDE: tl.constexpr):
    return tl.load(pointer + tl.arange(0, ROWS)[:, None] * STRIDE + tl.arange(0, COLUMNS)[None, :])


@triton.jit
def _wave(matrix, N: tl.constexpr):
    """One of the two matrices along H, (N, N): `matrix`, or what it points to."""
    if matrix.dtype.is_ptr():
        matrix = _table(matrix, N, N, N)
    return matrix


@triton.jit
def _along_h(pointer, N: tl.constexpr, KEPT: tl.constexpr):
    """Cosines and sines along H, (N, N), loaded where they can be kept; else where they are."""
    cos, sin = pointer, pointer + N * N
    if KEPT:
        cos, sin = _wave(cos, N), _wave(sin, N)
    return cos, sin


@triton.jit
def _load_map(
    pointer,
    first,
    DIM: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    H_BLOCK: tl.constexpr,
    W_BLOCK: tl.constexpr,
    C: tl.constexpr,
):
    """Columns from `first` on, as (h c, w)."""
    places, exist = _map_places(first, DIM, H, W, H_BLOCK, W_BLOCK, C)
    return tl.load(pointer + places, exist, 0.0).permute((0, 2, 1)).reshape((H_BLOCK * C, W_BLOCK))


@triton.jit
def _map_places(
    first,
    DIM: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    H_BLOCK: tl.constexpr,
    W_BLOCK: tl.constexpr,
    C: tl.constexpr,
):
    """Places (h, w, c) in a map, and which exist."""
    h = tl.arange(0, H_BLOCK)[:, None, None]
    w = first + tl.arange(0, W_BLOCK)[None, :, None]
    c = tl.program_id(0) * C + tl.arange(0, C)[None, None, :]
    return (h * W + w) * DIM + c, (h < H) & (w < W) & (c < DIM)


@triton.jit
def _rows(x, pointer, sum, F: tl.constexpr, ALL: tl.constexpr, PRECISION: tl.constexpr):
    """Add to `sum` what columns of a map (h c, w) have of F frequencies, (h c, F 2)."""
    matrix = _table(pointer, x.shape[1], 2 * F, 2 * ALL)
    if PRECISION == "half":
        high = matrix.to(x.dtype)
        low = (matrix - high.to(tl.float32)).to(x.dtype)
        sum = tl.dot(x, high, tl.dot(x, low, sum))
    else:
        sum = tl.dot(x, matrix, sum, input_precision=PRECISION)
    return sum


@triton.jit
def _rows_back(x, pointer, sum, F: tl.constexpr, W_BLOCK: tl.constexpr, STRIDE: tl.constexpr, PRECISION: tl.constexpr):
    """Add to `sum` what F frequencies (h c, F 2) have of the columns of a map, (h c, w)."""
    matrix = _table(pointer, 2 * F, W_BLOCK, STRIDE)
    if PRECISION == "half":
        sum = tl.dot(_round(x), matrix, sum, input_precision="tf32")
    else:
        sum = tl.dot(x, matrix, sum, input_precision=PRECISION)
    return sum


@triton.jit
def _product(matrix, x, PRECISION: tl.constexpr):
    """(k, h) by (h, c F 2) -> real and imaginary part (k, c F)."""
    N: tl.constexpr = x.shape[0]
    y = tl.dot(_wave(matrix, N), x, input_precision="tf32" if PRECISION == "half" else PRECISION)
    return _apart(y)


@triton.jit
def _columns(x, cos, sin, PRECISION: tl.constexpr):
    """Along H: (h, c F 2) -> real and imaginary part (k, c F)."""
    if PRECISION == "half":
        x = _round(x)
    cos_re, cos_im = _product(cos, x, PRECISION)
    sin_re, sin_im = _product(sin, x, PRECISION)
    return cos_re + sin_im, cos_im - sin_re


@triton.jit
def _columns_back(re, im, cos, sin, PRECISION: tl.constexpr):
    """The inverse of `_columns`, but for a factor: (k, c F) -> (h, c F, 2)."""
    x = _together(re, im)
    if PRECISION == "half":
        x = _round(x)
    cos_re, cos_im = _product(cos, x, PRECISION)
    sin_re, sin_im = _product(sin, x, PRECISION)
    return _together(cos_re - sin_im, cos_im + sin_re)


@triton.jit
def _spectrum_places(
    first,
    DIM: tl.constexpr,
    H: tl.constexpr,
    FREQUENCIES: tl.constexpr,
    H_BLOCK: tl.constexpr,
    C: tl.constexpr,
    F: tl.constexpr,
):
    """Places (h, c F 2) in a half spectrum (H, DIM, FREQUENCIES, 2) from frequency `first` on, and which exist."""
    h = tl.arange(0, H_BLOCK)[:, None]
    i = tl.arange(0, C * F * 2)[None, :]
    c = tl.program_id(0) * C + i // (2 * F)
    part = 2 * first + i % (2 * F)
    return (h * DIM + c) * (FREQUENCIES * 2) + part, (h < H) & (c < DIM) & (part < FREQUENCIES * 2)


@triton.jit
def _apart(x):
    """(h, c F 2) -> real and imaginary part (h, c F)."""
    return tl.split(x.reshape((x.shape[0], x.shape[1] // 2, 2)))


@triton.jit
def _together(re, im):
    """The inverse of `_apart`."""
    return tl.join(re, im).reshape((re.shape[0], re.shape[1] * 2))


@triton.jit
def _gate(
    x,
    filter_pointer,
    places,
    exist,
    cos,
    sin,
    CONJUGATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Frequencies of the rows (h, c F 2) -> the same, filtered along both axes (h, c F, 2)."""
    re, im = _columns(x, cos, sin, PRECISION)
    g_re, g_im = _apart(tl.load(filter_pointer + places, exist, 0.0))
    if CONJUGATE:
        g_im = -g_im
    return _columns_back(re * g_re - im * g_im, im * g_re + re * g_im, cos, sin, PRECISION)


@triton.jit(do_not_specialize=SIZES)
def map_kernel(
    x_pointer,
    filter_pointer,
    tables_pointer,
    y_pointer,
    batch,
    images,
    H: tl.constexpr,
    W: tl.constexpr,
    DIM: tl.constexpr,
    H_BLOCK: tl.constexpr,
    W_BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    ALL: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
    KEPT: tl.constexpr,
    CONJUGATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Maps (B, H, W, DIM) and a filter (H, DIM, W // 2 + 1, 2) -> maps, in one kernel.

    Args:
        x_pointer, y_pointer: The maps and the result.
        filter_pointer: The filter as `dense_gate.arrange` gives it.
        tables_pointer: The matrices of `dense_gate.tables_for`.
        images: Images that a program works through.
        H_BLOCK: Rows, padded.
        W_BLOCK, COLUMNS: Columns at a time, and all, padded; here they are one number.
        ALL, F: Frequencies along W, padded, and how many are transformed at a time.
        C: Channels of a program.
        KEPT: Whether the matrices along H are held on the chip.
        CONJUGATE: Whether to multiply by the conjugate of the filter.
    """
    back = tables_pointer + COLUMNS * 2 * ALL
    cos, sin = _along_h(back + 2 * ALL * COLUMNS, H_BLOCK, KEPT)
    first = tl.program_id(1) * images
    for image in tl.range(0, tl.minimum(images, batch - first), num_stages=1):
        start = (first + image).to(tl.int64) * (H * W * DIM)
        x = _load_map(x_pointer + start, 0, DIM, H, W, H_BLOCK, W_BLOCK, C)
        y = tl.zeros((H_BLOCK * C, W_BLOCK), tl.float32)
        for f in tl.range(0, W // 2 + 1, F, num_stages=1):
            spectrum = tl.zeros((H_BLOCK * C, 2 * F), tl.float32)
            spectrum = _rows(x, tables_pointer + 2 * f, spectrum, F, ALL, PRECISION)
            places, exist = _spectrum_places(f, DIM, H, W // 2 + 1, H_BLOCK, C, F)
            spectrum = spectrum.reshape((H_BLOCK, C * F * 2))
            spectrum = _gate(spectrum, filter_pointer, places, exist, cos, sin, CONJUGATE, PRECISION)
            spectrum = spectrum.reshape((H_BLOCK * C, 2 * F))
            y = _rows_back(spectrum, back + 2 * f * COLUMNS, y, F, W_BLOCK, COLUMNS, PRECISION)
        places, exist = _map_places(0, DIM, H, W, H_BLOCK, W_BLOCK, C)
        y = y.to(y_pointer.dtype.element_ty).reshape((H_BLOCK, C, W_BLOCK)).permute((0, 2, 1))
        tl.store(y_pointer + start + places, y, exist)


@triton.jit
def _rows_of_map(
    pointer,
    tables_pointer,
    DIM: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    H_BLOCK: tl.constexpr,
    W_BLOCK: tl.constexpr,
    ALL: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """F frequencies of a map's rows, (h, c F 2), read in parts of W_BLOCK columns."""
    rows = tl.zeros((H_BLOCK * C, 2 * F), tl.float32)
    for w in tl.range(0, W, W_BLOCK, num_stages=1):
        x = _load_map(pointer, w, DIM, H, W, H_BLOCK, W_BLOCK, C)
        rows = _rows(x, tables_pointer + w * 2 * ALL, rows, F, ALL, PRECISION)
    return rows.reshape((H_BLOCK, C * F * 2))


@triton.jit(do_not_specialize=SIZES)
def spectrum_kernel(
    x_pointer,
    filter_pointer,
    tables_pointer,
    spectrum_pointer,
    batch,
    images,
    H: tl.constexpr,
    W: tl.constexpr,
    DIM: tl.constexpr,
    H_BLOCK: tl.constexpr,
    W_BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    ALL: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
    KEPT: tl.constexpr,
    CONJUGATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The first of two kernels: maps (B, H, W, DIM) -> the filtered spectra of their rows (B, H, DIM, W // 2 + 1, 2).

    A program computes F of the frequencies, the third number of it; see `map_kernel`.
    """
    f = tl.program_id(2) * F
    cos, sin = _along_h(tables_pointer + 4 * COLUMNS * ALL, H_BLOCK, KEPT)
    places, exist = _spectrum_places(f, DIM, H, W // 2 + 1, H_BLOCK, C, F)
    first = tl.program_id(1) * images
    for image in tl.range(0, tl.minimum(images, batch - first), num_stages=1):
        start = (first + image).to(tl.int64)
        pointer = x_pointer + start * (H * W * DIM)
        rows = _rows_of_map(pointer, tables_pointer + 2 * f, DIM, H, W, H_BLOCK, W_BLOCK, ALL, F, C, PRECISION)
        filtered = _gate(rows, filter_pointer, places, exist, cos, sin, CONJUGATE, PRECISION)
        tl.store(spectrum_pointer + start * (H * DIM * (W // 2 + 1) * 2) + places, filtered, exist)


@triton.jit(do_not_specialize=["rows"])
def rows_back_kernel(
    spectrum_pointer,
    tables_pointer,
    y_pointer,
    rows,
    W: tl.constexpr,
    DIM: tl.constexpr,
    R: tl.constexpr,
    W_BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    ALL: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The second kernel: spectra of rows (B H, DIM, W // 2 + 1, 2) -> maps (B H, W, DIM).

    Args:
        rows: B H.
        R: Rows of a program, which computes W_BLOCK of their columns, the third number of it.
    """
    FREQUENCIES: tl.constexpr = W // 2 + 1
    first = tl.program_id(0).to(tl.int64) * R
    w = tl.program_id(2) * W_BLOCK
    back = tables_pointer + COLUMNS * 2 * ALL + w
    i = tl.arange(0, R * C)[:, None]
    row, c = i // C, tl.program_id(1) * C + i % C
    part = tl.arange(0, 2 * F)[None, :]
    spectrum_pointer += first * (DIM * FREQUENCIES * 2)
    y = tl.zeros((R * C, W_BLOCK), tl.float32)
    for f in tl.range(0, FREQUENCIES, F):
        exist = (first + row < rows) & (c < DIM) & (2 * f + part < 2 * FREQUENCIES)
        x = tl.load(spectrum_pointer + (row * DIM + c) * (FREQUENCIES * 2) + 2 * f + part, exist, 0.0)
        y = _rows_back(x, back + 2 * f * COLUMNS, y, F, W_BLOCK, COLUMNS, PRECISION)
    r = tl.arange(0, R)[:, None, None]
    w += tl.arange(0, W_BLOCK)[None, :, None]
    c = tl.program_id(1) * C + tl.arange(0, C)[None, None, :]
    y = y.to(y_pointer.dtype.element_ty).reshape((R, C, W_BLOCK)).permute((0, 2, 1))
    tl.store(y_pointer + first * (W * DIM) + (r * W + w) * DIM + c, y, (first + r < rows) & (w < W) & (c < DIM))


@triton.jit(do_not_specialize=SIZES)
def filter_kernel(
    x_pointer,
    grad_pointer,
    tables_pointer,
    parts_pointer,
    batch,
    images,
    H: tl.constexpr,
    W: tl.constexpr,
    DIM: tl.constexpr,
    H_BLOCK: tl.constexpr,
    W_BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    ALL: tl.constexpr,
    F: tl.constexpr,
    C: tl.constexpr,
    KEPT: tl.constexpr,
    CONJUGATE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Maps and gradients (B, H, W, DIM) -> a part (H, DIM, W // 2 + 1, 2) of the filter's gradient for each program.

    As in `spectrum_kernel` a program computes F frequencies; it sums over its images in their order, so that the sum of
    all parts is the same in every run. Maps and gradients are read once from memory, and again from the cache.
    """
    f = tl.program_id(2) * F
    tables = tables_pointer + 2 * f
    cos, sin = _along_h(tables_pointer + 4 * COLUMNS * ALL, H_BLOCK, KEPT)
    sum_re = tl.zeros((H_BLOCK, C * F), tl.float32)
    sum_im = tl.zeros((H_BLOCK, C * F), tl.float32)
    first = tl.program_id(1) * images
    for image in tl.range(0, tl.minimum(images, batch - first), num_stages=1):
        start = (first + image).to(tl.int64) * (H * W * DIM)
        rows = _rows_of_map(x_pointer + start, tables, DIM, H, W, H_BLOCK, W_BLOCK, ALL, F, C, PRECISION)
        re, im = _columns(rows, cos, sin, PRECISION)
        rows = _rows_of_map(grad_pointer + start, tables, DIM, H, W, H_BLOCK, W_BLOCK, ALL, F, C, PRECISION)
        g_re, g_im = _columns(rows, cos, sin, PRECISION)
        sum_re += g_re * re + g_im * im
        sum_im += g_im * re - g_re * im
    if CONJUGATE:
        sum_im = -sum_im
    # Frequencies but 0 and W / 2 count for their conjugates too.
    count = tl.where(2 * (f + tl.arange(0, C * F) % F) % W == 0, 1.0, 2.0)[None, :]
    gradient = _together(sum_re * count, sum_im * count)
    places, exist = _spectrum_places(f, DIM, H, W // 2 + 1, H_BLOCK, C, F)
    part = parts_pointer + tl.program_id(1).to(tl.int64) * (H * DIM * (W // 2 + 1) * 2)
    tl.store(part + places, gradient, exist)
