"""Containers: how rows lie in a file, by its first bytes where the name does not say or says otherwise.

    chats.txt, chats     lines of JSON objects: read as JSON lines (`.txt` not with `--format text`)
    rows.jsonl, rows     an array of JSON objects: read as JSON
    rows                 Parquet and Arrow

What is compressed, zipped, no UTF-8 or no data at all under a name that says otherwise is an error: read as
lines it would only be set aside.
"""

from __future__ import annotations

import json
import re

import pyarrow as pa

from tokpack.errors import DataError, UsageError, reading
from tokpack.stages.read.sources import Container, Source, known_extensions
from tokpack.stages.read.streams import BOM, decompress, looked_at, open_hashing

HEAD_BYTES = 1 << 16
LONGEST_LINE = 1 << 24
LINES = 100
ENOUGH = 0.9
MOST_NOTES = 3
AS_TEXT = "--format text packs its lines as plain text"
BINARY: dict[Container, tuple[bytes, ...]] = {
    "parquet": (b"PAR1",),
    "arrow": (b"ARROW1", b"\xff\xff\xff\xff"),
}
FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip data", "name it .gz, or unpack it"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data", "name it .zst, or unpack it"),
    (b"BZh91AY&SY", "bzip2 data", "unpack it"),
    (b"\xfd7zXZ", "xz data", "unpack it"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "unpack it, or save the sheet as CSV in UTF-8"),
    (b"PAR1", "Parquet", "name it .parquet"),
    (b"ARROW1", "an Arrow file", "name it .arrow"),
    (b"\xff\xfe", "text in UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
    (b"{\0", "text in UTF-16", "convert it: iconv -f UTF-16LE -t UTF-8"),
    (b"[\0", "text in UTF-16", "convert it: iconv -f UTF-16LE -t UTF-8"),
    (b"%PDF-", "a PDF", "take its text out first"),
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
)
"""First bytes, what has them, what to do."""
WEB_PAGE = re.compile(rb"\s*<(!doctype|html)", re.IGNORECASE)
ARRAY = re.compile(rb"\s*\[\s*(\{|\]|$)")
CODECS = {".gz": ("gzip", b"\x1f\x8b"), ".zst": ("Zstandard", b"\x28\xb5\x2f\xfd")}
NAMES: dict[str, str] = {
    **{"jsonl": "JSON lines", "json": "JSON", "csv": "CSV", "tsv": "tab-separated cells"},
    "text": "plain text",
}


def recognize(source: Source) -> bytes:
    """Settle the source's container; `note` says where its content decided against its name.

    Returns its first bytes. Raises DataError for content that the name denies, UsageError where neither says
    what it is.
    """
    if source.container == "dataset" or ("://" in source.path and source.container in BINARY):
        return b""  # a remote table is not fetched for the sake of a clearer message
    with reading(source.path):
        head = _head(source)
    if source.compression and not head:
        _check_compression(source)
    if not source.container:
        source.container = next((name for name, starts in BINARY.items() if head.startswith(starts)), "")
    _refuse_foreign(source, head)
    if not source.config.container:
        _settle(source, head)
    return head


def notes(sources: list[Source]) -> list[str]:
    """What a user should know about how the sources are read, a few of many."""
    said = [source.note for source in sources if source.note]
    more = len(said) - MOST_NOTES
    return said if more <= 1 else [*said[:MOST_NOTES], f"and {more:,} inputs more like these"]


def _settle(source: Source, head: bytes) -> None:
    held: Container = ""
    if source.container in ("", "jsonl", "text") and _holds_array(head):
        held = "json"
    elif source.container in ("", "text") and _holds_json_lines(head):
        held = "jsonl"
    wanted = source.config.format
    if source.container == "text" and wanted == "text":
        if held:
            source.note = f"{source.name} holds {NAMES[held]}; its lines are packed as plain text, as asked"
    elif held:
        if source.container == "text":
            source.note = f"{source.name} holds {NAMES[held]} and is read as such; {AS_TEXT}"
        source.container = held
    elif source.container == "text" and wanted != "auto":
        source.container = "jsonl"  # the format asked for has columns
    elif not source.container:
        source.container = _by_format(source)


def _by_format(source: Source) -> Container:
    """Of a source that neither its name nor its content tells."""
    if source.config.format == "text":
        return "text"
    if source.path == "-":
        return "jsonl"
    raise UsageError(
        f"cannot tell the file type of {source.name}",
        where=source.path,
        hint=f"--format text for plain text; {known_extensions()}",
    )


def _holds_json_lines(head: bytes) -> bool:
    """Whether the first lines that are not blank are JSON objects: all, or all but a few broken ones."""
    lines = head.split(b"\n")
    if len(head) >= HEAD_BYTES and len(lines) > 1:
        lines.pop()  # cut off
    filled = [line for line in lines if line.strip()][:LINES]
    objects = sum(_is_json(line, dict) for line in filled)
    return objects > 0 and objects >= ENOUGH * len(filled)


def _holds_array(head: bytes) -> bool:
    """Whether an array of objects begins that is not itself one of many lines."""
    first, _, rest = head.lstrip().partition(b"\n")
    return bool(ARRAY.match(head)) and not (rest.strip() and _is_json(first, list))


def _is_json(line: bytes, kind: type) -> bool:
    try:
        return isinstance(json.loads(line), kind)
    except (ValueError, RecursionError):
        return False


def _check_compression(source: Source) -> None:
    codec, magic = CODECS[source.compression]
    with looked_at(source), open_hashing(source) as raw:
        start = raw.read(len(magic))
    if start and not start.startswith(magic):
        raise DataError(
            f"{source.name} is not compressed by {codec}",
            where=source.path,
            hint=f"take {source.compression} off its name, or fetch the file again",
        )


def _refuse_foreign(source: Source, head: bytes) -> None:
    if head.startswith(BINARY.get(source.container, ())):
        return
    found = next(((what, hint) for start, what, hint in FOREIGN if head.startswith(start)), None)
    if found is None and source.container != "text" and WEB_PAGE.match(head):
        found = "a web page", "fetch the file itself: the server sent a page in its place"
    if found:
        named = NAMES.get(source.container, source.container.capitalize())
        what = f"{source.name} {'holds' if source.compression else 'is'} {found[0]}"
        what += f", not {named}" if named else ""
        no_name = source.path == "-" or source.compression  # that would help
        hint = "unpack it first" if no_name and found[1].endswith("unpack it") else found[1]
        raise DataError(what, where=source.path, hint=hint)


def _head(source: Source) -> bytes:
    """The first bytes, decompressed, with a whole line where it is not too long; none of a damaged file."""
    parts: list[bytes] = []
    with looked_at(source), open_hashing(source) as raw:
        try:
            stream = decompress(raw, source)
            while data := stream.read(HEAD_BYTES):
                parts.append(data)
                if b"\n" in data or len(parts) * HEAD_BYTES >= LONGEST_LINE:
                    break
        except (OSError, pa.ArrowException) as error:  # Arrow's, about the content, have no number
            if isinstance(error, OSError) and error.errno is not None:
                raise
    return b"".join(parts).removeprefix(BOM)
