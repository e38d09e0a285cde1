"""Rows in the layouts that people have are read alike, and what is ambiguous is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osler.data.readers import ReadReport, read_with_report
from osler.errors import DataError
from osler.evaluation.ablations import Ablation, ablate
from osler.prompts import render
from osler.taxonomy import Modality
from osler.types import LETTERS, Sample

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


# What cannot be understood in one way only

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "letter without options": ({"options": None}, "the right answer is the letter 'B', and the row has no options"),
    "answer and solution differ": ({"solution": "A"}, "'answer' names option B and 'solution' option A"),
    "text and letter differ": ({"answer": "B. CT"}, "the right answer 'B. CT' is none of the 3 options"),
    "letter and another text": ({"options": ["B", "A"], "answer": "A"}, "is the letter of one option and the text of another"),
    "several answers": ({"answer": ["A", "B"]}, "2 right answers: a question has one"),
    "place of an unknown base": ({"answer": 1}, "may count options from 0 or from 1"),
    "place beyond the options": ({"answer": 4}, "the right answer '4' is none of the 3 options"),
    "answer of NaN": ({"answer": GAP}, "no 'answer', 'solution' or assistant message"),
    "options in another order": ({"options": ["B. MRI", "A. CT", "C. PET"]}, "the options bring the letters B, A, C"),
    "options without B": ({"options": {"A": "CT", "C": "PET"}}, "the options are named A, C, not A, B, C, .."),
    "empty option between": ({"options": ["CT", "", "PET"]}, "option B is empty"),
    "NaN between": ({"options": ["CT", GAP, "PET"]}, "option B is"),
    "numpy's list": ({"options": "['CT' 'MRI' 'PET']"}, "the options are a text without"),
    "options of two fields differ": ({"choices": ["CT", "MRI"]}, "the options of two fields differ"),
    "two questions": ({"problem": "Which organ?"}, "'question' and 'problem' ask different things"),
    "two spellings of a field": ({"Answer": "C"}, "'answer' and 'Answer' differ"),
    "too few places": ({"image": ["a.png", "b.png"], "question": "<image> Which?"}, "1 place <image> for 2 images"),
    "too many places": ({"question": "<image><image> Which?"}, "2 places <image> for 1 image"),
    "a place twice": ({"image": ["a.png", "b.png"], "question": "<image 1> or <image 1>?"}, "do not name each image once"),
    "place in an option": ({"options": ["<image>", "MRI"]}, "an option holds a place of an image"),
    "address": ({"image": "https://example.org/a.png"}, "is an address: fetch it"),
    "broken base64": ({"image": "data:image/png;base64,iVBORw0KGgo=A"}, "no valid base64"),
    "no image": ({"image": None}, "'image' or 'images' is missing"),
    "image of a number": ({"image": 3}, "is not a path or a list of paths"),
    "options in the text in another order": ({"question": "Which?\nA) MRI\nB) CT\nC) PET"}, "are not those of the row's own field"),
    "other options in the text": ({"question": "Which? A) CT B) MRI"}, "are not those of the row's own field"),
    "options in columns differ": ({"A": "MRI", "B": "CT"}, "the options of two fields differ"),
    "a gap between columns": ({"options": None, "A": "CT", "C": "PET"}, "the options are named A, C"),
    "letters that skip": ({"options": ["A. CT", "B. MRI", "D. PET"]}, "the options bring the letters A, B, D"),
    "letters of some": ({"options": ["A. CT", "B. MRI", "PET"]}, "some options bring letters and others do not"),
    "one name twice": ({"options": [{"key": "A", "value": "CT"}, {"key": "a", "value": "MRI"}]}, "two options have one name"),
    "a key that is a list": ({"options": [{"key": ["A"], "value": "CT"}, {"key": ["B"], "value": "MRI"}]}, "the options are named"),
    "two image fields": ({"image_path": "b.png"}, "'image' and 'image_path' give different images"),
    "an image column": ({"image_2": "b.png"}, "'image' and 'image_1, ..' give different images"),
    "a longer question": ({"problem": "Which technique? And which organ?"}, "ask different things"),
    "another query": ({"query": "Which organ?"}, "'question' and 'query' ask different things"),
    "several tags": ({"answer": "<answer>A</answer> <answer>B</answer>"}, "several <answer> tags that differ"),
    "open answers differ": ({"options": None, "answer": "liver", "solution": "spleen"}, "'answer' says 'liver' and 'solution' 'spleen'"),
    "a huge number": ({"options": "[" + "f" * 5000 + "]"}, "the options are a text without"),
    "a long question": ({"question": "x" * 30_000}, "has more than 20,000 characters"),
    "half a character in a path": ({"image": "\ud800.png"}, "holds half a character"),
    "half a character": ({"question": "a\ud800b"}, "holds half a character"),
    "half a character in an option": ({"options": ["CT\udfff", "MRI"]}, "holds half a character"),
    "chat token": ({"question": "Is it <|im_end|> there?"}, "a text holds a chat token"),
    "chat token in an option": ({"options": ["CT", "<|im_start|>MRI"]}, "a text holds a chat token"),
    "question of a list": ({"question": [1]}, "'question' is list, not text"),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_ambiguous_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    (found,) = reasons(read_rows(tmp_path, COMMON | changes))
    assert reason in found


CHAT_FAULTS = {
    "a turn of another role": ([{"role": "tool", "content": "x"}], "a message has the role 'tool'"),
    "no user": ([{"role": "system", "content": "x"}], "no message of role 'user'"),
    "the assistant first": ([{"role": "assistant", "content": "x"}], "no message of role 'user' before"),
    "a video": ([{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}], "a part of the type 'video'"),
    "a message of text": (["x"], "a message is not an object"),
}


@pytest.mark.parametrize(("messages", "reason"), CHAT_FAULTS.values(), ids=CHAT_FAULTS)
def test_a_chat_that_cannot_be_taken_apart_is_refused(tmp_path: Path, messages: list[Any], reason: str) -> None:
    (found,) = reasons(read_rows(tmp_path, {"image": "a.png", "messages": messages, "answer": "CT"}))
    assert reason in found


def test_a_chat_with_an_answer_of_its_own_asks_its_last_question(tmp_path: Path) -> None:
    turns = [
        part for text in ("What organ?", "Is it large?") for part in ({"from": "human", "value": text}, {"from": "gpt", "value": "No"})
    ]
    report = read_rows(tmp_path, {"id": 5, "image": "a.png", "conversations": turns, "answer": "no"})
    assert [(sample.id, sample.question, sample.target) for sample in report.samples] == [("5", "Is it large?", "no")]


NUMBERS: list[tuple[list[Any], list[Any], str]] = [
    (["1", "2", "3", "4"], [0, 1, 2, 3], "A"),  # the others are an option's text and the place of another
    (["1. CT", "2. MRI", "3. PET"], [0, 1, 2], "A"),
    (["0", "1", "2"], [1, 2, 3], "C"),
    (["5", "6", "7"], [0, 1, 2], "ABC"),
]


@pytest.mark.parametrize(("options", "answers", "targets"), NUMBERS)
def test_a_number_that_is_a_text_and_a_place_is_refused(tmp_path: Path, options: list[Any], answers: list[Any], targets: str) -> None:
    report = read_rows(tmp_path, *({**COMMON, "options": options, "answer": answer} for answer in answers))
    assert "".join(sample.target for sample in report.samples) == targets
    named = read_rows(tmp_path, *({**COMMON, "options": options, "answer": None, "answer_idx": answer} for answer in [0, 1, 2]))
    assert "".join(sample.target for sample in named.samples) == "ABC"


@pytest.mark.parametrize(
    ("answers", "targets"),
    [
        ([0, 1, 2], "ABC"),
        (["0.0", "1.0"], "AB"),
        ([1, 3], "AC"),
        (["0", "1"], "AB"),
        ([1.0, 3.0], "AC"),
        ([1, 2], ""),
        ([0, 3], ""),
    ],
)
def test_a_number_is_a_place_where_the_file_proves_its_base(tmp_path: Path, answers: list[Any], targets: str) -> None:
    report = read_rows(tmp_path, *({**COMMON, "answer": answer} for answer in answers))
    assert "".join(sample.target for sample in report.samples) == targets
    assert len(report.refused) == len(answers) - len(targets)


def test_a_number_that_is_an_option_is_its_text(tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, COMMON | {"options": [1, 2, 3], "answer": 2}).samples
    assert sample.target_text == "2"


@pytest.mark.parametrize(("answer", "target"), [(True, "A"), (False, "B"), ("true", "A"), ("no", "B"), ("Yes", "A"), ("是", "A")])
def test_true_and_false_are_yes_and_no(tmp_path: Path, answer: Any, target: str) -> None:
    (sample,) = read_rows(tmp_path, {"image": "a.png", "question": "Is it MRI?", "options": ["Yes", "No"], "answer": answer}).samples
    assert sample.target == target


@pytest.mark.parametrize(
    ("label", "modality"), [("PET", None), ("Histopathology", Modality.MICROSCOPY), ("MR", Modality.MRI), ("sonar", None)]
)
def test_a_label_outside_the_taxonomy_is_counted(tmp_path: Path, label: str, modality: Modality | None) -> None:
    report = read_rows(tmp_path, COMMON | {"modality": label})
    assert report.samples[0].modality == modality
    assert any(note.startswith("modality") for note in report.notes)


# Places of images


@pytest.mark.parametrize(
    ("changes", "text", "uris"),
    [
        ({"question": "<image><image>\nWhich is brighter?"}, "Which is brighter?", ["a.png", "b.png"]),
        ({"question": "Is <image> brighter than <image>?"}, "Is <image> brighter than <image>?", ["a.png", "b.png"]),
        ({"question": "Is <image 2> brighter than <image_1>?"}, "Is <image> brighter than <image>?", ["b.png", "a.png"]),
        ({"question": "<image> or <image>?"}, "<image> or <image>?", ["a.png", "b.png"]),
        ({"context": "<image> before, <image> after."}, "Patient: <image> before, <image> after.\nWhich technique?", ["a.png", "b.png"]),
        ({}, "Which technique?", ["a.png", "b.png"]),
        ({"question": "Compare <image> with <image>"}, "Compare <image> with <image>", ["a.png", "b.png"]),
        ({"question": "Which technique? <image><image>"}, "Which technique?", ["a.png", "b.png"]),
        (
            {"question": "Compare <image> with this.\nA) CT\nB) MRI\nC) PET\n<image>", "options": None},
            "Compare <image> with this.\n<image>",
            ["a.png", "b.png"],
        ),
    ],
)
def test_places_and_images_agree_and_keep_their_order(tmp_path: Path, changes: dict[str, Any], text: str, uris: list[str]) -> None:
    (sample,) = read_rows(tmp_path, COMMON | {"image": ["a.png", "b.png"]} | changes).samples
    prompt = render(sample, "no_think")
    assert prompt.text.startswith(f"{text}\nA) CT")
    assert [image.uri for image in sample.images] == uris
    kinds = [part["type"] for part in prompt.messages[0]["content"]]
    assert kinds.count("image") == 2
    assert (kinds == ["image", "image", "text"]) == ("<image>" not in text)
    assert all(part["text"] for part in prompt.messages[0]["content"] if part["type"] == "text")


def test_a_prompt_without_the_context_misses_its_places(tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, COMMON | {"context": "<image> at admission", "question": "Which?"}).samples
    assert render(sample, "think").has_places
    (bare,) = ablate([sample], Ablation.QUESTION_ONLY).samples
    assert (bare.images, bare.context, bare.question) == ((), " at admission", "Which?")
    render(bare, "think")
    plain = Sample(**{**{name: getattr(sample, name) for name in sample.__slots__}, "question": "One <image>, two <image>?"})
    with pytest.raises(DataError, match="has 1 images and 3 places"):
        render(plain, "think")


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
