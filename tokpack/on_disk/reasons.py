"""Why a document is left out: each reason once, with what it means and what to do about it.

A constant here is the reason's name, the string that stands in `drop_reason`, in `dropped.parquet` and in
the ledger; `REASONS` gives its words. Rules of the user's own are reasons as well, without an entry.
"""

from __future__ import annotations

from tokpack.frozen import frozen

SEE_ANALYZE = "see `tokpack analyze`"


@frozen
class Reason:
    name: str
    words: str
    """What is wrong with the document, for people."""
    way_out: str = SEE_ANALYZE
    """What to change where it takes everything."""


REASONS: dict[str, Reason] = {}


def _reason(name: str, words: str, way_out: str = SEE_ANALYZE) -> str:
    REASONS[name] = Reason(name, words, way_out)
    return name


# Rows as they are read
UNREADABLE = _reason("unreadable", "no document can be made of the row", "check --format and --map")
LABELED_BAD = _reason("labelled_bad", "its row calls it a bad answer, or not to be trained")
OTHER_SPLIT = _reason("other_split", "its row belongs to a split that is not trained: test or validation")
TIED_PAIR = _reason("tied_pair", "neither answer of the pair is the better one")

# Rules of cleaning; a rule's name is its reason
_reason(
    "unknown_role",
    "a message without a role, or with one that no chat template knows",
    "--map user=NAME,assistant=NAME says who is who",
)
_reason("null_content", "a message whose content is missing")
NO_ANSWER = _reason("no_answer", "no assistant turn: nothing to learn from")
_reason("empty_answer", "an answer that is only white space")
_reason("prompt_equals_answer", "the answer repeats the prompt")
CHOSEN_EQUALS_REJECTED = _reason("chosen_equals_rejected", "both answers of the pair are the same")
_reason("mojibake", "garbled letters, text read in a wrong encoding")
_reason("html_boilerplate", "a scraped web page: menus, scripts and footer around the text")
_reason("html_answer", "an answer that is HTML from its first sign to its last")
_reason("gopher_repetition", "text that repeats itself")
_reason("repetition", "text that repeats itself")
_reason("language", "in none of the languages to keep")
_reason("refusal", "an answer that refuses")
_reason("url_only", "an answer of nothing but addresses")
_reason("symbol_share", "an answer that is mostly signs")
_reason("too_short", "fewer tokens than the rule allows")
_reason("too_long", "more tokens than the rule allows")
SPECIAL_TOKEN = _reason(
    "special_token_in_content",
    "a special token written out inside the text",
    "give --special-in-content strip",
)

# Rendered and cut
TEMPLATE_ERROR = _reason(
    "template_error", "the chat template refuses it", "give --chat-template, or --render plain"
)
NO_TRAINED_TOKENS = _reason(
    "no_trained_tokens",
    "no token of it would be trained",
    "check the chat template, or give --loss all",
)
OVERLONG = _reason(
    "overlong",
    "longer than a row, and not to be shortened sensibly",
    "give a larger --max-length, or an --overlong that shortens",
)
TRUNCATED = _reason("truncated", "shortened to fit a row: kept, without the tokens that were cut")
NOT_IN_FORMAT = _reason(
    "not_in_format",
    "the chosen shape cannot hold it: a text, tools, turns out of order",
    "give another --to",
)

# Decided over the whole corpus
EXACT_DUPLICATE = _reason("exact_duplicate", "the same conversation is already there")
NEAR_DUPLICATE = _reason("near_duplicate", "nearly the same conversation is already there")
CONTAMINATED = _reason("contaminated", "repeats text of an evaluation set", "check the files of --against")
OVER_BUDGET = _reason(
    "over_budget",
    "beyond the token budget",
    "give a larger --budget, or more max_tokens to a source",
)
HELD_OUT = _reason("held_out", "set aside for validation, not lost", "give a smaller --val")
PAIR_DROPPED = _reason("pair_dropped", "the other answer of its pair is left out")


def words_of(reason: str) -> str:
    """What a reason means; empty for a rule of the user's own."""
    return REASONS[reason].words if reason in REASONS else ""


PROMPTS_ONLY = "prompts only, with no answer to train on: have a model answer them first"


def way_out_of(reason: str) -> str:
    """What to change where `reason` leaves out everything."""
    return REASONS[reason].way_out if reason in REASONS else SEE_ANALYZE
