"""erf and its relatives, elementwise. The Python array API standard has none of them.

All of them are computed from E(x) = exp(x^2) erfc(x), which is smooth and falls slowly from 1, later as
1 / (sqrt(pi) x). For a >= 0:

    erfc(a) = exp(-a^2) E(a)                              erfc(-a) = 2 - erfc(a)
    Phi(-a) = exp(-a^2 / 2) E(a / sqrt(2)) / 2            Phi(a) = 1 - Phi(-a)
    erf(a)  = a + a p(a^2) up to 1/2, then 1 - erfc(a)    erf(-a) = -erf(a)

Up to a = 4.25, E(a) is a polynomial around the nearest multiple of 1/2. Beyond, it is f + f p(f^2) with
f = 1 / (sqrt(pi) a). The polynomials interpolate at Chebyshev nodes, with errors below 1e-18.

Rounding a^2 would cost exp(-a^2) about a^2 ulps. So a is split into hi, with 20 binary places, whose square is exact,
and a remainder, which enters as a correction of at most 3e-5. E is kept as lead + rest, where lead is short and exact
and rest is small. All corrections are added to rest, so the only errors left are exp's and one rounding.

The largest errors seen in float64, in ulp, at random points and next to the multiples of 1/16, against 40 digits: erf
1.1, erfc 1.6, erfcx 1.0, exp_minus_half_square 1.1, normal_cdf 1.6. NumPy's exp accounts for 0.5 of each.

Complex numbers are for the complex step, where |Im x| is tiny. They go through the same polynomials; branches and
splits follow the real part. So Im f(x + ih) / h is the derivative of the approximation, not of the formula. It is
within a relative 1e-15 of the true derivative.

float16, float32 and complex64 are computed in double precision and rounded at the end. longdouble gets the accuracy of
float64. gelu needs Phi and exp(-x^2 / 2) for millions of numbers, so they have a shorter way for float16 and float32:
with t = 4 / (4 + a),

    Phi(-a) = exp(-a^2 / 2) t p(t)      to a relative 4e-10, which the rounding to 2^-24 at the end hides
"""

import math
from typing import Any

from ..support.array import Array

