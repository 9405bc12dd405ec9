"""Tables of the data: what was left out, files, lengths, languages, tokens; and the sums of the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tokpack.on_disk.ledger import Ledger, TrainedSums
from tokpack.on_disk.reasons import words_of
from tokpack.report.data.data_words import error, fit, language_name, languages_source
from tokpack.report.tables import Cell, Column, Line, Sum, Table, Term, number
from tokpack.report.values import (
    Drop,
    Figures,
    Languages,
    LongDocument,
    SourceFigures,
    Truncation,
    ValueFigures,
    Vocabulary,
)
from tokpack.report.words import share, size
from tokpack.terminal.activity import counted
from tokpack.terminal.printable import one_line

MOST_FATES, MOST_LANGUAGES = 3, 12


def drops_table(drops: list[Drop], tokenized: int, most: int) -> Table:
    """Reasons, most tokens first; those beyond the `most` are one line. `tokenized`: tokens in the data."""
    most += len(drops) == most + 1
    rest = drops[most:]
    lines = [
        _drop(one_line(drop.reason, 60), drop.documents, drop.tokens, tokenized, words_of(drop.reason))
        for drop in drops[:most]
    ]
    if rest:
        documents, tokens = sum(drop.documents for drop in rest), sum(drop.tokens for drop in rest)
        lines.append(_drop(counted(len(rest), "more reason"), documents, tokens, tokenized))
    columns = [Column("left out", words=True, code=True), Column("documents"), Column("tokens")]
    return Table("Left out, and why", [*columns, Column("share of tokens", wide=True)], lines)


def _drop(name: str, documents: int, tokens: int, tokenized: int, about: str = "") -> Line:
    part = Cell(share(tokens, tokenized), tokens)
    return Line([Cell(name, about=about), number(documents), number(tokens), part])


def files_table(figures: Figures) -> Table:
    """What became of the documents of each file, most packed tokens first."""
    inputs = {source.name: source for source in figures.inputs}
    whole = figures.ledger.documents
    columns = [Column("file", words=True), Column("size", wide=True), Column("read"), Column("kept")]
    columns += [Column("left out")] + [Column("held out")] * bool(whole.held_out)
    columns += [Column("unreadable")] * bool(whole.quarantined) + [Column("tokens packed")]
    lines = []
    for name, sums in sorted(figures.ledger.sources.items(), key=lambda item: -item[1].tokens.packed):
        documents, given = sums.documents, inputs[name]
        cells = [
            Cell(one_line(name, 60), about=one_line(given.format)),
            Cell("" if given.size_bytes is None else size(given.size_bytes), given.size_bytes),
            *map(number, (documents.read, documents.kept, documents.left_out)),
        ]
        cells += [number(documents.held_out)] * bool(whole.held_out)
        cells += [number(documents.quarantined)] * bool(whole.quarantined)
        lines.append(Line([*cells, number(sums.tokens.packed)]))
    return Table("Files", columns, lines, noun="file")


def sources_table(figures: Figures) -> Table | None:
    """Lengths, trained share and reasons of each file, most packed tokens first; None for a single file."""
    if len(figures.sources or []) < 2:
        return None
    vocabulary, ledger = figures.vocabulary, figures.ledger.sources
    fits = {source.name: fit(source) for source in vocabulary.sources} if vocabulary else {}
    dropped = {name: sums.documents.dropped for name, sums in ledger.items()}
    sources = sorted(figures.sources or [], key=lambda source: (-source.packed, source.name))
    return _lengths("Lengths by file, in tokens", "file", sources, dropped, fits)


def by_table(figures: Figures) -> Table | None:
    """The same by the values of a column of the data; None where none was asked for."""
    if figures.by is None:
        return None
    column, values = one_line(figures.by.column, 40), figures.by.values
    dropped = {value.name: value.dropped for value in values}
    table = _lengths(f"By {column}, lengths in tokens", column, values, dropped, {})
    return replace(table, noun="value", more=figures.by.more)


def _lengths(
    title: str,
    noun: str,
    lines: Sequence[SourceFigures | ValueFigures],
    dropped: Mapping[str, dict[str, int]],
    fits: dict[str, str],
) -> Table:
    names = ["kept", "median", "90%", "99%", "longest", "trained", *(["bytes/token"] if fits else [])]
    columns = [Column(noun, words=True), *map(Column, names), Column("left out", words=True)]
    return Table(title, columns, [_length(line, dropped[line.name], fits) for line in lines], noun=noun)


def _length(line: SourceFigures | ValueFigures, dropped: dict[str, int], fits: dict[str, str]) -> Line:
    figures = map(number, (line.documents, line.p50, line.p90, line.p99, line.max))
    trained = Cell(share(line.trained, line.packed), line.trained_share)
    own = [Cell(fits.get(line.name, ""))] if fits else []
    return Line([Cell(one_line(line.name, 60)), *figures, trained, *own, Cell(_fates(dropped))])


def _fates(dropped: dict[str, int]) -> str:
    """`40 exact_duplicate, 12 overlong`, most first."""
    most = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{count:,} {one_line(reason, 30)}" for reason, count in most[:MOST_FATES]]
    rest = sum(count for _, count in most[MOST_FATES:])
    return ", ".join(told + ([f"{rest:,} others"] if rest else []))


def truncation_table(truncation: list[Truncation], capacity: int) -> Table:
    """What rows of other lengths would cut; `capacity` is the present one."""
    names = ("tokens a row", "documents cut", "tokens cut", "share of tokens")
    lines = [
        Line(
            [
                *map(number, (line.capacity, line.documents, line.tokens)),
                Cell(share(line.share, 1, 2), line.share),
            ],
            strong=line.capacity == capacity,
        )
        for line in truncation
    ]
    return Table("What rows of other lengths would cut", list(map(Column, names)), lines)


def longest_table(longest: list[LongDocument]) -> Table:
    columns = [Column("where", words=True), Column("document"), Column("tokens"), Column("fate", words=True)]
    lines = [
        Line(
            [
                Cell(f"{one_line(line.source, 60)}:{line.row}"),
                Cell(str(line.doc_id), line.doc_id),
                number(line.tokens),
                Cell(one_line(line.fate, 40)),
            ]
        )
        for line in longest
    ]
    return Table("The longest documents, as they came", columns, lines, noun="document")


def languages_table(languages: Languages) -> Table:
    title = (
        f"Languages, {languages_source(languages)}; ± is the sampling error at 95%, short texts are often"
        " mistaken on top of it"
    )
    lines = [
        Line([Cell(language_name(line.language)), Cell(share(line.share, 1) + error(line), line.share)])
        for line in languages.shares[:MOST_LANGUAGES]
    ]
    return Table(title, [Column("language", words=True), Column("share of documents")], lines)


def tokens_table(vocabulary: Vocabulary) -> Table:
    """The most frequent tokens."""
    names = ("id", "count", "share of tokens")
    lines = [
        Line(
            [
                Cell(one_line(token.text, 40).replace(" ", "\N{OPEN BOX}")),
                Cell(str(token.id), token.id),
                number(token.count),
                Cell(share(token.count, vocabulary.tokens, 2), token.count),
            ]
        )
        for token in vocabulary.top
    ]
    title = f"The {len(lines)} most frequent tokens"
    return Table(title, [Column("token", words=True, code=True), *map(Column, names)], lines)


def ledger_sums(ledger: Ledger) -> list[Sum]:
    """What is counted, and what it is made of, line by line."""
    documents, tokens, slots, trained = ledger.documents, ledger.tokens, ledger.slots, ledger.trained
    packed = "packed" if slots else "kept"
    sums = [
        Sum(
            "documents",
            [
                Term("", documents.read, "read"),
                Term("=", documents.kept, "kept"),
                Term("+", sum(documents.dropped.values()), "dropped"),
                Term("+", documents.quarantined, "quarantined"),
            ],
            _about(ledger),
        ),
        Sum(
            "tokens",
            [
                Term("", tokens.tokenized, "tokenized"),
                *([Term("+", tokens.repeated, "repeated")] if tokens.repeated else []),
                Term("=", tokens.packed, packed),
                Term("+", tokens.truncated, "truncated"),
                Term("+", sum(tokens.dropped.values()), "dropped"),
            ],
        ),
    ]
    if slots:
        terms = [Term("", slots.total, "in all rows"), Term("=", slots.packed, "packed")]
        sums.append(Sum("slots", [*terms, Term("+", slots.free, "free")]))
    of = [Term("", trained.packed, packed), Term("=", trained.trained, "trained")]
    return [*sums, Sum("trained", [*of, Term("+", trained.masked, "masked")]), *_segments(ledger, trained)]


def _about(ledger: Ledger) -> str:
    """Copies of documents, and those that a person wanted kept."""
    documents, told = ledger.documents, []
    if documents.repeated:
        told.append(f"{documents.repeated:,} copies more")
    if after_all := documents.kept_after_all:
        reasons = ", ".join(f"{count:,} {one_line(reason, 60)}" for reason, count in after_all.items())
        told.append(f"{sum(after_all.values()):,} of the kept by --keep, in spite of: {reasons}")
    return "; ".join(told)


def _segments(ledger: Ledger, trained: TrainedSums) -> list[Sum]:
    """What trained tokens are, and what was taken out of the answers, where that is known."""
    sums = []
    for state in ("trained", "masked"):
        found = {name: getattr(of, state) for name, of in (ledger.segments or {}).items()}
        total = sum(found.values())
        parts = [(name, count) for name, count in found.items() if count]
        if parts:
            words = [(count, f"{name} ({share(count, total)})") for name, count in parts]
            terms = [Term("+" if n else "=", *part) for n, part in enumerate(words)]
            sums.append(Sum("answers", [Term("", total, state), *terms]))
    return sums
