"""A table's rows become tokens that say all of them, under a key that says what they depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.config import JobConfig, parse_job
from runner.data import prepare
from runner.data.examples import Examples, TokenSet
from runner.data.files import SourceFile, list_files
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.tokenizers.saved import from_files
from runner.errors import ConfigError, DataError
from runner.storage import open_folder, read_manifest, read_published
from runner.train.facade import check_job
from runner.train.findings import describe_check
from tests.table_records import FIELDS, LEARNED, table_job, write_table
from tests.tokens import InThisProcess


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table")
    write_table(path / "records", count=200)
    return path


def config_of(folder: Path, **sections: Any) -> JobConfig:
    return parse_job(table_job("claims", folder / "records", folder / "runs") | sections, environment={})


def tokenize(config: JobConfig) -> TokenSet:
    checked = check_job(config)
    cache = open_folder(config.storage.uri).child(".cache/tokens")
    assert checked.survey is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "_dataset", InThisProcess)
        return prepare.prepare_tokens(config, checked.survey, cache, checked.key, lambda _: None)


@pytest.fixture(scope="module")
def tokens(folder: Path) -> TokenSet:
    return tokenize(config_of(folder))


def test_tokens_decode_to_the_rows_as_arrow_reads_them(folder: Path, tokens: TokenSet) -> None:
    """But for the values that the schema does not keep: rare prices, and the ends of ranges."""
    tokenizer = from_files(read_published(tokens.folder))
    assert isinstance(tokenizer, FieldTokenizer)
    examples = Examples(tokens, 1)
    rows = examples.rows(np.arange(tokens.examples))
    assert tokens.examples == tokens.records == 200
    assert {(int(row[0]), int(row[-1])) for row in rows} == {(tokenizer.end_id, tokenizer.end_id)}
    decoded = tokenizer.decode_batch([row[1:-1] for row in rows])
    found = pa.Table.from_struct_array(decoded).select(LEARNED)
    expected = pq.read_table(folder / "records", columns=LEARNED)
    assert found.schema == expected.schema
    for name in ("active", "plan", "note"):
        assert found.column(name).to_pylist() == expected.column(name).to_pylist()
    for name in ("age", "price", "joined"):
        pairs = list(zip(found.column(name).to_pylist(), expected.column(name).to_pylist(), strict=True))
        assert sum(one != other for one, other in pairs) <= 20, "ten at either end of the range"
        assert all((one is None) == (other is None) for one, other in pairs)


def test_the_manifest_has_the_slots_and_a_record_fits(tokens: TokenSet) -> None:
    assert tokens.slots is not None
    assert tokens.vocab_size == sum(tokens.slots.sizes)
    assert tokens.cut_records == 0
    assert tokens.seq_length >= int(Examples(tokens, 1).lengths.max())
    assert TokenSet.from_manifest(tokens.folder, read_manifest(tokens.folder)) == tokens


def test_what_tokens_depend_on_is_in_the_key(folder: Path) -> None:
    files = list_files(str(folder / "records"))

    def key(fields: dict[str, Any] = FIELDS, **sections: Any) -> str:
        return prepare.token_key(config_of(folder, fields=fields, **sections), files)

    assert key() == key()
    others = [
        key(dict(reversed(FIELDS.items()))),
        key({name: field for name, field in FIELDS.items() if name != "note"}),
        key(FIELDS | {"age": {"kind": "integer", "bins": 8}}),
        key(data={"uri": str(folder / "records"), "max_records": 100}),
    ]
    assert len({key(), *others}) == 5
    same = {"model": {"rnn_units": 5}, "examples": {"field_order": "random"}, "training": {"seed": 5, "batch_size": 32}}
    assert key(**same) == key()


def test_the_keys_of_jobs_on_texts_are_those_of_earlier_versions() -> None:
    """Computed by version 0.1.0."""
    files = (SourceFile("a.parquet", 100, "f"),)
    jobs: list[dict[str, Any]] = [
        {"data": {"uri": "r"}},
        {"data": {"uri": "r", "columns": ["a", "b"], "field_delimiter": ",", "max_records": 5}},
        {"data": {"uri": "r"}, "tokenizer": {"kind": "byte"}, "examples": {"packing": "stream", "seq_length": 7}},
    ]
    keys = [prepare.token_key(parse_job({"name": "x"} | job, environment={}), files) for job in jobs]
    assert keys == [
        "ed320eda4a5cec0724a9db60610fc7b0",
        "3ff757e5e38c75439efc9cc066c46c3b",
        "d8a5e93dc5ccab6e6f5431cb75db31fa",
    ]


def test_max_records_counts_rows(folder: Path) -> None:
    config = config_of(folder, data={"uri": str(folder / "records"), "max_records": 150})
    found = tokenize(config)
    assert (found.records, found.stops) == (150, {"part-0.parquet": None, "part-1.parquet": 50})


def test_columns_that_fields_does_not_have_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    fields = {name: field for name, field in FIELDS.items() if name not in ("note", "secret")}
    checked = check_job(config_of(folder, fields=fields, storage={"uri": str(folder / "others")}))
    assert "columns that fields does not have are left out: note, secret" in caplog.text
    assert describe_check(checked)["columns_left_out"] == "note, secret"


def test_a_table_of_nothing_but_nulls_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    pq.write_table(pa.table({"a": pa.nulls(40), "id": range(40)}), tmp_path / "records" / "a.parquet")
    fields = {"a": {"kind": "category"}, "id": {"kind": "id", "made": "sequence"}}
    with pytest.raises(DataError, match="all 40 rows are null in all columns"):
        check_job(config_of(tmp_path, fields=fields))


def test_losses_of_an_audit_are_those_of_the_training(tokens: TokenSet) -> None:
    """A record's mean cross-entropy within the slots, whatever the order of the fields."""
    import tensorflow as tf

    from runner.data.batches import load_batch
    from runner.model.network import Network
    from runner.train.audit import mean_losses

    assert tokens.slots is not None
    examples, positions = Examples(tokens, 1), np.arange(7)
    for any_order in (False, True):
        network = Network(
            vocab_size=tokens.vocab_size,
            embedding_dim=4,
            rnn_units=5,
            layers=1,
            dropout_rate=0,
            seed=1,
            slots=tokens.slots.sizes,
            any_order=any_order,
        )
        batch = load_batch(examples, positions, 0, 1, (0, 0))
        each = [
            network.loss_sums(
                *(tf.constant(part[row : row + 1]) for part in (batch.inputs, batch.targets, batch.weights))
            )[0]
            / batch.weights[row].sum()
            for row in range(len(positions))
        ]
        assert np.allclose(mean_losses(network, examples, positions), np.array(each), rtol=1e-5)


def test_packing_a_table_into_a_stream_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"examples\.packing"):
        config_of(folder, examples={"packing": "stream"})
