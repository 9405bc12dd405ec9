"""Commands of jq in hints, made to work on the file at hand: jq reads JSON, none in texts, and no tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tokpack.stages.normalize.fields import Row, as_json
from tokpack.stages.read.sources import Source

LINES = "lines.jsonl"
_PROGRAM = re.compile(r"(jq -c\w* (?:--slurpfile \w+ \w+ )?')(.+?)' FILE")
_DECODED = (
    'with_entries(.value as $v | .value = ($v | if type == "string" and test("^\\\\s*[\\\\[{]") '
    "then (try fromjson catch $v) else . end))"
)
"""Texts of JSON as what they hold. jq 1.6 does not do it with `map_values`."""
_UNPACK = {".gz": "gzip -dc", ".zst": "zstd -dc"}
_JSON = ("json", "jsonl", "text")


def for_file(hint: str, source: Source, rows: Sequence[Row]) -> str:
    """The hint; of a file that is none of plain JSON lines with what writes its rows as such."""
    if not _PROGRAM.search(hint):
        return hint
    named = [value for row in rows for name, value in row.items() if name in hint]
    texts = any(isinstance(value, str) and as_json(value) is not value for value in named)

    def command(match: re.Match[str]) -> str:
        jq, program = match.groups()
        slurped = jq.startswith("jq -cs")
        if texts:
            program = f"{f'map({_DECODED})' if slurped else _DECODED} | {program}"
        if source.container == "json":
            program = f"{'map(arrays[], objects)' if slurped else 'arrays[], objects'} | {program}"
        unpacked = _UNPACK.get(source.compression)
        if unpacked and source.container in _JSON:
            return f"{unpacked} FILE | {jq}{program}'"
        return f"{jq}{program}' {'FILE' if source.container in _JSON else LINES}"

    hint = _PROGRAM.sub(command, hint)
    return hint if source.container in _JSON else f"{_to_lines(source)} writes {LINES}, and then {hint}"


def _to_lines(source: Source) -> str:
    """What writes the rows of a table as JSON lines."""
    reads = {
        "parquet": "scan_parquet('FILE')",
        "csv": "scan_csv('FILE', infer_schema=False)",
        "tsv": "scan_csv('FILE', infer_schema=False, separator='\\t')",
    }
    if source.container == "dataset":
        return f"python -c \"import datasets; datasets.load_from_disk('FILE').to_json('{LINES}')\""
    read = reads.get(source.container, f"{_arrow(source.path)}('FILE').lazy()")
    return f"python -c \"import polars; polars.{read}.sink_ndjson('{LINES}')\""


def _arrow(path: str) -> str:
    """What of polars reads an Arrow file; some are streams."""
    try:
        with Path(path).open("rb") as file:
            return "read_ipc" if file.read(6) == b"ARROW1" else "read_ipc_stream"
    except OSError:
        return "read_ipc"
