"""Items without shortcuts: distractors drawn anew, options in another order, every rotation of the options.

Distractors that somebody wrote for one benchmark are recognised by their text alone: on OmniMedVQA an option that was ever right is nearly
always right. Here a question's distractors are right answers of other questions of the same modality and question type, drawn as often
as they are right, so that a text says little about whether it is the answer. Nothing here changes the question, the answer or the image.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from osler.metrics import Proportion, Unit, accuracy, is_correct, mean
from osler.metrics.clusters import clustered_proportion
from osler.text import fold_option
from osler.types import LETTERS, Record, Sample

if TYPE_CHECKING:
    from osler.taxonomy import Modality, QuestionType

Cell = tuple["Modality | None", "QuestionType | None"]

_YES_NO: Final = frozenset({"yes", "no", "true", "false", "maybe", "not sure", "unsure"})
# "All of the above", "Both A and B": the text means something only beside the others, in their order.
_REFERS: Final = re.compile(
    r"(?i:.*\b(?:all|none|any|both|neither|either|one|some)\s+(?:of\s+)?(?:the\s+)?(?:above|below)\b.*)"
    r"|(?:(?i:both|neither|either|only|options?|answers?|choices?)\s+)?\(?[A-Z]\)?(?:\s*(?:,|&|/|\band\b|\bor\b|\bnor\b)\s*\(?[A-Z]\)?)+\.?"
    r"|(?i:both|neither|either|only|options?|answers?|choices?)\s+\(?[A-Z]\)?\.?",
    re.DOTALL,
)


class Distractors(StrEnum):
    """What became of a question's distractors; `sample.metadata["distractors"]` says it after a redraw."""

    REDRAWN = "redrawn"
    TOO_FEW_GOLDS = "too_few_golds"  # other questions of the cell have fewer right answers than it needs
    YES_NO = "yes_no"  # a text that answers another question cannot stand beside yes and no
    REFERS = "refers"  # an option speaks of the others, e.g. "all of the above"
    OPEN_ENDED = "open_ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Redraw:
    """Samples with redrawn distractors, in their order; those that could not be redrawn are as they were."""

    samples: tuple[Sample, ...]
    counts: Mapping[Distractors, int]  # {REDRAWN: 1506, TOO_FEW_GOLDS: 109}

    @property
    def num_redrawn(self) -> int:
        """How many questions have new distractors."""
        return self.counts.get(Distractors.REDRAWN, 0)


@dataclass(slots=True, kw_only=True)
class _Golds:
    """The right answers of one cell: how often each is right, how it is written, and which are right for one image."""

    times: Counter[str] = field(default_factory=Counter)
    text: dict[str, str] = field(default_factory=dict)
    of_image: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def redraw_distractors(samples: Sequence[Sample], *, seed: int = 0, pool: Iterable[Sample] | None = None) -> Redraw:
    """Give every question distractors drawn from golds of its modality and question type, in `pool` (by default the samples themselves).

    A question keeps its number of options and the letter of its answer. A distractor is drawn as often as it is right elsewhere, never
    equals the answer or another option after folding, and is never right for another question of the cell about the same image. What
    is drawn for a question follows from the seed, its id and the pool. A text that is right for more than a quarter of a cell's
    questions of four options stays a good guess: there are not enough other questions for it to be wrong in.
    """
    golds = _collect_golds(samples if pool is None else pool)
    counts: Counter[Distractors] = Counter()
    redrawn = []
    for sample in samples:
        choices, outcome = _redraw(sample, golds.get(_cell(sample), _Golds()), seed)
        counts[outcome] += 1
        redrawn.append(replace(sample, choices=choices, metadata={**sample.metadata, "distractors": outcome.value}))
    return Redraw(samples=tuple(redrawn), counts=dict(counts))


def _collect_golds(pool: Iterable[Sample]) -> dict[Cell, _Golds]:
    cells: dict[Cell, _Golds] = defaultdict(_Golds)
    for sample in pool:
        if not sample.choices or is_yes_no(sample) or refers_to_options(sample):
            continue
        golds, key = cells[_cell(sample)], fold_option(sample.target_text)
        golds.times[key] += 1
        golds.text.setdefault(key, sample.target_text)
        for image in sample.images:
            golds.of_image[image.uri].add(key)
    return dict(cells)


