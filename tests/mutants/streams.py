"""Every stream of random numbers, broken in every way: shortened, repeated, reused, made of public data or a clock.

The streams are the run's key and what is derived from it, the batches, the noise of steps and that of releases.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.mutants.mutants import leave_mark, mutant

Fault = Callable[..., Any]
"""The stream's function, then its arguments."""


def replace_everywhere(original: Any, faulty: Any) -> None:
    """Under every name that modules of `runner` have it by."""
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "runner"]:
        for name, value in list(vars(module).items()):
            if value is original:
                setattr(module, name, faulty)


def register(stream: str, test: str, faults: dict[str, Fault], put_in: Callable[[Callable[[Any], Any]], None]) -> None:
    """A mutant for each fault. `put_in` replaces the stream's function by what it is given makes of it."""
    for fault, broken in faults.items():

        def apply(broken: Fault = broken) -> None:
            def breaking(original: Any) -> Any:
                def faulty(*arguments: Any, **named: Any) -> Any:
                    leave_mark()
                    return broken(original, *arguments, **named)

                return faulty

            put_in(breaking)

        mutant(test, file="test_streams.py", kind=f"stream of {stream}", name=f"{stream}_{fault}")(apply)


def _public(what: Any) -> str:
    """64 hexadecimal digits that everyone can compute."""
    return hashlib.sha256(repr(what).encode()).hexdigest()


def _clock() -> str:
    return _public(time.time_ns())


# The run's key


def _new_key(breaking: Callable[[Any], Any]) -> None:
    from runner.privacy.noise import RunKey

    RunKey.new = classmethod(breaking(RunKey.new.__func__))  # type: ignore[assignment,attr-defined]


_kept: list[Any] = []


def _first_key(new: Any, cls: Any) -> Any:
    _kept[:] = _kept or [new(cls)]
    return _kept[0]


register(
    "keys",
    "test_06_every_run_has_a_key_of_256_bits_that_nobody_can_guess",
    {
        "are_of_few_bits": lambda new, cls: cls(_public(new(cls).hexadecimal[:4])),
        "are_short": lambda new, cls: cls(new(cls).hexadecimal[:32]),
        "end_in_zeros": lambda new, cls: cls(new(cls).hexadecimal[:32] + "0" * 32),
        "are_the_same_in_all_runs": _first_key,
        "are_made_of_public_data": lambda new, cls: cls(_public("job")),
        "are_made_of_a_clock": lambda new, cls: cls(_clock()),
    },
    _new_key,
)


# What is derived from it


def _derived(method: str) -> Callable[[Callable[[Any], Any]], None]:
    def put_in(breaking: Callable[[Any], Any]) -> None:
        from runner.privacy.noise import RunKey

        setattr(RunKey, method, breaking(getattr(RunKey, method)))

    return put_in


def _faults_of_derived(reused: dict[str, Fault]) -> dict[str, Fault]:
    return {
        "by_few_bits": lambda derive, key, *what: derive(type(key)(key.hexadecimal[:4] + "0" * 60), *what),
        "by_half_of_the_bits": lambda derive, key, *what: derive(type(key)("0" * 32 + key.hexadecimal[32:]), *what),
        "by_public_data": lambda derive, key, *what: derive(type(key)(_public(what)), *what),
        "by_a_clock": lambda derive, key, *what: derive(type(key)(_clock()), *what),
        **reused,
    }


register(
    "noise_key",
    "test_06_what_is_derived_from_a_key_depends_on_all_of_it_and_on_what_it_is_for",
    _faults_of_derived(
        {
            "reused_in_every_branch": lambda derive, key, _, conditions: derive(key, 0, conditions),
            "reused_under_other_conditions": lambda derive, key, branch, _: derive(key, branch, ""),
        }
    ),
    _derived("for_noise"),
)
register(
    "sampling_key",
    "test_06_what_is_derived_from_a_key_depends_on_all_of_it_and_on_what_it_is_for",
    _faults_of_derived({"reused_in_every_branch": lambda derive, key, _: derive(key, 0)}),
    _derived("for_sampling"),
)


# Batches


def _batches(breaking: Callable[[Any], Any]) -> None:
    from runner.data.batches import PoissonPlan

    PoissonPlan.training_positions = breaking(PoissonPlan.training_positions)


def _draw_of_a_block(breaking: Callable[[Any], Any]) -> None:
    from runner.data.batches import PoissonPlan

    PoissonPlan._draw = breaking(PoissonPlan._draw)


def _without_the_last(draw: Any, plan: Any, epoch: int, step: int) -> Any:
    positions = draw(plan, epoch, step)
    return positions[positions < 0.97 * plan.examples]


