"""Documents that are alike, and what compares all pairs of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tokpack.schema import CONTENT, TRAINED
from tokpack.stages.near_dup.kinds import SAME_ANSWER, SAME_PROMPT
from tokpack.stages.near_dup.near_dup import SHORT, NearDuplicates
from tokpack.stages.selected_tokens import SelectedTokens

UNHURRIED = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])

Document = Sequence[int]


def batch_of(documents: Sequence[Document]) -> SelectedTokens:
    tokens = np.array([token for document in documents for token in document], np.int32)
    return SelectedTokens(tokens, np.cumsum([0, *(len(document) for document in documents)]))


def grams(document: Document, n: int) -> frozenset[tuple[int, ...]]:
    document = tuple(document)
    if len(document) < n:
        return frozenset({document} if document else ())
    return frozenset(document[i : i + n] for i in range(len(document) - n + 1))


def brute_force(
    documents: Sequence[Document], threshold: float, n: int, eligible: Sequence[bool] | None = None
) -> tuple[list[int], list[float]]:
    """First kept partner and similarity of each document, by comparing all pairs."""
    sets = [grams(document, n) for document in documents]
    kept: list[int] = []
    partner, jaccard = [-1] * len(sets), [0.0] * len(sets)
    for d, mine in enumerate(sets):
        if not mine or (eligible is not None and not eligible[d]):
            continue
        for other in kept:
            similarity = len(mine & sets[other]) / len(mine | sets[other])
            if similarity >= threshold:
                partner[d], jaccard[d] = other, similarity
                break
        else:
            kept.append(d)
    return partner, jaccard


def assert_same(found: NearDuplicates, expected: tuple[list[int], list[float]]) -> None:
    assert found.partner.tolist() == expected[0]
    assert found.jaccard.tolist() == expected[1]
    assert not found.bounded.any()


@st.composite
def families(draw: st.DrawFn) -> list[list[int]]:
    """Documents of few symbols, many of them edited copies of earlier ones."""
    symbols = st.integers(0, draw(st.sampled_from([1, 2, 5, 40])))
    documents: list[list[int]] = []
    for _ in range(draw(st.integers(0, 25))):
        if documents and draw(st.booleans()):
            copy = list(draw(st.sampled_from(documents)))
            for _ in range(draw(st.integers(0, 3))):
                at = draw(st.integers(0, len(copy)))
                copy[at : at + draw(st.integers(0, 2))] = draw(st.lists(symbols, max_size=2))
            documents.append(copy)
        else:
            documents.append(draw(st.lists(symbols, max_size=60)))
    return documents


thresholds = st.sampled_from([0.1, 0.5, 0.6, 2 / 3, 0.75, 0.8, 0.9, 0.95, 1.0])


def part_sets(document: Document, flags: Sequence[int], on: str) -> tuple[frozenset[object], ...]:
    """Grams of the parts that `on` compares, SHORT tokens or more; fewer are one whole, which is no gram."""
    sets = []
    for name, wanted in (("prompt", CONTENT), ("answer", CONTENT | TRAINED)):
        part = tuple(token for token, flag in zip(document, flags, strict=True) if flag == wanted)
        if on in (name, "both"):
            sets.append(grams(part, 5) if len(part) >= SHORT else frozenset({(part,)} if part else ()))
    return tuple(sets)


def similarity(mine: frozenset[object], theirs: frozenset[object]) -> float:
    return len(mine & theirs) / len(mine | theirs) if mine | theirs else 1.0


def brute_force_on(
    documents: Sequence[Document], flags: Sequence[Sequence[int]], threshold: float, on: str
) -> tuple[list[int], list[float], list[int]]:
    """First kept partner, least similarity, and the most a kept one shares with one near as a whole."""
    sets = [part_sets(*both, on) for both in zip(documents, flags, strict=True)]
    kept: list[int] = []
    partner, least, kind = [-1] * len(sets), [0.0] * len(sets), [0] * len(sets)
    for d, mine in enumerate(sets):
        if not any(mine):
            continue
        for other in kept:
            found = [similarity(a, b) for a, b in zip(mine, sets[other], strict=True)]
            if min(found) >= threshold:
                partner[d], least[d], kind[d] = other, min(found), 0
                break
            both = sum(len(a & b) for a, b in zip(mine, sets[other], strict=True))
            either = sum(len(a | b) for a, b in zip(mine, sets[other], strict=True))
            if on == "both" and both / either >= threshold:
                assert max(found) >= threshold
                kind[d] = max(kind[d], SAME_PROMPT if found[0] >= threshold else SAME_ANSWER)
        else:
            kept.append(d)
    return partner, least, kind


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    """Families of documents with flags: a prompt, an answer, now and then a second turn, some parts empty."""
    documents = draw(families())
    flags = []
    for document in documents:
        cuts = sorted(draw(st.lists(st.integers(0, len(document)), min_size=1, max_size=3)))
        roles = [CONTENT, CONTENT | TRAINED, CONTENT, CONTENT | TRAINED]
        edges = [0, *cuts, len(document)]
        flags.append([role for role, a, b in zip(roles, edges, edges[1:], strict=False) for _ in range(a, b)])
    return documents, flags


def batches_of(conversations: tuple[list[list[int]], list[list[int]]], cut: int) -> list[SelectedTokens]:
    """Conversations with their flags as two batches."""
    documents, flags = conversations
    return [
        SelectedTokens(
            np.array([token for document in documents[part] for token in document], np.int32),
            np.cumsum([0, *map(len, documents[part])]),
            np.array([flag for own in flags[part] for flag in own], np.uint8),
            CONTENT,
        )
        for part in (slice(cut), slice(cut, None))
    ]
