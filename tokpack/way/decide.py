"""Between the passes: what to leave out that only the whole corpus can tell.

    exact duplicates -> near duplicates -> evaluation text -> token budget -> held-out conversations

Each step marks documents that the earlier ones left; the first reason stays. The documents of a preference
pair are compared, chosen and held out as one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tokpack.arrays import Bools, Float64, Int64
from tokpack.cost.money_budget import MoneyBudget
from tokpack.errors import DataError, writing
from tokpack.free_memory import free_bytes, own_bytes
from tokpack.frozen import frozen
from tokpack.on_disk.reasons import CONTAMINATED, EXACT_DUPLICATE, HELD_OUT, NEAR_DUPLICATE, OVER_BUDGET
from tokpack.run import MB, Run
from tokpack.schema import CONTENT, COPIES, VARIANT
from tokpack.settings.config import SourceConfig, WeightBy
from tokpack.stages.decontaminate import SHORTEST, find_contaminated
from tokpack.stages.dedup import first_of_equal
from tokpack.stages.near_dup.kinds import KINDS
from tokpack.stages.near_dup.near_dup import On, find_near_duplicates
from tokpack.stages.normalize.documents import text_documents
from tokpack.stages.normalize.fields import as_json
from tokpack.stages.read.blocks import line_numbers, read_blocks, rows_of
from tokpack.stages.read.containers import notes, recognize
from tokpack.stages.read.sources import open_sources
from tokpack.stages.repeat import times_of
from tokpack.stages.scratch import Scratch
from tokpack.stages.select import select
from tokpack.stages.selected_tokens import SelectedTokens
from tokpack.terminal.activity import counted
from tokpack.way.corpus import EXAMPLES, Corpus
from tokpack.way.documents import encode
from tokpack.way.figures import MoneyFigures, NearFigures, NearPair

log = logging.getLogger("tokpack")

MEASURED_AT = 0.8
"""Similarity at which `analyze` says what near-duplicate removal would save, when none was asked for."""
LEAST_TABLE = 64 << 20
"""Bytes of a table of counts, however little memory there is."""
SPAN_TOKENS, SNIPPET_TOKENS = 60, 300


def decide(run: Run, corpus: Corpus, money: MoneyBudget | None = None) -> Run:
    """Mark in `corpus.docs` what the config says to leave out.

    Returns the run with what was decided about it: the budget of tokens that `money` buys.
    """
    config, width = run.config, corpus.width
    if config.dedup.exact != "off":
        _drop_equal(run, corpus)
    drawn = corpus.take_drawn()[::width]
    corpus.forget_hashes()
    if config.near_dup.threshold:
        found = near_duplicates(run, corpus, config.near_dup.threshold, config.near_dup.on)
        corpus.near = found.figures(run, corpus, applied=True)
        corpus.drop(found.removed, NEAR_DUPLICATE, found.details(corpus))
        corpus.examples[NEAR_DUPLICATE] = _texts(run, corpus, found.removed)
        corpus.counters["near_duplicate_search_bounded"] = found.bounded
        corpus.counters |= {f"near_{name}": count for name, count in corpus.near.kept.items()}
    if config.decontaminate.against:
        with run.tell.doing("looking for evaluation text"):
            _decontaminate(run, corpus)
    if config.select.limited or any(source.max_tokens for source in config.source):
        run = _select(run, corpus, money, drawn)
    if config.select.recorded:
        corpus.choice = _choice(run, corpus)
    if config.write.val:
        chosen = corpus.documents_of(np.flatnonzero(drawn & corpus.kept()[::width]))
        corpus.drop(chosen, HELD_OUT)
        corpus.examples[HELD_OUT] = _texts(run, corpus, chosen)
        if not len(chosen):
            log.warning("no conversation is held out: --val %g draws none of so few", config.write.val)
    return run


def _drop_equal(run: Run, corpus: Corpus) -> None:
    width = corpus.width
    first = first_of_equal(corpus.hashes(width), corpus.kept()[::width])
    groups = np.flatnonzero(first >= 0)
    copies, originals = corpus.documents_of(groups), corpus.documents_of(first[groups])
    corpus.drop(copies, EXACT_DUPLICATE, corpus.docs["doc_id"][originals].cast(pl.String))
    corpus.examples[EXACT_DUPLICATE] = _texts(run, corpus, copies)


# Near duplicates


@frozen
class Near:
    """Near duplicates as positions in the corpus."""

    threshold: float
    on: On
    removed: Int64
    partner: Int64
    jaccard: Float64
    bounded: int
    """Documents whose search was cut short: a partner of theirs may have been missed."""
    kept: dict[str, list[tuple[int, int]]]
    """What kept documents have in common with an earlier one that they are near as a whole -> (it, the
    earlier one); of preference pairs the first. Empty unless prompt and answer are compared apart."""

    def details(self, corpus: Corpus) -> pl.Series:
        """`"17 jaccard 0.9123"`: the kept document that each removed one repeats."""
        kept = corpus.docs["doc_id"].to_numpy()[self.partner]
        pairs = zip(kept.tolist(), self.jaccard.tolist(), strict=True)
        return pl.Series([f"{doc} jaccard {j:.4f}" for doc, j in pairs], dtype=pl.String)

    def figures(self, run: Run, corpus: Corpus, applied: bool) -> NearFigures:
        """For the report: what leaves, what only looks alike and stays, and some of each side by side."""
        leaves = np.isin(self.removed, corpus.unwanted(self.removed))
        removed = self.removed[leaves]
        columns = (removed, self.partner[leaves], self.jaccard[leaves])
        shown = zip(*(column[:: corpus.width][:EXAMPLES].tolist() for column in columns), strict=True)
        alike = "same_prompt_same_answer" if self.on == "both" else ""
        pairs: list[tuple[str, int, int, float | None]] = [(alike, a, b, round(j, 4)) for a, b, j in shown]
        pairs += [(name, a, b, None) for name, found in self.kept.items() for a, b in found[:EXAMPLES]]
        return NearFigures(
            threshold=self.threshold,
            on=self.on,
            applied=applied,
            documents=len(removed),
            tokens=int(corpus.docs["tokens"].cast(pl.Int64).gather(removed).sum()),
            bounded=self.bounded,
            kept={name: len(found) * corpus.width for name, found in self.kept.items()},
            pairs=[
                NearPair(alike=name, jaccard=j, removed=_text(run, corpus, a), kept=_text(run, corpus, b))
                for name, a, b, j in pairs
            ],
        )


def near_duplicates(run: Run, corpus: Corpus, threshold: float, on: On) -> Near:
    """Exact join over the kept documents' content tokens; see `stages/near_dup/`."""
    width, folder = corpus.width, corpus.store.folder
    what = f"near duplicates among {counted(len(corpus.docs) // width, 'document')}"
    with run.tell.doing(what), writing(folder):
        positions, batches = corpus.stored_documents(width)
        found = find_near_duplicates(
            _by_variant(corpus, positions, batches),
            threshold,
            eligible=corpus.kept()[positions],
            on=on,
            table_bytes=table_bytes(run.config.near_dup.memory_mb),
            folder=folder,
        )
    removed = np.flatnonzero(found.partner >= 0)
    groups = positions // width
    kept = {}
    for kind, name in KINDS.items() if on == "both" else ():
        at = np.flatnonzero(found.kind == kind)
        firsts = (groups[at] * width).tolist(), (groups[found.alike[at]] * width).tolist()
        kept[name] = list(zip(*firsts, strict=True))
    return Near(
        threshold,
        on,
        corpus.documents_of(groups[removed]),
        corpus.documents_of(groups[found.partner[removed]]),
        np.repeat(found.jaccard[removed], width),
        int(found.bounded.sum()),
        kept,
    )


