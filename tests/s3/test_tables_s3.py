"""Tables on S3 are read as those at home are: by import, as prompts, and as synthetic records."""

from __future__ import annotations

import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.data import sources
from runner.data.importing import import_records
from runner.errors import DataError, StorageError
from runner.generation.prompts import read_prompts
from runner.report.synthetic import read_records
from runner.storage import Folder, open_folder

ROWS = [("a", "1"), ("b\nc", "2"), ("", "3")]


def parquet() -> bytes:
    data = io.BytesIO()
    table = pa.table({"one": [one for one, _ in ROWS], "two": [two for _, two in ROWS]})
    pq.write_table(table, data, row_group_size=1)
    return data.getvalue()


FILES = {
    "a.csv": '\ufeffone,two\r\na,1\r\n"b\nc",2\r\n,3\r\n'.encode(),
    "a.csv.gz": gzip.compress(b'one,two\na,1\n"b\nc",2\n,3\n', mtime=0),
    "a.json": b'[{"one": "a", "two": 1}, {"one": "b\\nc", "two": 2}, {"one": "", "two": 3}]',
    "a.parquet": parquet(),
}


@pytest.mark.parametrize("name", FILES)
def test_a_table_on_s3_is_read_by_ranges(name: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES_OF_S3", 16)
    folder = open_folder(f"s3://{bucket}/some where/")
    folder.write(name, FILES[name])
    read = type(folder).read

    def read_another(self: Folder, wanted: str) -> bytes:
        assert wanted != name
        return read(self, wanted)

    monkeypatch.setattr(type(folder), "read", read_another)
    uri = f"{folder.uri}/{name}"
    summary = import_records(uri, f"s3://{bucket}/records/")
    assert (summary.records, summary.columns) == (3, ("one", "two"))
    assert read_prompts(uri, "one") == ("a", "b\nc", "")
    if not name.endswith((".gz", ".json")):
        assert read_records(uri, ("one", "two"), "|").texts == tuple("|".join(row) for row in ROWS)


def test_a_table_that_is_not_on_s3_is_told(bucket: str) -> None:
    with pytest.raises(DataError, match=f"s3://{bucket}/none.csv: no such file"):
        import_records(f"s3://{bucket}/none.csv", f"s3://{bucket}/records/")
    with pytest.raises(StorageError, match="there is no bucket"):
        read_prompts("s3://not-there-at-all/a.csv", "one")
