"""CSV, and cells separated by tabs -> record batches in which every cell is text.

A row with too many or too few cells, or with bytes that are not UTF-8, keeps its place: it is empty, and the
column `UNREADABLE`, which every table has, says why and holds its bytes. `normalize` sets it aside.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from tokpack.errors import DataError
from tokpack.stages.read.faults import FAULT, UNREADABLE
from tokpack.stages.read.streams import Joined, check_columns

_HEAD_BYTES = 1 << 20
_BLOCK_BYTES = 16 << 20
"""Of Arrow's reader: no row can be longer."""
_END = "tokpack:end"
"""A last line of ours. Arrow closes a quote that is open at the end of the file without a word: then this is
the end of a cell, not a row."""
_CLOSE = 'close the quote (`"`), and write one inside a cell twice (`""`)'
_ESCAPES = 0x10FF00
"""Byte b that is no UTF-8 passes Arrow's reader as the character `_ESCAPES + b`, and so does each byte of a
character that stands for one."""
_ESCAPED = "[\U0010ff80-\U0010ffff]"
_TAKEN = (b"\xf4\x8f\xbe", b"\xf4\x8f\xbf")
"""How these characters begin in UTF-8."""
_UNESCAPE = {_ESCAPES + byte: 0xDC00 + byte for byte in range(0x80, 0x100)}
_ESCAPE: dict[int, int | str] = {surrogate: escape for escape, surrogate in _UNESCAPE.items()}
_ESCAPE |= {escape: "".join(chr(_ESCAPES + byte) for byte in chr(escape).encode()) for escape in _UNESCAPE}


def csv_batches(stream: IO[bytes], where: str, mark: str = ",") -> Iterator[pa.RecordBatch]:
    """`mark`: what separates cells.

    Raises pa.ArrowException for what is no CSV at all.

    Raises DataError for a header that is not UTF-8 or names too many columns, and for an open quote that
    swallows the rows after it.
    """
    with _long_rows_named(where):
        escaped = _Escaped(stream)
        text = io.BufferedReader(escaped, _HEAD_BYTES)
        head = text.read(_HEAD_BYTES)
        if head.strip() == _END.encode():
            return
        names = _open(io.BytesIO(head), lambda row: "skip", mark, None).schema.names
        if fault := _fault_of(_bytes_of("".join(names))):
            raise DataError(
                f"the header is {fault}", where=where, hint="convert the file: iconv -f LATIN1 -t UTF-8"
            )
        check_columns(len(names), where)
        misfits: list[Any] = []

        def set_aside(row: Any) -> str:
            if row.text != _END:
                misfits.append(row)
            return "skip"

        place = 0
        empty = pa.RecordBatch.from_pylist([], schema=_schema(names))
        tables = _open(io.BufferedReader(Joined(head, text), _HEAD_BYTES), set_aside, mark, names)
        checked = (_as_text(_without_end(batch), escaped.found) for batch in tables)
        for batch in chain(checked, [empty]):
            for whole in _with_misfits(batch, misfits, place):
                place += whole.num_rows
                yield from _closed(whole, f"{where}:{place}")


@contextmanager
def _long_rows_named(where: str) -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid as error:
        if "straddles" not in str(error):
            raise
        what = f"a row of more than {_BLOCK_BYTES >> 20} MB"
        raise DataError(what, where=where, hint=f"{_CLOSE}, or use JSONL or Parquet") from None


