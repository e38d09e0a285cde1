"""A file read by several processes gives the rows, refusals and notes of reading it alone."""

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.data.readers.layouts.packing import pack, unpack
from osler.data.readers.layouts.parallel import cut_file, read_table
from osler.data.readers.layouts.reading import Part, how_to_read, read_rows
from osler.data.readers.layouts.tables import find_tables
from osler.data.readers.read_files import load_lines
from osler.errors import DataError

PLAIN = {"id": "0", "image": "a.png", "question": "Which organ?", "choices": ["Liver", "Spleen"], "target": "B", "modality": "ct"}
MESSY = (
    PLAIN | {"question": "Größe?"},  # taken apart
    PLAIN | {"choices": ["A. Liver", "B. Spleen"], "comment": 1},  # noted
    PLAIN | {"choices": [], "target": ""},  # refused
    PLAIN | {"target": 1},  # waits for the other rows
    PLAIN | {"id": 7},
    {"image": ["a.png", "b.png"], "question": "Which organ?", "answer": "liver"},  # without an id
    [1, 2],
    PLAIN | {"image": {"path": "scan.nii.gz", "window": "lung"}},
    PLAIN | {"split": "test"},
)


def write(path: Path, *, num_rows: int = 60) -> Path:
    rows = [MESSY[number // 2 % len(MESSY)] if number % 2 else PLAIN for number in range(num_rows)]
    lines = [
        json.dumps({**row, "id": str(number)} if isinstance(row, dict) and row.get("id") == "0" else row) for number, row in enumerate(rows)
    ]
    lines[7:7] = ["", "{not json", '{"id": "9"']
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def read(path: Path, num_processes: int, *, split: str | None = None) -> Part:
    (table,) = find_tables(path)
    how = how_to_read(table, split, None, path.parent, has_own_ids=True)
    return read_table(table, how, least_bytes=1, num_processes=num_processes)


def parts(part: Part) -> tuple[object, ...]:
    notes = [(dict(each), dict(each.examples)) for each in (part.notes, part.nameless_notes)]
    return part.rows, part.ids, part.named, notes


@pytest.mark.parametrize("num_processes", [2, 3])
@pytest.mark.parametrize("split", [None, "test"])
def test_the_rows_are_those_of_one_process(tmp_path: Path, num_processes: int, split: str | None) -> None:
    path = write(tmp_path / "rows.jsonl")
    alone = read(path, 1, split=split)
    assert len(alone.rows) > 50
    assert alone.nameless_notes
    assert parts(read(path, num_processes, split=split)) == parts(alone)


def test_plain_and_other_rows_are_packed_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl")
    (table,) = find_tables(path)
    how = how_to_read(table, None, None, tmp_path, has_own_ids=True)
    part = read_rows(table.rows(), how)
    packed = pickle.loads(pickle.dumps(pack(read_rows(table.rows(), how))))
    assert len(packed.numbers) > 20
    assert len(packed.places) > 20
    assert parts(unpack(packed, how.root)) == parts(part)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl")
    (table,) = find_tables(path)
    path.unlink()
    with pytest.raises(DataError, match=r"rows\.jsonl does not exist"):
        read_table(table, how_to_read(table, None, None, tmp_path, has_own_ids=True), least_bytes=1, num_processes=2)


LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=30), max_size=12)


@given(lines=LINES, num_stretches=st.integers(1, 6), has_end=st.booleans(), has_mark=st.booleans(), is_windows=st.booleans())
def test_stretches_hold_each_line_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], num_stretches: int, has_end: bool, has_mark: bool, is_windows: bool
) -> None:
    end = "\r\n" if is_windows else "\n"
    text = end.join(json.dumps(line, ensure_ascii=False) if line.strip() else line for line in lines) + end * has_end
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" * has_mark + text.encode())
    stretches = cut_file(path, num_stretches, 1)
    found = [row for part in stretches for row in load_lines(path, begin=part.begin, first=part.first, count=part.count)]
    assert [str(row) for row in found] == [str(row) for row in load_lines(path)] * bool(stretches)
