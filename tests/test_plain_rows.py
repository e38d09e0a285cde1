"""Plain rows give the samples that rows give which are taken apart."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osler.data.readers.layouts.plain import PlainRows
from osler.data.readers.layouts.reading import How, ReadRow, read_rows, settle
from osler.data.readers.read_files import parse_json
from osler.errors import DataError
from osler.types import Sample

ROOT = Path("images")
PLAIN = {
    "id": "7",
    "images": ["a/1.png"],
    "question": "Which organ is enlarged?",
    "choices": ["Liver", "Spleen (left)"],
    "target": "B",
    "modality": "ct",
    "question_type": "disease_diagnosis",
    "subject_id": "p1",
}


def read(row: dict[str, Any], *, has_own_ids: bool = True) -> Sample | None:
    return PlainRows(stem="train", root=ROOT, prefix="in/", has_own_ids=has_own_ids).read(row, 3)


def take_apart(row: dict[str, Any], *, has_own_ids: bool = True) -> tuple[object, dict[str, int]]:
    """The sample by the general way, which a row takes that names its split, and what was noted."""
    how = How(name="t", stem="train", split=None, may_name_splits=True, has_own_ids=has_own_ids, root=ROOT, prefix="in/")
    part = read_rows([(3, {**row, "split": "train"})], how)
    (read_row,) = part.rows
    assert isinstance(read_row, ReadRow)
    return read_row.made, dict(part.notes) | dict(part.nameless_notes)


@pytest.mark.parametrize("other", [{}, {"split": "test"}, {"split": "attic"}])
def test_a_plain_row_names_no_split(other: dict[str, Any]) -> None:
    how = How(name="t", stem="t", split=None, may_name_splits=True, has_own_ids=True, root=ROOT, prefix="")
    part = settle(read_rows([(1, PLAIN), (2, {**PLAIN, "id": "8", **other})], how), how)
    reason = "it names no split, and other rows train, validation or test: mend it"
    first = part.rows[0]
    assert (isinstance(first, ReadRow) and first.made == reason) is (other == {"split": "test"})
    assert isinstance(first, tuple) is (other != {"split": "test"})


READ: list[dict[str, Any]] = [
    {},
    {"choices": [], "target": "left lower lobe"},
    {"choices": None, "target": "pneumothorax"},
    {"modality": None, "subject_id": ""},
    {"images": "a.JPG"},
    {"images": ["a.png", "b/c.jpeg"]},
    {"choices": ["1", "2", "10"], "target": "A"},
    {"dataset": "mine", "layout": "osler"},
]

LEFT: list[dict[str, Any]] = [
    {"question": "Which? A) CT B) MRI"},
    {"question": "<image> Which organ?"},
    {"question": "Größe?"},
    {"question": " Which organ?"},
    {"question": 7},
    {"choices": ["A. Liver", "B. Spleen"]},
    {"choices": ["1. Liver", "2. Spleen"]},
    {"choices": ["Liver", "liver"]},
    {"choices": ["x ray", "x-ray"]},
    {"choices": ["B", "A"]},
    {"choices": ["x_ray", "CT"]},
    {"choices": ["Liver"]},
    {"choices": "A) CT B) MRI"},
    {"choices": [1, 2]},
    {"target": "C"},
    {"target": "b"},
    {"target": "Liver"},
    {"target": 1},
    {"choices": [], "target": "B"},
    {"choices": [], "target": "option B"},
    {"images": ["../1.png"]},
    {"images": ["a/../1.png"]},
    {"images": ["/1.png"]},
    {"images": ["study"]},
    {"images": ["http://a/1.png"]},
    {"images": [{"path": "1.png"}]},
    {"images": []},
    {"modality": "CT"},
    {"modality": "endoscopy"},
    {"id": 7},
    {"id": " 7"},
    {"context": "Cough."},
    {"age": "60"},
    {"answer": "A"},
    {"Question": "Which organ?"},
    {"option_a": "x"},
    {"messages": []},
    {"comment": "x"},
    {"images": [], "image_1": "a.png"},
    {"images": [[]]},
    {"choices": ["Liver", []]},
    {"subject_id": []},
]


@pytest.mark.parametrize("changes", READ)
@pytest.mark.parametrize("has_own_ids", [True, False])
def test_a_plain_row_is_read_as_by_taking_it_apart(changes: dict[str, Any], has_own_ids: bool) -> None:
    row = {**PLAIN, **changes}
    made, notes = take_apart(row, has_own_ids=has_own_ids)
    assert isinstance(made, Sample)
    assert read(row, has_own_ids=has_own_ids) == made
    assert notes == {}


@pytest.mark.parametrize("changes", LEFT)
def test_what_could_be_read_in_another_way_is_left_to_the_others(changes: dict[str, Any]) -> None:
    assert read({**PLAIN, **changes}) is None


TEXTS = st.one_of(
    st.text(alphabet="aAbB1 2.)(:-_,<>[]{}/'\"é?|\n\\", max_size=12),
    st.sampled_from(["CT", "MRI", "A", "B", "x ray", "X-ray.", "the answer B", "yes", "True", "10", "2.0", "A) CT", "<image>"]),
)
ANYTHING = st.one_of(TEXTS, st.none(), st.integers(0, 3), st.booleans(), st.lists(TEXTS, max_size=4))
ROWS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("id", "question", "problem", "subject_id", "dataset", "modality", "question_type", "layout", "A"), ANYTHING),
        "choices": st.one_of(ANYTHING, st.lists(TEXTS, min_size=2, max_size=4)),
        "target": st.one_of(ANYTHING, st.sampled_from(["A", "B", "C"])),
        "answer": ANYTHING,
        "images": st.one_of(ANYTHING, st.sampled_from(["a.png", ["a.png"], ["a.jpg", "b/c.jpeg"], [], "x.dcm", "./a.png"])),
    },
)


def test_a_reader_that_remembers_texts_reads_as_a_new_one() -> None:
    changed: list[dict[str, Any]] = [changes for cases in (READ, LEFT, READ, LEFT) for changes in cases]
    rows = [{**PLAIN, "id": str(number), **changes} for number, changes in enumerate(changed)]
    for max_kept in (2, 1000):  # with 2, texts are forgotten too
        reader = PlainRows(stem="train", root=ROOT, prefix="in/", has_own_ids=True, max_kept=max_kept)
        assert [reader.read(row, 3) for row in rows] == [read(row) for row in rows]


def test_one_numbered_column_of_images_is_left_to_the_others() -> None:
    assert read({name: value for name, value in PLAIN.items() if name != "images"} | {"image_1": "a.png"}) is None


LINES = [
    *('{"a": 1}', '{"a": 1} ', ' {"a": 1}', '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1}x', '{"a": "\\ud800"}', '{"a"'),
    *("{", "", "[1]", "\ufeff{}"),
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_parsed_as_json_parses_it(line: str) -> None:
    try:
        wanted: object = repr(json.loads(line))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        wanted = f"x is not valid JSON ({error.msg}, {where}): correct it or download it again"
    try:
        found = repr(parse_json(line.encode(), Path("x")))
    except DataError as error:
        found = str(error)
    assert found == wanted


@settings(max_examples=600, deadline=None)
@given(ROWS, st.booleans())
def test_no_row_is_read_in_another_way(changes: dict[str, Any], is_near: bool) -> None:
    row = {**PLAIN, **changes} if is_near else changes
    if (made := read(row)) is not None:
        assert (made, {}) == take_apart(row)