BATCHES = "test_01_batches_are_independent_draws_at_the_rate_that_is_accounted"
register(
    "batches",
    BATCHES,
    {
        "never_have_some_records": _without_the_last,
        "are_the_same_in_every_epoch": lambda draw, plan, epoch, step: draw(plan, 0, step),
        "are_drawn_for_two_steps": lambda draw, plan, epoch, step: draw(plan, epoch, step // 2 * 2),
        "are_those_of_every_run": lambda draw, plan, *at: draw(replace(plan, key=(7, 7)), *at),
        "are_made_of_public_data": lambda draw, plan, *at: draw(replace(plan, key=(plan.seed, plan.examples)), *at),
        "are_made_of_a_clock": lambda draw, plan, *at: draw(replace(plan, key=(time.time_ns(), 0)), *at),
    },
    _batches,
)
register(
    "batches",
    BATCHES,
    {"are_alike_in_every_block": lambda draw, plan, step, block, size: draw(plan, step, 0, size)},
    _draw_of_a_block,
)


# Noise of steps


def _noise(breaking: Callable[[Any], Any]) -> None:
    from runner.privacy import noise

    replace_everywhere(noise.draw_noise, breaking(noise.draw_noise))


def _public_key(key: Any, what: Any) -> Any:
    """A key of the same type."""
    digest = bytes.fromhex(_public(what))
    return digest if isinstance(key, bytes) else (int.from_bytes(digest[:8]), int.from_bytes(digest[8:16]))


def _with_last_quarter(change: Callable[[Any], Any]) -> Fault:
    def broken(draw: Any, *arguments: Any, **named: Any) -> Any:
        found = draw(*arguments, **named)
        last = len(found) - len(found) // 4
        found[last:] = change(found)[last:]
        return found

    return broken


register(
    "noise",
    "test_06_the_noise_of_a_step_is_as_wide_as_accounted_and_like_no_other",
    {
        "leaves_some_weights_out": _with_last_quarter(lambda found: 0 * found),
        "comes_again_within_a_step": _with_last_quarter(lambda found: found[::-1]),
        "is_that_of_the_first_step": lambda draw, key, step, *rest, **named: draw(key, 0, *rest, **named),
        "is_reused_in_the_next_step": lambda draw, key, step, *rest, **named: draw(key, step // 2, *rest, **named),
        "is_that_of_every_run": lambda draw, key, *rest, **named: draw(_public_key(key, "any"), *rest, **named),
        "is_made_of_public_data": lambda draw, key, step, *rest, **named: draw(
            _public_key(key, step), step, *rest, **named
        ),
        "is_made_of_a_clock": lambda draw, key, *rest, **named: draw(_public_key(key, time.time_ns()), *rest, **named),
        "is_narrower_by_a_hundredth": lambda draw, *rest, **named: _scaled(draw(*rest, **named), 0.99),
        "is_wider_by_a_hundredth": lambda draw, *rest, **named: _scaled(draw(*rest, **named), 1.01),
        "is_narrower_by_a_hundredth_in_some_blocks": _with_last_quarter(lambda found: _scaled(found, 0.99)),
    },
    _noise,
)


def _scaled(noise: Any, factor: float) -> Any:
    import numpy as np

    scaled = noise * factor
    return (np.rint(scaled) if np.issubdtype(noise.dtype, np.integer) else scaled).astype(noise.dtype)


# Noise of releases


def _release_noise(breaking: Callable[[Any], Any]) -> None:
    from runner.privacy import discrete_gaussian, releases  # noqa: F401 - the second has the first's function

    replace_everywhere(discrete_gaussian.draw_discrete_gaussian, breaking(discrete_gaussian.draw_discrete_gaussian))


def _generator_bytes(seed: int) -> Callable[[int], bytes]:
    import numpy as np

    return np.random.default_rng(seed).bytes


_drawn: dict[Any, Any] = {}


def _draw_once(draw: Any, sigma: float, count: int, *source: Any) -> Any:
    if (sigma, count) not in _drawn:
        _drawn[sigma, count] = draw(sigma, count, *source)
    return _drawn[sigma, count].copy()


register(
    "releases",
    "test_20_the_noise_of_a_release_is_as_wide_as_accounted_and_like_no_other",
    {
        "leave_some_cells_out": _with_last_quarter(lambda found: 0 * found),
        "have_the_same_noise_twice": _with_last_quarter(lambda found: found[::-1]),
        "have_the_noise_of_the_one_before": _draw_once,
        "are_made_of_public_data": lambda draw, sigma, count, *_: draw(
            sigma, count, _generator_bytes(int(1000 * sigma) + count)
        ),
        "are_made_of_a_clock": lambda draw, sigma, count, *_: draw(sigma, count, _generator_bytes(time.time_ns())),
        "have_a_hundredth_less_noise": lambda draw, sigma, *rest: draw(0.99 * sigma, *rest),
        "have_a_hundredth_more_noise": lambda draw, sigma, *rest: draw(1.01 * sigma, *rest),
    },
    _release_noise,
)