def _redraw(sample: Sample, golds: _Golds, seed: int) -> tuple[tuple[str, ...], Distractors]:
    if not sample.choices:
        return sample.choices, Distractors.OPEN_ENDED
    if is_yes_no(sample):
        return sample.choices, Distractors.YES_NO
    if refers_to_options(sample):
        return sample.choices, Distractors.REFERS
    excluded = {fold_option(sample.target_text)}.union(*(golds.of_image.get(image.uri, ()) for image in sample.images))
    candidates = [key for key in sorted(golds.times) if key and key not in excluded]
    wanted = len(sample.choices) - 1
    if len(candidates) < wanted:
        return sample.choices, Distractors.TOO_FEW_GOLDS
    rng = random.Random(f"{seed}/distractors/{sample.id}")
    # Weighted drawing without replacement: Efraimidis and Spirakis (2006), algorithm A, the largest of u ** (1 / weight).
    ranks = {key: rng.random() ** (1 / golds.times[key]) for key in candidates}
    drawn = [golds.text[key] for key in sorted(candidates, key=lambda key: -ranks[key])[:wanted]]
    drawn.insert(LETTERS.index(sample.target), sample.target_text)
    return tuple(drawn), Distractors.REDRAWN


def _cell(sample: Sample) -> Cell:
    return sample.modality, sample.question_type


def is_yes_no(sample: Sample) -> bool:
    """Whether every option is a plain yes, no or the like."""
    return bool(sample.choices) and all(fold_option(choice) in _YES_NO for choice in sample.choices)


def refers_to_options(sample: Sample) -> bool:
    """Whether an option speaks of other options by their place or letter, e.g. "Both A and B"; such options must stay where they are."""
    return any(_REFERS.fullmatch(text.strip()) for text in sample.choices)


def shuffle_options(sample: Sample, key: str) -> Sample:
    """The sample with its options in an order that follows from `key` and its id, e.g. "0/3" for seed 0 and epoch 3.

    Open-ended samples, and those with options that refer to each other, are given back as they are.
    """
    if not sample.choices or refers_to_options(sample):
        return sample
    order = list(range(len(sample.choices)))
    random.Random(f"{key}/options/{sample.id}").shuffle(order)
    return _reorder(sample, order)


def rotate_options(sample: Sample) -> tuple[Sample, ...]:
    """One sample for each rotation of the options, each relabelled from A on; the first is the sample itself.

    Their ids end in "#rotation=1", "#rotation=2" .., and `metadata["rotation"]` counts them from 0. An open-ended sample, and one with
    options that refer to each other, has no rotation: ().
    """
    if not sample.choices or refers_to_options(sample):
        return ()
    num = len(sample.choices)
    rotated = []
    for shift in range(num):
        turned = _reorder(sample, [(place + shift) % num for place in range(num)])
        name = rotation_id(sample.id, shift)
        rotated.append(replace(turned, id=name, metadata={**sample.metadata, "rotation": shift}))
    return tuple(rotated)


def rotation_id(sample_id: str, rotation: int) -> str:
    """The id of a rotation: the sample's own for the first."""
    return f"{sample_id}#rotation={rotation}" if rotation else sample_id


def _reorder(sample: Sample, order: Sequence[int]) -> Sample:
    """The sample with `choices[order[i]]` in place i."""
    target = LETTERS[order.index(LETTERS.index(sample.target))]
    return replace(sample, choices=tuple(sample.choices[place] for place in order), target=target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Circular:
    """An evaluation of every rotation. Questions of which a rotation is missing count nowhere."""

    num_questions: int
    plain: Proportion  # the options as they are
    mean: Proportion  # over all rotations, with the interval of records that share a subject
    consistent: Proportion  # right in every rotation: circular accuracy
    chance: float | None  # what guessing gets of that: 1/256 for four options


def summarize_rotations(records: Iterable[Record], unit: Unit = "subject") -> Circular:
    """Plain, mean and circular accuracy of the records that `rotate_options` led to; others are passed over."""
    questions: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in records:
        if record.rotation is not None:
            suffix = rotation_id("", record.rotation)
            questions[record.sample_id.removesuffix(suffix)][record.rotation] = record
    whole = [turns for turns in questions.values() if turns.keys() == set(range(len(next(iter(turns.values())).choices)))]
    return Circular(
        num_questions=len(whole),
        plain=accuracy([turns[0] for turns in whole], unit),
        mean=accuracy([record for turns in whole for record in turns.values()], unit),
        consistent=clustered_proportion([turns[0] for turns in whole], [all(map(is_correct, turns.values())) for turns in whole], unit),
        chance=mean([len(turns) ** -float(len(turns)) for turns in whole]),
    )
