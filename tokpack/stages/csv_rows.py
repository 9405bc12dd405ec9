"""CSV -> record batches in which every cell is text.

A row with too many or too few cells, or with bytes that are not UTF-8, keeps its place: it is empty, and
`UNREADABLE` says why and holds its bytes. `normalize` sets it aside.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import IO, Any

import pyarrow as pa

UNREADABLE = "tokpack:unreadable"
"""Column of every CSV table: null, or what is wrong with the row."""
_FAULT = pa.struct([("reason", pa.string()), ("raw", pa.binary())])
_HEAD_BYTES = 1 << 20


def csv_batches(stream: IO[bytes]) -> Iterator[pa.RecordBatch]:
    """Raises pa.ArrowException for what is no CSV at all."""
    head = stream.read(_HEAD_BYTES)
    names = _open(io.BytesIO(head), lambda row: "skip", None).schema.names
    misfits: list[Any] = []

    def set_aside(row: Any) -> str:
        misfits.append(row)
        return "skip"

    place = 0
    for batch in _open(_Joined(head, stream), set_aside, names):
        for whole in _with_misfits(_as_text(batch), misfits, place):
            place += whole.num_rows
            yield whole
    empty = pa.RecordBatch.from_pylist([], schema=_schema(names))
    yield from _with_misfits(empty, misfits, place)


def _open(stream: Any, invalid: Callable[[Any], str], names: list[str] | None) -> Any:
    import pyarrow.csv as pacsv

    return pacsv.open_csv(
        stream,
        parse_options=pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=invalid),
        convert_options=pacsv.ConvertOptions(
            check_utf8=False,
            column_types=dict.fromkeys(names or (), pa.binary()),
            strings_can_be_null=False,
        ),
    )


def _schema(names: list[str]) -> pa.Schema:
    return pa.schema([*((name, pa.string()) for name in names), (UNREADABLE, _FAULT)])


def _as_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    schema = _schema(batch.schema.names)
    try:
        texts = [column.cast(pa.string()) for column in batch.columns]
        return pa.RecordBatch.from_arrays([*texts, pa.nulls(batch.num_rows, _FAULT)], schema=schema)
    except pa.ArrowInvalid:
        columns = [column.to_pylist() for column in batch.columns]
        rows = [_decoded(cells, schema.names) for cells in zip(*columns, strict=True)]
        return pa.RecordBatch.from_pylist(rows, schema=schema)


def _decoded(cells: tuple[bytes, ...], names: list[str]) -> dict[str, Any]:
    try:
        return dict(zip(names, (cell.decode("utf-8") for cell in cells), strict=False))
    except UnicodeDecodeError as error:
        return _unreadable(f"not UTF-8: byte {error.object[error.start]:#04x}", b",".join(cells))


def _with_misfits(batch: pa.RecordBatch, misfits: list[Any], place: int) -> Iterator[pa.RecordBatch]:
    """The batch, which begins at row `place`, with the misfits that belong before or among its rows."""
    done = 0
    while misfits and misfits[0].number - 2 <= place + batch.num_rows:  # the header is row 1
        row = misfits.pop(0)
        before = row.number - 2 - place - done
        yield batch.slice(done, before)
        cells = f"the header has {row.expected_columns} cells, the row {row.actual_columns}"
        yield pa.RecordBatch.from_pylist([_unreadable(cells, row.text.encode())], schema=batch.schema)
        done, place = done + before, place + 1
    yield batch.slice(done)


def _unreadable(reason: str, raw: bytes) -> dict[str, Any]:
    return {UNREADABLE: {"reason": reason, "raw": raw}}


class _Joined(io.RawIOBase):
    """`head`, then the rest of `stream`."""

    def __init__(self, head: bytes, stream: IO[bytes]) -> None:
        self._head, self._stream = io.BytesIO(head), stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head.read(len(buffer)) or self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