# Printed by tests/ops/make_erf_coefficients.py. The lowest coefficient of a polynomial comes first.
# _ERF: erf(x) / x - 1 in x^2. _FAR: erfcx(x) / f - 1 in f^2, where f has the rounding error of _INV_SQRT_PI.
# _NARROW: Phi(-a) / (t exp(-a^2 / 2)) in t = 4 / (4 + a), a <= 14.5: Phi is 0 in float32 further out.
# _NEAR: a tuple has one coefficient, for the centres 0, 1/2, ..., 4; the first two sum to the constant one.
# fmt: off
_INV_SQRT_PI = 0.5641895835477563
_SQRT_HALF = 0.7071067811865476
_SQRT_HALF_SHORT = 0.7071067839860916  # 26 bits
_SQRT_HALF_REST = -2.799544089368687e-09
_ERF = (
    0.1283791670955126, -0.3761263890318375, 0.1128379167095487,
    -0.02686617064499972, 0.0052239776220169365, -0.0008548326510724796,
    0.00012055286202005714, -1.4923003368152099e-05, 1.637123442577e-06,
    -1.462091340945175e-07,
)
_FAR = (
    1.3590697223380941e-17, -1.5707963267948966, 7.402203300816937,
    -58.13676877516498, 639.2471591430143, -9037.143031931608,
    156150.1469000135, -3188449.2946731285, 75072551.28376648,
    -1994033260.9110754, 57963579267.88692, -1746967202308.9885,
    50210411057632.55, -1240846581219065.8, 2.34543397712309e+16,
    -2.9076199841035757e+17, 1.7349078067323663e+18,
)
_NARROW = (
    0.0997325814602126, 0.099808778417448, 0.09271621728230987,
    0.08588943389652826, 0.04451262252093612, 0.09174581214097417,
    -0.05567790543803374, 0.07956498055899405, -0.016750335972677284,
    -0.049917553570889964, 0.035675780771364074, -0.007300412122753893,
)
_NEAR = (
    (
        1.0, 0.6156903505325317, 0.42758357524871826,
        0.32158541679382324, 0.25539565086364746, 0.21080636978149414,
        0.17900115251541138, 0.15529364347457886, 0.13699942827224731,
    ),
    (
        -1.8119446958210482e-19, -6.33960586342195e-09, 9.070887426910868e-10,
        -3.395057398332665e-10, 2.5446858282927577e-08, -5.7203505599778895e-09,
        -1.3340214265338304e-09, 1.2134315439980851e-08, 2.935281407543632e-08,
    ),
    (
        -1.1283791670955126, -0.5126888229025867, -0.27321201478389856,
        -0.16362291773256007, -0.1067964618534896, -0.07434734678979467,
        -0.05437226000717287, -0.041323577833252495, -0.032383506095021455,
    ),
    (
        1.0000000000000004, 0.35934593274163257, 0.15437156137190844,
        0.0761510398554774, 0.04180275260352655, 0.024937997086656904,
        0.015884371159871336, 0.010661133192510575, 0.007465433244975571,
    ),
    (
        -0.7522527780636752, -0.2220105710211803, -0.07922696894132675,
        -0.03293090529956264, -0.015460637764291003, -0.008001569382101607,
        -0.004479431018372575, -0.0026730744396436528, -0.0016811820767461145,
    ),
    (
        0.4999999999998754, 0.12417032361551328, 0.037572296215290214,
        0.013377340953066658, 0.005440738537472263, 0.0024670368157014423,
        0.0012230390523768054, 0.0006526863268788952, 0.00037035246899555643,
    ),
    (
        -0.30090111122542795, -0.06397016368536543, -0.016661869090414182,
        -0.005145957547985009, -0.001831664275738583, -0.0007335909371391995,
        -0.00032412554449686326, -0.00015546891822700772, -7.99088803055555e-05,
    ),
    (
        0.16666666668261254, 0.030728413925290732, 0.006970142375039235,
        0.0018861348770375674, 0.0005924699953326197, 0.00021101982428460849,
        8.3554139628759e-05, 3.6181704361459835e-05, 1.6905649257778923e-05,
    ),
    (
        -0.08597174606980196, -0.013887416206950234, -0.002769064775867344,
        -0.0006619300664136081, -0.0001847783671645605, -5.886896469374173e-05,
        -2.0989464460189257e-05, -8.237986560546841e-06, -3.510366649840966e-06,
    ),
    (
        0.04166666566525388, 0.005946176391699096, 0.0010502693947276253,
        0.0002233099438605384, 5.572831519299428e-05, 1.5961853129554565e-05,
        5.146436560761952e-06, 1.837187849650635e-06, 7.160456645550388e-07,
    ),
    (
        -0.019104832120753153, -0.002425406197863508, -0.00038195452657575007,
        -7.265892206685217e-05, -1.6293719244446016e-05, -4.214295964845809e-06,
        -1.2333677273005638e-06, -4.017397968313298e-07, -1.435964425304039e-07,
    ),
    (
        0.00833336746422473, 0.0009466968354433951, 0.00013366314657637667,
        2.286432900943452e-05, 4.628177316874088e-06, 1.0852229169087498e-06,
        2.892667196691322e-07, 8.62197201991418e-08, 2.8331980550054824e-08,
    ),
    (
        -0.003473617422687332, -0.00035492046837225856, -4.5143967911599534e-05,
        -6.974996017929378e-06, -1.2795220333857754e-06, -2.7295267110477657e-07,
        -6.646686359625002e-08, -1.8176511416731142e-08, -5.503368839048623e-09,
    ),
    (
        0.0013882451892716272, 0.00012816492558327504, 1.4749925411430031e-05,
        2.0666536747199123e-06, 3.4481816985908645e-07, 6.713503562408622e-08,
        1.497685798764271e-08, 3.766836120703275e-09, 1.0530527431696724e-09,
    ),
    (
        -0.0005341835933737815, -4.472839105232945e-05, -4.674572814410636e-06,
        -5.959992285629417e-07, -9.073113336851575e-08, -1.6168410418195576e-08,
        -3.312720939869993e-09, -7.679788576770652e-10, -1.9861470526659328e-10,
    ),
    (
        0.00020471654676029825, 1.551989977720486e-05, 1.4715497694292967e-06,
        1.7066183817260183e-07, 2.370458074029596e-08, 3.867207001299473e-09,
        7.2798835754428e-10, 1.556292614022722e-10, 3.7251732817666684e-11,
    ),
    (
        -7.338225153584702e-05, -5.081733911577581e-06, -4.4052900021368853e-07,
        -4.678379750525325e-08, -5.9631652776815396e-09, -8.950364154729952e-10,
        -1.5545711330973515e-10, -3.075701106599938e-11, -6.834806696029367e-12,
    ),
)
# fmt: on

_EXPM1 = (1.0, 1.0 / 2.0, 1.0 / 6.0, 1.0 / 24.0)  # (exp(r) - 1) / r, for |r| < 1e-4
_NEAR_END = 4.25  # the last interval ends here
_BLOCK = 1 << 14  # numbers
_HUGE = 2.0**27  # from here on, erfcx(x) = 1 / (sqrt(pi) x) to the last digit; the others are constant


