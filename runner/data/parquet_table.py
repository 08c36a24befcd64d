"""Parquet files as tables of texts."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from runner.data.table import NumberedRows, Table
from runner.data.texts import NoTextError, to_texts
from runner.errors import DataError

ROWS_PER_BATCH = 512


class ParquetTable(Table):
    """One Parquet file; what each type of column becomes is said in `texts.py`."""

    counted_in = "row"

    def rows(self, columns: Iterable[str] | None = None) -> NumberedRows:
        number = 0
        with self.source.open() as file:
            try:
                parquet = pq.ParquetFile(file, pre_buffer=False, arrow_extensions_enabled=True)
                names = parquet.schema_arrow.names
                if twice := [name for name in names if names.count(name) > 1]:
                    raise DataError(f"{self.source.uri} has column {twice[0]!r} twice")
                wanted = names if columns is None else [name for name in names if name in set(columns)]
                if columns is not None:
                    self.check_columns(columns, names)
                for batch in parquet.iter_batches(ROWS_PER_BATCH, columns=wanted):
                    # By name: for `a.b` Arrow reads the child b of a struct a, too.
                    columns_read = [batch.column(batch.schema.get_field_index(name)) for name in wanted]
                    values = [self._texts(*each).to_pylist() for each in zip(wanted, columns_read, strict=True)]
                    for row in zip(*values, strict=True):
                        number += 1
                        yield number, dict(zip(wanted, row, strict=True))
            except UnicodeDecodeError:
                raise DataError(f"{self.where(number + 1)} or soon after: not valid UTF-8") from None
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self.source.uri}: not a readable Parquet file: {error}") from error

    def _texts(self, name: str, values: pa.Array) -> pa.Array:
        try:
            return to_texts(values)
        except NoTextError as error:
            raise DataError(f"{self.source.uri}: column {name} {error}") from None
