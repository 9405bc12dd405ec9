"""The report in words: the bill and what each figure means, for the terminal and the page alike."""

from __future__ import annotations

from dataclasses import field

from tokpack.frozen import frozen
from tokpack.on_disk.ledger import DocumentSums
from tokpack.on_disk.reasons import HELD_OUT, NO_ANSWER, PAIR_DROPPED, PROMPTS_ONLY, UNREADABLE, words_of
from tokpack.report.values import Figures, Labels, PlanFigures
from tokpack.stages.render.left_out import LEFT_OUT
from tokpack.terminal.activity import counted, in_number
from tokpack.terminal.printable import one_line
from tokpack.way.figures import MoneyFigures, NearFigures

WORTH_TELLING = 0.02
"""A saving below this share of all slots is called small."""
SLOT = (
    "A token slot is one position in a batch. The GPU computes every slot, whether it holds a token of"
    " yours or padding."
)
LARGE_LOSS = 0.05
"""A reason with more of the documents is named at the end of `pack`."""
ALIKE = {
    "same_prompt_other_answer": "nearly the same prompt with another answer",
    "other_prompt_same_answer": "another prompt with nearly the same answer",
}
COUNTERS = {
    "special_token_stripped": "document(|s) had special tokens stripped from the ends of (its|their) text",
    "special_token_inside": "document(|s) hold(s|) a special token inside (its|their) text",
    "end_token_inside": "document(|s) hold(s|) an end of a turn or text inside (its|their) texts",
    "rendered_already_text": "text(|s) begin(s|) with the chat template's markers, and (is|are) left alone",
    "rendered_already_chat": "document(|s) hold(s|) a message that is rendered already: it is left as it is",
    "with_email": "document(|s) hold(s|) an e-mail address",
    "with_phone": "document(|s) hold(s|) a telephone number",
    "near_same_prompt_other_answer": "document(|s) give(s|) another answer to an earlier one's prompt: kept",
    "near_other_prompt_same_answer": "document(|s) give(s|) an earlier one's answer to another prompt: kept",
    "near_duplicate_search_bounded": "document(|s) (was|were) compared with only some of the likely near "
    "duplicates",
    "evaluation_texts_too_short": "evaluation text(|s) (is|are) too short to look for",
    "with_key": "document(|s) hold(s|) what looks like a secret key",
    "html_answers": "document(|s) hold(s|) an answer that is HTML throughout",
    **LEFT_OUT,
    "with_template_arguments": "document(|s) bring(s|) arguments of the chat template",
}


@frozen
class Bill:
    """What one epoch costs in token slots, from the way data usually comes to what packing makes of it."""

    headline: str
    explanation: str
    before: int
    """Slots in batches, uncleaned, padded to their longest document."""
    after: int
    """Slots of the packed rows."""
    lines: list[tuple[str, int]]
    """Label and slots: the first line is a sum, the last too, those between are differences."""
    notes: list[str] = field(default_factory=list)


def make_bill(figures: Figures) -> Bill:
    """Compare with batches padded to their longest document, what trainers do unless told otherwise."""
    _, raw, _, cleaned, by_length, packed = (line.slots for line in figures.slots)
    if not packed:
        return Bill("Nothing is left to train on", _nothing_left(figures), raw, packed, [])
    saved = 1 - packed / raw if raw else 0.0
    lines = [
        (f"as it came, in batches of {figures.batch_size} padded to their longest", raw),
        (_cleaning(figures.ledger.documents.left_out, cleaned - raw), cleaned - raw),
        (_packing(figures.capacity, packed - cleaned), packed - cleaned),
        ("what you train on", packed),
    ]
    lines = [lines[0], *(line for line in lines[1:3] if line[1]), lines[3]]
    tokens = figures.slots[-1].tokens
    explanation = f"{packed:,} slots in packed rows, {raw:,} in padded batches."
    if saved <= 0 and tokens < raw:
        explanation = (
            f"{counted(tokens, 'token')} in packed rows, {counted(raw, 'slot')} in padded batches; a trainer "
            f"that pads the rows would compute {packed:,}."
        )
    if saved >= WORTH_TELLING:
        explanation = f"{counted(packed, 'slot')} instead of {raw:,}."
        hours = 10 * (1 - work_saved(figures))
        explanation += f" Where padded batches train for 10 hours, packed rows take about {hours:.1f}."
    return Bill(
        _headline(saved, 1 - tokens / raw if raw else 0.0),
        explanation,
        raw,
        packed,
        lines,
        _notes(figures, by_length, packed),
    )


def work_saved(figures: Figures) -> float:
    """Share of the training time that cleaning and packing save: of the FLOPs where a bill counted them, else
    of the slots."""
    if figures.cost:
        return figures.cost.saved_share.value
    padded, packed = figures.slots[1].slots, figures.slots[-1].slots
    return 1 - float(packed) / padded if padded else 0.0


def _headline(saved: float, of_tokens: float) -> str:
    """`of_tokens`: what is saved where free slots are not computed, as by `tokpack train`."""
    if saved >= WORTH_TELLING:
        return f"{saved:.0%} fewer token slots per epoch"
    if saved > 0:
        return f"Packing changes little here: {saved:.1%} fewer token slots per epoch"
    if of_tokens > 0:
        return f"{of_tokens:.0%} less to compute: free slots of packed rows cost nothing"
    return "Packing saves no token slots here"


def _cleaning(left_out: int, change: int) -> str:
    if change > 0:
        return "long documents kept in pieces, not cut off"
    return f"{counted(left_out, 'document')} left out" if left_out else "long documents shortened"


