"""Numbers in place of texts tell apart what the texts tell apart."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osler.audits.leaks import case_groups, case_keys, image_keys
from osler.audits.numbering import KeyTable, SampleTable, firsts_of, number_parts, number_rows
from osler.audits.quality import assess, name_concept
from osler.images.files import ImageFile
from osler.text import ignore_case_and_end
from osler.types import LETTERS, Sample

TEXTS = st.sampled_from(["CT", "ct.", "MRI", "Magnetic resonance imaging", "mri scan", "T1+", "T1-", "A", "B", ""])


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    choices = tuple(draw(st.one_of(st.just([]), st.lists(TEXTS, min_size=1, max_size=5))))
    paths = draw(st.lists(st.sampled_from(["a.png", "b.png", "./b.png", "Images/Mura/patient1/1.png"]), max_size=2))
    return Sample(
        id=str(draw(st.integers(0, 99))),
        dataset=draw(st.sampled_from(["one", "two"])),
        images=tuple(ImageFile(root=Path(draw(st.sampled_from(["x", "y"]))), path=path) for path in paths),
        question=draw(TEXTS),
        choices=choices,
        target=draw(st.sampled_from(LETTERS[: len(choices)])) if choices else draw(TEXTS),
        modality=None,
        question_type=None,
        subject_id=draw(st.sampled_from([None, "p1", "two:p1"])),
    )


ROWS = st.lists(samples(), max_size=12)
COLUMNS = st.integers(0, 30).flatmap(
    lambda length: st.lists(st.lists(st.sampled_from([0, 1, 2, 7, 10**6]), min_size=length, max_size=length), min_size=1, max_size=4)
)


def groups(values: Iterable[object]) -> list[int]:
    """Where each of the values stands first: equal for the same division of the places."""
    known: dict[object, int] = {}
    return [known.setdefault(value, place) for place, value in enumerate(values)]


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(max_size=2), st.none(), st.integers(0, 2), st.just(("a", "b"))), max_size=20))
def test_parts_are_numbered_in_the_order_of_first_appearance(parts: list[object]) -> None:
    known = list(dict.fromkeys(parts))
    numbers, found = number_parts(parts)
    assert list(found) == known
    assert numbers.tolist() == [known.index(part) for part in parts]
    assert firsts_of(numbers).tolist() == [parts.index(part) for part in known]


@settings(deadline=None)
@given(COLUMNS)
def test_rows_of_columns_have_numbers_without_gaps(columns: list[list[int]]) -> None:
    numbers = number_rows(*(np.array(column, dtype=np.int64) for column in columns)).tolist()
    assert groups(numbers) == groups(zip(*columns, strict=True))
    assert set(numbers) == set(range(len(set(numbers))))


@pytest.mark.parametrize("num_shared", [0, 1, 10, 300])
def test_few_and_many_rows_that_share_a_number_are_divided_alike(num_shared: int) -> None:
    first = np.concatenate([np.arange(300), np.arange(num_shared)])
    second = np.concatenate([np.zeros(300, np.int64), np.arange(num_shared) % 2])
    numbers = number_rows(first, second).tolist()
    assert groups(numbers) == groups(zip(first.tolist(), second.tolist(), strict=True))
    assert set(numbers) == set(range(len(set(numbers))))


@settings(deadline=None)
@given(ROWS)
def test_keys_of_groups_are_those_of_all_samples(rows: list[Sample]) -> None:
    table = SampleTable.of(rows)
    for keys, numbers in ((image_keys({}), table.images), (case_keys, case_groups(table))):
        grouped, single = KeyTable.of_groups(keys, rows, numbers), KeyTable.of(keys, rows)
        assert (grouped.numbers.tolist(), grouped.starts.tolist(), grouped.known) == (
            single.numbers.tolist(),
            single.starts.tolist(),
            single.known,
        )


@settings(deadline=None)
@given(ROWS)
def test_rows_and_answers_are_told_apart_as_their_parts_are(rows: list[Sample]) -> None:
    table = SampleTable.of(rows)
    parts = [
        (tuple(image.uri for image in sample.images), sample.question, frozenset(sample.choices), sample.target_text) for sample in rows
    ]
    assert groups(table.rows().numbers.tolist()) == groups(parts)
    assert groups(table.answers().tolist()) == groups(sample.target_text for sample in rows)


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_options_have_the_faults_that_each_question_has(rows: list[Sample]) -> None:
    quality = assess(rows)
    last = {(sample.images, sample.question, sample.choices, sample.target): sample for sample in rows}
    closed = [sample for sample in last.values() if sample.choices]
    folded = [[ignore_case_and_end(choice) for choice in sample.choices] for sample in closed]
    meant = [[name_concept(choice) for choice in sample.choices] for sample in closed]
    pairs = list(zip(closed, folded, meant, strict=True))
    assert list(quality.duplicate_options.ids) == [sample.id for sample, texts, _ in pairs if len(set(texts)) < len(texts)]
    assert list(quality.synonymous_options.ids) == [sample.id for sample, texts, names in pairs if len(set(names)) < len(set(texts))]
    assert list(quality.synonyms_of_target.ids) == [
        sample.id for sample, _, names in pairs if names.count(name_concept(sample.target_text)) > 1
    ]
    assert {size: balance.questions for size, balance in quality.letters.items()} == {
        size: sum(len(sample.choices) == size for sample in closed) for size in {len(sample.choices) for sample in closed}
    }
    for size, balance in quality.letters.items():
        targets = [sample.target for sample in closed if len(sample.choices) == size]
        assert balance.shares == {letter: targets.count(letter) / len(targets) for letter in LETTERS[:size]}
