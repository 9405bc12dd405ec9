"""What the data is made of, in words, for the terminal and the page alike."""

from __future__ import annotations

from tokpack.on_disk.reasons import CHOSEN_EQUALS_REJECTED, OVERLONG
from tokpack.report.values import Figures, Languages, LanguageShare, Ranks, SourceFit, Vocabulary
from tokpack.report.words import share
from tokpack.stages.order import Dealt
from tokpack.stages.planners.mix import Mixed
from tokpack.stages.planners.parts import Parted
from tokpack.terminal.activity import counted
from tokpack.terminal.printable import one_line

MOST_LANGUAGES = 8
NO_LANGUAGES = 'languages are told apart with: pip install "tokpack[lang]"'
LANGUAGES = {
    "ar": "Arabic", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish", "fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew",
    "hi": "Hindi", "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean",
    "nl": "Dutch", "no": "Norwegian", "pcm": "Nigerian Pidgin", "pl": "Polish", "pt": "Portuguese",
    "ro": "Romanian", "ru": "Russian", "sv": "Swedish", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian",
    "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese", "und": "unclear",
}  # fmt: skip
"""The most common codes of ISO 639; others are shown as they are."""


def vocabulary_words(vocabulary: Vocabulary) -> str:
    """`28,063 of 49,152 ids are used (57.1%), 5,764 make up 90% of the tokens; 4.18 bytes a token`."""
    used, size = vocabulary.used, vocabulary.size
    if not vocabulary.tokens:
        return "no token"
    return (
        f"{used:,} of {size:,} ids are used ({share(used, size)}), {vocabulary.covered:,} make up 90% of"
        f" the tokens; {fit(vocabulary)} bytes a token"
    )


def fit(text: Vocabulary | SourceFit) -> str:
    """Bytes of text that a token stands for; the more, the better the tokenizer knows the text."""
    return f"{text.bytes / text.tokens:.2f}" if text.tokens else ""


def language_words(languages: Languages) -> str:
    """`English 93.1% ± 0.7, French 1.2% ± 0.3; estimated from 5,000 of 75,426 documents`."""
    if not languages.shares:
        return NO_LANGUAGES if not languages.of else "none told apart"
    shown = [
        f"{language_name(line.language)} {share(line.share, 1)}{error(line)}"
        for line in languages.shares[:MOST_LANGUAGES]
    ]
    return f"{', '.join(shown)}; {languages_source(languages)}"


def languages_source(languages: Languages) -> str:
    looked, of = languages.sample, languages.of
    if looked < of:
        return f"estimated from {looked:,} of {counted(of, 'document')}"
    return f"estimated from all {counted(of, 'document')}" if of > 1 else "estimated from the one document"


def language_name(code: str) -> str:
    return LANGUAGES.get(code, one_line(code, 12))


def error(line: LanguageShare) -> str:
    return f" ± {100 * line.error:.1f}" if line.error >= 0.0005 else ""


def rules_without_hits(figures: Figures) -> list[str]:
    """Rules of cleaning that were on and found nothing; those of pairs only where there are pairs."""
    out = {drop.reason for drop in figures.drops}
    if not figures.is_preference:
        out.add(CHOSEN_EQUALS_REJECTED)
    return [one_line(name, 60) for name in figures.rules or [] if name not in out]


def cut_words(figures: Figures) -> str:
    """All about cutting in one sentence; empty where every document fits a row."""
    longer = figures.lengths.overlong or 0
    gone = figures.ledger.documents.dropped.get(OVERLONG, 0)
    if not longer and not gone:
        return ""
    tokens, lost = figures.ledger.tokens, figures.ledger.tokens.truncated
    fates = []
    if longer and lost:
        fates.append(f"{longer:,} shortened by {counted(lost, 'token')} ({share(lost, tokens.tokenized, 2)})")
    elif longer:
        fates.append(f"{longer:,} kept in pieces")
    if gone:
        fates.append(f"{gone:,} left out")
    many = counted(longer + gone, "document")
    return f"{many} too long: {', '.join(fates)}"


def dealt_words(dealt: Dealt) -> str:
    """Rows that were written in the order of ranks: how long those still wait, and what is left over."""
    ranks, left = f"{dealt.world_size} ranks", dealt.leftover_rows
    if not dealt.steps:
        return (
            f"{counted(left, 'row')} fill no step of {ranks} with {counted(dealt.rows_per_step, 'row')} each"
        )
    waits = [share(waiting, 1) for waiting in (dealt.idle_share, dealt.idle_share_shuffled)]
    rest = f"; the {counted(left, 'row')} that fill no step stand last" if left > 1 else ""
    rest = "; the row that fills no step stands last" if left == 1 else rest
    return (
        f"{ranks} wait {waits[0]} of the time, {waits[1]} with rows shuffled ({_counted_work(dealt)}), in"
        f" {counted(dealt.steps, 'step')}{rest}"
    )


def mixed_words(mixed: Mixed) -> str:
    """Steps that each have their share of every source: how near it is."""
    if not mixed.steps:
        return f"{counted(mixed.leftover_rows, 'row')} fill no step of {mixed.rows_per_step:,}"
    return (
        f"{counted(mixed.steps, 'step')} of {counted(mixed.rows_per_step, 'row')}, each source within "
        f"{100 * mixed.largest_error:.1f} points of its share in every one"
    )


def parted_words(parted: Parted, rows: int) -> str:
    """Rows that draw from one part each: what it costs."""
    sizes = f"{counted(parted.parts, 'part')} of {parted.fewest_tokens:,} to {parted.most_tokens:,} tokens"
    if not parted.rows_undivided:
        return sizes
    more = rows - parted.rows_undivided
    cost = f"{counted(more, 'row')} more than" if more > 0 else "no more rows than"
    return f"{sizes}; {cost} without parts"


def _counted_work(ranks: Dealt | Ranks) -> str:
    return "weights and attention counted" if ranks.token_cost else "attention alone counted"


def ranks_words(ranks: Ranks) -> str:
    """How long ranks wait, and what to do."""
    waits = [share(waiting.idle_share, 1) for waiting in (ranks.shuffled, ranks.dealt)]
    return (
        f"{ranks.ranks} ranks wait {waits[0]} of the time with rows shuffled, {waits[1]} dealt by cost"
        f" ({_counted_work(ranks)})"
    )


def grouping_words(figures: Figures) -> str:
    """Which columns `--by` could take; empty where one was given, or none has few values."""
    columns = [] if figures.by else figures.grouping or []
    if not columns:
        return ""
    return f"{grouping_flag(columns)} tells the values of that column apart"


def grouping_flag(columns: list[str]) -> str:
    """`--by source or lang`."""
    return f"--by {' or '.join(one_line(name, 40) for name in columns[:3])}"