def _packing(capacity: int, change: int) -> str:
    if change > 0:
        return f"in rows of {capacity:,} tokens, not all full"
    return "packed, so that rows hold no padding"


def _nothing_left(figures: Figures) -> str:
    documents = figures.ledger.documents
    read, told = counted_documents(documents.read, figures.is_preference), reasons_told(documents)
    text = f"Of {read} none is kept: {told}. `pack` would write nothing."
    unanswered = documents.dropped.get(NO_ANSWER) == documents.read
    return f"{text} These are {PROMPTS_ONLY}." if unanswered else text


def reasons_told(documents: DocumentSums) -> str:
    """`"40 no_answer, 2 unreadable"`: what became of the documents that are not kept."""
    return ", ".join(f"{count:,} {one_line(reason, 60)}" for reason, count in ranked_reasons(documents))


def ranked_reasons(documents: DocumentSums) -> list[tuple[str, int]]:
    """Reasons and counts, most first; those that follow from another document's reason last."""
    reasons = {**documents.dropped, UNREADABLE: documents.quarantined}
    known = [(reason, count) for reason, count in reasons.items() if count]
    return sorted(known, key=lambda item: (item[0] == PAIR_DROPPED, -item[1], item[0]))


def large_losses(documents: DocumentSums) -> list[str]:
    """A sentence for each reason that leaves out more than LARGE_LOSS of the documents."""
    return [
        f"{share(count, documents.read)} of the documents, {count:,} of {documents.read:,}, are left "
        f"out as {one_line(reason, 60)}{': ' + words_of(reason) if words_of(reason) else ''}"
        for reason, count in ranked_reasons(documents)
        if reason != HELD_OUT and count > LARGE_LOSS * documents.read
    ]


def _notes(figures: Figures, by_length: int, packed: int) -> list[str]:
    per_row = figures.plan.documents_per_row
    mean = per_row.mean if per_row else 0.0
    more, less = by_length / packed - 1, 1 - by_length / packed
    versus = f"{more:.1%} more than packed" if more >= 0 else f"{less:.1%} fewer than packed"
    notes = [budget_words(figures.budget)] if figures.budget else []
    notes += [] if figures.cost else ["Hours follow from slots alone; --model counts attention, too."]
    notes += [
        f"Sorting documents by length before padding would take {counted(by_length, 'slot')}, {versus}, "
        "but then a batch holds only documents of one length and is no random sample.",
    ]
    if mean >= 1.05:
        notes.append(
            f"A packed row holds {mean:,.1f} documents on average. With as many rows a step as documents"
            f" before, a step sees {mean:,.1f} times the documents and an epoch has that many fewer steps:"
            " lower the batch size or the gradient accumulation to keep the recipe."
        )
    return notes


def budget_words(budget: MoneyFigures) -> str:
    """What an amount of money pays for."""
    usd, bill = f"{budget.usd:g} USD", f"at most {budget.bill:.3g} USD"
    if budget.all:
        return f"The budget of {usd} is more than all of it costs, {bill}."
    tokens = "trained tokens" if budget.counted == "trained" else "tokens"
    return f"The budget of {usd} pays for {budget.tokens:,} {tokens}: {bill}."


def gap_words(gap: float) -> str:
    return share(gap, 1, 3 if gap < 0.01 else 1)


PROOFS = {"ceil": "", "L2": " (Martello and Toth's bound)", "LP": " (a linear program's bound)"}
"""How it is known that no plan has fewer rows, where that is more than a division."""


def bound_words(plan: PlanFigures) -> str:
    """How good the plan is, and by what proof."""
    proof = PROOFS[plan.bound_kind]
    if plan.rows == plan.bound:
        return f"fewer are impossible{proof}"
    return f"at least {plan.bound:,} are needed{proof}: {gap_words(plan.gap)} above"


def counters(counted_on_the_way: dict[str, int], near: NearFigures | None = None) -> list[tuple[int, str]]:
    """What was counted on the way, in words, without zeros; near duplicates where they were not dropped."""
    lines = [(n, COUNTERS.get(name, name)) for name, n in counted_on_the_way.items() if n]
    if near and not near.applied:
        if near.documents:
            flag = f"--near-dup {near.threshold}"
            words = f"document(|s) nearly repeat(s|) an earlier one, in {counted(near.tokens, 'token')}: "
            words += f"{flag} drops (it|them)"
            lines.append((near.documents, words))
        lines += [(n, COUNTERS[f"near_{name}"]) for name, n in near.kept.items() if n]
    return [(n, in_number(n, words)) for n, words in lines]


def counted_documents(number: int, in_pairs: bool) -> str:
    """`"12 documents"`, of preference pairs `"12 documents (6 pairs)"`."""
    text = counted(number, "document")
    return f"{text} ({counted(number // 2, 'pair')})" if in_pairs else text


def labels_words(labels: Labels) -> str:
    """What the labels of unpaired preferences are."""
    return f"{labels.desirable:,} desirable, {labels.undesirable:,} undesirable"


def share(part: float, whole: float, digits: int = 1) -> str:
    """A percentage that says 0 % and 100 % only where it is exactly so."""
    if not whole:
        return "none"
    ratio, least = part / whole, 10.0 ** -(digits + 2)
    if 0 < ratio < least / 2:
        return f"<{least:.{digits}%}"
    if 1 - least / 2 < ratio < 1:
        return f">{1 - least:.{digits}%}"
    return f"{ratio:.{digits}%}"


def size(size_bytes: int) -> str:
    """Bytes in the unit a person would choose; decimal, as file managers count."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"
