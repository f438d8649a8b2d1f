"""Scalars for the naive implementations: floats, 50-digit numbers, and numbers that know the size of their terms."""

import math
from dataclasses import dataclass

import mpmath


@dataclass(frozen=True)
class Terms:
    """A number, and S: the same expression with every term taken in absolute value."""

    value: float
    size: float

    def __add__(self, other):
        other = terms(other)
        return Terms(self.value + other.value, self.size + other.size)

    def __neg__(self):
        return Terms(-self.value, self.size)

    def __sub__(self, other):
        return self + -terms(other)

    def __rsub__(self, other):
        return terms(other) - self

    def __mul__(self, other):
        other = terms(other)
        return Terms(self.value * other.value, self.size * other.size)

    def __truediv__(self, other):
        other = terms(other)
        return Terms(self.value / other.value, self.size / abs(other.value))

    def __rtruediv__(self, other):
        return terms(other) / self

    def __gt__(self, other):
        return self.value > terms(other).value

    __radd__ = __add__
    __rmul__ = __mul__


def terms(x):
    return x if isinstance(x, Terms) else Terms(float(x), abs(float(x)))


class FloatMath:
    """math, on floats."""

    number = staticmethod(float)
    exp, log, sqrt, tanh, cos, sin, pi = math.exp, math.log, math.sqrt, math.tanh, math.cos, math.sin, math.pi

    @staticmethod
    def cdf(z):
        return 0.5 * math.erfc(-z / math.sqrt(2.0))


class HighMath:
    """mpmath, on 50 digits. A float is taken as the number it is."""

    number = staticmethod(mpmath.mpf)
    exp, log, sqrt, tanh, cos, sin = mpmath.exp, mpmath.log, mpmath.sqrt, mpmath.tanh, mpmath.cos, mpmath.sin
    pi = mpmath.pi

    @staticmethod
    def cdf(z):
        return mpmath.erfc(-z / mpmath.sqrt(2)) / 2


class TermsMath:
    """FloatMath, on Terms: what a function returns is one term."""

    number = staticmethod(terms)
    pi = math.pi

    def __getattr__(self, name):
        return lambda x: terms(getattr(FloatMath, name)(terms(x).value))


SLOPES = {
    "exp": math.exp,
    "log": lambda a: 1.0 / a,
    "sqrt": lambda a: 0.5 / math.sqrt(a),
    "tanh": lambda a: 1.0 - math.tanh(a) ** 2,
    "cos": math.sin,
    "sin": math.cos,
    "cdf": lambda a: math.exp(-0.5 * a * a) / math.sqrt(2.0 * math.pi),
}


class ConditionedMath(TermsMath):
    """TermsMath, where a function's value also carries the rounding of its argument: f(a + e) = f(a) + f'(a) e."""

    def __getattr__(self, name):
        def f(x):
            x, slope = terms(x), SLOPES[name](terms(x).value)
            value = getattr(FloatMath, name)(x.value)
            return Terms(value, abs(value) + abs(slope) * x.size)

        return f