def erf(x: Array) -> Array:
    """erf(x) = 2 / sqrt(pi) * integral of exp(-t^2) from 0 to x, for all x: within 2 ulp and exactly odd."""
    return _elementwise(_erf, x)


def erfc(x: Array) -> Array:
    """erfc(x) = 1 - erf(x) without cancellation, for all x: within 2 ulp, down to the subnormal numbers."""
    return _elementwise(_erfc, x)


def erfcx_nonneg(x: Array) -> Array:
    """erfcx(x) = exp(x^2) erfc(x), for Re x >= 0: within 1 ulp. NaN for Re x < 0, where it would overflow."""
    return _elementwise(_erfcx, x)


def exp_minus_half_square(x: Array) -> Array:
    """exp(-x^2 / 2), for all x: within 2 ulp, down to the subnormal numbers."""
    return _elementwise(_exp_minus_half_square, x, _narrow_exp_minus_half_square)


def normal_cdf(x: Array) -> Array:
    """Phi(x) = erfc(-x / sqrt(2)) / 2, for all x: within 2 ulp, down to the subnormal numbers."""
    return _elementwise(_normal_cdf, x, _narrow_normal_cdf)


def _erf(xp: Any, x: Array) -> Array:
    right = _right(xp, x)
    small = _real(xp, right) < 0.5
    s = xp.where(small, x, xp.zeros_like(x))
    large = 1.0 - _erfc_right(xp, right)
    return xp.where(small, s + s * _horner(_ERF, s * s), xp.where(_real(xp, x) < 0.0, -large, large))


def _erfc(xp: Any, x: Array) -> Array:
    right = _erfc_right(xp, _right(xp, x))
    return xp.where(_real(xp, x) < 0.0, 2.0 - right, right)


def _erfc_right(xp: Any, x: Array) -> Array:
    """erfc(x) = exp(-x^2) erfcx(x), for Re x >= 0."""
    e, m = _exp_minus_square(xp, x, 1.0)
    lead, rest = _erfcx_split(xp, x)
    return _product(e, lead, rest + (lead + rest) * m)


def _erfcx(xp: Any, x: Array) -> Array:
    lead, rest = _erfcx_split(xp, _right(xp, x))
    huge = _real(xp, x) >= _HUGE
    y = xp.where(huge, _INV_SQRT_PI / xp.where(huge, x, xp.ones_like(x)), lead + rest)
    return xp.where(_real(xp, x) < 0.0, xp.full_like(x, math.nan), y)


def _exp_minus_half_square(xp: Any, x: Array) -> Array:
    e, m = _exp_minus_square(xp, _right(xp, x), 0.5)
    return e + e * m


def _normal_cdf(xp: Any, x: Array) -> Array:
    right = _right(xp, x)
    e, m = _exp_minus_square(xp, right, 0.5)
    y = _SQRT_HALF * right
    lead, rest = _erfcx_split(xp, y)
    slope = 2.0 * (y * (lead + rest) - _INV_SQRT_PI)  # erfcx'(y) = 2 y erfcx(y) - 2 / sqrt(pi)
    rest = rest + slope * _lost_by_sqrt_half(xp, right, y)
    left = _product(e, 0.5 * lead, 0.5 * (rest + (lead + rest) * m))  # Phi(-|x|)
    return xp.where(_real(xp, x) < 0.0, left, 1.0 - left)


def _lost_by_sqrt_half(xp: Any, x: Array, y: Array) -> Array:
    """x / sqrt(2) - y, where y is the rounded product. Both factors are split; the largest part is exact."""
    hi = _short(xp, x, 20)
    return (_SQRT_HALF_SHORT * hi - y) + (_SQRT_HALF_REST * hi + _SQRT_HALF * (x - hi))


def _exp_minus_square(xp: Any, x: Array, scale: float) -> tuple[Array, Array]:
    """(e, m) with exp(-scale x^2) = e (1 + m), and m tiny wherever e is not 0. scale is 1 or 1/2."""
    hi = _short(xp, x, 20)
    r = -scale * ((x - hi) * (x + hi))
    return xp.exp(-scale * (hi * hi)), r * _horner(_EXPM1, r)


