"""Tokenizers give back what they are given, the same way every time."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.data.tokenizers.base import Tokenizer, token_dtype
from runner.data.tokenizers.characters import ByteTokenizer, CharTokenizer, char_tokenizer, count_characters
from runner.data.tokenizers.saved import from_files
from runner.data.tokenizers.subword import LEAST_COVERAGE, SentencePieceTokenizer, from_sentencepiece_model
from runner.data.tokenizers.text_kinds import train_tokenizer
from runner.errors import TokenizerError

ROWS = [f"{i % 7},{i * 31 % 97}.{i % 10},north east,é{i % 3}" for i in range(400)]
NASTY = [
    *["", " ", "  a  b  ", "a\0b", "\t", "a\tb", "\r", "\r\n", "\n\n", " \n ", ",", ",,", " , ", '"'],
    *[
        "\u2581",
        "\u2582",
        "\u2585",
        "\u25821\u25822\u25825\u2582",
        " \u2581 \u2585",
        "\ufeffx",
        "\u2028",
        "\x85",
    ],
    *["<unk>", "</s>", "<s>", "<0x0A>", "<0x41>", "\u2047", " \u2047 ", "\ufffd", "\uffff", "\U0010ffff"],
    *["é e\u0301", "\ufb01 ½ \uff21", "🙂👩\u200d👩\u200d👧", "漢字", "a" * 5000, "ab " * 3000],
]
NO_TEXT = re.compile("there is (no|too little) text to train")
ALPHABET = "".join(sorted(set("".join([*ROWS, *NASTY]))))
texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\u2581\u2582\u2585125 ,\n\t\r\0<>"))


def trained(kind: str, records: list[str], **changes: Any) -> Tokenizer:
    arguments = {"vocab_size": 600, "character_coverage": 1.0, "field_delimiter": ",", "seed": 0}
    return train_tokenizer(kind, records, **(arguments | changes))


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    return CharTokenizer(ALPHABET) if kind == "char" else trained(kind, ROWS)


@cache
def sentencepiece(*records: str, **changes: Any) -> SentencePieceTokenizer:
    tokenizer = trained("sentencepiece", list(records or ROWS), **changes)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return tokenizer


def pieces(tokenizer: SentencePieceTokenizer) -> list[str]:
    from sentencepiece import SentencePieceProcessor

    processor: Any = SentencePieceProcessor(model_proto=tokenizer.model)
    return [processor.id_to_piece(i) for i in range(tokenizer.vocab_size) if not processor.is_byte(i)]


all_kinds = pytest.mark.parametrize("kind", ["byte", "char", "sentencepiece"])


@pytest.mark.parametrize("kind", ["byte", "sentencepiece"])
@given(text=texts)
def test_any_unicode_text_comes_back(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=st.text(st.sampled_from(ALPHABET)))
def test_text_in_the_alphabet_comes_back_from_char(text: str) -> None:
    tokenizer = tokenizer_of("char")
    assert tokenizer.decode(tokenizer.encode(text)) == text


@all_kinds
def test_troublesome_texts_come_back(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    for text in NASTY:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode_batch([tokenizer.encode(text) for text in NASTY]) == NASTY
    assert tokenizer.decode_batch([]) == []


@pytest.mark.parametrize(
    "records",
    [
        ["a"],
        ["   "],
        ["a\0b"],
        ["a\tb"],
        ["a\r\nb\n"],
        ["x\u2581y"],
        ["\u2585"],
        ["<unk> </s> <0x0A>"] * 99,
        NASTY,
    ],
    ids=repr,
)
def test_texts_come_back_whatever_the_model_was_trained_on(records: list[str]) -> None:
    tokenizer = trained("sentencepiece", records, vocab_size=1000)
    for text in [*NASTY, *records]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "delimiter",
    [",", "\t", " ", "|", "||", " ,", "a b", '"', "\r", "\x1f", "é", "1", "\n", "\u2581", "\u2582", None],
)
def test_any_field_delimiter_is_one_token_and_texts_come_back(delimiter: str | None) -> None:
    shown = delimiter or ","
    records = [row.replace(",", shown) for row in ROWS]
    tokenizer = trained("sentencepiece", records, field_delimiter=delimiter)
    for text in [*NASTY, records[0], shown, shown * 3 + "1 " + shown]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert delimiter is None or len(tokenizer.encode(delimiter)) == 1


@pytest.mark.parametrize("delimiter", ["<unk>", "</s>", "<0x0A>", "\0"])
def test_delimiter_that_sentencepiece_reserves_is_refused(delimiter: str) -> None:
    with pytest.raises(TokenizerError, match="field_delimiter"):
        trained("sentencepiece", ROWS, field_delimiter=delimiter)


@all_kinds
@given(records=st.lists(texts, max_size=8))
def test_batch_is_the_records_one_by_one(kind: str, records: list[str]) -> None:
    tokenizer = tokenizer_of(kind)
    expected = [tokenizer.encode(text) for text in records]
    chunked = pa.chunked_array([records[:3], records[3:]], pa.string())
    sliced = pa.array(["other", *records], pa.large_string())[1:]
    for batch in (records, pa.array(records, pa.string()), chunked, sliced):
        tokens, lengths = tokenizer.encode_batch(batch)
        assert tokens.dtype == token_dtype(tokenizer.vocab_size)
        assert lengths.dtype == np.int32
        assert [part.tolist() for part in np.split(tokens, np.cumsum(lengths))[:-1]] == expected
        assert len(tokens) == lengths.sum()


@all_kinds
def test_batch_larger_than_one_call_is_the_records_one_by_one(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    tokens, lengths = tokenizer.encode_batch(ROWS * 7 + NASTY)
    assert tokens.tolist() == [token for text in ROWS * 7 + NASTY for token in tokenizer.encode(text)]
    assert len(lengths) == len(ROWS) * 7 + len(NASTY)


@all_kinds
def test_null_records_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="null"):
        tokenizer_of(kind).encode_batch(pa.array(["a", None]))


@all_kinds
@given(text=texts)
def test_no_text_encodes_to_the_end_token_and_decoding_drops_it(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids = tokenizer.encode(text)
    assert tokenizer.end_id not in ids
    assert all(0 <= token < tokenizer.vocab_size for token in [*ids, tokenizer.end_id])
    ended = np.array([*ids, tokenizer.end_id], token_dtype(tokenizer.vocab_size))
    assert tokenizer.decode(ended) == tokenizer.decode(ids)


@all_kinds
def test_saved_and_loaded_tokenizer_gives_the_same_ids(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    loaded = from_files({**tokenizer.to_files(), "other": b""})
    assert loaded.to_files() == tokenizer.to_files()
    for name in ("kind", "vocab_size", "end_id", "unknown_id"):
        assert getattr(loaded, name) == getattr(tokenizer, name)
    assert [loaded.encode(text) for text in ROWS + NASTY] == [tokenizer.encode(text) for text in ROWS + NASTY]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: files.pop("tokenizer.json"), "tokenizer.json"),
        (lambda files: files.pop("sentencepiece.model"), "sentencepiece.model"),
        (lambda files: files.update({"tokenizer.json": b"{"}), "damaged"),
        (lambda files: files.update({"tokenizer.json": b"[]"}), "damaged"),
        (lambda files: files.update({"tokenizer.json": b'{"version": 99}'}), "version"),
        (lambda files: files.update({"tokenizer.json": b'{"version": 1, "kind": "word"}'}), "'word'"),
        (lambda files: files.update({"sentencepiece.model": b"junk" * 9}), "SentencePiece model"),
        (lambda files: files.update({"sentencepiece.model": b""}), "SentencePiece model"),
        (lambda files: files.update({"sentencepiece.model": sentencepiece("a").model}), "belong together"),
    ],
)
def test_unreadable_files_are_refused_in_one_line(change: Any, words: str) -> None:
    files = tokenizer_of("sentencepiece").to_files()
    change(files)
    with pytest.raises(TokenizerError, match=words):
        from_files(files)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(TokenizerError, match="choose char, byte or sentencepiece"):
        trained("word", ROWS)


def test_bytes_that_are_not_utf8_decode_to_replacement_characters() -> None:
    assert ByteTokenizer().decode([0xFF, 65]) == "\ufffdA"
    assert sentencepiece().decode([sentencepiece().unknown_id or 0]) == "\ufffd"


def test_char_vocabulary_is_the_most_frequent_with_ties_by_code_point() -> None:
    tokenizer = char_tokenizer(count_characters(["zzz", "bb", "aa", "c"]), vocab_size=5)
    assert tokenizer.characters == "zab"
    assert (tokenizer.vocab_size, tokenizer.encode("zabc")) == (5, [2, 3, 4, tokenizer.unknown_id])
    assert tokenizer.decode(tokenizer.encode("zabc")) == "zab\ufffd"


def test_char_counts_of_parts_add_up() -> None:
    parts = sum((count_characters(ROWS[start::3]) for start in range(3)), Counter())
    assert char_tokenizer(parts, 20).characters == char_tokenizer(count_characters(ROWS), 20).characters


def test_char_without_text_or_room_is_refused() -> None:
    for records, size in (([""], 9), (["a"], 2)):
        with pytest.raises(TokenizerError):
            trained("char", records, vocab_size=size)


def test_training_gives_the_same_model_bytes() -> None:
    first, second = (trained("sentencepiece", ROWS).to_files() for _ in range(2))
    assert first == second


def test_newline_and_delimiter_are_never_merged_into_other_pieces() -> None:
    vocabulary = pieces(sentencepiece(*[f"a,b\nc,d{i % 5}" for i in range(300)]))
    assert {",", "\n"} <= set(vocabulary)
    assert [piece for piece in vocabulary if len(piece) > 1 and ("," in piece or "\n" in piece)] == []


def test_few_records_need_fewer_ids_than_allowed() -> None:
    assert tokenizer_of("sentencepiece").vocab_size < 600
    assert trained("sentencepiece", ROWS, vocab_size=50_000).vocab_size < 2_000


def test_too_small_vocabulary_names_the_smallest_size_that_works() -> None:
    with pytest.raises(TokenizerError) as caught:
        trained("sentencepiece", ROWS, vocab_size=50)
    smallest = int(str(caught.value).split(" need ")[1].split(";")[0])
    assert trained("sentencepiece", ROWS, vocab_size=smallest).vocab_size == smallest
    with pytest.raises(TokenizerError):
        trained("sentencepiece", ROWS, vocab_size=smallest - 1)


def test_low_coverage_spells_rare_characters_in_bytes() -> None:
    records = [*["abc def"] * 999, "漢字"]
    tokenizer = sentencepiece(*records, character_coverage=0.99)
    assert "漢" not in pieces(tokenizer)
    assert tokenizer.decode(tokenizer.encode("漢字 a")) == "漢字 a"


@given(st.lists(texts, min_size=1, max_size=5), st.integers(3, 300), st.sampled_from([0.98, 0.999, 1.0]))
@example(["\u2582" * 10], 300, 0.98)
@example(["\0" * 20], 300, 1.0)
@settings(max_examples=40, deadline=None)
def test_a_vocabulary_of_the_size_that_an_error_asks_for_works(
    records: list[str], vocab_size: int, coverage: float
) -> None:
    def refusal(size: int) -> str:
        try:
            trained("sentencepiece", records, vocab_size=size, character_coverage=coverage)
        except TokenizerError as error:
            return str(error)
        return ""

    told = refusal(vocab_size)
    needed = re.search(r"tokens need (\d+); use that or more", told)
    again = refusal(int(needed[1])) if needed else told
    assert not again or NO_TEXT.search(again)


@pytest.mark.parametrize("coverage", [0.9, 0.9799])
def test_a_coverage_that_sentencepiece_refuses_is_told_with_the_least(coverage: float) -> None:
    with pytest.raises(TokenizerError, match=r"character_coverage 0\.9.* too low: SentencePiece takes 0\.98 or more"):
        trained("sentencepiece", ROWS, character_coverage=coverage)
    trained("sentencepiece", ROWS, character_coverage=LEAST_COVERAGE)


@pytest.mark.parametrize("records", [[], [""], [","], ["\n"]])
def test_no_text_to_train_on_is_refused(records: list[str]) -> None:
    with pytest.raises(TokenizerError, match="no text to train on"):
        trained("sentencepiece", records)


@pytest.mark.timeout(60)
def test_very_long_record_trains() -> None:
    text = "abc def 12" * 50_000
    assert trained("sentencepiece", [text]).encode("abc")


def test_training_is_quiet_and_leaves_the_working_directory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trained("sentencepiece", ROWS)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [65_536, 65_537])
def test_every_id_fits_the_stored_type(size: int) -> None:
    assert np.array([size - 1]).astype(token_dtype(size))[0] == size - 1
    assert token_dtype(size).itemsize == (2 if size == 65_536 else 4)


def user_model(**changes: Any) -> bytes:
    from sentencepiece import SentencePieceTrainer

    model, trainer = io.BytesIO(), SentencePieceTrainer
    arguments = {"vocab_size": 400, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1}
    trainer.train(sentence_iterator=iter(ROWS), model_writer=model, **(arguments | changes))  # pyright: ignore
    return model.getvalue()


def test_users_model_ends_records_with_its_end_token_or_an_id_of_its_own() -> None:
    with_end = from_sentencepiece_model(user_model(), None)
    assert with_end.end_id == 2
    without = from_sentencepiece_model(user_model(eos_id=-1), None)
    assert without.end_id == without.vocab_size - 1
    assert without.decode([*without.encode("1,2"), without.end_id]) == without.decode(without.encode("1,2"))
    assert from_files(without.to_files()).end_id == without.end_id


def test_users_model_that_changes_text_is_named_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    from_sentencepiece_model(user_model(), ",")
    assert len(caplog.messages) == 1
    assert "repeated spaces" in caplog.messages[0]
    assert "characters outside its alphabet" in caplog.messages[0]


def test_users_model_that_keeps_text_causes_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        from_sentencepiece_model(sentencepiece().model, ",")
    assert caplog.messages == []


@pytest.mark.parametrize("first", ["tensorflow", "sentencepiece"])
def test_works_in_one_process_with_tensorflow(first: str) -> None:
    arguments = "vocab_size=400, character_coverage=1.0, field_delimiter=',', seed=0"
    train = f"t = m.train_tokenizer('sentencepiece', rows, {arguments})"
    steps = [train, "import tensorflow"] if first == "sentencepiece" else ["import tensorflow", train]
    program = ["import runner.data.tokenizers.text_kinds as m, sys, json", "assert 'tensorflow' not in sys.modules"]
    program += ["assert 'sentencepiece' not in sys.modules", f"rows = {ROWS!r}", *steps]
    program += ["print(json.dumps(t.encode(rows[0])))", "assert t.decode(t.encode(rows[0])) == rows[0]"]
    done = subprocess.run([sys.executable, "-c", "\n".join(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = trained("sentencepiece", ROWS, vocab_size=400).encode(ROWS[0])
    assert json.loads(done.stdout.splitlines()[-1]) == expected
