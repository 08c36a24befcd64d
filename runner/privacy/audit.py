"""From the losses of records to a verdict on a run's privacy claim: what an attack found, and what it may find at most.

    answer, text = audit_losses(Claim(epsilon=2.0, delta=1e-6), trained, unseen, "records")

The attack is membership inference: whoever has the model guesses, from a record's loss alone, whether the record was
trained on. Its *advantage* is the share of training records that it recognizes minus the share of other records that
it takes for them. The attack and the exposure are tensorflow-privacy's (`runner.privacy.isolated`).

The verdict can only go one way: an attack that finds more than the claim allows proves the claim wrong, and one that
finds nothing proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.privacy.accountant import plain_epsilon
from runner.privacy.figures import delta_in_words, epsilon_in_words, round_up
from runner.privacy.isolated import ask_second_opinion

FALSE_ALARMS = 0.0027
"""Audits of a true claim that may contradict it, at most: as many as normal errors that exceed 3 standard errors."""


@dataclass(frozen=True)
class Claim:
    """(epsilon, delta) of a privacy statement; epsilon is infinite where there was no noise."""

    epsilon: float
    delta: float

    @classmethod
    def from_statement(cls, statement: Mapping[str, Any]) -> Claim:
        """What `privacy.json` claims for the records of the run itself, not for those of runs that it goes on from."""
        value = statement.get("epsilon_of_run", statement["epsilon"])
        delta = statement.get("delta_of_run", statement["delta"])
        return cls(math.inf if value == "infinite" else float(value), float(delta))

    @property
    def allowed_advantage(self) -> float:
        """1 - (1 - 2 delta) e^-epsilon, which no attack's advantage passes.

        The attack tells trainings apart in which a record was trained on and another was in its place. A claim is about
        emptying a record, so these are two neighbors apart, with the training in between where that place is empty. Let
        the attack say "trained on" with probability p there. With the record it says so with at most
        1 - e^-epsilon (1 - p - delta), and with the other one with at least e^-epsilon (p - delta): the difference is
        the bound. It is the group privacy of two (Dong, Roth and Su 2019, arXiv:1905.02383, theorem 2.14) of what
        epsilon and delta allow a test (their proposition 2.5). For a claim about replacing a record it would be
        (e^epsilon - 1 + 2 delta) / (e^epsilon + 1) (Humphries et al. 2020, arXiv:2010.12112), which is less.

        >>> round(Claim(1.0, 1e-6).allowed_advantage, 4), Claim(math.inf, 1e-6).allowed_advantage
        (0.6321, 1.0)
        """
        return min(1.0, 1 - (1 - 2 * self.delta) * math.exp(-self.epsilon))


def chance_advantage(trained: int, unseen: int) -> float:
    """How far the best threshold's advantage on so many records can be off the truth, but for `FALSE_ALARMS`.

    The inequality of Dvoretzky, Kiefer and Wolfowitz bounds how far each side's shares are off at any threshold
    (Massart 1990: P(sup |F_n - F| > t) <= 2 exp(-2 n t^2)); the threshold may so be picked after seeing the losses.

        >>> round(chance_advantage(20_000, 5_000), 3)
        0.041
    """
    each_side = math.log(4 / FALSE_ALARMS) / 2
    return math.sqrt(each_side / trained) + math.sqrt(each_side / unseen)


def audit_losses(
    claim: Claim | None, trained: NDArray[np.floating], unseen: NDArray[np.floating], unit: str
) -> tuple[dict[str, Any], str]:
    """Attack the losses, and hold what was found against the claim.

    claim: None for a run without privacy. trained (n1,), unseen (n2,): mean loss of each example that was trained on,
    and of others. unit: what an example is called, in the plural.
    Returns plain values, among them `contradicted`, and the same in words.

    Raises:
        ResourceError, JobFailedError: there is no answer from tensorflow-privacy.
    """
    found = ask_second_opinion("membership", {"loss_train": trained, "loss_validation": unseen})
    margin = chance_advantage(trained.size, unseen.size)
    answer: dict[str, Any] = {
        "unit": unit,
        "trained": int(trained.size),
        "unseen": int(unseen.size),
        "mean_loss_trained": float(trained.mean()),
        "mean_loss_unseen": float(unseen.mean()),
        **found,
        "advantage_margin": margin,
        "claim": None if claim is None else {**asdict(claim), "epsilon": plain_epsilon(claim.epsilon)},
        "advantage_allowed": None if claim is None else claim.allowed_advantage,
        "contradicted": claim is not None and found["advantage"] - margin > claim.allowed_advantage,
    }
    answer["verdict"] = _verdict(answer)
    return answer, _in_words(answer)


def _verdict(answer: Mapping[str, Any]) -> str:
    unit, proven = answer["unit"], answer["advantage"] - answer["advantage_margin"]
    if answer["contradicted"]:
        return (
            f"THE PRIVACY CLAIM IS FALSE. The attack's advantage is at least {proven:.3f}, but the claim allows "
            f"{answer['advantage_allowed']:.3f}. Do not release this model, and do not rely on its privacy statement: "
            "something between the sampling of the records and the accounting is broken; report this bug"
        )
    nothing = "that proves nothing: another attack may find more"
    if answer["claim"] is None:
        if proven > 0:
            return f"this run claims no privacy, and the attack shows that the model remembers {unit} it was trained on"
        return f"this run claims no privacy; the attack found nothing that chance does not explain, and {nothing}"
    if answer["advantage_allowed"] + answer["advantage_margin"] >= 1:
        return f"not contradicted, but with so few {unit} no attack could contradict a claim as weak as this one"
    if proven > 0:
        return (
            f"not contradicted: the attack recognizes {unit} that were trained on, no better than the claim allows; "
            "another attack may find more"
        )
    return f"not contradicted: the attack found nothing that chance does not explain; {nothing}"


def _in_words(answer: Mapping[str, Any]) -> str:
    claim = answer["claim"]
    if claim is None:
        claimed = "none: this run was trained without privacy"
    else:
        claimed = (
            f"epsilon {epsilon_in_words(claim['epsilon'], 3)} at delta {delta_in_words(claim['delta'])}, "
            f"so an advantage of {round_up(answer['advantage_allowed'], 3)} at most"
        )
    lines = {
        "tried": (
            f"a threshold on the loss of {answer['trained']:,} {answer['unit']} that were trained on and "
            f"{answer['unseen']:,} that were not (tensorflow-privacy's membership inference)"
        ),
        "loss": (
            f"{answer['mean_loss_trained']:.4f} on average where trained on, {answer['mean_loss_unseen']:.4f} where not"
        ),
        "found": (
            f"an advantage of {answer['advantage']:.3f} (0: a guess, 1: every one recognized), of which chance alone "
            f"can make {answer['advantage_margin']:.3f}; AUC {answer['auc']:.3f}"
        ),
        "exposure": (
            f"{answer['exposure_mean']:.2f} bits on average, {answer['exposure_of_chance']:.2f} by chance; "
            f"{answer['exposure_max']:.2f} at most"
        ),
        "claim": claimed,
        "verdict": answer["verdict"],
    }
    return "\n".join(f"{name}: {line}" for name, line in lines.items())
