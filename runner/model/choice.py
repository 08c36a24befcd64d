"""How a token is chosen, without TensorFlow: see `runner.model.sampling`."""

from __future__ import annotations

from runner.errors import ConfigError

LEAST = 1e-6
"""Logits of 10 are 1e-6 apart in float32. Divided by less, the largest has all of the probability, as at temperature
0, up to where float32 overflows; and a top_p of less is float32's 0 in the end, which leaves no token."""
MOST = 1e6
"""At this temperature every token is as likely as any other, in float32."""


def check_choice(temperature: float, top_k: int | None, top_p: float) -> None:
    """Raise ConfigError for a setting out of range."""
    requirements = {
        f"temperature must be a number of at least 0, not {temperature}": temperature >= 0,
        f"temperature must be 0, for the most likely token, or at least {LEAST:g}, not {temperature}": (
            temperature == 0 or temperature >= LEAST
        ),
        f"temperature must be at most {MOST:g}, not {temperature}": temperature <= MOST,
        f"top_k must be at least 1, not {top_k}": top_k is None or top_k >= 1,
        f"top_p must be at least {LEAST:g} and at most 1, not {top_p}": LEAST <= top_p <= 1,
    }
    for message, satisfied in requirements.items():
        if not satisfied:
            raise ConfigError(message)
