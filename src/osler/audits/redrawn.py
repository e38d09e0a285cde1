"""How far the accuracy of the option prior falls when distractors are redrawn: the same questions as written and as redrawn."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from osler.audits.baselines import OptionPrior
from osler.data.distractors import Distractors, redraw_distractors
from osler.data.select import NONE
from osler.images.fingerprints import Fingerprint
from osler.images.turned import TurnedPairs
from osler.metrics import mean, taxonomy_order
from osler.metrics.clusters import clustered_difference, clustered_mean
from osler.metrics.estimates import NO_ESTIMATE, Count, Estimate, Share, ShareEstimate, plain
from osler.taxonomy import Axis
from osler.types import ImageSource, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracies:
    """Plain accuracies of the two option priors; None without training questions."""

    original: Share | None
    redrawn: Share | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedrawnComparison:
    """One domain's option prior on the test questions that could be redrawn: with their own distractors, and with the new ones.

    Both priors are fitted on the same training questions of the domain, as written and redrawn; a question that could not be redrawn
    stays in both. Intervals and the paired difference treat images and patients as independent, not questions, and the priors as fixed.
    The three estimates have no value without training questions, or where no question could be redrawn.
    """

    num_test: Annotated[Count, Field(alias="rows")]  # test questions with choices
    num_redrawn: Annotated[Count, Field(alias="redrawn_rows")]
    num_clusters: Annotated[Count, Field(alias="clusters")]  # separate images or patients among the redrawn ones
    chance: Share | None  # of the redrawn ones; redrawing does not change the number of options
    original: ShareEstimate
    redrawn: ShareEstimate
    difference: Estimate  # redrawn minus original
    all_rows: Accuracies  # over all test questions, those that could not be redrawn as written: `distractors = "redrawn"`
    counts: Mapping[Distractors, Count]  # of the test questions


def compare_redrawn(
    samples_train: Sequence[Sample],
    samples_test: Sequence[Sample],
    *,
    by: Axis = "modality",
    seed: int = 0,
    fingerprints: Mapping[ImageSource, Fingerprint] | None = None,
    max_distance: int | None = None,
    turned: TurnedPairs | None = None,
) -> dict[str, RedrawnComparison]:
    """Domain of the test questions with choices -> its comparison, in the order of `domain_order`.

    Two images are the same one when they have the same path and, where `fingerprints` are given, when their bytes are equal, their
    perceptual hashes are at most `max_distance` bits apart, or they are one of the pairs `turned`.
    """
    from osler.data.splits.group import group_samples

    train, test = (group_by_domain([sample for sample in part if sample.choices], by) for part in (samples_train, samples_test))
    comparisons = {}
    for domain, samples in test.items():
        groups = group_samples(samples, fingerprints or {}, max_distance=max_distance if fingerprints else None, turned=turned or [])
        comparisons[domain] = _compare(train.get(domain, []), samples, groups.tolist(), seed)
    return comparisons


def group_by_domain(samples: Iterable[Sample], axis: Axis) -> dict[str, list[Sample]]:
    """Domain of the axis -> its samples, in the order of `domain_order`; "none" for samples without a domain."""
    domains: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        domains[str(getattr(sample, axis) or NONE)].append(sample)
    return {name: domains[name] for name in sorted(domains, key=domain_order)}


def domain_order(name: str) -> tuple[bool, tuple[bool, int, str]]:
    """A sort key: the taxonomy's order, samples without a domain last."""
    return name == NONE, taxonomy_order(name)


def _compare(train: Sequence[Sample], test: Sequence[Sample], groups: Sequence[int], seed: int) -> RedrawnComparison:
    new_train, new_test = redraw_distractors(train, seed=seed), redraw_distractors(test, seed=seed)
    outcomes = Counter(sample.metadata["distractors"] for sample in new_test)
    changed = [place for place, sample in enumerate(new_test) if sample.metadata["distractors"] == Distractors.REDRAWN]
    numbers: dict[int, int] = {}
    clusters = [numbers.setdefault(groups[place], len(numbers)) for place in changed]  # numbered from 0 without gaps
    before, after = _credits(train, test), _credits(new_train, new_test)
    original, redrawn = (clustered_mean([part[place] for place in changed] if part else [], clusters) for part in (before, after))
    return RedrawnComparison(
        num_test=len(test),
        num_redrawn=len(changed),
        num_clusters=len(numbers),
        chance=mean([1 / len(test[place].choices) for place in changed]),
        original=NO_ESTIMATE if original is None else plain(original.estimate()),
        redrawn=NO_ESTIMATE if redrawn is None else plain(redrawn.estimate()),
        difference=plain(clustered_difference(redrawn, original)),
        all_rows=Accuracies(original=mean(before), redrawn=mean(after)),
        counts={outcome: outcomes[outcome] for outcome in Distractors if outcome in outcomes},
    )


def _credits(train: Sequence[Sample], test: Sequence[Sample]) -> list[float]:
    """The credit of the option prior on every test question; empty without training questions."""
    if not train:
        return []
    prior = OptionPrior.fit(train)
    return [prior.credit(sample) for sample in test]
