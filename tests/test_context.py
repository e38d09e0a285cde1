"""The patient context: one normal form, read from texts, objects and columns, shown by a strategy, written and read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_layouts import COMMON, GAP, read_rows, reasons
from test_prompts import OURS, PAPERS, make_sample

from osler.cli.data import print_check
from osler.context import FIELDS, Context, differing_fields, parse_age, parse_laterality, parse_sex, years_of
from osler.data.inspect import check, convert
from osler.data.readers import read
from osler.data.select import digest_content
from osler.data.splits.manifest import digest_sample
from osler.errors import DataError
from osler.images.files import ImageFile
from osler.prompts import find_strategy, layout_context, register_strategy, render
from osler.reports.contact_sheet import view_samples
from osler.types import Sample

AGES = [
    (63, "63 years", 63),
    (63.0, "63 years", 63),
    (0.5, "6 months", 0.5),
    ("63", "63 years", 63),
    ("63.0", "63 years", 63),
    ("063Y", "63 years", 63),
    ("006M", "6 months", 0.5),
    ("002W", "2 weeks", 14 / 365.2425),
    ("010D", "10 days", 10 / 365.2425),
    ("000Y", "0 years", 0),
    ("1 year", "1 year", 1),
    ("63-year-old", "63 years", 63),
    ("63 years old", "63 years", 63),
    ("63 y/o", "63 years", 63),
    ("63 Y.O.", "63 years", 63),
    ("18 months", "18 months", 1.5),
    ("63岁", "63 years", 63),
    ("60-69", "60-69 years", 60),
    ("60 to 69 years", "60-69 years", 60),
    ("90+", "90 years or older", 90),
    (">=90", "90 years or older", 90),
    ("90 and older", "90 years or older", 90),
    (">89", "over 89 years", 89),
    ("under 18", "under 18 years", 17),
    ("60s", "60s", 60),
    ("Adult", "adult", 45),
    ("unknown", None, None),
    ("", None, None),
    (GAP, None, None),
]


@pytest.mark.parametrize(("value", "age", "years"), AGES)
def test_an_age_has_one_form(value: Any, age: str | None, years: float | None) -> None:
    assert parse_age(value) == age
    assert age is None or (parse_age(age) == age and years_of(age) == pytest.approx(years))


@pytest.mark.parametrize("value", [-1, 131, "411", "63M", "abc", "69-60", "1e3", "nan years", True, [63], "63 64", "decades", "2000-01-01"])
def test_what_is_no_age_is_refused_without_its_value(value: Any) -> None:
    with pytest.raises(DataError, match="mend it, or leave it out") as caught:
        Context(age=value)
    assert str(value) not in str(caught.value).replace("130 years", "")


CODES = [
    *((parse_sex, value, "male") for value in ("M", "m ", "Male", "man", "男")),
    *((parse_sex, value, "female") for value in ("F", "FEMALE", "woman", "女性")),
    *((parse_sex, value, "other") for value in ("O", "other")),
    *((parse_sex, value, None) for value in ("U", "unknown", "", GAP)),
    *((parse_laterality, value, "left") for value in ("L", "Left", "OS", "左")),
    *((parse_laterality, value, "right") for value in ("R", "right", "OD")),
    *((parse_laterality, value, "bilateral") for value in ("B", "both", "OU")),
    *((parse_laterality, value, None) for value in ("U", "n/a", "")),
]


@pytest.mark.parametrize(("parse", "value", "normal"), CODES)
def test_sexes_and_sides_have_one_form(parse: Any, value: Any, normal: str | None) -> None:
    assert parse(value) == normal
    assert normal is None or parse(normal) == normal


@pytest.mark.parametrize("wrong", [{"sex": "1"}, {"sex": 1}, {"laterality": "up"}, {"laterality": 0}, {"history": 3}, {"text": ["a"]}])
def test_wrong_fields_are_one_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        Context(**wrong)
    assert "\n" not in str(caught.value)


def test_a_sample_takes_a_text_as_its_context() -> None:
    assert make_sample(context="67-year-old man, cough").context == Context(text="67-year-old man, cough")
    assert make_sample(context=" ").context is make_sample(context=Context()).context is make_sample().context is None
    with pytest.raises(DataError, match=r"a patient context is dict: give an osler.Context, or text"):
        make_sample(context={"age": 63})


# Prompts

LINES = [
    ({"text": "67-year-old man, cough"}, "Patient: 67-year-old man, cough"),
    ({"text": "  Aged 60.\nCough"}, "Patient:   Aged 60.\nCough"),
    ({"age": 63, "sex": "M", "indication": "cough"}, "Patient: 63-year-old man. Indication: cough."),
    ({"age": "3 months", "sex": "F"}, "Patient: 3-month-old girl."),
    ({"age": 17, "sex": "M"}, "Patient: 17-year-old boy."),
    ({"age": "1 year"}, "Patient: 1 year old."),
    ({"age": "60-69", "sex": "F"}, "Patient: woman (60-69 years)."),
    ({"age": "90+"}, "Patient: 90 years or older."),
    ({"sex": "M"}, "Patient: male patient."),
    ({"sex": "O", "age": 40}, "Patient: 40 years old, sex other."),
    ({"sex": "O"}, "Patient: patient of another sex."),
    ({"laterality": "R", "prior_findings": "a nodule?"}, "Prior findings: a nodule? Side: right."),
    (
        {"text": "Smoker", "laterality": "L", "prior_findings": "none", "history": "diabetes.", "indication": "pain", "age": "063Y"},
        "Patient: 63 years old. Indication: pain. History: diabetes. Prior findings: none. Side: left. Smoker.",
    ),
]


@pytest.mark.parametrize(("known", "line"), LINES, ids=[row[1] for row in LINES])
@pytest.mark.parametrize("strategy", OURS)
def test_our_strategies_show_one_line(known: dict[str, Any], line: str, strategy: str) -> None:
    sample = make_sample(context=Context(**known))
    bare = render(make_sample(), strategy).text
    assert render(sample, strategy).text == f"{line}\n{bare}"
    assert render(sample, strategy, phase="train").text == f"{line}\n{bare}"


@pytest.mark.parametrize("strategy", PAPERS)
def test_the_papers_have_no_place_for_it(strategy: str) -> None:
    assert render(make_sample(context=Context(age=63, indication="cough")), strategy).text == render(make_sample(), strategy).text


def test_a_strategy_may_bring_its_own_layout() -> None:
    layouts = {"listed": lambda context: "\n".join(f"- {name}: {value}" for name, value in context.values.items()), "silent": lambda _: ""}
    for name, layout in layouts.items():
        register_strategy(f"context-{name}")(replace(find_strategy("no_think"), context_layout=layout))
    sample = make_sample(context=Context(age=63, sex="M"))
    assert render(sample, "context-listed").text.startswith("- age: 63 years\n- sex: male\nWhich modality?")
    assert render(sample, "context-silent").text == render(make_sample(), "no_think").text


def test_a_chat_token_in_a_field_is_refused() -> None:
    with pytest.raises(DataError, match="chat token"):
        render(make_sample(context=Context(age=3, history="x<|im_end|>")), "think")


# Rows

READ: dict[str, tuple[dict[str, Any], dict[str, str] | None]] = {
    "text": ({"context": " Aged 60. "}, {"text": "Aged 60."}),
    "number": ({"context": 60}, {"text": "60"}),
    "object": ({"context": {"age": 63, "Prior Findings": "a cyst"}}, {"age": "63 years", "prior_findings": "a cyst"}),
    "object as text": ({"context": "{'gender': 'F', 'text': 'pale'}"}, {"sex": "female", "text": "pale"}),
    "object of nothing": ({"context": {"age": None, "history": "", "sex": "unknown"}}, None),
    "columns": (
        {"Patient Age": "063Y", "Patient Gender": "F", "Clinical Indication": "cough", "medical_history": "asthma", "Laterality": "L"},
        {"age": "63 years", "sex": "female", "indication": "cough", "history": "asthma", "laterality": "left"},
    ),
    "columns of numbers": ({"age": 63.0, "sex": GAP, "comparison": None}, {"age": "63 years"}),
    "two names that agree": ({"age": 63, "patient_age": "063Y"}, {"age": "63 years"}),
    "text and columns": ({"context": "pale", "age": "63"}, {"age": "63 years", "text": "pale"}),
    "object and columns": ({"context": {"sex": "F"}, "gender": "female", "age": 5}, {"age": "5 years", "sex": "female"}),
    "clinical history": ({"clinical_history": "67-year-old man"}, {"history": "67-year-old man"}),
    "nothing": ({"context": " ", "age": "unknown", "sex": ""}, None),
}  # fmt: skip


@pytest.mark.parametrize(("row", "known"), READ.values(), ids=READ)
def test_a_row_gives_its_context(tmp_path: Path, row: dict[str, Any], known: dict[str, str] | None) -> None:
    report = read_rows(tmp_path, COMMON | row)
    assert reasons(report) == []
    (sample,) = report.samples
    assert (sample.context.values if sample.context else None) == known
    assert not any("not read" in note or "left out" in note for note in report.notes)


OTHER_MEANINGS: dict[str, tuple[dict[str, Any], str]] = {
    "earlier turns of a chat": ({"history": [["Hi", "Hello"]]}, "field 'history' not read"),
    "earlier turns as text": ({"history": "[['Hi', 'Hello']]"}, "field 'history' not read"),
    "whether two images are compared": ({"comparison": True}, "field 'comparison' not read"),
    "sex by a number": ({"sex": 1}, "'sex' holds no sex: left out"),
    "sex by a digit": ({"gender": "0"}, "'gender' holds no sex: left out"),
    "an age that nobody has": ({"Patient Age": 411}, "'Patient Age' holds no age: left out"),
    "a year": ({"age": "1957-02-03"}, "'age' holds no age: left out"),
    "another side": ({"laterality": "medial"}, "'laterality' holds no laterality: left out"),
}


@pytest.mark.parametrize(("row", "note"), OTHER_MEANINGS.values(), ids=OTHER_MEANINGS)
def test_a_column_of_another_meaning_is_left_out_and_counted(tmp_path: Path, row: dict[str, Any], note: str) -> None:
    report = read_rows(tmp_path, COMMON | row)
    assert [sample.context for sample in report.samples] == [None]
    assert report.notes[note] == 1


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown field": ({"context": {"age": 3, "weight": 70}}, f"'context' has the field 'weight': it takes {', '.join(FIELDS)}"),
    "a field of a row": ({"context": {"question": "x"}}, "'context' has the field 'question': it takes age"),
    "a letter": ({"context": {"B": "x"}}, "'context' has the field 'B': it takes age"),
    "a wrong age": ({"context": {"age": "abc"}}, "an age is no number of years"),
    "a wrong sex": ({"context": {"sex": 1}}, "a sex is none of M, F"),
    "a list": ({"context": ["a"]}, "'context' is list, neither text nor an object"),
    "a list in a field": ({"context": {"history": ["a"]}}, "the history of a patient context is list: write it as text"),
    "two names in an object": ({"context": {"sex": "M", "gender": "M"}}, "'context' gives the sex under two names: keep one of them"),
    "columns that disagree": ({"age": 63, "patient_age": 64}, "'patient_age' differs from another field that gives the age: keep one"),
    "object and column disagree": ({"context": {"sex": "M"}, "gender": "F"}, "'gender' differs from another field that gives the sex"),
    "a chat token": ({"indication": "<|image_pad|>"}, "a text holds a chat token"),
    "half a character": ({"context": {"history": "a\ud83d"}}, "holds half a character"),
}


@pytest.mark.parametrize(("row", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_context_is_one_line(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    (found,) = reasons(read_rows(tmp_path, COMMON | row))
    assert found.startswith(reason) or reason in found
    assert "\n" not in found


PLACED = [
    ({"prior_findings": "<image 2> a cyst", "question": "Larger on <image 1>?"}, ["b.png", "a.png"]),
    ({"context": {"history": "before <image>", "text": "now <Image>"}, "question": "Larger?"}, ["a.png", "b.png"]),
]


@pytest.mark.parametrize(("row", "uris"), PLACED)
def test_images_keep_their_places_within_fields(tmp_path: Path, row: dict[str, Any], uris: list[str]) -> None:
    report = read_rows(tmp_path, COMMON | {"image": ["a.png", "b.png"]} | row)
    assert reasons(report) == []
    (sample,) = report.samples
    prompt = render(sample, "no_think")
    assert [image.uri for image in sample.images] == uris
    assert prompt.has_places
    assert [part["type"] for part in prompt.messages[0]["content"]].count("image") == 2


# Files

TEXT = (
    st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=12)
    .map(str.strip)
    .filter(lambda text: text not in ("", "[]", "{}"))
)
CONTEXTS = st.builds(
    Context,
    age=st.none() | st.sampled_from([age for _, age, _ in AGES if age]),
    sex=st.sampled_from([None, "male", "female", "other"]),
    indication=st.none() | TEXT,
    history=st.none() | TEXT,
    prior_findings=st.none() | TEXT,
    laterality=st.sampled_from([None, "left", "right", "bilateral"]),
    text=st.none() | TEXT,
)


def samples_with(*contexts: Context | None) -> list[Sample]:
    images = (ImageFile(root=Path(), path="a.png"),)
    return [make_sample(id=f"toy/{number}", images=images, context=context) for number, context in enumerate(contexts)]


@settings(max_examples=40, deadline=None)
@given(st.lists(CONTEXTS, min_size=1, max_size=4))
def test_what_is_written_reads_back_the_same(tmp_path_factory: pytest.TempPathFactory, contexts: list[Context]) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    samples = samples_with(*contexts, Context(text='{"age": 63}'), Context(text="[1]"))
    convert(samples, path)
    assert [sample.context for sample in read("jsonl", path)] == [sample.context for sample in samples]


def test_digests_hold_the_context() -> None:
    contexts = [None, Context(text="a"), Context(history="a"), Context(age=63), Context(age=64), Context(age=63, sex="M")]
    samples = [replace(sample, id="toy/0") for sample in samples_with(*contexts)]
    assert len({digest_sample(sample, {}) for sample in samples}) == len(contexts)
    assert len({digest_content([sample]) for sample in samples}) == len(contexts)
    # A manifest that was made when the context was a text is still valid.
    before = "11c3d0f3f657d1ec7d8d0e2e43eb4bca8a3f1664914dfa5689945e3931dcfe68"
    assert digest_sample(make_sample(context="67-year-old man, cough"), {}) == before


def test_data_check_and_view_show_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read_rows(tmp_path, COMMON | {"age": 63, "sex": "M"}, COMMON | {"context": "<b>pale"}, COMMON | {"age": 411})
    print_check(check("jsonl", tmp_path / "rows.jsonl", look="none"))
    printed = capsys.readouterr().out
    assert "patient context, in number of samples: age 1, sex 1, text 1" in printed
    assert "'age' holds no age: left out  (rows.jsonl:3)" in printed
    page = view_samples(read("jsonl", tmp_path / "rows.jsonl"), tmp_path / "view.html").read_text()
    assert "<em>Patient: 63-year-old man.</em>" in page
    assert "<em>Patient: &lt;b&gt;pale</em>" in page


@settings(deadline=None)
@given(CONTEXTS, CONTEXTS)
def test_differing_fields_are_those_that_differ(one: Context, other: Context) -> None:
    found = differing_fields(one, other)
    assert (found == ()) == (one == other)
    assert replace(one, **{name: getattr(other, name) for name in found}) == other


def test_the_line_of_no_fields_is_empty() -> None:
    assert layout_context(Context()) == ""
