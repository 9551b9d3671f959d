"""Read CSV, TSV (either may be gzipped) and Parquet files, local or by URL.

Of a CSV only the wanted columns are converted, block by block, and rows are filtered as they are read; of Parquet only
the wanted columns are read, without the row groups that no filter lets pass.
"""

import csv
import gzip
import io
import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, cast

from cxr_ft.data.sources import remote_files
from cxr_ft.data.sources.address import is_url, is_web
from cxr_ft.data.sources.table_query import Among, Filters, is_text
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    from _typeshed import WriteableBuffer

    Column: TypeAlias = pa.ChunkedArray | pc.Expression

#: Bytes read at a time; no row of a CSV may be longer.
_BLOCK = 2**24
#: Bytes in which the header must end.
_HEAD = 2**20
#: The content of a sentinel row behind the last one; no table has such a cell.
_MARK = "\x1f\x1f"


class CsvTable:
    """A CSV or TSV; all its columns are text, and an empty cell is missing. A class may be called None."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.separator = "\t" if ".tsv" in source.lower()[-7:] else ","
        with _opened(source) as stream:
            self.header = self._header(stream.read(_HEAD))

    def fields(self) -> "Mapping[str, pa.DataType]":
        """Return the columns, all text."""
        import pyarrow as pa

        return dict.fromkeys(self.header, pa.string())

    def read(self, columns: Sequence[str], filters: Filters) -> "pa.Table":
        """Return these columns of the rows that pass the filters, in the file's order.

        Raises:
            UsageError: for a row with more or fewer cells than the header, or a quote that is never closed.
        """
        import pyarrow as pa

        # At least one column, since Arrow counts rows by the columns it converts.
        needed = list(dict.fromkeys([*columns, *filters])) or self.header[:1]
        if twice := next((name for name in needed if self.header.count(name) > 1), None):
            raise UsageError(f"{self.source} has two columns {twice}; rename one")
        with _opened(self.source) as stream:
            batches = [
                pa.table(_passing_rows(batch, filters)).select(columns) for batch in self._batches(stream, needed)
            ]
        return pa.concat_tables(batches)

    def _header(self, start: bytes) -> list[str]:
        text = getincrementaldecoder("utf-8-sig")().decode(start, final=len(start) < _HEAD)
        # A header's cell may hold a line feed in quotes, so its end is not simply the first line's.
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=self.separator)
        if not (header := next(filter(None, rows), [])):
            raise UsageError(f"{self.source} cannot be read: No columns, it is empty")
        return header

    def _batches(self, stream: BinaryIO, needed: list[str]) -> "Iterator[pa.RecordBatch]":
        """Yield the file's rows. If the sentinel row behind them is not parsed as a row, an open quote contains it."""
        import pyarrow as pa
        from pyarrow import csv as arrow

        # Arrow takes an unclosed quote for a cell that ends with the file, without an error.
        end = "\n" + self.separator.join([_MARK] * len(self.header)) + "\n"
        options = {
            "read_options": arrow.ReadOptions(block_size=_BLOCK, use_threads=False),
            "parse_options": arrow.ParseOptions(delimiter=self.separator, newlines_in_values=True),
            "convert_options": arrow.ConvertOptions(
                include_columns=needed,
                column_types=dict.fromkeys(needed, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        }
        batch = None
        try:
            with arrow.open_csv(io.BufferedReader(_Followed(stream, end.encode())), **options) as reader:
                for following in reader:
                    if not following.num_rows:
                        continue
                    # One batch behind, so that the sentinel row can be taken off the last one.
                    if batch is not None:
                        yield batch
                    batch = following
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise UsageError(f"{self.source} cannot be read: {_without_cells(str(error))}") from None
        if batch is None or batch.column(0)[-1].as_py() != _MARK:
            raise UsageError(f"{self.source} cannot be read: it ends inside quotes; is it cut short?")
        yield batch.slice(0, batch.num_rows - 1)


class ParquetTable:
    """A Parquet file, or a local folder of them."""

    def __init__(self, source: str) -> None:
        from pyarrow import dataset

        if not is_url(source):
            self.data = dataset.dataset(source, format="parquet", partitioning="hive")
        elif is_web(source):
            whole = dataset.ParquetFileFormat().make_fragment(remote_files.download(source))
            self.data = dataset.FileSystemDataset([whole], whole.physical_schema, whole.format)
        else:
            system, path = remote_files.file_system(source)
            self.data = dataset.dataset(path, format="parquet", filesystem=system)
        # The index may be a column that is wanted (a study's number), and pandas stores only its start, stop and step.
        if counted := _counted(self.data.schema):
            table = self.data.to_table()
            for name, rows in counted.items():
                table = table.append_column(name, [list(rows)])
            self.data = dataset.dataset(table)

    def fields(self) -> "Mapping[str, pa.DataType]":
        """Return the columns, without the index that pandas wrote."""
        return {f.name: f.type for f in self.data.schema if not re.fullmatch(r"__index_level_\d+__", f.name)}

    def read(self, columns: Sequence[str], filters: Filters) -> "pa.Table":
        """Return these columns of the rows that pass the filters, in the file's order."""
        import pyarrow.compute as pc

        passing = None
        for name, among in filters.items():
            # An expression and not a mask: Arrow then skips row groups whose statistics rule it out.
            here = _passes(pc.field(name), among)
            passing = here if passing is None else passing & here
        return self.data.to_table(columns=list(columns), filter=passing)


class _Followed(io.RawIOBase):
    """A stream, and then some more bytes."""

    def __init__(self, stream: BinaryIO, more: bytes) -> None:
        self.parts: list[BinaryIO] = [stream, io.BytesIO(more)]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        while self.parts:
            if block := self.parts[0].read(len(view)):
                view[: len(block)] = block
                return len(block)
            self.parts.pop(0)
        return 0


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    with remote_files.open_file(source) as stream:
        yield cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if source.lower().endswith(".gz") else stream


def _counted(schema: "pa.Schema") -> dict[str, range]:
    """Return columns that pandas did not write since they only count: rows' names, which the file's head describes."""
    metadata = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    named = [column for column in metadata.get("index_columns", ()) if isinstance(column, dict) and column.get("name")]
    return {str(column["name"]): range(column["start"], column["stop"], column["step"]) for column in named}


def _passing_rows(batch: "pa.RecordBatch", filters: Filters) -> "dict[str, pa.ChunkedArray]":
    """Return the columns of a batch, without the rows that a filter stops."""
    import pyarrow as pa

    table = pa.Table.from_batches([batch])
    for name, among in filters.items():
        table = table.filter(_passes(table.column(name), among))
    return dict(zip(table.column_names, table.columns, strict=True))


def _passes(column: "Column", among: Among) -> "Column":
    """Return a mask of the values of a column, or of an expression, that a filter wants."""
    import pyarrow as pa
    import pyarrow.compute as pc

    dictionary = pa.types.is_dictionary(among.kind)
    # is_in does not take dictionaries, so both sides are compared by their values.
    kind = among.kind.value_type if dictionary else among.kind
    values = [*among.values, *([""] if among.missing and is_text(kind) else [])]
    inside = pc.is_in(column.cast(kind) if dictionary else column, pa.array(values, kind))
    if not among.missing:
        return inside
    # Not is_null's own nan_is_null: it trusts a row group's count of nulls, which does not count NaN.
    absent = pc.is_null(column)
    if pa.types.is_floating(kind):
        absent = pc.or_kleene(absent, pc.is_nan(column))
    return pc.or_kleene(inside, absent)


def _without_cells(error: str) -> str:
    """Return the parser's message without the row that it quotes."""
    first = error.partition("\n")[0]
    match = re.match(r"CSV parse error: (?:Row #(\d+): )?Expected (\d+) columns, got (\d+)", first)
    if match is None:
        return first if ": " not in first or "CSV parse error" not in first else "it is no CSV"
    row = f"row {match[1]}" if match[1] else "a row"
    return f"{row} has {match[3]} cells, its header {match[2]}"
