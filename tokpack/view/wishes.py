"""The keep list that the page writes: documents that a person wants after all, for `pack --keep`."""

from __future__ import annotations

import threading
from pathlib import Path

from tokpack.errors import UsageError, writing
from tokpack.files.durable import write_durably
from tokpack.packed.folder import PackedFolder
from tokpack.stages.keep import KeepList
from tokpack.terminal.printable import one_line

HEAD = "# documents to keep after all: tokpack pack ... --keep FILE\n"


class KeepFile:
    """A keep list on disk, written anew with each change. Raises UsageError when it is of other data."""

    def __init__(self, path: Path, packed: PackedFolder) -> None:
        self.path, self._lock = path, threading.Lock()
        self._inputs = {one["name"]: one["sha256"] for one in packed.manifest["inputs"]}
        found = KeepList.load(path) if path.exists() else KeepList()
        if any(self._inputs.get(name) != digest for name, digest in found.inputs.items()):
            raise UsageError(
                "the keep list is of other data", where=str(path), hint="give --keep-file another name"
            )
        self._notes: dict[int, str] = dict.fromkeys(found.doc_ids.tolist(), "")
        self._notes |= _notes(path)

    @property
    def doc_ids(self) -> list[int]:
        return sorted(self._notes)

    def __contains__(self, doc_id: int) -> bool:
        return doc_id in self._notes

    def set(self, doc_id: int, wanted: bool, note: str = "") -> None:
        """Add a document, or take it out; the file is whole at any time. Raises OutputError."""
        with self._lock:
            if wanted:
                self._notes.setdefault(doc_id, one_line(note))
            else:
                self._notes.pop(doc_id, None)
            with writing(self.path, resumes=False):
                write_durably(self.path, self._text().encode())

    def _text(self) -> str:
        inputs = "".join(f"# input {one_line(n)} {digest}\n" for n, digest in self._inputs.items() if digest)
        notes = self._notes.items()
        lines = (f"{doc}  # {note}\n" if note else f"{doc}\n" for doc, note in sorted(notes))
        return HEAD + inputs + "".join(lines)


def _notes(path: Path) -> dict[int, str]:
    """Comments behind numbers."""
    if not path.exists():
        return {}
    parts = (line.partition("#") for line in path.read_bytes().decode("utf-8", "replace").splitlines())
    return {int(number): note.strip() for number, _, note in parts if number.strip().isdecimal()}
