"""Rows in the layouts that people have are read alike, and what is ambiguous is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osler.data.readers import ReadReport, read_with_report
from osler.prompts import render
from osler.types import LETTERS

GAP = float("nan")
COMMON = {"image": "a.png", "question": "Which technique?", "options": ["CT", "MRI", "PET"], "answer": "B"}


def read_rows(folder: Path, *rows: Any) -> ReadReport:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_with_report("jsonl", folder / "rows.jsonl")


def reasons(report: ReadReport) -> list[str]:
    return [refusal.reason for refusal in report.refused]


# One question in many layouts: the right answer is MRI, option B of CT, MRI, PET

SAME: dict[str, dict[str, Any]] = {
    "plain": {},
    "object by letter": {"options": {"A": "CT", "B": "MRI", "C": "PET"}},
    "object by letter, not sorted": {"options": {"C": "PET", "A": "CT", "B": "MRI"}},
    "object by letter, the last empty": {"options": {"A": "CT", "B": "MRI", "C": "PET", "D": None, "E": ""}},
    "object by number": {"options": {"1": "CT", "2": "MRI", "3": "PET"}, "answer": "2"},
    "keys and values": {"options": [{"key": "A", "value": "CT"}, {"key": "B", "value": "MRI"}, {"key": "C", "value": "PET"}]},
    "list as Python prints it": {"options": "['CT', 'MRI', 'PET']"},
    "list as JSON": {"options": '["CT", "MRI", "PET"]'},
    "options in one text": {"options": "A. CT\nB. MRI\nC. PET"},
    "options in a row": {"options": "A) CT, B) MRI, C) PET"},
    "columns": {"options": None, "A": "CT", "B": "MRI", "C": "PET", "D": ""},
    "columns by name": {"options": None, "option_a": "CT", "option_b": "MRI", "option_c": "PET", "option_d": GAP},
    "Choice A": {"options": None, "Choice A": " A:CT ", "Choice B": " B:MRI ", "Choice C": " C:PET "},
    "letters of their own": {"options": ["A. CT", "B. MRI", "C. PET"]},
    "letters of their own in brackets": {"options": ["(a) CT", "(b) MRI", "(c) PET"], "answer": "(b) MRI"},
    "numbers of their own": {"options": ["1. CT", "2. MRI", "3. PET"], "answer": "2"},
    "NaN behind the options": {"options": ["CT", "MRI", "PET", GAP]},
    "null choices": {"choices": None},
    "empty choices": {"choices": []},
    "null problem": {"problem": None},
    "two names of the options": {"choices": ["CT", "MRI", "PET"]},
    "small letter": {"answer": "b"},
    "text": {"answer": "MRI"},
    "text in another case": {"answer": "mri."},
    "letter and text": {"answer": "B. MRI"},
    "letter and text in brackets": {"answer": "(B) MRI"},
    "Option B": {"answer": "Option B"},
    "The answer is B": {"answer": "The answer is B."},
    "Chinese": {"answer": "答案：B"},
    "box": {"answer": "\\boxed{B}"},
    "box with text": {"answer": "$\\boxed{\\text{MRI}}$"},
    "tag": {"answer": "<answer> B </answer>"},
    "quotes": {"answer": '"B"'},
    "full width": {"answer": "Ｂ"},
    "list of one": {"answer": ["B"]},
    "list of one as text": {"answer": "['B']"},
    "empty answer beside the solution": {"answer": "", "solution": "<answer>B</answer>"},
    "text and letter": {"answer": "MRI", "answer_idx": "B"},
    "text and place": {"answer": "MRI", "label": 1},
    "image as an object": {"image": {"bytes": None, "path": "a.png"}},
    "image in a list": {"image": ["a.png"]},
    "images as text": {"image": "['a.png']"},
    "null images": {"images": None},
    "Image Path": {"image": None, "Image Path": "a.png"},
    "empty fields": {"modality": "", "context": " ", "subject_id": GAP, "rationale": None, "metadata": {}, "question_type": []},
    "placeholder": {"question": "<image>\nWhich technique?"},
    "options in the question too": {"question": "Which technique?\nA) CT\nB) MRI\nC) PET"},
    "problem with the options and an instruction": {
        "problem": "<image>Which technique?\nA) CT\nB) MRI\nC) PET\nAnswer with the option's letter.",
        "question": "Which technique?",
    },
    "text and label lists": {"options": {"text": ["CT", "MRI", "PET"], "label": ["A", "B", "C"]}},
    "columns of MedMCQA": {"options": None, "opa": "CT", "opb": "MRI", "opc": "PET", "answer": "MRI"},
    "empty list as text": {"options": None, "choices": ["CT", "MRI", "PET"], "candidates": "[]"},
    "path and name of one image": {"image_path": "images/a.png", "image": "a.png"},
    "backslash": {"image": ".\\a.png"},
    "the letter of a reply in quotes": {"answer": "'B'"},
    "problem with the options": {"problem": "<image>Which technique? A)CT, B)MRI, C)PET", "question": "Which technique?"},
}


@pytest.mark.parametrize("changes", SAME.values(), ids=SAME)
def test_a_layout_is_the_same_question(tmp_path: Path, changes: dict[str, Any]) -> None:
    report = read_rows(tmp_path, COMMON | changes)
    assert reasons(report) == []
    (sample,) = report.samples
    assert (sample.question, sample.choices, sample.target) == ("Which technique?", ("CT", "MRI", "PET"), "B")
    assert [image.uri for image in sample.images] == ["a.png"]
    assert (sample.modality, sample.question_type, sample.subject_id, sample.context, sample.rationale) == (None,) * 5


IMAGE_PART = {"type": "image", "image": "a.png"}
ASKED = "Which technique?\nA. CT\nB. MRI\nC. PET"
CHATS: dict[str, dict[str, Any]] = {
    "LLaVA": {
        "image": "a.png",
        "conversations": [{"from": "human", "value": f"<image>\n{ASKED}"}, {"from": "gpt", "value": "B"}],
    },
    "ShareGPT with a system turn": {
        "images": ["a.png"],
        "conversations": [
            {"from": "system", "value": "You see well."},
            {"from": "human", "value": f"<image>{ASKED}"},
            {"from": "gpt", "value": "<think>Bright fat.</think><answer>B</answer>"},
        ],
    },
    "ms-swift": {
        "images": ["a.png"],
        "messages": [{"role": "user", "content": f"<image>{ASKED}"}, {"role": "assistant", "content": "B"}],
    },
    "ms-swift with solution": {"images": ["a.png"], "messages": [{"role": "user", "content": f"<image>{ASKED}"}], "solution": "B"},
    "Qwen": {
        "messages": [{"role": "user", "content": [IMAGE_PART, {"type": "text", "text": ASKED}]}],
        "answer": "B",
    },
    "Qwen with the image beside it": {
        "images": ["a.png"],
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ASKED}]},
            {"role": "assistant", "content": [{"type": "text", "text": "B"}]},
        ],
    },
    "OpenAI": {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": ASKED}, {"type": "image_url", "image_url": {"url": "a.png"}}]},
            {"role": "assistant", "content": "B"},
        ]
    },
    "Qwen without types": {
        "messages": [{"role": "user", "content": [{"image": "a.png"}, {"text": ASKED}]}, {"role": "assistant", "content": [{"text": "B"}]}],
    },
    "an empty part": {
        "messages": [{"role": "user", "content": [{"type": None}, IMAGE_PART, {"type": "text", "text": ASKED}]}],
        "answer": "B",
    },
    "R1-V": {"image": "a.png", "problem": ASKED, "solution": "<answer> B </answer>"},
    "prompt of messages": {"images": ["a.png"], "prompt": [{"role": "user", "content": ASKED}], "answer": "B"},
    "messages as text": {"images": ["a.png"], "messages": json.dumps([{"role": "user", "content": ASKED}]), "answer": "B"},
    "a reply that is a sentence": {
        "images": ["a.png"],
        "messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "I see bright fat."}],
        "solution": "B",
    },
}


@pytest.mark.parametrize("row", CHATS.values(), ids=CHATS)
def test_a_chat_is_the_same_question(tmp_path: Path, row: dict[str, Any]) -> None:
    report = read_rows(tmp_path, row)
    assert reasons(report) == []
    (sample,) = report.samples
    assert (sample.question.removesuffix("\n<image>"), sample.choices, sample.target) == ("Which technique?", ("CT", "MRI", "PET"), "B")
    assert [image.uri for image in sample.images] == ["a.png"]
    assert sample.rationale == ("Bright fat." if "ShareGPT" in str(row) or "think" in str(row) else None)


@pytest.mark.parametrize("row", CHATS.values(), ids=CHATS)
def test_a_chat_that_a_library_filled_with_none_is_the_same_question(tmp_path: Path, row: dict[str, Any]) -> None:
    """`datasets` gives every message and every part the fields of all: {"type": "text", "text": .., "image": None, "image_url": None}."""
    fields = dict.fromkeys(("role", "content", "from", "value", "type", "text", "image", "image_url", "tool_calls"))

    def fill(value: Any) -> Any:
        return [fields | {name: fill(field) for name, field in part.items()} for part in value] if isinstance(value, list) else value

    keys = [key for key in ("messages", "conversations", "prompt") if isinstance(row.get(key), list)]
    plain, filled = (read_rows(tmp_path, changed) for changed in (row, {**row, **{key: fill(row[key]) for key in keys}}))
    assert (filled.samples, filled.refused) == (plain.samples, ())


def test_a_chat_with_several_questions_is_several(tmp_path: Path) -> None:
    turns = [("<image>\nIs it CT?", "No"), ("What is it?", "MRI"), ("Which organ?\nA) Liver\nB) Brain", "B")]
    chat = [part for human, gpt in turns for part in ({"from": "human", "value": human}, {"from": "gpt", "value": gpt})]
    report = read_rows(tmp_path, {"id": "x", "image": "a.png", "conversations": chat}, {"image": "a.png", "conversations": chat})
    assert [(sample.id, sample.question, sample.target_text) for sample in report.samples[:3]] == [
        ("x/1", "Is it CT?", "No"),
        ("x/2", "What is it?", "MRI"),
        ("x/3", "Which organ?", "Brain"),
    ]
    assert [sample.id for sample in report.samples[3:]] == ["rows/2/1", "rows/2/2", "rows/2/3"]
    assert report.notes["chat with several questions, each read as one"] == 2


TEXTS = [
    "Which technique?\nA. CT\nB. MRI\nC. PET",
    "Which technique?\nA.CT\nB.MRI\nC.PET",
    "Which technique?\nA:CT\nB:MRI\nC:PET",
    "Which technique?\na) CT\nb) MRI\nc) PET",
    "Which technique?\nA、CT\nB、MRI\nC、PET",
    "Which technique?\nA．CT\nB．MRI\nC．PET",
    "Which technique?\n（A）CT\n（B）MRI\n（C）PET",
    "Which technique?\n- A. CT\n- B. MRI\n- C. PET",
    "Which technique?\n* (A) CT\n* (B) MRI\n* (C) PET",
    "Which technique?\n**A.** CT\n**B.** MRI\n**C.** PET",
    "Which technique?\n**A) CT**\n**B) MRI**\n**C) PET**",
    "Which technique?\n[A] CT\n[B] MRI\n[C] PET",
    "Which technique? A. CT B. MRI C. PET",
    "Which technique? (A) CT (B) MRI (C) PET",
    "Which technique? A)CT, B)MRI, C)PET",
    "Which technique? A) CT; B) MRI; or C) PET",
    "Which technique?\nOptions: A. CT, B. MRI, C. PET",
    "Which technique?\nChoices:\nA. CT\nB. MRI\nC. PET",
    "Which technique? A: CT, B: MRI, C: PET",
    "Which technique? A)CT, B)MRI, C)PET. Answer with the letter.",
    "Which technique?\nA. CT\nB. MRI\nC. PET\nAnswer with the option's letter from the given choices directly.",
    "Which technique?\nA. CT\nB. MRI\nC. PET\nPlease select the correct answer.",
    "Which technique? A)CT, B)MRI, C)PET Your task: 1. Provide the correct single-letter choice inside <answer>...</answer> tags.",
    "Which technique?\n选项：\nA. CT\nB. MRI\nC. PET\n请回答选项字母。",
    "Which technique? (A) CT (B) MRI (C) PET Please answer with the letter.",
    "Which technique? A) CT, B) MRI, C) PET. First think about it, then answer.",
    "Which technique? A: CT B: MRI C: PET Output the thinking process in <think> </think> and the answer in <answer> </answer>.",
    "Which technique?\n1) CT\n2) MRI\n3) PET",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("answer", ["B", "MRI", "B. MRI", "<answer>B</answer>"])
def test_options_are_found_in_the_text(tmp_path: Path, text: str, answer: str) -> None:
    if "1)" in text:
        answer = answer.replace("B", "2")
    report = read_rows(tmp_path, {"image": "a.png", "problem": text, "solution": answer})
    assert [(sample.question, sample.choices, sample.target) for sample in report.samples] == [
        ("Which technique?", ("CT", "MRI", "PET"), "B")
    ], reasons(report)


OPEN = [
    "What does Fig. A show?",
    "What is hepatitis (type A)?",
    "Which plane, A or B, is this?",
    "Name the vitamin: A. Then name its use.",
    "Is A) right?",
    "Which panel shows edema, (A) or (B)?",
    "Figure (A) before and (B) after contrast. Does the lesion enhance?",
    "Steps:\n1) scan\n2) read\n3) report",
    "What are the options",
]


@pytest.mark.parametrize("text", OPEN)
def test_a_letter_in_a_question_is_no_option(tmp_path: Path, text: str) -> None:
    (sample,) = read_rows(tmp_path, {"image": "a.png", "question": text, "answer": "Liver"}).samples
    assert (sample.question, sample.choices, sample.target) == (text, (), "Liver")


# Whatever is read is whole, whatever is not is refused by name

WORD = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=12)
ODD = st.none() | st.booleans() | st.integers(-2, 30) | st.floats() | st.text(max_size=8) | st.lists(WORD, max_size=3) | st.just({"A": 1})
MARKS = ["{}) ", "({}) ", "{}. ", "{}: ", "[{}] ", "{}、"]


@st.composite
def laid_out(draw: st.DrawFn) -> tuple[dict[str, Any], tuple[str, ...], int]:
    """A row in a drawn layout, its options, and the place of the right one."""
    plain = st.text(st.characters(codec="ascii", categories=("Lu", "Ll", "Nd")), min_size=2, max_size=8)
    choices = tuple(draw(st.lists(plain, min_size=2, max_size=6, unique_by=str.casefold)))
    target = draw(st.integers(0, len(choices) - 1))
    row: dict[str, Any] = {
        "image": "a.png",
        "answer": draw(st.sampled_from([LETTERS[target], choices[target], f"{LETTERS[target]}. {choices[target]}"])),
    }
    mark = draw(st.sampled_from(MARKS))
    marked = [mark.format(letter) + choice for letter, choice in zip(LETTERS, choices, strict=False)]
    kind = draw(st.sampled_from(["list", "marked list", "object", "columns", "lines", "row", "chat"]))
    question = "Which one is shown?"
    if kind in ("list", "marked list"):
        row |= {"question": question, "options": list(choices) if kind == "list" else marked}
    elif kind == "object":
        row |= {"question": question, "options": dict(zip(LETTERS, choices, strict=False))}
    elif kind == "columns":
        row |= {"question": question, **dict(zip(LETTERS, choices, strict=False))}
    elif kind == "lines":
        row["problem"] = "\n".join([question, *marked])
    elif kind == "row":
        row["problem"] = f"{question} {', '.join(marked)}"
    else:
        row["messages"] = [{"role": "user", "content": "\n".join(["<image>", question, *marked])}]
    return row, choices, target


@settings(max_examples=80, deadline=None)
@given(laid_out())
def test_a_drawn_layout_keeps_its_parts_together(tmp_path_factory: pytest.TempPathFactory, drawn: Any) -> None:
    row, choices, target = drawn
    report = read_rows(tmp_path_factory.mktemp("rows"), row)
    for sample in report.samples:
        assert (sample.question, sample.choices, sample.target) == ("Which one is shown?", choices, LETTERS[target])
        assert [image.uri for image in sample.images] == ["a.png"]
    assert len(report.samples) == 1, reasons(report)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from([*COMMON, "choices", "problem", "solution", "messages", "conversations", "A", "B", "context"]), ODD))
def test_an_odd_row_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]) -> None:
    report = read_rows(tmp_path_factory.mktemp("rows"), COMMON | changes)
    assert len(report.samples) + len(report.refused) >= 1
    for sample in report.samples:
        render(sample, "no_think")
        assert sample.target in LETTERS[: len(sample.choices)] if sample.choices else sample.target
    assert all(reason and "\n" not in reason for reason in reasons(report))


@pytest.mark.parametrize("option", ["and", "AND", "or"])
def test_an_option_may_be_a_joining_word(tmp_path: Path, option: str) -> None:
    (sample,) = read_rows(tmp_path, {"problem": f"Which gate is it? A) nor, B) {option}", "answer": "B", "image": "a.png"}).samples
    assert sample.choices == ("nor", option)
