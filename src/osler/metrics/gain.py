"""Image gain: the accuracy of a policy minus that of the best baseline that does not see the image, on the same questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from osler.errors import DataError
from osler.metrics.accuracy import is_correct
from osler.metrics.clusters import Unit, cluster, clustered_difference, clustered_mean, flip_test
from osler.metrics.estimates import Estimate
from osler.metrics.paired import Pairs, by_sample
from osler.types import Record

BLIND_POLICIES: Final = frozenset({"option prior"})
"""The `policy` field of records by engines that do not see the image."""

GUESSING: Final = "guessing"

MIN_CHANGED: Final = 0.1
"""The share of changed answers from which an input is followed: a few answers change with any change of a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGain:
    """Accuracy minus the mean credit of the best blind baseline, in shares of one; None if there are no questions."""

    gain: Estimate
    accuracy: float | None  # of the policy
    blind: float | None  # mean credit of the baseline
    baseline: str | None  # its name: "option prior"
    num_samples: int
    num_clusters: int  # independent images or subjects
    p_value: float | None  # two-sided, see `flip_test`


def record_credits(records: Iterable[Record]) -> dict[str, float]:
    """Sample id -> credit: 1 for a correct answer, else 0. Raises DataError for a second record of a sample."""
    return {name: float(is_correct(record)) for name, record in by_sample(records).items()}


def guess_credits(records: Iterable[Record]) -> dict[str, float]:
    """Sample id -> the expected credit of a uniform guess: 0.25 for four choices, 0 if open-ended. Raises DataError as above."""
    return {name: 1 / len(record.choices) if record.choices else 0.0 for name, record in by_sample(records).items()}


def image_gain(records: Iterable[Record], blind: Mapping[str, Mapping[str, float]], unit: Unit = "subject") -> ImageGain:
    """The paired difference of the accuracy and the best blind baseline, on the questions that the policy and all baselines answered.

    `blind` maps baseline name -> sample id -> credit in [0, 1], which is fractional for ties, as in `OptionPrior.credit`. A uniform guess
    is always a baseline as well, because a prior fitted on other data may be worse. The best baseline is chosen on these questions, which
    can only lower the gain. Raises DataError for a credit outside [0, 1], or a second record of a sample.
    """
    return gain_over(*choose_baseline(records, blind), unit)


def choose_baseline(records: Iterable[Record], blind: Mapping[str, Mapping[str, float]]) -> tuple[str | None, Pairs]:
    """The name of the baseline with the highest mean credit, and its pairs with the policy; None and no pairs without a shared question."""
    answered = by_sample(records)
    shared = sorted(name for name in answered if all(name in baseline for baseline in blind.values()))
    if not shared:
        return None, Pairs(records=(), before=(), after=())
    for sample in shared:
        for name, baseline in blind.items():
            if not 0 <= baseline[sample] <= 1:
                raise DataError(f"the baseline {name!r} gives {sample!r} a credit of {baseline[sample]}: use a number from 0 to 1")
    baselines = {**blind, GUESSING: guess_credits(answered[name] for name in shared)}
    # Of equal baselines the first, so that a named one precedes guessing.
    best = max(baselines, key=lambda name: sum(baselines[name][sample] for sample in shared))
    members = tuple(answered[name] for name in shared)
    return best, Pairs(
        records=members,
        before=tuple(float(baselines[best][name]) for name in shared),
        after=tuple(float(is_correct(record)) for record in members),
    )


def gain_over(baseline: str | None, pairs: Pairs, unit: Unit) -> ImageGain:
    """The image gain over the chosen baseline, from what `choose_baseline` returns."""
    clusters = cluster(pairs.records, unit)
    policy, blind = clustered_mean(pairs.after, clusters), clustered_mean(pairs.before, clusters)
    return ImageGain(
        gain=clustered_difference(policy, blind),
        accuracy=policy.value if policy else None,
        blind=blind.value if blind else None,
        baseline=baseline,
        num_samples=len(pairs.records),
        num_clusters=policy.num_clusters if policy else 0,
        p_value=flip_test(pairs.cluster_sums(clusters)) if policy else None,
    )
