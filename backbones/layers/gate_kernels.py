"""The spectral gate in Triton: a map is read once and written once, its spectrum stays on the chip.

A program holds the maps of one image for blocks of 16 channels. Along W the real DFT is a product with a small constant
matrix, (c, w) -> (c, F) for real and imaginary part of each row of the map. Along H it is arithmetic between tensors:
each row is a tensor of its own, and a thread holds the same place of all rows, so that a fast Fourier transform of any
length H needs no padding, no matrices and no exchange. Then the filter, and back the same way. The product back takes
its operand from the registers in which the product forth leaves its result, as attention does.

Where one warp's registers could not hold all rows, P rows at a time are one tensor, and each row a warp's own:
H = P Q, Q such tensors are transformed as before, exchanged once through shared memory, so that a thread holds the P
rows of a place, and transformed again. Twiddle factors stand between where P and Q have a common factor.

W is padded to the sizes of products by zeros in the matrices and by masks at the maps.

PRECISION says how the products are computed: "half" is for maps of 16 bits, which are exact operands; the matrix is
split into two halves of them, and the spectrum is rounded to TF32, which is finer than bfloat16 and as fine as float16.
"tf32x3" has float32's precision.

This module needs Triton; `fused_gate` imports it where it is wanted.
"""

# ruff: noqa: RUF005  (Triton adds tuples, it does not unpack them)

import math

import triton
import triton.language as tl

CHANNELS = tl.constexpr(16)  # of a warp: rows of a product of the hardware
SIZES = ["batch", "images"]  # one compiled kernel serves them all, whatever they are divisible by


# Fast Fourier transforms between tensors --------------------------------------------------------------------------


@triton.constexpr_function
def _first_factor(n):
    """The power of the least prime in n, or that prime where n is a power of it; 1 for 1."""
    prime = next((p for p in range(2, n + 1) if n % p == 0), 1)
    power = prime
    while power > 1 and n % (power * prime) == 0:
        power *= prime
    return prime if power == n else power


@triton.constexpr_function
def _are_coprime(p, q):
    return math.gcd(p, q) == 1


@triton.constexpr_function
def place_in(i, j, p, q):
    """Where in time a transform of p q points has point i of the p and point j of the q."""
    return (q * i + p * j) % (p * q) if math.gcd(p, q) == 1 else i + p * j


@triton.constexpr_function
def place_out(i, j, p, q):
    """Where in frequency a transform of p q points has point i of the p and point j of the q."""
    if math.gcd(p, q) > 1:
        return j + q * i
    return next(k for k in range(p * q) if k % p == i and k % q == j)


