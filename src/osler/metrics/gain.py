"""Did it look? Accuracy minus what the best baseline gets that never sees the image, on the same questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from osler.errors import DataError
from osler.metrics.accuracy import is_correct
from osler.metrics.clusters import Unit, cluster, clustered_difference, clustered_mean, flip_test
from osler.metrics.estimates import NOTHING, Estimate
from osler.metrics.paired import Pairs, by_sample
from osler.types import Record

BLIND_POLICIES: Final = frozenset({"option prior"})
"""What the records of engines that see no image give as their policy."""

GUESSING: Final = "guessing"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGain:
    """Accuracy minus the credit of the best blind baseline. Without a baseline, or a question, everything is None."""

    gain: Estimate
    accuracy: float | None
    blind: float | None  # of the baseline
    baseline: str | None  # "option prior"
    num_samples: int
    num_clusters: int
    p_value: float | None  # two-sided, from flipping whole clusters between the sides


def record_credits(records: Iterable[Record]) -> dict[str, float]:
    """The credit of every sample: 1 for a right answer, else 0. Raises DataError when a sample has two records."""
    return {name: float(is_correct(record)) for name, record in by_sample(records).items()}


def guess_credits(records: Iterable[Record]) -> dict[str, float]:
    """What an even guess among the choices is worth: 0.25 for four; 0 for an open-ended question. Raises DataError as above."""
    return {name: 1 / len(record.choices) if record.choices else 0.0 for name, record in by_sample(records).items()}


def image_gain(
    records: Iterable[Record], blind: Mapping[str, Mapping[str, float]], unit: Unit = "subject", *, with_guessing: bool = True
) -> ImageGain:
    """Accuracy minus the best blind baseline on the questions that the policy and all baselines answered, paired.

    `blind` gives for every baseline the credit of each sample in [0, 1]: less than 1 where it shares a tie, as in `OptionPrior.credit`.
    An even guess is a baseline too unless `with_guessing` is off, because a prior fitted on other data may do worse. The best one is
    chosen on these very questions, which can only lower the gain. Raises DataError for a credit outside [0, 1] and a sample twice.
    """
    found = choose_baseline(records, blind, with_guessing=with_guessing)
    if found is None:
        return ImageGain(gain=NOTHING, accuracy=None, blind=None, baseline=None, num_samples=0, num_clusters=0, p_value=None)
    baseline, pairs = found
    clusters = cluster(pairs.records, unit)
    looking, prior = clustered_mean(pairs.after, clusters), clustered_mean(pairs.before, clusters)
    assert looking is not None  # `choose_baseline` found questions
    assert prior is not None
    return ImageGain(
        gain=clustered_difference(looking, prior),
        accuracy=looking.value,
        blind=prior.value,
        baseline=baseline,
        num_samples=len(pairs.records),
        num_clusters=looking.num_clusters,
        p_value=flip_test(pairs.cluster_sums(clusters)),
    )


def choose_baseline(
    records: Iterable[Record], blind: Mapping[str, Mapping[str, float]], *, with_guessing: bool = True
) -> tuple[str, Pairs] | None:
    """The baseline with the highest mean credit, and its pairs with the policy; None without a baseline or a shared question."""
    answered = by_sample(records)
    shared = sorted(name for name in answered if all(name in baseline for baseline in blind.values()))
    _check_credits(blind, shared)
    baselines = {**blind, GUESSING: guess_credits(answered[name] for name in shared)} if with_guessing else dict(blind)
    if not shared or not baselines:
        return None
    # The first of equals: a named baseline rather than guessing.
    best = max(baselines, key=lambda name: sum(baselines[name][sample] for sample in shared))
    members = tuple(answered[name] for name in shared)
    return best, Pairs(
        records=members,
        before=tuple(float(baselines[best][name]) for name in shared),
        after=tuple(float(is_correct(record)) for record in members),
    )


def _check_credits(blind: Mapping[str, Mapping[str, float]], shared: Iterable[str]) -> None:
    for sample in shared:
        for name, baseline in blind.items():
            if not 0 <= baseline[sample] <= 1:
                raise DataError(f"the baseline {name!r} gives {sample!r} a credit of {baseline[sample]}: a credit is a share from 0 to 1")
