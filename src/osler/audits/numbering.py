"""Numbers in place of texts: an audit compares samples often, and comparing arrays of numbers is fast.

Shapes: N samples, M keys of all samples together, T distinct tuples of options, K options at most.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Final, TypeVar

from osler.types import LETTERS, ImageSource, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

Thing = TypeVar("Thing")
Part = TypeVar("Part", bound=Hashable)
Keys = Callable[[Sample], Iterable[Hashable]]
"""The keys of one kind that a sample has, () if none can be read from it."""

ABSENT: Final = -1
"""Where a question has no option."""
_MAX_GAPS: Final = 4  # numbers for each row up to which a table of all of them is made, which is faster than sorting
_FEW: Final = 4  # rows that share a number are looked at alone where they are at most one in so many


def number_parts(parts: Sequence[Part]) -> tuple[Ints, tuple[Part, ...]]:
    """(N,) the number of each part, from 0 in the order of first appearance, and the part of each number."""
    import numpy as np

    known: dict[Part, int] = {}
    numbers = [known.setdefault(part, len(known)) for part in parts]
    return np.array(numbers, dtype=np.int64), tuple(known)


def firsts_of(numbers: Ints) -> Ints:
    """Where each of the numbers, which have no gaps, stands first."""
    import numpy as np

    firsts = np.empty(int(numbers.max(initial=-1)) + 1, dtype=np.int64)
    firsts[numbers[::-1]] = np.arange(len(numbers))[::-1]  # of several assignments the last one stays
    return firsts


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTable:
    """The keys of one kind of all samples, numbered from 0 in the order of first appearance."""

    numbers: Ints  # (M,) those of the first sample first
    starts: Ints  # (N + 1,) where in `numbers` those of each sample begin
    known: Sequence[Hashable]  # the key of each number

    @classmethod
    def of(cls, keys: Callable[[Thing], Iterable[Hashable]], samples: Iterable[Thing]) -> KeyTable:
        """Number what `keys` gives for each sample, or for each of other things."""
        import numpy as np

        found = [tuple(keys(sample)) for sample in samples]
        numbers, known = number_parts(list(chain.from_iterable(found)))
        return cls(numbers=numbers, starts=np.cumsum([0, *map(len, found)], dtype=np.int64), known=known)

    @classmethod
    def of_groups(cls, keys: Keys, samples: Sequence[Sample], groups: Ints) -> KeyTable:
        """What `of` gives, where samples with one number in `groups` (N,), which have no gaps, have the same keys."""
        import numpy as np

        firsts = firsts_of(groups)
        order = np.argsort(firsts)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return cls.of(keys, (samples[place] for place in firsts[order].tolist())).take(rank[groups])

    def take(self, rows: Ints) -> KeyTable:
        """The table of samples that have the keys of these; all keys stay known."""
        import numpy as np

        counts = self.starts[rows + 1] - self.starts[rows]
        return KeyTable(numbers=self.of_rows(rows), starts=np.concatenate([[0], np.cumsum(counts)]), known=self.known)

    def of_rows(self, rows: Ints) -> Ints:
        """The keys of these samples, in their order, each as often as it occurs."""
        import numpy as np

        counts = self.starts[rows + 1] - self.starts[rows]
        offsets = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        numbers: Ints = self.numbers[np.repeat(self.starts[rows], counts) + offsets]
        return numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleTable:
    """The parts of samples by numbers, equal for equal parts; `texts` and so on hold a part of each number."""

    samples: Sequence[Sample]  # N
    images: Ints  # (N,) of the tuple of images
    questions: Ints  # (N,) of the question's text
    choices: Ints  # (N,) of the tuple of options, T in all
    targets: Ints  # (N,) of the right letter or reference text
    image_tuples: Sequence[tuple[ImageSource, ...]]
    uris: Sequence[tuple[str, ...]]  # of each tuple of images
    question_texts: Sequence[str]
    choice_tuples: Sequence[tuple[str, ...]]
    target_texts: Sequence[str]
    options: Ints  # (T, K) of the texts of a tuple's options; ABSENT beyond the last one
    option_texts: Sequence[str]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> SampleTable:
        """Number the parts of samples."""
        import numpy as np

        images, image_tuples = number_parts([sample.images for sample in samples])
        questions, question_texts = number_parts([sample.question for sample in samples])
        choices, choice_tuples = number_parts([sample.choices for sample in samples])
        targets, target_texts = number_parts([sample.target for sample in samples])
        numbers, option_texts = number_parts(list(chain.from_iterable(choice_tuples)))
        sizes = np.fromiter(map(len, choice_tuples), np.int64, len(choice_tuples))
        options = np.full((len(sizes), int(sizes.max(initial=1))), ABSENT, dtype=np.int64)
        options[np.arange(options.shape[1]) < sizes[:, None]] = numbers
        return cls(
            samples=samples,
            images=images,
            questions=questions,
            choices=choices,
            targets=targets,
            image_tuples=image_tuples,
            uris=[tuple([image.uri for image in one]) for one in image_tuples],
            question_texts=question_texts,
            choice_tuples=choice_tuples,
            target_texts=target_texts,
            options=options,
            option_texts=option_texts,
        )

    def number(self, name: str) -> tuple[Ints, tuple[Hashable, ...]]:
        """(N,) numbers of a field of the samples, equal for equal values, and the value of each number."""
        return number_parts(list(map(attrgetter(name), self.samples)))

    @property
    def is_closed(self) -> NDArray[np.bool_]:
        """(N,) whether a sample has choices."""
        has_options: NDArray[np.bool_] = self.options[:, 0] != ABSENT
        return has_options[self.choices]

    @property
    def target_columns(self) -> Ints:
        """(N,) where the right option stands among the options; ABSENT without options."""
        import numpy as np

        letters = np.array([LETTERS.find(text) if len(text) == 1 else ABSENT for text in self.target_texts], dtype=np.int64)
        return np.where(self.is_closed, letters[self.targets], ABSENT)

    def answers(self) -> Ints:
        """(N,) numbers of the text of the right answer, equal for equal texts."""
        import numpy as np

        texts = {text: number for number, text in enumerate(self.option_texts)}
        of_targets = np.array([texts.setdefault(text, len(texts)) for text in self.target_texts], dtype=np.int64)
        numbers = np.where(self.is_closed, self.options[self.choices, self.target_columns], of_targets[self.targets])
        assert bool((numbers >= 0).all()), "the target of a question with choices is the letter of none"
        return numbers

    def rows(self) -> KeyTable:
        """One key of each sample, equal for equal rows: images, question, options as a set, and the text of the right answer."""
        import numpy as np

        of_images = number_parts(self.uris)[0]
        sets = np.sort(self.options, axis=1)
        sets[:, 1:][sets[:, 1:] == sets[:, :-1]] = ABSENT  # what stands twice
        columns = [column[self.choices] - ABSENT for column in np.sort(sets, axis=1).T]
        numbers = number_rows(of_images[self.images], self.questions, self.answers(), *columns)
        return KeyTable(numbers=numbers, starts=np.arange(len(numbers) + 1), known=range(int(numbers.max(initial=-1)) + 1))


def number_rows(*columns: Ints) -> Ints:
    """(N,) one number, from 0 without gaps, for each row of the columns (N,), equal for equal rows; the columns hold no negative number."""
    numbers = _close_gaps(columns[0])
    for column in columns[1:]:
        numbers = _divide(numbers, column)
    return numbers


def _close_gaps(numbers: Ints) -> Ints:
    """The numbers from 0 without gaps, in their order."""
    import numpy as np

    size = int(numbers.max(initial=-1)) + 1
    if size > _MAX_GAPS * len(numbers):
        return np.unique(numbers, return_inverse=True)[1]
    is_there = np.zeros(size, dtype=bool)
    is_there[numbers] = True
    return (np.cumsum(is_there) - 1)[numbers]


def _divide(numbers: Ints, column: Ints) -> Ints:
    """Numbers without gaps, equal where both `numbers`, which have none, and the column are."""
    import numpy as np

    width = int(column.max(initial=0)) + 1
    sizes = np.bincount(numbers)
    shared = np.flatnonzero(sizes[numbers] > 1)
    if _FEW * len(shared) > len(numbers):
        return _close_gaps(numbers * width + column)
    keys, key_of_row = np.unique(numbers[shared] * width + column[shared], return_inverse=True)
    is_new = np.diff(keys // width, prepend=-1) == 0  # all but the first key of a number
    divided = numbers.copy()
    divided[shared] = np.where(is_new, len(sizes) - 1 + np.cumsum(is_new), keys // width)[key_of_row]
    return divided
