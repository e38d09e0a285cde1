"""How far the option prior falls when distractors are drawn anew: the same rows as they were written and as they are redrawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from osler.audits.baselines import OptionPrior
from osler.data.answer_options import Distractors, Redraw, redraw_distractors
from osler.data.select import NONE
from osler.images.fingerprints import Fingerprint
from osler.metrics import Estimate, mean
from osler.metrics.clusters import ClusteredMean, clustered_difference, clustered_mean
from osler.metrics.estimates import NOTHING
from osler.taxonomy import Axis
from osler.types import ImageSource, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainItems:
    """One domain's option prior on those test questions that could be redrawn: with their own distractors, and with the new ones.

    Both priors are fitted on the same training questions of the domain, as written and redrawn; a question that could not be redrawn
    stays in both. Intervals and the paired difference take images and patients to be independent, not questions, and the priors as given.
    The three estimates have no value without training questions, or where no question could be redrawn.
    """

    domain: str  # "ct"
    num_test: int  # test questions with choices
    num_redrawn: int
    num_clusters: int  # separate images or patients among the redrawn ones
    chance: float | None  # of the redrawn ones; redrawing changes no number of options
    original: Estimate
    redrawn: Estimate
    difference: Estimate  # redrawn minus original
    whole_original: float | None  # over all test questions
    whole_redrawn: float | None  # over all, the others as they were: what `distractors = "redrawn"` asks
    counts: Mapping[Distractors, int]  # of the test questions


def compare_items(
    samples_train: Sequence[Sample],
    samples_test: Sequence[Sample],
    *,
    by: Axis = "modality",
    seed: int = 0,
    fingerprints: Mapping[ImageSource, Fingerprint] | None = None,
    max_distance: int | None = None,
) -> tuple[DomainItems, ...]:
    """The comparison in each domain of the test questions with choices, by the domain's name.

    Pictures are told apart by name, and where `fingerprints` are known by bytes and by hashes at most `max_distance` bits apart.
    """
    train, test = _by_domain(samples_train, by), _by_domain(samples_test, by)
    found = []
    for domain in sorted(test):
        groups = _group(test[domain], fingerprints or {}, max_distance)
        found.append(_compare(domain, train.get(domain, []), test[domain], groups, seed))
    return tuple(found)


def _by_domain(samples: Iterable[Sample], by: Axis) -> dict[str, list[Sample]]:
    domains: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.choices:
            domains[str(getattr(sample, by) or NONE)].append(sample)
    return domains


def _group(samples: Sequence[Sample], fingerprints: Mapping[ImageSource, Fingerprint], max_distance: int | None) -> list[int]:
    from osler.data.splits.group import group_samples

    groups: list[int] = group_samples(samples, fingerprints, max_distance=max_distance if fingerprints else None).tolist()
    return groups


def _compare(domain: str, train: Sequence[Sample], test: Sequence[Sample], groups: Sequence[int], seed: int) -> DomainItems:
    new_train, new_test = redraw_distractors(train, seed=seed), redraw_distractors(test, seed=seed)
    changed = [place for place, sample in enumerate(new_test.samples) if sample.metadata["distractors"] == Distractors.REDRAWN]
    clusters = _number(groups[place] for place in changed)
    before, after = _earn(train, test), _earn(new_train.samples, new_test.samples)
    original, redrawn = (clustered_mean([earned[place] for place in changed] if earned else [], clusters) for earned in (before, after))
    return DomainItems(
        domain=domain,
        num_test=len(test),
        num_redrawn=len(changed),
        num_clusters=max(clusters, default=-1) + 1,
        chance=mean([1 / len(test[place].choices) for place in changed]),
        original=_estimate(original),
        redrawn=_estimate(redrawn),
        difference=NOTHING if original is None or redrawn is None else clustered_difference(redrawn, original),
        whole_original=mean(before),
        whole_redrawn=mean(after),
        counts=_in_order(new_test),
    )


def _earn(train: Sequence[Sample], test: Sequence[Sample]) -> list[float]:
    """The credit of every test question; none without training questions."""
    if not train:
        return []
    prior = OptionPrior.fit(train)
    return [prior.credit(sample) for sample in test]


def _number(groups: Iterable[int]) -> list[int]:
    """The same groups numbered from 0 without gaps."""
    numbers: dict[int, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in groups]


def _estimate(mean: ClusteredMean | None) -> Estimate:
    return NOTHING if mean is None else mean.estimate()


def _in_order(redraw: Redraw) -> dict[Distractors, int]:
    return {outcome: redraw.counts[outcome] for outcome in Distractors if outcome in redraw.counts}
