"""How a token is chosen, without TensorFlow: see `runner.model.sampling`."""

from __future__ import annotations

from runner.errors import ConfigError


def check_choice(temperature: float, top_k: int | None, top_p: float) -> None:
    """Raise ConfigError for a setting out of range."""
    requirements = {
        f"temperature must be a number of at least 0, not {temperature}": 0 <= temperature < float("inf"),
        f"top_k must be at least 1, not {top_k}": top_k is None or top_k >= 1,
        f"top_p must be above 0 and at most 1, not {top_p}": 0 < top_p <= 1,
    }
    for message, satisfied in requirements.items():
        if not satisfied:
            raise ConfigError(message)
