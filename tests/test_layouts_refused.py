"""What is ambiguous in a row is refused by name; numbers, places of images and labels are read where they have one meaning."""

from pathlib import Path
from typing import Any

import pytest
from test_layouts import COMMON, GAP, read_rows, reasons

from osler.context import Context
from osler.errors import DataError
from osler.evaluation.ablations import Ablation, ablate
from osler.prompts import render
from osler.taxonomy import Modality
from osler.types import Sample

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
    "a part that is two": (
        [{"role": "user", "content": [{"image": "a.png", "text": "Which?"}]}],
        "a part of a message holds a text and an image, and no type: make two parts of it",
    ),
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
    assert (bare.images, bare.context, bare.question) == ((), Context(text=" at admission"), "Which?")
    render(bare, "think")
    plain = Sample(**{**{name: getattr(sample, name) for name in sample.__slots__}, "question": "One <image>, two <image>?"})
    with pytest.raises(DataError, match="has 1 images and 3 places"):
        render(plain, "think")