@triton.constexpr_function
def _parts_of(k, p, q):
    """The inverse of `place_out`, as a number p j + i."""
    return p * (k % q) + (k % p if math.gcd(p, q) == 1 else k // q)


@triton.constexpr_function
def _cos(k, n):
    return {0: 1.0, n: 0.0, 2 * n: -1.0, 3 * n: 0.0}.get(4 * (k % n), math.cos(2 * math.pi * (k % n) / n))


@triton.constexpr_function
def _sin(k, n):
    return {0: 0.0, n: 1.0, 2 * n: 0.0, 3 * n: -1.0}.get(4 * (k % n), math.sin(2 * math.pi * (k % n) / n))


@triton.jit
def _turn(re, im, K: tl.constexpr, N: tl.constexpr):
    """(re + i im) exp(-2 pi i K / N)."""
    C: tl.constexpr = _cos(K, N)
    S: tl.constexpr = _sin(K, N)
    if S == 0.0:
        turned = (re, im) if C == 1.0 else (-re, -im)
    elif C == 0.0:
        turned = (im, -re) if S == 1.0 else (-im, re)
    else:
        turned = (re * C + im * S, im * C - re * S)
    return turned


@triton.jit
def _prime_dft(re, im, N: tl.constexpr):
    """`dft` of a prime number: cosines of sums and sines of differences of what lies at n and at N - n."""
    if N == 1:
        out_re, out_im = re, im
    elif N == 2:
        out_re = (re[0] + re[1], re[0] - re[1])
        out_im = (im[0] + im[1], im[0] - im[1])
    else:
        HALF: tl.constexpr = N // 2
        sum_re, sum_im, dif_re, dif_im = (), (), (), ()
        total_re, total_im = re[0], im[0]
        for n in tl.static_range(1, HALF + 1):
            sum_re = sum_re + (re[n] + re[N - n],)
            sum_im = sum_im + (im[n] + im[N - n],)
            dif_re = dif_re + (re[n] - re[N - n],)
            dif_im = dif_im + (im[n] - im[N - n],)
            total_re += sum_re[n - 1]
            total_im += sum_im[n - 1]
        plus_re, plus_im, minus_re, minus_im = (), (), (), ()
        for k in tl.static_range(1, HALF + 1):
            cos_re, cos_im = re[0], im[0]
            sin_re, sin_im = dif_re[0] * _sin(k, N), dif_im[0] * _sin(k, N)
            for n in tl.static_range(1, HALF + 1):
                cos_re += sum_re[n - 1] * _cos(n * k, N)
                cos_im += sum_im[n - 1] * _cos(n * k, N)
                if n > 1:
                    sin_re += dif_re[n - 1] * _sin(n * k, N)
                    sin_im += dif_im[n - 1] * _sin(n * k, N)
            plus_re = plus_re + (cos_re + sin_im,)
            plus_im = plus_im + (cos_im - sin_re,)
            minus_re = (cos_re - sin_im,) + minus_re
            minus_im = (cos_im + sin_re,) + minus_im
        out_re = (total_re,) + plus_re + minus_re
        out_im = (total_im,) + plus_im + minus_im
    return out_re, out_im


@triton.jit
def _column(x, I0: tl.constexpr, P: tl.constexpr, Q: tl.constexpr):
    picked = ()
    for j in tl.static_range(Q):
        picked = picked + (x[place_in(I0, j, P, Q)],)
    return picked


@triton.jit
def _every(x, FIRST: tl.constexpr, STEP: tl.constexpr, COUNT: tl.constexpr):
    picked = ()
    for i in tl.static_range(COUNT):
        picked = picked + (x[FIRST + STEP * i],)
    return picked


@triton.jit
def dft(re, im, N: tl.constexpr):
    """The complex DFT of N tensors, without a factor; that of (im, re) is the inverse, as (im, re)."""
    P: tl.constexpr = _first_factor(N)
    if P == N:
        out_re, out_im = _prime_dft(re, im, N)
    else:
        Q: tl.constexpr = N // P
        inner_re, inner_im = (), ()
        for i in tl.static_range(P):
            r, m = dft(_column(re, i, P, Q), _column(im, i, P, Q), Q)
            for j in tl.static_range(Q):
                a, b = _twiddle(r[j], m[j], i, j, P, Q)
                inner_re = inner_re + (a,)
                inner_im = inner_im + (b,)
        outer_re, outer_im = (), ()
        for j in tl.static_range(Q):
            r, m = dft(_every(inner_re, j, Q, P), _every(inner_im, j, Q, P), P)
            outer_re = outer_re + r
            outer_im = outer_im + m
        out_re, out_im = (), ()
        for k in tl.static_range(N):
            out_re = out_re + (outer_re[_parts_of(k, P, Q)],)
            out_im = out_im + (outer_im[_parts_of(k, P, Q)],)
    return out_re, out_im


@triton.jit
def _twiddle(re, im, I0: tl.constexpr, J: tl.constexpr, P: tl.constexpr, Q: tl.constexpr):
    """What stands between transforms of P and Q points that have a common factor."""
    if _are_coprime(P, Q):
        turned = (re, im)
    else:
        turned = _turn(re, im, I0 * J, P * Q)
    return turned


# Products along W -------------------------------------------------------------------------------------------------


@triton.jit
def _dot(left, right, acc, PRECISION: tl.constexpr):
    """(R, c, k) by the same (k, n) for all R -> (R, c, n)."""
    R: tl.constexpr = left.shape[0]
    C: tl.constexpr = left.shape[1]
    K: tl.constexpr = left.shape[2]
    N: tl.constexpr = right.shape[1]
    if R == 1:
        y = tl.dot(left.reshape((C, K)), right, acc, input_precision=PRECISION)
    else:
        y = tl.dot(left, tl.broadcast_to(right[None, :, :], (R, K, N)), acc, input_precision=PRECISION)
    return y


@triton.jit
def _to_tf32(x):
    """float32 `x` as an operand that is rounded to nearest: the hardware cuts off what TF32 does not hold."""
    return (x.to(tl.int32, bitcast=True) + 0x1000).to(tl.float32, bitcast=True)


@triton.jit
def _table(pointer, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STRIDE: tl.constexpr):
    return tl.load(pointer + tl.arange(0, ROWS)[:, None] * STRIDE + tl.arange(0, COLUMNS)[None, :])


@triton.jit
def _forth(pointer, DTYPE: tl.constexpr, W: tl.constexpr, F: tl.constexpr, ALL: tl.constexpr, PRECISION: tl.constexpr):
    """The matrix along W for F of ALL frequencies, from `fused_gate.tables_for`, and its rest where it is split."""
    matrix = _table(pointer, W, 2 * F, 2 * ALL)
    if PRECISION == "half":
        high = matrix.to(DTYPE)
        low = (matrix - high.to(tl.float32)).to(DTYPE)
    else:
        high, low = matrix, matrix
    return high, low


@triton.jit
def _back(pointer, W: tl.constexpr, F: tl.constexpr, PRECISION: tl.constexpr):
    """The matrix back."""
    matrix = _table(pointer + 2 * F * W, 2 * F, W, W)
    if PRECISION == "half":
        matrix = ((matrix.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return matrix


@triton.jit
def _along_w(x, high, low, P: tl.constexpr, F: tl.constexpr, PRECISION: tl.constexpr):
    """Rows (P, w, c) -> real and imaginary part (P, c, F)."""
    W: tl.constexpr = x.shape[1]
    C: tl.constexpr = x.shape[2]
    R: tl.constexpr = P * C // CHANNELS
    x = x.reshape((P, W, C // CHANNELS, CHANNELS)).permute((0, 2, 3, 1)).reshape((R, CHANNELS, W))
    if PRECISION == "half":
        y = _dot(x, high, _dot(x, low, None, "tf32"), "tf32")
    else:
        y = _dot(x, high, None, PRECISION)
    return tl.split(y.reshape((P, C, F, 2)))


@triton.jit
def _back_along_w(re, im, back, P: tl.constexpr, PRECISION: tl.constexpr):
    """(P, c, F) -> rows (P, w, c)."""
    C: tl.constexpr = re.shape[1]
    F: tl.constexpr = re.shape[2]
    W: tl.constexpr = back.shape[1]
    R: tl.constexpr = P * C // CHANNELS
    x = tl.join(re, im).reshape((R, CHANNELS, 2 * F))
    if PRECISION == "half":
        y = _dot(_to_tf32(x), back, None, "tf32")
    else:
        y = _dot(x, back, None, PRECISION)
    return y.reshape((P, C // CHANNELS, CHANNELS, W)).permute((0, 3, 1, 2)).reshape((P, W, C))


# Rows -------------------------------------------------------------------------------------------------------------


@triton.jit
def _apart(re, im, P: tl.constexpr):
    """P rows (P, c, F) -> real parts and imaginary parts of each, (c, F): exchanged between warps at once."""
    C: tl.constexpr = re.shape[1]
    F: tl.constexpr = re.shape[2]
    x = tl.join(re, im)
    if P == 1:
        rows = (x.reshape((C, F, 2)),)
    elif P == 2:
        rows = tl.split(x.permute((1, 2, 3, 0)))
    else:
        even, odd = tl.split(x.reshape((2, 2, C, F, 2)).permute((2, 3, 4, 0, 1)))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        rows = (first, second, third, fourth)
    out_re, out_im = (), ()
    for i in tl.static_range(P):
        a, b = tl.split(rows[i])
        out_re = out_re + (a,)
        out_im = out_im + (b,)
    return out_re, out_im


@triton.jit
def _together(re, im, P: tl.constexpr):
    """The inverse of `_apart`."""
    C: tl.constexpr = re[0].shape[0]
    F: tl.constexpr = re[0].shape[1]
    rows = ()
    for i in tl.static_range(P):
        rows = rows + (tl.join(re[i], im[i]),)
    if P == 1:
        x = rows[0].reshape((1, C, F, 2))
    elif P == 2:
        x = tl.join(rows[0], rows[1]).permute((3, 0, 1, 2))
    else:
        x = tl.join(tl.join(rows[0], rows[2]), tl.join(rows[1], rows[3]))
        x = x.permute((3, 4, 0, 1, 2)).reshape((4, C, F, 2))
    return tl.split(x)


@triton.jit
def _height(J: tl.constexpr, P: tl.constexpr, Q: tl.constexpr):
    """Which rows of the map the Jth P rows are, (P, 1, 1)."""
    i = tl.arange(0, P)[:, None, None]
    if _are_coprime(P, Q):
        rows = (Q * i + P * J) % (P * Q)
    else:
        rows = i + P * J
    return rows


@triton.jit
def _load(pointer, places, exist, P: tl.constexpr, Q: tl.constexpr, STRIDE: tl.constexpr):
    """A map's rows, Q times (P, w, c)."""
    rows = ()
    for j in tl.static_range(Q):
        rows = rows + (tl.load(pointer + _height(j, P, Q) * STRIDE + places, exist, 0.0),)
    return rows


@triton.jit
def _store(
    pointer,
    re,
    im,
    back,
    places,
    exist,
    P: tl.constexpr,
    Q: tl.constexpr,
    STRIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write the rows of a spectrum that was transformed back along H."""
    for j in tl.static_range(Q):
        y = _back_along_w(re[j], im[j], back, P, PRECISION)
        tl.store(pointer + _height(j, P, Q) * STRIDE + places, y.to(pointer.dtype.element_ty), exist)


@triton.jit
def _all_along_w(rows, high, low, P: tl.constexpr, Q: tl.constexpr, F: tl.constexpr, PRECISION: tl.constexpr):
    re, im = (), ()
    for j in tl.static_range(Q):
        a, b = _along_w(rows[j], high, low, P, F, PRECISION)
        re = re + (a,)
        im = im + (b,)
    return re, im


@triton.jit
def _turn_rows(re, im, J: tl.constexpr, P: tl.constexpr, Q: tl.constexpr):
    """What stands between the transforms of P rows and of the Q tensors, of which this is the Jth."""
    turned_re, turned_im = (), ()
    for i in tl.static_range(P):
        a, b = _twiddle(re[i], im[i], i, J, P, Q)
        turned_re = turned_re + (a,)
        turned_im = turned_im + (b,)
    return turned_re, turned_im


@triton.jit
def _transform_rows(re, im, J: tl.constexpr, P: tl.constexpr, Q: tl.constexpr):
    """Along H between P rows: (c, F) at P frequencies, see `place_out`."""
    re, im = _apart(re, im, P)
    re, im = _turn_rows(re, im, J, P, Q)
    return dft(re, im, P)


@triton.jit
def _inverse_rows(re, im, J: tl.constexpr, P: tl.constexpr, Q: tl.constexpr):
    """The inverse of `_transform_rows`, but for a factor."""
    im, re = dft(im, re, P)
    im, re = _turn_rows(im, re, J, P, Q)
    return _together(re, im, P)


# The filter -------------------------------------------------------------------------------------------------------


@triton.jit
def _tile_places(C: tl.constexpr, F: tl.constexpr, ALL: tl.constexpr, H: tl.constexpr):
    """Places of a program's channels in planes as `fused_gate.to_planes` arranges them, at frequency 0 along H.

    A warp reads 4 frequencies of 16 channels at once, 16 bytes for each thread.
    """
    SIZE: tl.constexpr = CHANNELS * ALL * 2
    block = tl.program_id(0) * (C // CHANNELS) + tl.arange(0, C // CHANNELS)[:, None, None]
    return block * (H * SIZE) + tl.arange(0, F // 4)[None, :, None] * 128 + tl.arange(0, 128)[None, None, :]


@triton.jit
def _known(DIM: tl.constexpr, C: tl.constexpr):
    """Which blocks of a program's channels there are."""
    block = tl.program_id(0) * (C // CHANNELS) + tl.arange(0, C // CHANNELS)[:, None, None]
    return block * CHANNELS < DIM


@triton.jit
def _load_tile(pointer, DIM: tl.constexpr, C: tl.constexpr, F: tl.constexpr):
    """The filter at one frequency along H: real and imaginary part (c, F), as threads hold the results of products."""
    if DIM % C == 0:
        x = tl.load(pointer)
    else:
        x = tl.load(pointer, _known(DIM, C), 0.0)
    x = x.reshape((C // CHANNELS, F // 4, 8, 4, 2, 2)).permute((0, 4, 2, 1, 3, 5))
    return tl.split(x.reshape((C, F, 2)))


@triton.jit
def _store_tile(pointer, re, im, first, DIM: tl.constexpr, W: tl.constexpr, C: tl.constexpr, F: tl.constexpr):
    """Write a gradient of the filter as `_load_tile` reads: frequencies but 0 and W / 2 count for their conjugates."""
    count = tl.where(2 * (first + tl.arange(0, F)) % W == 0, 1.0, 2.0)[None, :]
    x = tl.join(re * count, im * count).reshape((C // CHANNELS, 2, 8, F // 4, 4, 2)).permute((0, 3, 2, 4, 1, 5))
    x = x.reshape((C // CHANNELS, F // 4, 128))
    if DIM % C == 0:
        tl.store(pointer, x)
    else:
        tl.store(pointer, x, _known(DIM, C))


@triton.jit
def _map_places(DIM: tl.constexpr, W: tl.constexpr, C: tl.constexpr, W_BLOCK: tl.constexpr):
    """Places (1, w, c) in a row of a map, and which exist."""
    c = tl.program_id(0) * C + tl.arange(0, C)[None, None, :]
    w = tl.arange(0, W_BLOCK)[None, :, None]
    exist = w < W
    if DIM % C != 0:
        exist = exist & (c < DIM)
    return w * DIM + c, exist


@triton.jit(do_not_specialize=SIZES)
def gate_kernel(
    x_pointer,
    planes_pointer,
    tables_pointer,
    y_pointer,
    batch,
    images,
    H: tl.constexpr,
    W: tl.constexpr,
    DIM: tl.constexpr,
    W_BLOCK: tl.constexpr,
    F: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
    CONJUGATE: tl.constexpr,
    PRECISION: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Maps (B, H, W, DIM) and the planes of a filter -> maps.

    Args:
        x_pointer, y_pointer: The maps and the result.
        planes_pointer: The filter as `fused_gate.to_planes` arranges it.
        tables_pointer: The matrices of `fused_gate.tables_for`.
        images: Images that a program works through.
        W_BLOCK, F: Columns and frequencies along W, padded.
        P: Rows of a tensor, see above.
        C: Channels of a program, a multiple of 16.
        CONJUGATE: Whether to multiply by the conjugate of the filter.
        EARLY: Whether the next image is read before this one is transformed, or after.
    """
    Q: tl.constexpr = H // P
    STRIDE: tl.constexpr = W * DIM
    SIZE: tl.constexpr = CHANNELS * F * 2
    places, exist = _map_places(DIM, W, C, W_BLOCK)
    tile = planes_pointer + _tile_places(C, F, F, H)
    high, low = _forth(tables_pointer, x_pointer.dtype.element_ty, W_BLOCK, F, F, PRECISION)
    back = _back(tables_pointer, W_BLOCK, F, PRECISION)
    first = tl.program_id(1) * images
    count = tl.minimum(images, batch - first)
    start = first.to(tl.int64) * (H * STRIDE)
    rows = _load(x_pointer + start, places, exist, P, Q, STRIDE)
    for image in tl.range(0, count, num_stages=1):
        start = (first + image).to(tl.int64) * (H * STRIDE)
        following = exist & (image + 1 < count)
        re, im = _all_along_w(rows, high, low, P, Q, F, PRECISION)
        if EARLY:
            rows = _load(x_pointer + start + H * STRIDE, places, following, P, Q, STRIDE)
        re, im = dft(re, im, Q)
        out_re, out_im = (), ()
        for j in tl.static_range(Q):
            x_re, x_im = _transform_rows(re[j], im[j], j, P, Q)
            y_re, y_im = (), ()
            for i in tl.static_range(P):
                g_re, g_im = _load_tile(tile + place_out(i, j, P, Q) * SIZE, DIM, C, F)
                if CONJUGATE:
                    g_im = -g_im
                y_re = y_re + (x_re[i] * g_re - x_im[i] * g_im,)
                y_im = y_im + (x_im[i] * g_re + x_re[i] * g_im,)
            a, b = _inverse_rows(y_re, y_im, j, P, Q)
            out_re = out_re + (a,)
            out_im = out_im + (b,)
        im, re = dft(out_im, out_re, Q)
        _store(y_pointer + start, re, im, back, places, exist, P, Q, STRIDE, PRECISION)
        if not EARLY:
            rows = _load(x_pointer + start + H * STRIDE, places, following, P, Q, STRIDE)


@triton.jit(do_not_specialize=SIZES)
def gate_backward_kernel(
    x_pointer,
    grad_pointer,
    planes_pointer,
    tables_pointer,
    grad_x_pointer,
    parts_pointer,
    batch,
    images,
    H: tl.constexpr,
    W: tl.constexpr,
    DIM: tl.constexpr,
    W_BLOCK: tl.constexpr,
    F: tl.constexpr,
    ALL: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
    CONJUGATE: tl.constexpr,
    PRECISION: tl.constexpr,
    GRAD_X: tl.constexpr,
):
    """Maps and gradients (B, H, W, DIM) -> gradients of the maps, and of the planes a part for each program.

    A program sums its part over its images in their order, so that the sum of all parts is the same in every run.

    Args:
        F, ALL: Frequencies along W of a program, and of all, padded: without GRAD_X it may compute a part of them.
        GRAD_X: Whether to write the gradients of the maps too, which `gate_kernel` can compute as well.
    """
    Q: tl.constexpr = H // P
    STRIDE: tl.constexpr = W * DIM
    SIZE: tl.constexpr = CHANNELS * ALL * 2
    places, exist = _map_places(DIM, W, C, W_BLOCK)
    at = _tile_places(C, F, ALL, H) + tl.program_id(2) * (CHANNELS * F * 2)
    f = tl.program_id(2) * F
    high, low = _forth(tables_pointer + 2 * f, x_pointer.dtype.element_ty, W_BLOCK, F, ALL, PRECISION)
    if GRAD_X:
        back = _back(tables_pointer, W_BLOCK, F, PRECISION)
    first = tl.program_id(1) * images
    count = tl.minimum(images, batch - first)
    start = first.to(tl.int64) * (H * STRIDE)
    rows = _load(x_pointer + start, places, exist, P, Q, STRIDE)
    grads = _load(grad_pointer + start, places, exist, P, Q, STRIDE)
    sum_re, sum_im = (), ()
    for _ in tl.static_range(H):
        sum_re = sum_re + (tl.zeros((C, F), tl.float32),)
        sum_im = sum_im + (tl.zeros((C, F), tl.float32),)
    for image in tl.range(0, count, num_stages=1):
        start = (first + image).to(tl.int64) * (H * STRIDE)
        re, im = _all_along_w(rows, high, low, P, Q, F, PRECISION)
        re, im = dft(re, im, Q)
        g_re, g_im = _all_along_w(grads, high, low, P, Q, F, PRECISION)
        g_re, g_im = dft(g_re, g_im, Q)
        new_re, new_im, out_re, out_im = (), (), (), ()
        for j in tl.static_range(Q):
            x_re, x_im = _transform_rows(re[j], im[j], j, P, Q)
            d_re, d_im = _transform_rows(g_re[j], g_im[j], j, P, Q)
            y_re, y_im = (), ()
            for i in tl.static_range(P):
                new_re = new_re + (sum_re[j * P + i] + d_re[i] * x_re[i] + d_im[i] * x_im[i],)
                new_im = new_im + (sum_im[j * P + i] + d_im[i] * x_re[i] - d_re[i] * x_im[i],)
                if GRAD_X:
                    f_re, f_im = _load_tile(planes_pointer + at + place_out(i, j, P, Q) * SIZE, DIM, C, F)
                    if not CONJUGATE:
                        f_im = -f_im
                    y_re = y_re + (d_re[i] * f_re - d_im[i] * f_im,)
                    y_im = y_im + (d_im[i] * f_re + d_re[i] * f_im,)
            if GRAD_X:
                a, b = _inverse_rows(y_re, y_im, j, P, Q)
                out_re = out_re + (a,)
                out_im = out_im + (b,)
        sum_re = new_re
        sum_im = new_im
        if GRAD_X:
            im, re = dft(out_im, out_re, Q)
            _store(grad_x_pointer + start, re, im, back, places, exist, P, Q, STRIDE, PRECISION)
        following = exist & (image + 1 < count)
        rows = _load(x_pointer + start + H * STRIDE, places, following, P, Q, STRIDE)
        grads = _load(grad_pointer + start + H * STRIDE, places, following, P, Q, STRIDE)
    BLOCKS: tl.constexpr = (DIM + CHANNELS - 1) // CHANNELS
    part = parts_pointer + tl.program_id(1).to(tl.int64) * (BLOCKS * H * SIZE) + at
    for j in tl.static_range(Q):
        for i in tl.static_range(P):
            total_re, total_im = sum_re[j * P + i], sum_im[j * P + i]
            if CONJUGATE:
                total_im = -total_im
            _store_tile(part + place_out(i, j, P, Q) * SIZE, total_re, total_im, f, DIM, W, C, F)
