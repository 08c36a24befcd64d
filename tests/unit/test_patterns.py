"""Regular expressions as automata: they hold exactly the texts that `re.fullmatch` matches."""

from __future__ import annotations

import re
from itertools import product
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.generation.alphabet import Alphabet, Characters, Utf8
from runner.generation.language import Language, TooLargeError
from runner.generation.pattern import PatternError, pattern_language
from tests.walks import draw_text, holds

LETTERS = "aK1 \né\u212a"  # \u212a: the Kelvin sign, a k when case is ignored
WRITTEN = [Characters(LETTERS), Utf8({})]
SHORT_TEXTS = ["".join(letters) for length in range(4) for letters in product(LETTERS, repeat=length)]

SETS = [*"aK1\né", " ", ".", r"\d", r"\w", r"\W", r"\s", "[aé]", "[^a]", "[a-k]", r"[^\d\n]"]
SETS += ["(?i:k)", r"(?a:\w)", "(?s:.)"]
ANCHORS = ["^", "$", r"\A", r"\Z", r"\b", r"\B", "(?m:^)", "(?m:$)", r"(?a:\b)"]
REPEATS = ["*", "+", "?", "{2}", "{1,3}", "{,2}", "{2,}", "*?", "+?"]


def bigger(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    groups = parts.map("(?:{})".format)
    return st.one_of(
        st.lists(parts, min_size=2, max_size=3).map("".join),
        st.lists(parts, min_size=2, max_size=3).map("|".join).map("({})".format),
        st.builds("{}{}".format, groups, st.sampled_from(REPEATS)),
        groups.map("(?i:{})".format),
    )


patterns = st.recursive(st.sampled_from([*SETS, *SETS, *ANCHORS, ""]), bigger, max_leaves=8)


def language_of(pattern: str, alphabet: Alphabet = WRITTEN[1]) -> Language:
    return alphabet.spell_language(pattern_language(pattern))


@settings(max_examples=60, deadline=None)
@given(pattern=patterns)
@example(r"(?s:a$.*)")
@example(r"(?sm:a$.*^K?)")
@example(r"(?s:.*\B.*)")
@example(r"\B")
@example(r"(?a:K\b)(?u:\B)é|a{1,2}\Z\n?")
@example("(?i:k){2}|(?i:[^k])")
def test_it_holds_the_short_texts_that_python_matches_and_no_others(pattern: str) -> None:
    language = language_of(pattern, WRITTEN[0])
    found = [text for text in SHORT_TEXTS if holds(language, WRITTEN[0].spell(text))]
    assert found == [text for text in SHORT_TEXTS if re.fullmatch(pattern, text)]


@settings(max_examples=30, deadline=None)
@given(pattern=patterns, data=st.data())
def test_what_hypothesis_makes_of_a_pattern_is_in_it(pattern: str, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(pattern))
    assert holds(language_of(pattern), WRITTEN[1].spell(text)) == bool(re.fullmatch(pattern, text))


@settings(max_examples=40, deadline=None)
@given(pattern=patterns, seed=st.integers(0, 9))
def test_python_matches_what_is_drawn_from_it(pattern: str, seed: int) -> None:
    for alphabet in WRITTEN:
        if not (language := language_of(pattern, alphabet)).is_empty:
            symbols = draw_text(language, Random(seed))
            text = bytes(symbols).decode() if alphabet.size == 256 else "".join(LETTERS[symbol] for symbol in symbols)
            assert re.fullmatch(pattern, text)


@given(text=st.text(max_size=6))
def test_everything_that_is_text_is_a_text(text: str) -> None:
    assert holds(language_of("(?s:.)*"), WRITTEN[1].spell(text))


@pytest.mark.parametrize(
    "sequence",
    [
        b"\xc0\x80",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\x80",
        b"\xf5",
        b"\xff",
    ],
)
def test_bytes_that_are_no_characters_are_never_written(sequence: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        sequence.decode()
    assert language_of("(?s:.)*").after(sequence)[0] < 0


@pytest.mark.parametrize("character", "\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff")
def test_the_ends_of_each_length_of_utf_8_are_told_apart(character: str) -> None:
    language = language_of(f"[^{character}]")
    others = [chr(ord(character) + step) for step in (-1, 1) if ord(character) + step not in (0xD800, 0xDFFF, 0x110000)]
    assert [holds(language, WRITTEN[1].spell(text)) for text in (character, *others)] == [False] + [True] * len(others)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("a(?=b)b", "looks around"),
        ("(?<!a)b", "looks around"),
        (r"(a|b)\1", "refers back to a group"),
        (r"(?i)(a)\1", "refers back to a group"),
        ("(a)?(?(1)b|c)", "asks for a group"),
        ("(?>a*)b", "has an atomic group"),
        ("a*+b", "has a possessive quantifier"),
    ],
)
def test_what_no_automaton_says_is_refused_by_name(pattern: str, reason: str) -> None:
    with pytest.raises(PatternError, match=reason):
        pattern_language(pattern)


@pytest.mark.parametrize("pattern", ["a{30000}", "(a|b)*a(a|b){14}", "(" * 700 + "a" + ")" * 700])
def test_what_needs_too_many_states_is_refused(pattern: str) -> None:
    with pytest.raises(TooLargeError):
        pattern_language(pattern)


def test_an_empty_group_may_be_there_as_often_as_it_likes() -> None:
    language = language_of("(?:(?:){4000000000}){4000000000}a(){0,4000000000}")
    assert [holds(language, list(text)) for text in (b"a", b"", b"aa")] == [True, False, False]
