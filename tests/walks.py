"""Random walks through automata, which end, and what they write."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from runner.data.automaton import Automaton
from runner.generation.language import DEAD, Language


def draw_text(language: Language, random: Random, most: int = 30) -> list[int]:
    """The symbols of a text of a language that is not empty: `most` at random, then the shortest way out."""
    distances = distances_to_end(language.following, language.final)
    state, symbols = 0, []
    while True:
        live = np.flatnonzero(language.following[state] >= 0)
        if language.final[state] and (not len(live) or len(symbols) >= most or random.random() < 0.2):
            return symbols
        if len(symbols) >= most:
            live = live[distances[language.following[state, live]] < distances[state]]
        symbols.append(int(random.choice(live)))
        state = int(language.following[state, symbols[-1]])


def draw_walk(automaton: Automaton, end_id: int, random: Random, most: int = 60) -> list[int]:
    """The tokens of a record, without its end."""
    text = automaton.allowed.copy()
    text[:, end_id] = False
    following = np.where(text, automaton.following, DEAD).astype(np.int32)
    return draw_text(Language(following, automaton.allowed[:, end_id]), random, most)


def distances_to_end(following: np.ndarray, final: np.ndarray) -> np.ndarray:
    """How many symbols it takes from each state to a final one; the number of states where there is no way."""
    distances = np.where(final, 0, len(final))
    for _ in range(len(final)):
        targets = np.where(following >= 0, distances[following], len(final)).min(axis=1, initial=len(final))
        if (distances <= targets + 1).all():
            break
        distances = np.minimum(distances, targets + 1)
    return distances


def holds(language: Language, symbols: Sequence[int] | None) -> bool:
    """Whether a text is one of the language."""
    state = DEAD if symbols is None else int(language.after(symbols)[0])
    return state != DEAD and bool(language.final[state])


def routed_walk(
    automaton: Automaton, route: np.ndarray, tokens: Sequence[int], generator: np.random.Generator | None = None
) -> list[int]:
    """Tokens along a way through an automaton's joints, as far as they are allowed, then, with a generator, any that
    are, to the end of the record."""
    assert automaton.joints is not None
    led = dict(zip(automaton.joints.tolist(), route.tolist(), strict=True))
    state, walk, left = int(route[0]), list[int](), list(tokens)
    while left or (generator is not None and (not walk or walk[-1] != 0)):
        if not left:
            assert generator is not None
            left = [int(generator.choice(np.flatnonzero(automaton.allowed[state])))]
        if not automaton.allowed[state, left[0]]:
            return walk
        walk.append(left.pop(0))
        state = int(automaton.following[state, walk[-1]])
        state = led.get(state, state)
    return walk
