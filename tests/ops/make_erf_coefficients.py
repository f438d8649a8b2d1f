"""Compute the tables of npl_lora/ops/_erf.py with mpmath and print them: `python make_erf_coefficients.py`.

Every polynomial interpolates its function at the Chebyshev nodes of its interval, which is within a small
factor of the best polynomial, and is then written in powers of the variable: on intervals this short the
highest powers contribute least, and rounding them does no harm.
"""

from collections.abc import Callable, Sequence

import mpmath as mp

DIGITS = 60
STEP = mp.mpf(1) / 2  # the centres are 0, STEP, 2 STEP, ..., FAR
FAR = 4  # beyond this, a polynomial in 1 / (pi x^2)
NEAR_DEGREE, FAR_DEGREE, ERF_DEGREE = 15, 15, 9
NARROW, NARROW_END, NARROW_DEGREE = 4, mp.mpf(29) / 2, 11  # for float32: Phi(-29/2) is 0 there


def interpolate(f: Callable[[mp.mpf], mp.mpf], low: mp.mpf, high: mp.mpf, degree: int) -> list[mp.mpf]:
    """The coefficients, lowest first, of the polynomial that is f at the Chebyshev nodes of [low, high]."""
    n = degree + 1
    middle, half = (low + high) / 2, (high - low) / 2
    nodes = [middle + half * mp.cos(mp.pi * (2 * k + 1) / (2 * n)) for k in range(n)]
    powers = mp.matrix([[x**k for k in range(n)] for x in nodes])
    return list(mp.lu_solve(powers, mp.matrix([f(x) for x in nodes])))


def erfcx(x: mp.mpf) -> mp.mpf:
    return mp.exp(x * x) * mp.erfc(x)


def erf_over_x(z: mp.mpf) -> mp.mpf:
    """erf(x) / x - 1 with z = x^2."""
    return mp.erf(mp.sqrt(z)) / mp.sqrt(z) - 1


def short(value: mp.mpf, bits: int) -> mp.mpf:
    """The value rounded to `bits` binary places."""
    return mp.nint(value * 2**bits) / 2**bits


def near_row(centre: mp.mpf) -> list[mp.mpf]:
    """The polynomial of erfcx(centre + d) in d, the first coefficient cut in two after 24 binary places."""
    first, *others = interpolate(lambda d: erfcx(centre + d), -STEP / 2, STEP / 2, NEAR_DEGREE)
    return [short(first, 24), first - short(first, 24), *others]


def far_factor(v: mp.mpf) -> mp.mpf:
    """The r of erfcx(x) = f (1 + v r), f = 1 / (sqrt(pi) x), v = f^2."""
    f = mp.sqrt(v)
    return (erfcx(1 / (mp.sqrt(mp.pi) * f)) / f - 1) / v


def narrow_factor(t: mp.mpf) -> mp.mpf:
    """The r of Phi(-a) = exp(-a^2 / 2) t r, t = NARROW / (NARROW + a)."""
    a = NARROW * (1 / t - 1)
    return erfcx(a / mp.sqrt(2)) / (2 * t)


def literal(name: str, values: Sequence[mp.mpf], indent: str = "") -> list[str]:
    """The lines of `name = (values)`, three numbers a line; or of a nameless tuple in a tuple."""
    numbers = [f"{float(v)!r}," for v in values]
    lines = [indent + "    " + " ".join(numbers[i : i + 3]) for i in range(0, len(numbers), 3)]
    return [f"{indent}{name} = (" if name else f"{indent}(", *lines, f"{indent})," if indent else ")"]


def tables() -> str:
    """The text of the tables, as it stands in _erf.py."""
    with mp.workdps(DIGITS):
        erf_near = interpolate(erf_over_x, mp.mpf(0), STEP**2, ERF_DEGREE)
        columns = list(zip(*(near_row(j * STEP) for j in range(int(FAR / STEP) + 1)), strict=True))
        inv_sqrt_pi = 1 / mp.sqrt(mp.pi)
        far = interpolate(far_factor, mp.mpf(0), (inv_sqrt_pi / (FAR + STEP / 2)) ** 2, FAR_DEGREE)
        lost = inv_sqrt_pi / mp.mpf(float(inv_sqrt_pi)) - 1  # what rounding 1 / sqrt(pi) lost, given back
        sqrt_half = mp.sqrt(mp.mpf(1) / 2)
        narrow = interpolate(narrow_factor, NARROW / (NARROW + NARROW_END), mp.mpf(1), NARROW_DEGREE)
        lines = [
            f"_INV_SQRT_PI = {float(inv_sqrt_pi)!r}",
            f"_SQRT_HALF = {float(sqrt_half)!r}",
            f"_SQRT_HALF_SHORT = {float(short(sqrt_half, 26))!r}  # 26 bits",
            f"_SQRT_HALF_REST = {float(sqrt_half - short(sqrt_half, 26))!r}",
            *literal("_ERF", erf_near),
            *literal("_FAR", [lost, *far]),
            *literal("_NARROW", narrow),
            "_NEAR = (",
            *(line for column in columns for line in literal("", column, "    ")),
            ")",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables())