def _by_variant(
    corpus: Corpus, positions: Int64, batches: Sequence[SelectedTokens]
) -> Sequence[SelectedTokens]:
    """Batches in which documents of another variant have other tokens, and so meet no equals. These lie in
    scratch files, 4 bytes a token, for as long as they are used."""
    variants = corpus.docs[VARIANT].to_numpy()[positions].astype(np.int32)
    if not variants.any():
        return batches
    scratch, begin = Scratch(corpus.store.folder), 0
    varied: list[SelectedTokens] = []
    for batch in batches:
        own = variants[begin : begin + len(batch)]
        begin += len(batch)
        tokens = batch.tokens
        if own.any():
            tokens = scratch.zeros(len(batch.tokens), np.int32)
            tokens[:] = batch.tokens
            tokens[slice(*batch.offsets[[0, -1]])] ^= np.repeat(own, np.diff(batch.offsets))
            scratch.release()
        varied.append(replace(batch, tokens=tokens))
    return varied


def table_bytes(memory_mb: int) -> int:
    """Memory for a table of counts: half of what the command may still take."""
    left = memory_mb * MB - own_bytes() if memory_mb else free_bytes()
    return max(LEAST_TABLE, left // 2)


def near_duplicate_figures(run: Run, corpus: Corpus) -> NearFigures:
    """What near-duplicate removal saves, or would save, with example pairs; for the report."""
    if corpus.near is not None:
        return corpus.near
    found = near_duplicates(run, corpus, MEASURED_AT, run.config.near_dup.on)
    return found.figures(run, corpus, applied=False)


def _texts(run: Run, corpus: Corpus, positions: Any) -> list[str]:
    """Of the first documents that leave: what a wish keeps is no example."""
    return [_text(run, corpus, position) for position in corpus.unwanted(positions)[:EXAMPLES]]


def _text(run: Run, corpus: Corpus, position: int) -> str:
    """The start of a document, as the report cuts it further; each message begins a line."""
    messages = corpus.messages_of(int(position), SNIPPET_TOKENS)
    return "\n".join(run.tokenizer.decode(message) for message in messages)


# Evaluation text


def _decontaminate(run: Run, corpus: Corpus) -> None:
    names, evaluation = _evaluation_text(run)
    positions, batches = corpus.stored_documents()
    found = find_contaminated(batches, evaluation, run.config.decontaminate.ngram)
    hit = positions[found.document]
    alive = corpus.kept()[hit]
    columns = (hit, found.eval_document, found.start, found.end)
    rows = list(zip(*(column[alive].tolist() for column in columns), strict=True))
    details: list[str] = []
    for position, document, start, end in rows:
        span = run.tokenizer.decode(corpus.tokens_of(position, start, end)[:SPAN_TOKENS])
        details.append(f"{names[document]}, tokens {start} to {end}: {span}")
    corpus.drop([row[0] for row in rows], CONTAMINATED, pl.Series(details, dtype=pl.String))
    corpus.drop_partners()
    corpus.examples[CONTAMINATED] = _texts(run, corpus, [row[0] for row in rows])
    if found.ignored:
        corpus.counters["evaluation_texts_too_short"] = found.ignored


def _evaluation_text(run: Run) -> tuple[list[str], list[SelectedTokens]]:
    """Every string in the evaluation files, whatever their columns: its `file:row`, and its tokens. Then each
    as JSON writes it, where that is otherwise: so templates write a call's arguments."""
    names: list[str] = []
    texts: list[str] = []
    sources = open_sources(tuple(SourceConfig(path=path) for path in run.config.decontaminate.against))
    for source in sources:
        recognize(source)
    for note in notes(sources):
        log.warning(note)
    for block in read_blocks(sources):
        for row, value in zip(
            line_numbers(block).tolist(), rows_of(block, sources[block.source]), strict=True
        ):
            found = list(_strings(value))
            texts += found
            names += [f"{sources[block.source].name}:{row}"] * len(found)
    if not texts:
        raise DataError(
            "no evaluation text",
            where=", ".join(s.path for s in sources),
            hint="check the files of --against",
        )
    *_, tokens = encode(run, text_documents(texts))
    batches = [tokens]
    searched = np.flatnonzero(np.diff(tokens.offsets) >= SHORTEST).tolist()
    if others := [(names[n], written) for n in searched for written in _in_json(texts[n])]:
        names += [name for name, _ in others]
        batches.append(encode(run, text_documents([written for _, written in others]))[2])
    return names, [SelectedTokens(one.input_ids, one.offsets, one.flags, CONTENT) for one in batches]


def _in_json(text: str) -> list[str]:
    """What JSON writes of a text, with its letters or with their escapes, also as a text in JSON once more,
    where that is not the text."""
    once = [json.dumps(text, ensure_ascii=escaped)[1:-1] for escaped in (False, True)]
    twice = [json.dumps(written)[1:-1] for written in once]
    return [written for written in dict.fromkeys((*once, *twice)) if written != text]


def _strings(value: Any) -> Iterator[str]:
    """All texts, and those in texts of JSON."""
    if isinstance(value, str):
        yield value
        value = as_json(value)
    if isinstance(value, str):
        return
    if isinstance(value, dict):
        yield from (text for item in value.values() for text in _strings(item))
    elif isinstance(value, list):
        yield from (text for item in value for text in _strings(item))


# Budget


def _select(run: Run, corpus: Corpus, money: MoneyBudget | None, held: Bools) -> Run:
    """`held`: what would be held out of each, where money is to be spent on the rest."""
    config, width = run.config, corpus.width
    kept = corpus.kept()[::width]
    repeats = _repeats(run, corpus) if config.select.limited else np.zeros(len(kept), dtype=bool)
    lengths = _counted(corpus, config.select.weight_by).reshape(-1, width).sum(axis=1, dtype=np.int64)
    if COPIES in corpus.docs.columns:
        lengths *= times_of(corpus.docs)[::width]  # equal in a pair
    lengths *= kept
    # Of a pair, the chosen answer speaks for its quality.
    first = corpus.docs.select("doc_id", "source", "^quality$")
    first = first.gather_every(width) if width > 1 else first
    wanted = corpus.keep.holds(first["doc_id"].to_numpy())
    quality = first["quality"].to_numpy() if "quality" in first.columns else np.zeros(len(kept), np.float32)
    if wanted.any():
        quality, repeats = np.where(wanted, np.float32(np.inf), quality), repeats & ~wanted
    choose = partial(
        select,
        lengths=lengths,
        source=first["source"].to_numpy(),
        quality=quality,
        repeats=repeats,
        eligible=kept,
        weights=np.array([source.config.weight for source in run.sources]),
        max_tokens=np.array([source.config.max_tokens for source in run.sources]),
        seed=config.seed,
    )
    if money is not None:
        run = _with_budget(run, corpus, money, choose, int(lengths.sum()), held)
    chosen = choose(budget=run.config.select.budget)
    out = corpus.documents_of(np.flatnonzero(kept & ~chosen))
    corpus.drop(out, OVER_BUDGET)
    corpus.examples[OVER_BUDGET] = [_text(run, corpus, p) for p in out[:EXAMPLES]]
    return run


def _repeats(run: Run, corpus: Corpus) -> Bools:
    """Which of the kept documents, or pairs, are loose near duplicates of an earlier one."""
    repeats = np.zeros(len(corpus.docs) // corpus.width, dtype=bool)
    found = near_duplicates(run, corpus, run.config.select.diversity, "all")
    repeats[found.removed // corpus.width] = True
    return repeats


def _choice(run: Run, corpus: Corpus) -> pl.DataFrame:
    """What a choice under a budget would go by, of what is kept."""
    first = corpus.docs.gather_every(corpus.width).with_columns(repeats=_repeats(run, corpus))
    return first.filter(pl.col("drop_reason").is_null()).select("doc_id", "row", "quality", "repeats")


def _counted(corpus: Corpus, weight_by: WeightBy) -> npt.NDArray[Any]:
    """What each document counts against a budget: its tokens that are kept, or those of them with a label."""
    if weight_by == "tokens":
        return (corpus.docs["tokens"] - corpus.docs["cut"]).to_numpy()
    document, trained = (corpus.pieces[name].to_numpy() for name in ("document", "trained"))
    return np.bincount(document, weights=trained, minlength=len(corpus.docs))


def _with_budget(
    run: Run,
    corpus: Corpus,
    money: MoneyBudget,
    choose: Callable[..., Bools],
    total: int,
    held: Bools,
) -> Run:
    """The run with the tokens that its dollars buy as its budget. What is held out is selected, but not
    billed."""
    config, width = run.config, corpus.width
    document = corpus.pieces["document"].to_numpy()
    times = times_of(corpus.docs)[document]
    group = np.repeat(document // width, times)
    length = np.repeat(corpus.pieces["length"].to_numpy(), times)

    def cost_of(budget: int) -> float:
        return money.bill(length[(choose(budget=budget) & ~held)[group]])

    budget = money.tokens(total, cost_of)
    bill, counted = cost_of(budget), "trained" if config.select.weight_by == "trained" else None
    corpus.money = MoneyFigures(usd=money.usd, tokens=budget, bill=bill, all=budget == total, counted=counted)
    return replace(run, config=replace(config, select=replace(config.select, budget=budget, budget_usd=0.0)))
