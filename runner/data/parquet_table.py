"""Parquet files as tables of texts."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from runner.data.table import NumberedRows, Table
from runner.errors import DataError

ROWS_PER_BATCH = 512


class ParquetTable(Table):
    """One Parquet file; a value that is no text becomes one as Arrow writes it."""

    counted_in = "row"

    def rows(self, columns: Iterable[str] | None = None) -> NumberedRows:
        number = 0
        with self.source.open() as file:
            try:
                parquet = pq.ParquetFile(file, pre_buffer=False)
                names = parquet.schema_arrow.names
                if twice := [name for name in names if names.count(name) > 1]:
                    raise DataError(f"{self.source.uri} has column {twice[0]!r} twice")
                wanted = names if columns is None else [name for name in names if name in set(columns)]
                if columns is not None:
                    self.check_columns(columns, names)
                for batch in parquet.iter_batches(ROWS_PER_BATCH, columns=wanted):
                    values = [self._texts(name, batch.column(name)).to_pylist() for name in wanted]
                    for row in zip(*values, strict=True):
                        number += 1
                        yield number, dict(zip(wanted, row, strict=True))
            except UnicodeDecodeError:
                raise DataError(f"{self.where(number + 1)} or soon after: not valid UTF-8") from None
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self.source.uri}: not a readable Parquet file: {error}") from error

    def _texts(self, name: str, values: pa.Array) -> pa.Array:
        try:
            return values.cast(pa.large_string())
        except pa.ArrowException:
            raise DataError(f"{self.source.uri}: column {name} is {values.type}, not text") from None
