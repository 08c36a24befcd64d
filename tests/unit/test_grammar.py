"""The rules of a job over a tokenizer's tokens: every walk is a valid record, and every valid record is a walk."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from itertools import product
from random import Random
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config import GenerationConfig
from runner.data.tokenizers.base import Tokenizer
from runner.data.tokenizers.characters import ByteTokenizer, CharTokenizer
from runner.data.tokenizers.subword import SentencePieceTokenizer
from runner.data.tokenizers.text_kinds import train_tokenizer
from runner.errors import ConfigError
from runner.generation import grammar as grammar_module
from runner.generation import language as language_module
from runner.generation.grammar import Grammar, check_beginnings, compile_grammar
from runner.generation.validators import Validator
from tests.walks import draw_walk

LETTERS = "ab1|,-.2 é\n漢\u2581\u2582\u2585"
KINDS = ["byte", "char", "sentencepiece", "a user's own"]


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    """One of each kind that knows all LETTERS; SentencePiece writes some of them in bytes."""
    texts = ["a1,b2,|- a", "ab12 ab12|,-", "bb aa.1,é\n", LETTERS] * 40
    if kind == "a user's own":  # It begins texts with a space of its own, and drops spaces.
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=300,
            hard_vocab_limit=False,
            byte_fallback=True,
            minloglevel=2,
        )
        return SentencePieceTokenizer(model.getvalue(), ",")
    return train_tokenizer(kind, texts, vocab_size=300, character_coverage=0.98, field_delimiter=",", seed=0)


def configured(columns: dict[str, Any]) -> GenerationConfig:
    return GenerationConfig.model_validate({"columns": columns})


def is_walk(grammar: Grammar, tokenizer: Tokenizer, text: str) -> bool:
    assert grammar.automaton is not None
    return grammar.automaton.walk([*tokenizer.encode(text), tokenizer.end_id]) is not None


def drawn(grammar: Grammar, tokenizer: Tokenizer, count: int = 20, seed: int = 0) -> Iterator[str]:
    assert grammar.automaton is not None
    random = Random(seed)
    for _ in range(count):
        yield tokenizer.decode(draw_walk(grammar.automaton, tokenizer.end_id, random))


values = st.text(LETTERS, max_size=4)
rules = st.one_of(
    st.just({}),
    st.sampled_from([r"\w*", r"[ab]{1,3}|\d+", "[^a]*", r"(a|,)*", r"\|*", ".?", r"\d?-?\d"]).map(
        lambda pattern: {"pattern": pattern}
    ),
    st.sampled_from([[0, 12], [-1.5, None], [None, 2]]).map(lambda bounds: {"range": bounds}),
    st.lists(values, min_size=1, max_size=6).map(lambda allowed: {"allowed": allowed}),
    st.just({"range": [0, 20], "pattern": r"\d\d?(\.\d)?"}),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(
    own=st.lists(rules, min_size=1, max_size=3),
    delimiter=st.sampled_from([",", "||", "|", "é", "aba"]),
    data=st.data(),
)
def test_walks_are_the_valid_records(kind: str, own: list[dict[str, Any]], delimiter: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(kind)
    names = ["x", "y", "z"][: len(own)]
    config = configured(dict(zip(names, own, strict=True)))
    validator = Validator(config, names, delimiter)
    allowed = [value for rule in own for value in rule.get("allowed", [])]
    parts = st.sampled_from([*allowed, "", "a", "|", "1", "-1", "1.5", "ab", "12", "a,", "é", "\u2581", "\u2582"])
    texts = [delimiter.join(data.draw(st.tuples(*[parts] * len(own)))) for _ in range(20)]
    try:
        grammar = compile_grammar(config, names, delimiter, tokenizer)
    except ConfigError:
        assert all(validator.check(text).reason for text in texts)
        return
    assert grammar.notes == ()
    if grammar.automaton is None:
        assert own == [{}]
        return
    for text in drawn(grammar, tokenizer):
        assert validator.check(text).reason is None, text
    for text in [*texts, *drawn(grammar, tokenizer, 5, seed=1)]:
        if tokenizer.decode(tokenizer.encode(text)) == text:  # A user's own model changes some.
            assert is_walk(grammar, tokenizer, text) == (validator.check(text).reason is None), text


@pytest.mark.parametrize("delimiter", ["a", "aa", "aba", "aab", "abab"])
@pytest.mark.parametrize("pattern", [None, "a*", ".?b?a?"])
def test_records_split_as_python_splits_them_at_a_delimiter_that_overlaps_itself(
    delimiter: str, pattern: str | None
) -> None:
    tokenizer = CharTokenizer("ab")
    config = configured({"y": {"pattern": pattern}} if pattern else {})
    grammar = compile_grammar(config, ["x", "y"], delimiter, tokenizer)
    validator = Validator(config, ["x", "y"], delimiter)
    texts = ["".join(letters) for length in range(9) for letters in product("ab", repeat=length)]
    assert [text for text in texts if is_walk(grammar, tokenizer, text)] == [
        text for text in texts if validator.check(text).reason is None
    ]


def test_a_users_own_model_may_drop_the_space_that_it_begins_with() -> None:
    tokenizer = tokenizer_of("a user's own")
    assert tokenizer.decode(tokenizer.encode("ab12")) == "ab12"
    assert tokenizer.decode([*tokenizer.encode("ab12"), *tokenizer.encode("ab12")]) == "ab12 ab12"
    grammar = compile_grammar(configured({"x": {"allowed": ["ab12", "a b"]}}), ["x"], None, tokenizer)
    assert set(drawn(grammar, tokenizer)) == {"ab12", "a b"}
    assert is_walk(grammar, tokenizer, "ab12")


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_and_unknown_are_never_drawn(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    automaton = compile_grammar(configured({}), ["x", "y"], ",", tokenizer).automaton
    assert automaton is not None
    written = {token for token in range(tokenizer.vocab_size) if automaton.allowed[:, token].any()}
    assert tokenizer.end_id in written
    assert tokenizer.unknown_id not in written
    assert not any(tokenizer.decode([token]) == "" for token in written - {tokenizer.end_id} if kind != "a user's own")


def test_without_rules_one_column_holds_any_text_as_before() -> None:
    for config in (configured({}), configured({"x": {}}), configured({"other": {"range": [0, 1]}})):
        assert compile_grammar(config, ["x"], ",", ByteTokenizer()) == Grammar(None)


def test_named_fields_of_a_text_column_are_counted() -> None:
    config = GenerationConfig.model_validate({"fields": ["p", "q", "r"], "columns": {"q": {"allowed": ["1"]}}})
    grammar = compile_grammar(config, ["text"], ",", ByteTokenizer())
    walks = [is_walk(grammar, ByteTokenizer(), text) for text in ("a,1,b", ",1,", "a,2,b", "a,1", "a,1,b,")]
    assert walks == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"pattern": "(?=a).*"}, "generation.columns.x.pattern looks around: records are drawn without it"),
        ({"pattern": "a{30000}"}, "generation.columns.x.pattern is too large (more than 20,000 characters"),
        ({"pattern": r"\w{1,19000}"}, "generation.columns.x.pattern is too large (more than "),
        ({"allowed": ["a" * 15_000 + str(n) for n in range(200)]}, "generation.columns.x.allowed is too large"),
    ],
)
def test_what_no_automaton_says_is_left_to_the_validator_and_told(rule: dict[str, Any], words: str) -> None:
    grammar = compile_grammar(configured({"x": rule, "y": {"allowed": ["b"]}}), ["x", "y"], ",", ByteTokenizer())
    assert len(grammar.notes) == 1
    assert grammar.notes[0].startswith(words)
    assert {text.partition(",")[2] for text in drawn(grammar, ByteTokenizer())} == {"b"}
    alone = compile_grammar(configured({"x": rule}), ["x"], None, ByteTokenizer())
    assert alone == Grammar(None, grammar.notes)


def test_a_range_stays_where_the_pattern_beside_it_is_left_to_the_validator() -> None:
    grammar = compile_grammar(configured({"x": {"pattern": "(?=1).*", "range": [5, 30]}}), ["x"], None, ByteTokenizer())
    assert all(5 <= float(text) <= 30 for text in drawn(grammar, ByteTokenizer()))
    assert len(grammar.notes) == 1


def test_the_largest_rules_are_left_out_where_all_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"x": {"pattern": "[ab]{9}"}, "y": {"pattern": "[ab]{99}"}, "z": {"pattern": "[ab]{50}"}}
    monkeypatch.setattr(grammar_module, "MOST_ENTRIES", 100 * ByteTokenizer.vocab_size)
    grammar = compile_grammar(configured(columns), list(columns), ",", ByteTokenizer())
    assert [note.split(" ")[0] for note in grammar.notes] == ["generation.columns.y"]
    assert grammar.automaton is not None
    assert grammar.automaton.allowed.shape[0] <= 100
    validator = Validator(configured({name: columns[name] for name in "xz"}), list(columns), ",")
    assert all(validator.check(text).reason is None for text in drawn(grammar, ByteTokenizer()))
    monkeypatch.setattr(grammar_module, "MOST_ENTRIES", 12 * ByteTokenizer.vocab_size)
    nothing = compile_grammar(configured(columns), list(columns), ",", ByteTokenizer())
    assert nothing.automaton is None
    assert nothing.notes[-1].startswith("generation.fields have too large an automaton")


def test_allowed_values_share_their_ends() -> None:
    days = [f"2024-{month:02}-{day:02}" for month in range(1, 13) for day in range(1, 29)]
    spelled = [list(day.encode()) for day in days]
    language = language_module.language_of([*spelled, *spelled], 256)
    assert language.states == 14
    assert language_module.language_of([], 256).is_empty


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"y": {"allowed": ["a,b"]}}, "no record that the model can write"),
        ({"y": {"allowed": ["7"], "range": [0, 5]}}, "generation.columns.y: no value"),
        ({"x": {"pattern": "[xyz]"}}, "generation.columns.x: no value that the model can write"),
        ({"x": {"pattern": "a", "range": [0, 5]}}, "generation.columns.x: no value"),
    ],
)
def test_rules_that_no_record_keeps_are_refused(columns: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compile_grammar(configured(columns), ["x", "y"], ",", CharTokenizer("ab127,"))


def test_a_delimiter_that_the_model_cannot_write_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot write the field delimiter ';'"):
        compile_grammar(configured({}), ["x", "y"], ";", CharTokenizer("ab"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("", None),
        ("1", None),
        ("12,", None),
        ("12,a", None),
        ("21", "x: not in [0, 12]"),
        ("-,", "x: not in [0, 12]"),
        ("12,b", "y: does not match a.*"),
        ("1,a,1", "z: not an allowed value"),
        ("1,a,2,", "fields: not 3"),
        ("1,a,2b", "z: not an allowed value"),
    ],
)
def test_a_prompt_that_begins_no_valid_record_is_refused_with_the_rule(
    kind: str, prompt: str, reason: str | None
) -> None:
    config = configured({"x": {"range": [0, 12]}, "y": {"pattern": "a.*"}, "z": {"allowed": ["2", "a"]}})
    tokenizer = tokenizer_of(kind)
    grammar = compile_grammar(config, ["x", "y", "z"], ",", tokenizer)
    if reason is None:
        return check_beginnings(grammar, [prompt], config, ["x", "y", "z"], ",", tokenizer)
    with pytest.raises(ConfigError) as refused:
        check_beginnings(grammar, ["1", prompt], config, ["x", "y", "z"], ",", tokenizer)
    assert str(refused.value) == f"prompt {prompt!r}: no valid record begins so ({reason})"
    return None
