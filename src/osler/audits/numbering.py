"""Numbers in place of texts: an audit compares samples often, and comparing arrays of numbers is fast.

Shapes: N samples, M keys of all samples together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from osler.types import LETTERS, ImageSource, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

Keys = Callable[[Sample], Iterable[Hashable]]
"""The keys of one kind that a sample has, () if none can be read from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTable:
    """The keys of one kind of all samples, numbered from 0 in the order of first appearance."""

    numbers: Ints  # (M,) those of the first sample first
    starts: Ints  # (N + 1,) where in `numbers` those of each sample begin
    known: Sequence[Hashable]  # the key of each number

    @classmethod
    def of(cls, keys: Keys, samples: Iterable[Sample]) -> KeyTable:
        """Number what `keys` gives for each sample."""
        import numpy as np

        known: dict[Hashable, int] = {}
        numbers: list[int] = []
        starts = [0]
        for sample in samples:
            numbers.extend(known.setdefault(key, len(known)) for key in keys(sample))
            starts.append(len(numbers))
        return cls(numbers=np.array(numbers, dtype=np.int64), starts=np.array(starts, dtype=np.int64), known=tuple(known))

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
    choices: Ints  # (N,) of the tuple of options
    targets: Ints  # (N,) of the right letter or reference text
    image_tuples: Sequence[tuple[ImageSource, ...]]
    question_texts: Sequence[str]
    choice_tuples: Sequence[tuple[str, ...]]
    target_texts: Sequence[str]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> SampleTable:
        """Number the parts of samples."""
        import numpy as np

        images: dict[tuple[ImageSource, ...], int] = {}
        questions: dict[str, int] = {}
        choices: dict[tuple[str, ...], int] = {}
        targets: dict[str, int] = {}
        numbers = np.empty((4, len(samples)), dtype=np.int64)
        numbers[0] = [images.setdefault(sample.images, len(images)) for sample in samples]
        numbers[1] = [questions.setdefault(sample.question, len(questions)) for sample in samples]
        numbers[2] = [choices.setdefault(sample.choices, len(choices)) for sample in samples]
        numbers[3] = [targets.setdefault(sample.target, len(targets)) for sample in samples]
        return cls(
            samples=samples,
            images=numbers[0],
            questions=numbers[1],
            choices=numbers[2],
            targets=numbers[3],
            image_tuples=tuple(images),
            question_texts=tuple(questions),
            choice_tuples=tuple(choices),
            target_texts=tuple(targets),
        )

    @property
    def is_closed(self) -> NDArray[np.bool_]:
        """(N,) whether a sample has choices."""
        import numpy as np

        return np.array([bool(choices) for choices in self.choice_tuples], dtype=bool)[self.choices]

    def answers(self) -> Ints:
        """(N,) numbers of the text of the right answer, equal for equal texts."""
        import numpy as np

        pairs, places, pair_of_row = np.unique(number_rows(self.choices, self.targets), return_index=True, return_inverse=True)
        texts: dict[str, int] = {}
        numbers = np.empty(len(pairs), dtype=np.int64)
        for pair, place in enumerate(places.tolist()):
            choices, target = self.choice_tuples[self.choices[place]], self.target_texts[self.targets[place]]
            text = choices[LETTERS.index(target)] if choices else target
            numbers[pair] = texts.setdefault(text, len(texts))
        return numbers[pair_of_row]

    def rows(self) -> KeyTable:
        """One key of each sample, equal for equal rows: images, question, options as a set, and the text of the right answer."""
        import numpy as np

        uris: dict[tuple[str, ...], int] = {}
        sets: dict[frozenset[str], int] = {}
        of_images = np.array(
            [uris.setdefault(tuple(image.uri for image in images), len(uris)) for images in self.image_tuples], dtype=np.int64
        )
        of_choices = np.array([sets.setdefault(frozenset(choices), len(sets)) for choices in self.choice_tuples], dtype=np.int64)
        numbers = number_rows(of_images[self.images], self.questions, of_choices[self.choices], self.answers())
        return KeyTable(numbers=numbers, starts=np.arange(len(numbers) + 1), known=range(int(numbers.max(initial=-1)) + 1))


def number_rows(*columns: Ints) -> Ints:
    """(N,) one number, from 0 without gaps, for each row of the columns (N,), equal for equal rows; the columns hold no negative number."""
    import numpy as np

    numbers = columns[0]
    for column in columns[1:]:
        numbers = np.unique(numbers * (int(column.max(initial=0)) + 1) + column, return_inverse=True)[1]
    return numbers
