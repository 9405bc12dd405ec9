"""Random chats through every template of trl: ids and labels held against transformers and trl's tags.

    python tests/fuzz_chats.py --chats 5000 --seed 0
    python tests/fuzz_chats.py --chats 500 --templates qwen3,gptoss --tokenizer FOLDER
    python tests/fuzz_chats.py --chats 500 --ways

A batch of chats is a file of rows, which takes pass 1 with settings drawn by seed: arguments of calls,
segments, truncation, arguments of the template, proofs of some rows or of all. Every chat ends in one of

    equal      ids and labels are those of `chat_oracle`
    refused    by the template: its exception is the record's reason
    left out   by us, with a reason that is so: the content is not in what the template writes
    untold     by us: the place of another message's text cannot be told
    dropped    longer than a row, or nothing of it is trained
    fault      anything else, printed with its batch

With `--ways` compiled shapes are held against Jinja instead, with segments and without: `chat_ways`.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import families
from chat_oracle import ANY, Oracle, Refused, Right, forms, said
from chat_ways import Ways, both_ways
from drawn_chats import BATCH, MARKS, Batch, Chat, batch


@dataclass
class Ours:
    """What a run made of a row: `ids` and `mask` of its pieces end to end, or `reason` and `detail`."""

    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    reason: str = ""
    detail: str = ""


def run_batch(made: Batch, tokenizer: Any, folder: Path) -> tuple[list[Ours], list[str], dict[str, int]]:
    """(each row's outcome, warnings of the renderer, counters of paths)."""
    from tokpack.run import Run
    from tokpack.schema import SEGMENT, TRAINED
    from tokpack.settings.config import Config
    from tokpack.way.pass_one import pass_one
    from tokpack.way.store import TokenStore

    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in made.rows), encoding="utf-8")
    settings: dict[str, Any] = {
        "source": [{"path": str(data), "format": "messages"}],
        "clean": {"rules": "off", "special_in_content": "keep"},
        "render": made.render,
        "truncate": made.truncate,
        "tokenize": {"tokenizer": str(tokenizer.folder)},
        "read": {"allow_bad": 1.0},
    }
    own = copy(tokenizer)
    own.chat_template = own.tool_template = families.stock(made.name)
    run = replace(Run.start(Config.from_dict(settings), 1, own), learned=False)
    store = TokenStore(folder / "store", run.fingerprint(), lasts=False)
    corpus = pass_one(run, store)
    found: dict[int, Ours] = {}
    details = dict(corpus.details.iter_rows())
    for position, row in enumerate(corpus.docs.iter_rows(named=True)):
        found[row["doc_id"]] = Ours(reason=row["drop_reason"] or "", detail=details.get(position) or "")
    for line in corpus.quarantined:
        told = json.loads(line)
        found[told["doc_id"]] = Ours(reason="set aside", detail=told["reason"])
    for key in corpus.batches:
        for piece in store.tokens(key).to_pylist():
            ours = found[piece["doc_id"]]
            ours.ids += piece["input_ids"]
            ours.mask += [flag & TRAINED for flag in piece["flags"]]
            ours.segments += [flag // SEGMENT for flag in piece["flags"]]
    return [found[i] for i in range(len(made.rows))], run.renderer.warnings, dict(corpus.paths)


# The comparison

WORD = "zqxjword"
"""Stands in no chat and no template."""
DISPUTABLE = ("fault: labels", "fault: cut", "fault: no_trained_tokens", "fault: the template leaves out")
_LEFT_OUT = re.compile(r"the template leaves out the content of message (\d+) \((\w+)\)$")
_UNTOLD = re.compile(r"cannot tell|where it begins and ends cannot be told")


@dataclass
class Tally:
    fates: Counter[str] = field(default_factory=Counter)
    paths: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    disputed: list[str] = field(default_factory=list)
    """Of texts that hold marks of templates: what ends there trl's tags and we may see otherwise."""
    seen: Counter[str] = field(default_factory=Counter)
    """Reasons of ours, with counts."""


class Judge:
    """Holds batches against the oracle with one tokenizer."""

    def __init__(self, folder: Path | None = None) -> None:
        from shared_tokenizers import share
        from transformers import AutoTokenizer

        from tokpack.encoding.tokenizer import load_tokenizer

        share()
        self._scratch = tempfile.TemporaryDirectory(prefix="tokpack-fuzz-")
        if folder is None:
            from encode_helpers import byte_level, tokenizer_folder

            made = Path(self._scratch.name) / "tokenizer"
            folder = tokenizer_folder(byte_level(), made, additional_special_tokens=list(families.markers()))
        self.auto = AutoTokenizer.from_pretrained(folder)
        self.tokenizer = load_tokenizer(folder, chat_template="{{ x }}")
        self.oracles: dict[str, Oracle] = {}
        self.tally = Tally()

    def judge(self, made: Batch) -> None:
        oracle = self.oracles.setdefault(made.name, Oracle(self.auto, made.name))
        with tempfile.TemporaryDirectory(prefix="tokpack-fuzz-") as folder:
            outcomes, warnings, paths = run_batch(made, self.tokenizer, Path(folder))
        self.tally.paths.update(paths)
        where = f"{made.name} {made.seed}"
        self.tally.faults += [f"{where}: {warning}" for warning in warnings if "differed" in warning]
        for number, (row, ours) in enumerate(zip(made.rows, outcomes, strict=True)):
            fate = self.fate(oracle, made, row, ours)
            if fate.startswith(DISPUTABLE) and _holds_marks(row):
                fate = fate.replace("fault", "disputed", 1)
                self.tally.disputed.append(f"{where} row {number}: {fate}")
            self.tally.fates[fate.split(":")[0]] += 1
            if ours.reason:
                self.tally.seen[f"{ours.reason} {re.sub('[0-9]+', 'N', ours.detail)[:70]}"] += 1
            if fate.startswith("fault"):
                self.tally.faults.append(f"{where} row {number}: {fate}")

    def fate(self, oracle: Oracle, made: Batch, row: Chat, ours: Ours) -> str:
        """What became of a row: one of the fates above, a fault with what differs."""
        kwargs = {**made.render.get("template_kwargs", {}), **row.get("chat_template_kwargs", {})}
        rights, refusals = [], []
        for messages in forms(made.name, row, made.render["tool_arguments"]):
            try:
                rights.append(oracle.ask(messages, (row.get("tools") or None), kwargs, made.render["loss"]))
            except Refused as error:
                refusals.append(str(error))
        if ours.reason == "template_error":
            return self._refusal(oracle, made, row, ours, rights, refusals)
        if not rights:
            return f"fault: the template refuses it, we do not ({refusals[0][:80]})"
        if any(r.ids == ours.ids for r in rights):
            return self._labels(made, ours, rights)
        if any(len(r.ids) > made.truncate["max_length"] for r in rights):
            return self._cut(oracle, made, row, ours, rights, kwargs)
        masks = made.render["loss_mask"] not in ("", "none")  # they may take out all of it
        if ours.reason == "no_trained_tokens" and (masks or any(1 not in r.mask[1:] for r in rights)):
            return "dropped"
        texts = [r.text for r in rights]
        return f"fault: {ours.reason} {ours.detail} {texts!r} ours {self.auto.decode(ours.ids)!r}"

    def _labels(self, made: Batch, ours: Ours, rights: list[Right]) -> str:
        masked = self._masked(made, ours)
        if any(r.agrees(ours.ids, masked) for r in rights):
            return "equal"
        right = next(r for r in rights if r.ids == ours.ids)
        return "fault: labels" + self._shown(ours.ids, right.mask, masked)

    def _refusal(
        self, oracle: Oracle, made: Batch, row: Chat, ours: Ours, rights: list[Right], refusals: list[str]
    ) -> str:
        if not rights or any(ours.detail[:40] == refusal[:40] for refusal in refusals):
            return "refused"
        if found := _LEFT_OUT.search(ours.detail):
            index = int(found[1]) - 1
            changed = [dict(message) for message in row["messages"]]
            changed[index]["content"] = WORD
            kwargs = {**made.render.get("template_kwargs", {}), **row.get("chat_template_kwargs", {})}
            texts = []
            for messages in forms(made.name, {"messages": changed}, made.render["tool_arguments"]):
                try:
                    texts.append(oracle.render(oracle.stock, messages, (row.get("tools") or None), kwargs)[0])
                except Refused:
                    continue
            if changed[index]["role"] == found[2] and any(WORD not in text for text in texts):
                return "left out"
            return f"fault: {ours.detail}, and it is there: {said(row['messages'][index])!r}"
        return "untold" if _UNTOLD.search(ours.detail) else f"fault: refused by us alone: {ours.detail}"

    @staticmethod
    def _masked(made: Batch, ours: Ours) -> list[int]:
        """Our labels with those of the segments that are taken out."""
        names = ("", "template", "thinking", "tool_calls")
        out = {names.index(name) for name in made.render["loss_mask"].split(",") if name != "none"} - {0}
        return [int(flag or number in out) for flag, number in zip(ours.mask, ours.segments, strict=True)]

    def _shown(self, ids: list[int], right: list[int], got: list[int]) -> str:
        odd = [i for i, (one, other) in enumerate(zip(right, got, strict=True)) if one not in (ANY, other)]
        low, high = max(0, odd[0] - 12), odd[-1] + 6
        tokens = [self.auto.decode([i]) for i in ids[low:high]]
        return f" at {odd[0]}: " + " ".join(
            f"{token!r}{'' if one == other else f'({one} is right)'}"
            for token, one, other in zip(tokens, right[low:high], got[low:high], strict=True)
        )

    def _cut(
        self, oracle: Oracle, made: Batch, row: Chat, ours: Ours, rights: list[Right], kwargs: Any
    ) -> str:
        limit, how = made.truncate["max_length"], made.truncate["overlong"]
        if how == "drop":
            return "dropped" if ours.reason == "overlong" else "fault: longer than a row"
        if ours.reason == "no_trained_tokens":
            return "dropped"
        if how in ("right", "left"):
            part = slice(limit) if how == "right" else slice(-limit, None)
            masked = self._masked(made, ours)
            found = any(r.agrees(ours.ids, masked, part) for r in rights)
            return "equal" if found else f"fault: cut {how}"
        for messages in forms(made.name, row, made.render["tool_arguments"]):
            for shorter in without_oldest(messages):
                try:
                    right = oracle.ask(shorter, (row.get("tools") or None), kwargs, made.render["loss"])
                except Refused:
                    continue
                if right.agrees(ours.ids, self._masked(made, ours)):
                    return "equal"
                if len(right.ids) <= limit and ours.reason != "overlong":
                    break
        return "dropped" if ours.reason == "overlong" else "fault: turns cut otherwise"


def without_oldest(messages: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The chat without its oldest exchange, its two oldest, and so on, each up to the last answer."""
    head = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    end = max((i + 1 for i, m in enumerate(messages) if m["role"] == "assistant"), default=0)
    users = [i for i, m in enumerate(messages) if m["role"] == "user" and i < end]
    starts = [i for i in users if i == 0 or messages[i - 1]["role"] != "user"]
    for start in starts[1:]:
        yield [*messages[:head], *messages[start:end]]


def _holds_marks(row: Chat) -> bool:
    held = json.dumps(row["messages"], ensure_ascii=False)
    return any(json.dumps(mark, ensure_ascii=False)[1:-1] in held for mark in MARKS)


def fuzz(
    chats: int, seed: int = 0, names: Sequence[str] = (), folder: Path | None = None, size: int = BATCH
) -> Tally:
    """`chats` chats for every template."""
    judge = Judge(folder)
    for number in range(-(-chats // size)):
        for name in names or families.names():
            judge.judge(batch(name, seed + number, size))
    return judge.tally


def fuzz_ways(
    chats: int, seed: int = 0, names: Sequence[str] = (), folder: Path | None = None, size: int = BATCH
) -> Ways:
    """`chats` chats for every template, rendered on both ways."""
    judge, found = Judge(folder), Ways()
    for number in range(-(-chats // size)):
        for name in names or families.names():
            made = batch(name, seed + number, size)
            for masked in {made.render["loss_mask"], "", "none"}:
                one = replace(made, render={**made.render, "loss_mask": masked})
                with both_ways() as ways, tempfile.TemporaryDirectory(prefix="tokpack-fuzz-") as scratch:
                    run_batch(one, judge.tokenizer, Path(scratch))
                found.add(ways, f"{name} {made.seed} --loss-mask {masked!r}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chats", type=int, default=500, help="of each template")
    parser.add_argument("--seed", type=int, default=0, help="to begin with; one a batch")
    parser.add_argument("--templates", default="", help="names with a comma between them")
    parser.add_argument("--tokenizer", type=Path, help="folder of a real vocabulary")
    parser.add_argument("--ways", action="store_true", help="compiled shapes against Jinja")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    begun = time.monotonic()
    names = [name for name in given.templates.split(",") if name]
    if given.ways:
        ways = fuzz_ways(given.chats, given.seed, names, given.tokenizer)
        print(f"{ways.rows:,} chats in {time.monotonic() - begun:.0f} s: {ways.compiled:,} compiled")
        print("\n".join(ways.differences))
        sys.exit(bool(ways.differences))
    tally = fuzz(given.chats, given.seed, names, given.tokenizer)
    print(f"{sum(tally.fates.values()):,} chats in {time.monotonic() - begun:.0f} s: {dict(tally.fates)}")
    print(f"paths: {dict(tally.paths)}")
    for reason, count in tally.seen.most_common(40):
        print(f"  {count:6,} {reason}")
    print("\n".join(tally.disputed + tally.faults))
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
