from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osler.errors import DataError
from osler.evaluation.records import append_records, read_records, record_from_json, record_to_json, resume_records
from osler.facts import Fact, Facts, Kind, Statement, Truth
from osler.types import FinishReason, Outcome, Record

RECORD = Record(
    sample_id="toy/1",
    dataset="toy",
    modality="mri",
    question_type=None,
    subject_id="p7",
    image_uris=("a.png", "b.png"),
    strategy="think",
    policy="tiny",
    prompt="Which?\nA) x\nB) y",
    completion="<think>\u2028 é 肝 \x00</think><answer>B</answer>",
    num_tokens=12,
    finish_reason="stop",
    choices=("x", "y"),
    target="B",
    answer="B",
    reasoning="\u2028 é",
    is_well_formed=True,
    outcome="correct",
    rule="answer_tag.letter",
)
SECOND = replace(RECORD, sample_id="toy/2", answer=None, outcome="no_answer", choices=())

STATED = replace(
    RECORD,
    sample_id="toy/3",
    statements=(
        Statement(kind=Kind.SIDE, value="left", about="liver", begin=0, end=4, truth=Truth.TRUE),
        Statement(kind=Kind.PRESENCE, value="cyst", holds=False, begin=5, end=9, repeats_answer=True, truth=Truth.FALSE),
    ),
    facts=Facts(facts=(Fact(kind=Kind.SIDE, value="left", about="liver"),), closed=(Kind.SIDE, Kind.MODALITY)),
)

texts = st.text(st.characters())
any_records = st.builds(
    Record,
    **dict.fromkeys(("sample_id", "dataset", "strategy", "policy", "prompt", "completion", "target", "rule"), texts),
    **{name: st.none() | texts for name in ("modality", "question_type", "subject_id", "answer", "reasoning")},
    **{name: st.lists(texts, max_size=3).map(tuple) for name in ("image_uris", "choices")},
    num_tokens=st.integers(0, 10**6),
    is_well_formed=st.booleans(),
    finish_reason=st.sampled_from([str(reason) for reason in FinishReason]),
    outcome=st.sampled_from([str(outcome) for outcome in Outcome]),
)


def test_statements_and_facts_are_kept_and_old_files_lack_them() -> None:
    assert record_from_json(record_to_json(STATED)) == STATED
    with_half_a_surrogate = replace(STATED, completion="\ud800")
    assert record_from_json(record_to_json(with_half_a_surrogate)) == with_half_a_surrogate
    old = {name: value for name, value in json.loads(record_to_json(RECORD)).items() if name not in ("statements", "facts")}
    assert record_from_json(json.dumps(old)) == RECORD


@given(any_records)
def test_a_line_gives_its_record_back(record: Record) -> None:
    line = record_to_json(record)
    assert record_from_json(line) == record
    assert line.isascii()
    assert "\n" not in line


def test_append_then_read(tmp_path: Path) -> None:
    path = tmp_path / "records" / "grpo.jsonl"
    append_records(path, [RECORD])
    append_records(path, [SECOND, RECORD])
    append_records(path, [])
    assert read_records(path) == resume_records(path) == (RECORD, SECOND, RECORD)


def test_every_place_where_a_write_can_be_cut(tmp_path: Path) -> None:
    path = tmp_path / "grpo.jsonl"
    whole = record_to_json(RECORD).encode() + b"\n"
    cut_line = record_to_json(SECOND).encode()
    for length in range(len(cut_line) + 1):
        expected = (RECORD, SECOND) if length == len(cut_line) else (RECORD,)
        content = whole + cut_line[:length]
        path.write_bytes(content)
        assert read_records(path) == expected
        assert path.read_bytes() == content, "reading changes nothing"
        assert resume_records(path) == expected
        assert path.read_bytes() == whole + (cut_line + b"\n" if len(expected) == 2 else b"")
    path.write_bytes(whole + cut_line[:40])
    append_records(path, [SECOND])
    assert read_records(path) == (RECORD, SECOND)


@pytest.mark.parametrize("tail", [b"\x00" * 30, b'{"sample_id": "\xff', b"{", b'"'])
def test_a_tail_that_no_text_editor_would_write(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "grpo.jsonl"
    path.write_bytes(record_to_json(RECORD).encode() + b"\n" + tail)
    assert read_records(path) == resume_records(path) == (RECORD,)


def test_resume_without_a_file(tmp_path: Path) -> None:
    assert resume_records(tmp_path / "none.jsonl") == ()
    (tmp_path / "empty.jsonl").touch()
    assert resume_records(tmp_path / "empty.jsonl") == ()


def fields(**changes: object) -> dict[str, object]:
    values = json.loads(record_to_json(RECORD)) | changes
    return {name: value for name, value in values.items() if value != "ABSENT"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: not a JSON object"),
        ("\x00", "line 2: not JSON"),
        (json.dumps(fields(outcome="right")), "'outcome' must be one of ambiguous, correct"),
        (json.dumps(fields(finish_reason="eos")), "'finish_reason' must be one of length, stop"),
        (json.dumps(fields(target="ABSENT")), "'target' is missing"),
        (json.dumps(fields(score=1)), "unknown field 'score'"),
        (json.dumps(fields(num_tokens="12")), "'num_tokens' cannot be '12'"),
        (json.dumps(fields(num_tokens=True)), "'num_tokens' cannot be True"),
        (json.dumps(fields(choices="AB")), "'choices' must be a list of texts"),
        (json.dumps(fields(choices=["A", 1])), "'choices' must be a list of texts"),
        (json.dumps(fields(prompt=None)), "'prompt' cannot be None"),
        (json.dumps(fields(statements=[{"kind": "taste"}])), "'statements.0.kind' is not as this version of Osler writes it"),
        (json.dumps(fields(facts=[])), "'facts' is not as this version of Osler writes it"),
    ],
)
def test_a_wrong_line_in_the_middle_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "grpo.jsonl"
    path.write_text("\n".join([record_to_json(RECORD), line, record_to_json(SECOND), ""]), encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_records(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the records"):
        read_records(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="cannot read the records"):
        read_records(tmp_path)