def _erfcx_split(xp: Any, x: Array) -> tuple[Array, Array]:
    """(lead, rest) with erfcx(x) = lead + rest for Re x >= 0: lead has 25 bits, rest is small compared with it."""
    near = _real(xp, x) <= _NEAR_END
    near_lead, near_rest = _erfcx_near(xp, xp.where(near, x, xp.zeros_like(x)))
    far_lead, far_rest = _erfcx_far(xp, xp.where(near, xp.full_like(x, _NEAR_END), x))
    return xp.where(near, near_lead, far_lead), xp.where(near, near_rest, far_rest)


def _erfcx_near(xp: Any, x: Array) -> tuple[Array, Array]:
    """erfcx around the nearest multiple of 1/2: its value there, and a polynomial in the (exact) distance."""
    j = xp.round(2.0 * _real(xp, x))
    d = x - 0.5 * j
    index = xp.astype(j, xp.int64)
    lead, low, *slopes = (xp.take(xp.asarray(column, dtype=j.dtype), index, axis=0) for column in _NEAR)
    return lead, low + d * _horner(slopes, d)


def _erfcx_far(xp: Any, x: Array) -> tuple[Array, Array]:
    """erfcx(x) = f + f * (a polynomial in f^2), f = 1 / (sqrt(pi) x).

    f is split too: lead has so few bits that lead * hi is exact. What lead lacks to f is
    (1 / sqrt(pi) - lead * x) / x.
    """
    f = _INV_SQRT_PI / x
    lead, hi = _short(xp, f, 24), _short(xp, x, 20)
    rest = ((_INV_SQRT_PI - lead * hi) - lead * (x - hi)) / x
    return lead, rest + f * _horner(_FAR, f * f)


def _product(e: Array, lead: Array, rest: Array) -> Array:
    """e * (lead + rest), with one rounding that counts: high has 26 bits of e, so high * lead is exact."""
    shifted = (2.0**27 + 1.0) * e
    high = shifted - (shifted - e)
    return high * lead + ((e - high) * lead + e * rest)


def _short(xp: Any, x: Array, bits: int) -> Array:
    """The real part of x, rounded to `bits` binary places. For a complex x too it is a constant."""
    return xp.round(_real(xp, x) * 2.0**bits) * 2.0**-bits


def _horner(coefficients: Any, t: Array) -> Array:
    """The polynomial in t with these coefficients, lowest first."""
    p = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        p = c + t * p
    return p


def _real(xp: Any, x: Array) -> Array:
    return xp.real(x) if xp.isdtype(x.dtype, "complex floating") else x


def _right(xp: Any, x: Array) -> Array:
    """Whichever of x and -x lies on the right, at most _HUGE."""
    re = _real(xp, x)
    return xp.where(xp.abs(re) < _HUGE, xp.where(re < 0.0, -x, x), xp.full_like(x, _HUGE))


def _narrow_normal_cdf(xp: Any, x: Array) -> Array:
    """For float32: computed at -|x|, and mirrored for the numbers on the right."""
    a = xp.abs(x)
    t = 4.0 / (4.0 + a)
    left = xp.exp(-0.5 * (a * a)) * (t * _horner(_NARROW, t))
    is_right = xp.astype(x >= 0.0, x.dtype)
    return is_right + (1.0 - 2.0 * is_right) * left  # 1 - left or left: choosing takes longer


def _narrow_exp_minus_half_square(xp: Any, x: Array) -> Array:
    return xp.exp(-0.5 * (x * x))


def _elementwise(kernel: Any, x: Array, narrow: Any = None) -> Array:
    """kernel(x), of x's dtype and shape, with NaN where x has NaN.

    The kernel itself gets double precision, one dimension and no NaN. narrow: a kernel for results that are rounded to
    float32 or less. The work goes block by block, so that a kernel's intermediate arrays, which are many times its
    input, stay in the processor's cache.
    """
    xp = x.__array_namespace__()
    wide = x.dtype
    if xp.finfo(x.dtype).eps > 2.0**-50:
        is_complex = xp.isdtype(x.dtype, "complex floating")
        wide = xp.complex128 if is_complex else xp.float64
        kernel = kernel if narrow is None or is_complex else narrow
    flat, size = xp.reshape(x, (-1,)), math.prod(x.shape)
    blocks = [_of_block(kernel, flat[i : min(i + _BLOCK, size)], wide) for i in range(0, max(1, size), _BLOCK)]
    return xp.reshape(blocks[0] if len(blocks) == 1 else xp.concat(blocks), x.shape)


def _of_block(kernel: Any, x: Array, wide: Any) -> Array:
    xp = x.__array_namespace__()
    t = xp.astype(x, wide)
    nan = xp.isnan(t)
    y = kernel(xp, xp.where(nan, xp.zeros_like(t), t))
    return xp.astype(xp.where(nan, t, y), x.dtype)
