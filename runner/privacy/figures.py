"""Figures of privacy for people, rounded so that no more is claimed than is true.

>>> epsilon_in_words(1.99801), delta_in_words(1.2345671e-06), noise_in_words(1.2345678), factor_in_words(1.99801)
('1.9981', '1.23457e-06', '1.23456', '7.38')
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext

DIGITS = 6
"""Digits of deltas, noises and probabilities."""
EPSILON_THAT_SAYS_SOMETHING = 20.0
"""Above it there is no figure for e^epsilon, which is half a billion here: it rules nothing out."""
EPSILON_TOO_LARGE = f"with an epsilon above {EPSILON_THAT_SAYS_SOMETHING:g}, almost nothing about a record is ruled out"


def epsilon_in_words(plain: float | str, digits: int = 4) -> str:
    """What `plain_epsilon` gave, to so many places after the point: rounded up, for it is a bound from above."""
    return plain if isinstance(plain, str) else f"{round_up(plain, digits)}"


def round_up(value: float, digits: int) -> Decimal:
    """A number to so many places after the point.

    >>> round_up(0.12301, 3), round_up(0.123, 3), round_up(1e308, 1) > 10**307
    (Decimal('0.124'), Decimal('0.123'), True)
    """
    with localcontext() as context:
        context.prec = 400
        return _exact(value).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING)


def delta_in_words(delta: float) -> str:
    """A delta, rounded up: the claim holds for every larger one."""
    return _significant(_exact(delta), DIGITS, ROUND_CEILING)


def probability_in_words(probability: float) -> str:
    """A sampling probability, rounded up: a larger one costs more."""
    return _significant(_exact(probability), DIGITS, ROUND_CEILING)


def noise_in_words(noise: float) -> str:
    """A noise multiplier, rounded down: a smaller one costs more."""
    return _significant(_exact(noise), DIGITS, ROUND_FLOOR)


def factor_in_words(epsilon: float) -> str | None:
    """e^epsilon to three digits, rounded up: what it multiplies a probability by at most; None where it says nothing.

    >>> factor_in_words(0.0), factor_in_words(8.0), factor_in_words(20.1), factor_in_words(float("inf"))
    ('1', '2,990', None, None)
    """
    if epsilon > EPSILON_THAT_SAYS_SOMETHING:
        return None
    with localcontext() as context:
        context.prec = 30
        return f"{Decimal(_significant(_exact(epsilon).exp(), 3, ROUND_CEILING)):,f}"


def _exact(value: float) -> Decimal:
    """The number that a float is written as, and not the binary one beside it: 6e-06 is to stay 6e-06."""
    return Decimal(repr(float(value)))


def _significant(value: Decimal, digits: int, rounding: str) -> str:
    with localcontext() as context:
        context.prec, context.rounding = digits, rounding
        return f"{float(+value):.{digits}g}"
