"""What `tokpack inspect` shows: a row, or the document that is in none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokpack.errors import UsageError
from tokpack.packed.folder import PackedFolder
from tokpack.packed.viewer import ShownRow, choose_row

if TYPE_CHECKING:
    from tokpack.packed.left_out import ShownLeftOut


def row_or_left_out(
    packed: Path,
    row: int | None,
    doc: int | None,
    max_tokens: int,
    *,
    source: str | None = None,
    longest: bool = False,
    worst_fill: bool = False,
) -> ShownRow | ShownLeftOut:
    """Raises UsageError for a row or document that is not there."""
    opened = PackedFolder(packed)
    try:
        chosen = choose_row(opened, row, doc, source=source, longest=longest, worst_fill=worst_fill)
    except UsageError as error:
        if doc is None:
            raise
        from tokpack.packed.left_out import ShownLeftOut, find_left_out  # all that reads and renders inputs

        try:
            found = find_left_out(opened, doc)
        except UsageError:
            raise error from None
        return ShownLeftOut(found, opened.tokenizer.special_tokens)
    return ShownRow(opened, chosen, max_tokens)
