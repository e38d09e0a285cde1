"""How far the words of an open answer overlap with the reference: token F1 and ROUGE-L, beside the verdict and never in its place.

Words are compared without case, signs and articles; each Chinese character is a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from osler.metrics.accuracy import accuracy
from osler.metrics.clusters import Unit, cluster, clustered_mean
from osler.metrics.estimates import NO_ESTIMATE, Estimate, Proportion
from osler.text import ARTICLES, split_words
from osler.types import Record


def overlap_words(text: str) -> list[str]:
    """The words that are compared: "The T2-weighted image." -> ["t2", "weighted", "image"]."""
    return [word for word in split_words(text).folded if word[0].isalnum() and word not in ARTICLES]


def token_f1(answer: str, reference: str) -> float:
    """The harmonic mean of precision and recall of the words, in [0, 1], as in SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250)."""
    found, wanted = overlap_words(answer), overlap_words(reference)
    return _f1((Counter(found) & Counter(wanted)).total(), found, wanted)


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L with equal weights of precision and recall, in [0, 1] (Lin 2004, aclanthology.org/W04-1013)."""
    found, wanted = overlap_words(answer), overlap_words(reference)
    return _f1(longest_common_subsequence(found, wanted), found, wanted)


def longest_common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence of words, one bit for each word of `one` (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(one)) - 1
    state = full
    for word in other:
        common = state & places.get(word, 0)
        state = ((state + common) | (state - common)) & full
    return len(one) - state.bit_count()


def _f1(common: int, found: Sequence[str], wanted: Sequence[str]) -> float:
    return 2 * common / (len(found) + len(wanted)) if common else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSummary:
    """The metrics of the open questions among some records, with 95 % intervals."""

    accuracy: Proportion
    token_f1: Estimate  # mean; 0 for a record without an answer
    rouge_l: Estimate


def summarize_open(records: Collection[Record], unit: Unit = "sample") -> OpenSummary | None:
    """The metrics of the records without choices, with intervals by `unit` (see `accuracy`); None without such records."""
    asked = [record for record in records if not record.choices]
    if not asked:
        return None
    clusters = cluster(asked, unit)

    def average(values: Sequence[float]) -> Estimate:
        mean = clustered_mean(values, clusters)
        return NO_ESTIMATE if mean is None else mean.estimate()

    return OpenSummary(
        accuracy=accuracy(asked, unit),
        token_f1=average([token_f1(record.answer or "", record.target) for record in asked]),
        rouge_l=average([rouge_l(record.answer or "", record.target) for record in asked]),
    )
