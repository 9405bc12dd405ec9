"""The dataset card of a packed dataset, from its manifest: what it holds, what was left out, its use."""

from __future__ import annotations

from typing import Any

from tokpack.on_disk.shards import ARROW, INDEX
from tokpack.terminal.activity import counted, in_number
from tokpack.terminal.printable import one_line, without_secrets

CARD = "README.md"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LARGE = "1M<n<10M"


def make_card(manifest: dict[str, Any], url: str, validation: bool = False) -> str:
    """Markdown with the Hub's header. Texts of the data (names of inputs) are escaped."""
    ledger, capacity, rows = manifest["ledger"], manifest["capacity"], manifest["rows"]
    documents, tokens, tokenizer = ledger["documents"], ledger["tokens"], manifest["tokenizer"]
    trained, slots = ledger["trained"], ledger["slots"]
    place = one_line(without_secrets(url))
    fill, held = slots["packed"] / max(slots["total"], 1), counted(documents["kept"], "document")
    learned = in_number(trained["trained"], f"{trained['trained']:,} (is|are)")
    return f"""\
---
tags: [tokpack, packed]
size_categories: [{next((name for most, name in SIZES if rows < most), LARGE)}]
{_splits(manifest, validation)}---

# {_cell(place.rsplit("/", 1)[-1])}

{counted(rows, "packed row")} of up to {capacity:,} tokens, {fill:.2%} full.
{"It holds" if rows == 1 else "They hold"} {held} of {counted(tokens["packed"], "token")}; {learned} trained.
Made by [tokpack](https://pypi.org/project/tokpack/) {_cell(manifest["tokpack_version"])}.

| | |
|---|---|
| tokenizer | {_cell(tokenizer["name"])}, vocabulary `{tokenizer["vocab_sha256"][:16]}` |
| trained on | {_cell(manifest["template"]["loss"])} |
| rows | `input_ids`, `labels` (-100: not trained), `seq_lengths`, `doc_ids` |

## Use

```python
import tokpack

packed = tokpack.open_packed("{place}")  # every sum is compared
packed[0]["input_ids"]
```

`tokpack verify {place}` proves it, `tokpack train {place} --model MODEL -o adapter` trains on it.
Documents of a row must not see each other, which plain loaders do not care for.

{what_became(ledger)}
| input | SHA-256 |
|---|---|
{_inputs(manifest["inputs"])}
Each document that was left out is named, with the reason, in `dropped.parquet`.
"""


def what_became(ledger: dict[str, Any]) -> str:
    """A section about the documents and tokens that were read."""
    documents, tokens = ledger["documents"], ledger["tokens"]
    return f"""\
## What became of the data

| documents | |
|---|---:|
| read | {documents["read"]:,} |
| kept | {documents["kept"]:,} |
{_reasons(documents)}
| tokens | |
|---|---:|
| tokenized | {tokens["tokenized"]:,} |
| packed | {tokens["packed"]:,} |
{_reasons(tokens)}"""


def _splits(manifest: dict[str, Any], validation: bool) -> str:
    """What the Hub shows and `datasets` loads; nothing of an index packed dataset, whose rows are a plan."""
    ending = manifest["shards"][0]["file"].rpartition(".")[2] if manifest["shards"] else ARROW
    if ending == INDEX:
        return ""
    text = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data-*.{ending}\n"
    return text + (f"  - split: validation\n    path: validation/data-*.{ending}\n" if validation else "")


def _reasons(counts: dict[str, Any]) -> str:
    lines = [
        f"| left out: {_cell(reason)} | {number:,} |" for reason, number in sorted(counts["dropped"].items())
    ]
    if counts.get("quarantined"):
        lines.append(f"| unreadable | {counts['quarantined']:,} |")
    return "".join(line + "\n" for line in lines)


def _inputs(inputs: list[dict[str, Any]]) -> str:
    return "".join(f"| {_cell(entry['name'])} | `{(entry['sha256'] or '')[:16]}` |\n" for entry in inputs)


def _cell(text: str) -> str:
    """As text in a table's cell: no markup, no HTML."""
    shown = one_line(str(text), 200).replace("&", "&amp;").replace("<", "&lt;")
    for sign in "\\`*_[]|":
        shown = shown.replace(sign, "\\" + sign)
    return shown