def _without_end(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`_END` is a row of a table of one column, and a misfit in others."""
    if batch.num_columns == 1 and batch.num_rows and batch.column(0)[-1].as_py() == _END:
        return batch.slice(0, batch.num_rows - 1)
    return batch


def _closed(batch: pa.RecordBatch, where: str) -> Iterator[pa.RecordBatch]:
    """The batch; its last row is unreadable when it runs to the file's end inside a quote.

    Raises DataError when other lines are lost in it.
    """
    row = batch.slice(max(0, batch.num_rows - 1)).to_pylist()
    cells = list(row[0].values()) if row else [None]
    fault = cells.pop()
    raw = fault["raw"] if fault else ",".join(cell or "" for cell in cells).encode()
    if not raw.endswith(_END.encode()):
        yield batch
        return
    raw = raw.removesuffix(f"\n{_END}".encode()).rstrip(b"\r\n")
    if lines := raw.count(b"\n"):
        after = "line" if lines == 1 else f"{lines:,} lines"
        raise DataError(
            f"a quote is opened and never closed: the row takes in the {after} after it",
            where=where,
            hint=_CLOSE,
        )
    yield batch.slice(0, batch.num_rows - 1)
    yield pa.RecordBatch.from_pylist([_unreadable("a quote is not closed", raw)], schema=batch.schema)


def _open(stream: Any, invalid: Callable[[Any], str], mark: str, names: list[str] | None) -> Any:
    import pyarrow.csv as pacsv

    return pacsv.open_csv(
        stream,
        # With threads Arrow does not say which row is a misfit.
        read_options=pacsv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
        parse_options=pacsv.ParseOptions(
            delimiter=mark, newlines_in_values=True, invalid_row_handler=invalid
        ),
        convert_options=pacsv.ConvertOptions(
            check_utf8=False,
            column_types=dict.fromkeys(names or (), pa.string()),
            strings_can_be_null=False,
        ),
    )


def _schema(names: list[str]) -> pa.Schema:
    return pa.schema([*((name, pa.string()) for name in names), (UNREADABLE, FAULT)])


def _as_text(batch: pa.RecordBatch, escaped: bool) -> pa.RecordBatch:
    schema = _schema(batch.schema.names)
    if not escaped or not any(_has_escapes(column) for column in batch.columns):
        columns = [*batch.columns, pa.nulls(batch.num_rows, FAULT)]
        return pa.RecordBatch.from_arrays(columns, schema=schema)
    columns = [column.to_pylist() for column in batch.columns]
    rows = [_checked(cells, schema.names) for cells in zip(*columns, strict=True)]
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def _has_escapes(column: pa.Array) -> bool:
    return bool(pc.any(pc.match_substring_regex(column, _ESCAPED)).as_py())


def _checked(cells: tuple[str, ...], names: list[str]) -> dict[str, Any]:
    raw = _bytes_of(",".join(cells))
    fault = _fault_of(raw)
    if fault:
        return _unreadable(fault, raw)
    return dict(zip(names, (_bytes_of(cell).decode() for cell in cells), strict=False))


def _bytes_of(text: str) -> bytes:
    """What stood in the file."""
    return text.translate(_UNESCAPE).encode("utf-8", "surrogateescape")


def _fault_of(raw: bytes) -> str:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte {raw[error.start]:#04x}"
    return ""


def _with_misfits(batch: pa.RecordBatch, misfits: list[Any], place: int) -> Iterator[pa.RecordBatch]:
    """The batch, which begins at row `place`, with the misfits that belong before or among its rows."""
    done = 0
    while misfits and misfits[0].number - 2 <= place + batch.num_rows:  # the header is row 1
        row = misfits.pop(0)
        before = row.number - 2 - place - done
        yield batch.slice(done, before)
        cells = f"the header has {row.expected_columns} cells, the row {row.actual_columns}"
        yield pa.RecordBatch.from_pylist([_unreadable(cells, _bytes_of(row.text))], schema=batch.schema)
        done, place = done + before, place + 1
    yield batch.slice(done)


def _unreadable(reason: str, raw: bytes) -> dict[str, Any]:
    return {UNREADABLE: {"reason": reason, "raw": raw}}


class _Escaped(io.RawIOBase):
    """`stream` as UTF-8 whatever is in it: Arrow hands misfits over as text and stops at others."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._cut, self._ready = stream, b"", io.BytesIO()
        self._ended = False
        self.found = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._ready.read(len(buffer))
        while not data:
            read = self._stream.read(max(1 << 16, len(buffer)))
            whole = self._whole(self._cut + read, final=not read)
            if not read:
                if self._ended:
                    return 0
                self._ended = True
                whole += f"\n{_END}".encode()
            self._ready = io.BytesIO(whole)
            data = self._ready.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _whole(self, data: bytes, final: bool) -> bytes:
        """`data` without the beginning of a character at its end."""
        try:
            _, used = codecs.utf_8_decode(data, "strict", final)
            whole, odd = data[:used], any(taken in data for taken in _TAKEN)
        except UnicodeDecodeError:
            odd = True
        if odd:
            text, used = codecs.utf_8_decode(data, "surrogateescape", final)
            whole = text.translate(_ESCAPE).encode("utf-8")
            self.found = True
        self._cut = data[used:]
        return whole
