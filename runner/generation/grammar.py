"""The rules of a job's `generation` section as an automaton over tokens: so that only valid records are drawn.

>>> from runner.config import GenerationConfig
>>> from runner.data.tokenizers.characters import CharTokenizer
>>> config = GenerationConfig(columns={"age": {"range": [0, 120]}, "code": {"pattern": r"[A-Z]\\d+"}})
>>> tokenizer = CharTokenizer("0123456789.,CZ")
>>> grammar = compile_grammar(config, ["age", "code"], ",", tokenizer)
>>> [grammar.automaton.walk(tokenizer.encode(text)) is not None for text in ("49,C3", "12", "121", "9,3")]
[True, True, False, False]

What it cannot say is left to `Validator`, which looks at every record in any case: patterns that look around or back,
automata that are too large, and a function of the user's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.config import ColumnRule, GenerationConfig
from runner.data.automaton import Automaton
from runner.data.fields import split_fields
from runner.data.tokenizers.base import Tokenizer
from runner.errors import ConfigError
from runner.generation.alphabet import Alphabet, alphabet_of, over_tokens
from runner.generation.language import MOST_ENTRIES, Language, TooLargeError, any_text, intersect, join, language_of
from runner.generation.number_texts import numbers_between
from runner.generation.pattern import PatternError, pattern_language
from runner.generation.validators import value_rules


@dataclass(frozen=True)
class Grammar:
    """`automaton`: None where every text is valid, or nothing can be said. `notes`: what is left to the validator, a
    line each."""

    automaton: Automaton | None
    notes: tuple[str, ...] = ()


def compile_grammar(
    config: GenerationConfig, columns: Sequence[str], field_delimiter: str | None, tokenizer: Tokenizer
) -> Grammar:
    """The automaton whose walks are the records with the right number of fields, each of which keeps its rules.

    Numbers in a range are written as `runner.generation.number_texts` says.

    Raises:
        ConfigError: no record keeps the rules, or none that the tokenizer can write.
    """
    names = config.fields or columns
    rules = [config.columns.get(name, ColumnRule()) for name in names]
    if (len(names) > 1 and field_delimiter is None) or (len(names) == 1 and not value_rules(rules[0])):
        return Grammar(None)
    alphabet = alphabet_of(tokenizer)
    delimiter = alphabet.spell(field_delimiter or "") if len(names) > 1 else [0]
    if delimiter is None:
        raise ConfigError(f"the model cannot write the field delimiter {field_delimiter!r}: no record would be valid")
    anything = alphabet.spell_language(any_text())
    languages: list[Language] = []
    notes: list[str] = []
    for name, rule in zip(names, rules, strict=True):
        language, own_notes = _column_language(rule, alphabet, anything)
        languages.append(language)
        notes += [f"generation.columns.{name}.{note}" for note in own_notes]
        if language.is_empty:
            raise ConfigError(f"generation.columns.{name}: no value that the model can write keeps the rules")
    most = MOST_ENTRIES // (len(delimiter) * tokenizer.vocab_size)
    while sum(language.states for language in languages) > most:
        largest = max(range(len(names)), key=lambda index: languages[index].states)
        if languages[largest].states <= anything.states:
            return Grammar(None, (*notes, _left("generation.fields", "have too large an automaton")))
        languages[largest] = anything
        notes.append(_left(f"generation.columns.{names[largest]}", "has too large an automaton"))
    if len(names) == 1 and languages[0] is anything:
        return Grammar(None, tuple(notes))
    language = languages[0] if len(names) == 1 else join(languages, delimiter)
    automaton = over_tokens(language, tokenizer)
    if not automaton.allowed[:, tokenizer.end_id].any():
        raise ConfigError("generation.columns: no record that the model can write keeps the rules")
    return Grammar(automaton, tuple(notes))


def check_beginnings(
    grammar: Grammar,
    prompts: Sequence[str],
    config: GenerationConfig,
    columns: Sequence[str],
    field_delimiter: str | None,
    tokenizer: Tokenizer,
) -> None:
    """Raise ConfigError, with the rule, for a prompt that no valid record begins with."""
    for prompt in prompts:
        if grammar.automaton is not None and grammar.automaton.walk(tokenizer.encode(prompt)) is None:
            names = config.fields or columns
            reason = _why_none_begins(split_fields(prompt, field_delimiter, len(names)), names, config, tokenizer)
            raise ConfigError(f"prompt {prompt!r}: no valid record begins so ({reason})")


def _column_language(rule: ColumnRule, alphabet: Alphabet, anything: Language) -> tuple[Language, list[str]]:
    """The values that keep the rules of a column, of `anything`; and which of the rules are not in it, and why."""
    found: list[Language] = []
    notes: list[str] = []
    if rule.allowed is not None:
        wrong = value_rules(rule)
        kept = [alphabet.spell(value) for value in rule.allowed if all(one(value) is None for one in wrong)]
        try:
            return language_of([symbols for symbols in kept if symbols is not None], alphabet.size), []
        except TooLargeError as error:
            notes.append(_left("allowed", f"is too large ({error})"))
    if rule.pattern is not None:
        try:
            found.append(alphabet.spell_language(pattern_language(rule.pattern)))
        except PatternError as error:
            notes.append(_left("pattern", str(error)))
        except TooLargeError as error:
            notes.append(_left("pattern", f"is too large ({error})"))
    if rule.range is not None:
        found.append(alphabet.spell_language(numbers_between(*rule.range)))
    if len(found) == 2:
        try:
            return intersect(*found), notes
        except TooLargeError as error:
            notes.append(_left("pattern", f"is too large beside range ({error})"))
    return found[-1] if found else anything, notes


def _left(what: str, reason: str) -> str:
    return f"{what} {reason}: records are drawn without it, and others in place of those that break it"


def _why_none_begins(
    fields: Sequence[str], names: Sequence[str], config: GenerationConfig, tokenizer: Tokenizer
) -> str:
    """Which rule the last of the fields cannot keep, or the whole ones before it do not."""
    if len(fields) > len(names):
        return f"fields: not {len(names)}"
    for name, value in zip(names, fields[:-1], strict=False):
        for wrong in value_rules(config.columns.get(name, ColumnRule())):
            if (reason := wrong(value)) is not None:
                return f"{name}: {reason}"
    name, alphabet = names[len(fields) - 1], alphabet_of(tokenizer)
    rule = config.columns.get(name, ColumnRule())
    for key in ("pattern", "range", "allowed"):
        alone = ColumnRule.model_validate({key: getattr(rule, key)})
        language, _ = _column_language(alone, alphabet, alphabet.spell_language(any_text()))
        after = language.after(alphabet.spell(fields[-1]) or [])
        if after[0] < 0:
            return f"{name}: {next(filter(None, (wrong(fields[-1]) for wrong in value_rules(alone))), 'its rules')}"
    return f"{name}: its rules"
