"""How often one picture of a phantom study is enough, and how often all are: `python -m tools.single_picture`, a table in Markdown.

The reader of one picture knows where every lesion of that picture is, how large it is and what it is, and answers as was most often right
among studies that looked the same there. No policy that sees only that picture answers better, up to the error of the counts.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from osler.data.phantom.studies import ASPECTS, Aspect, PhantomStudy, StudyKind, Truth, ask
from osler.data.phantom.studies.questions import MAX_CHOICES
from osler.data.phantom.studies.truth import SWINGS, Mark, Spot, pool_of
from osler.metrics.estimates import wilson
from osler.taxonomy import SPLITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Numbers of right answers to the questions of one aspect."""

    kind: StudyKind
    aspect: Aspect
    total: int
    of_pictures: tuple[int, ...]  # by the picture that is seen
    of_all: int  # with all pictures
    chance: float

    @property
    def best(self) -> int:
        """The number from 1 of the best single picture."""
        return 1 + max(range(len(self.of_pictures)), key=lambda place: self.of_pictures[place])


def read_all_pictures(truth: Truth) -> str:
    """The answer of an ideal reader, from where the things on each picture are, and not from how the study was made."""
    spots = [[(mark, mark.spots[place]) for mark in truth.marks if mark.spots[place]] for place in range(truth.num_pictures)]
    shown = [place for place, found in enumerate(spots) if found]
    seen = [(mark, spot) for found in spots for mark, spot in found if spot is not None]
    match truth.aspect:
        case Aspect.SIDE:
            return "left" if seen[0][1].x > 0 else "right"
        case Aspect.LEVEL:
            return ("lower", "middle", "upper")[int(3 * (sum(shown) / len(shown) + 0.5) / truth.num_pictures)]
        case Aspect.COUNT:
            return ("one", "two", "three", "four")[len({_quadrant(spot) for _, spot in seen}) - 1]
        case Aspect.EXTENT:
            return ("one", "two", "three", "four")[len(shown) - 1]
        case Aspect.DIAGNOSIS:
            return seen[0][0].name if seen else "normal"
        case Aspect.MOTION:
            across, down = seen[-1][1].x - seen[0][1].x, seen[-1][1].y - seen[0][1].y
            if abs(across) > abs(down):
                return "to the right" if across > 0 else "to the left"
            return "downwards" if down > 0 else "upwards"
        case Aspect.CONTRACTION:
            radii = [spot.radius for _, spot in seen]
            swing = 2 * (max(radii) - min(radii)) / (max(radii) + min(radii))
            return min(SWINGS, key=lambda name: abs(SWINGS[name] - swing))
        case Aspect.SITE:
            return f"{seen[0][1].side} {'posterior' if seen[1][1].x > 0 else 'anterior'}"
        case Aspect.CHANGE:
            if len(seen) == 1:
                return "new" if shown == [1] else "resolved"
            ratio = seen[1][1].radius / seen[0][1].radius
            return "larger" if ratio > 1.2 else "smaller" if ratio < 1 / 1.2 else "unchanged"
    before, now = ({_quadrant(spot) for _, spot in found if spot is not None} for found in spots)
    ((upper, left),) = now - before
    return f"{'upper' if upper else 'lower'} {'left' if left else 'right'}"


def _quadrant(spot: Spot) -> tuple[bool, bool]:
    return spot.y < 0, spot.x > 0


def look(truth: Truth, place: int) -> Hashable:
    """What one picture shows of the marks, in steps that counts of some thousand studies can fill."""
    return tuple(sorted(_describe(mark, spot) for mark in truth.marks if (spot := mark.spots[place]) is not None))


def _describe(mark: Mark, spot: Spot) -> tuple[str, int, int, int]:
    step = 0.12 if mark.name == "spot" else 1.0
    return mark.name, math.floor(spot.x / step), math.floor(spot.y / step), round(12 * math.log(spot.radius)) if mark.name != "spot" else 0


def measure(kind: StudyKind, aspect: Aspect, *, num_studies: int, num_slices: int = 8) -> Shares:
    """Count right answers about `num_studies` studies, after as many others have been counted to learn from."""
    learnt, asked = (
        [PhantomStudy(kind=kind, aspect=aspect, split=split, seed=0, index=index, num_slices=num_slices) for index in range(num_studies)]
        for split in SPLITS[::2]
    )
    known, truths = [study.truth for study in learnt], [study.truth for study in asked]
    pool = pool_of(kind, aspect)
    options = [ask(study).choices for study in asked] if len(pool) > MAX_CHOICES else [pool] * num_studies
    return Shares(
        kind=kind,
        aspect=aspect,
        total=num_studies,
        of_pictures=tuple(count_right(known, truths, options, place) for place in range(asked[0].num_pictures)),
        of_all=sum(read_all_pictures(truth) == truth.answer for truth in truths),
        chance=1 / min(MAX_CHOICES, len(pool)),
    )


def count_right(learnt: Sequence[Truth], asked: Sequence[Truth], options: Sequence[Sequence[str]], place: int) -> int:
    """How often the option is right that was most often so among the learnt studies that look the same on one picture."""
    answers: defaultdict[Hashable, Counter[str]] = defaultdict(Counter)
    for truth in learnt:
        answers[look(truth, place)][truth.answer] += 1
    return sum(
        max(choices, key=answers[look(truth, place)].__getitem__) == truth.answer for truth, choices in zip(asked, options, strict=True)
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=10_000, help="studies of each kind of question (default: %(default)s)")
    parser.add_argument("--slices", type=int, default=8, help="slices of a volume and frames of a cine (default: %(default)s)")
    options = parser.parse_args()
    sys.stdout.write("| kind | question | options | chance | best single picture | all pictures |\n|---|---|---|---|---|---|\n")
    for kind in StudyKind:
        for aspect in ASPECTS[kind]:
            shares = measure(kind, aspect, num_studies=options.studies, num_slices=options.slices)
            low, high = wilson(max(shares.of_pictures) / shares.total, shares.total)
            best = f"{100 * max(shares.of_pictures) / shares.total:.1f} [{100 * low:.1f}, {100 * high:.1f}], number {shares.best}"
            names = ", ".join(pool_of(kind, aspect))
            all_pictures = 100 * shares.of_all / shares.total
            sys.stdout.write(f"| `{kind}` | `{aspect}` | {names} | {100 * shares.chance:.1f} | {best} | {all_pictures:.1f} |\n")


if __name__ == "__main__":
    main()
