"""Each layout gives the right samples, and what cannot be read is refused by name."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osler.context import Context
from osler.data.readers import COMMON_OPTIONS, READERS, read, read_with_report
from osler.data.readers.read_files import load_rows
from osler.data.readers.recognise import recognise
from osler.errors import ConfigError, DataError
from osler.taxonomy import Modality, QuestionType
from osler.types import LETTERS

FIXTURES = Path(__file__).parent / "fixtures"
ROOTS = {
    "med_r1": FIXTURES / "med_r1",
    "omnimedvqa": FIXTURES / "omnimedvqa",
    "huatuo": FIXTURES / "huatuo",
    "slake": FIXTURES / "slake",
    "vqa_rad": FIXTURES / "vqa_rad",
    "jsonl": FIXTURES / "jsonl",
}


def by_id(report):
    return {sample.id: sample for sample in report.samples}


def reasons(report):
    return {refusal.row: refusal.reason for refusal in report.refused}


# The layouts


def test_med_r1_rows():
    report = read_with_report("med_r1", ROOTS["med_r1"], axis="modality", name="ct", split="test")
    samples = by_id(report)
    first = samples["med_r1/ct/test/0"]
    assert (first.question, first.choices, first.target_text) == (
        "Which scanner made this picture?",
        ("x_ray", "CT", "MRI", "Ultrasound"),
        "CT",
    )
    assert (first.modality, first.question_type) == (Modality.CT, QuestionType.MODALITY_RECOGNITION)
    assert (first.images[0].root, first.images[0].uri) == (ROOTS["med_r1"], "Images/Invented/a.png")
    assert samples["med_r1/ct/test/1"].choices == ("Silver", "Haematoxylin and eosin (H&E)", "None, of these", "Giemsa")
    assert samples["med_r1/ct/test/1"].question_type is None
    assert samples["med_r1/ct/test/2"].choices == ("one of (B, C)", "D", "K")
    assert samples["med_r1/ct/test/3"].question == "Which view (plane A) is this?"
    assert {row.rsplit("/", 1)[1]: reason.split(":")[0] for row, reason in reasons(report).items()} == {
        "5": "option C where B was expected",
        "6": "the right answer 'C' is none of the 2 options",
        "7": "no options 'A) .., B) ..' in the problem text",
        "8": "image path '../secret.png' must be relative to the image root, without '..'",
        "9": "the row is not an object",
    }
    assert sum(report.notes.values()) == 6
    assert len(samples) == 5


@pytest.mark.parametrize(
    ("options", "num", "modalities"),
    [
        ({}, 7, {Modality.CT, Modality.MRI, None}),
        ({"split": "train"}, 2, {Modality.MRI, None}),
        ({"name": "MR (Mag-netic Resonance Imaging)"}, 1, {Modality.MRI}),
        ({"name": "unknown"}, 1, {None}),
        ({"axis": "question_type", "name": "modality_recognition"}, 1, {Modality.CT}),
        ({"images": "elsewhere"}, 7, {Modality.CT, Modality.MRI, None}),
    ],
)
def test_med_r1_options(options, num, modalities):
    samples = read("med_r1", ROOTS["med_r1"], **{"split": "all", **options})
    assert (len(samples), {sample.modality for sample in samples}) == (num, modalities)
    assert samples[0].images[0].root == Path(options.get("images", ROOTS["med_r1"]))


def test_omnimedvqa_rows():
    report = read_with_report("omnimedvqa", ROOTS["omnimedvqa"])
    found = {key.rsplit("_", 1)[1]: (s.choices, s.target, s.modality, s.question_type) for key, s in by_id(report).items()}
    assert found == {
        "0": (("MRI", "CT", "x_ray"), "B", Modality.CT, QuestionType.MODALITY_RECOGNITION),
        "1": (("1", "2", "3", "4"), "C", Modality.XRAY, QuestionType.LESION_GRADING),
        "2": (("Ulcer", "polyp.", "Normal"), "B", None, QuestionType.DISEASE_DIAGNOSIS),
        "3": (("40°", "20°"), "A", Modality.ULTRASOUND, QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES),
    }
    assert [reason.split(" given")[0] for reason in reasons(report).values()] == [
        "the right answer 'Left' is none of the 2 options",
        "the right answer 'Left' is",
        "1 options: a question has 2 to 26",
        "options option_A, option_B, option_D leave a letter out",
        "the id 'omnimedvqa/Invented_0' was used by an earlier row",
    ]
    assert report.notes["number instead of text among the options"] == 4
    assert report.notes["modality outside the taxonomy: 'Endoscopy'"] == 1
    assert report.notes["mojibake repaired"] == 3


def test_huatuo_rows():
    report = read_with_report("huatuo", ROOTS["huatuo"])
    assert [(s.id, s.target, s.modality) for s in report.samples] == [
        ("huatuo/0", "B", Modality.MRI),
        ("huatuo/1", "A", Modality.XRAY),
        ("huatuo/4", "B", None),
    ]
    assert reasons(report) == {
        "huatuo/2": "the answer is option B, but the solution is 'A'",
        "huatuo/3": "1 options: a question has 2 to 26",
    }
    assert [s.id for s in read("huatuo", ROOTS["huatuo"], modalities=["x-ray"])] == ["huatuo/1"]
    assert [s.id for s in read("huatuo", ROOTS["huatuo"], dataset="Another", split="test")] == ["huatuo/4"]


def test_slake_rows():
    report = read_with_report("slake", ROOTS["slake"], split="train")
    samples = by_id(report)
    assert set(samples["slake/1"].choices) == {"Yes", "No"}
    assert samples["slake/1"].target_text == "Yes"
    assert samples["slake/1"].subject_id == "case1"
    assert set(samples["slake/2"].choices) == {"Liver", "Small Bowel"}
    assert samples["slake/2"].target_text == "Small Bowel"
    assert samples["slake/2"].metadata["answer_type"] == "CLOSED"
    assert (samples["slake/4"].choices, samples["slake/4"].target) == ((), "It stores bile")
    assert samples["slake/10"].choices.index("Black") == LETTERS.index(samples["slake/10"].target)
    assert set(samples["slake/10"].choices) == {"Black", "White", "Gray"}
    assert samples["slake/40"].metadata["answer"] == "Dark Gray"
    assert set(samples["slake/40"].choices) == {"Dark Gray", "Black", "White"}  # "Gray" could be right too
    assert reasons(report) == {"slake/train.json/5": "'answer' is empty"}
    assert report.notes["white space around 'answer_type'"] == 1


@pytest.mark.parametrize(
    ("options", "num"),
    [({}, 28), ({"split": "test"}, 1), ({"split": "validation"}, 1), ({"language": "zh"}, 1), ({"language": "all"}, 29)],
)
def test_slake_options(options, num):
    assert len(read("slake", ROOTS["slake"], **{"split": "all", **options})) == num


def test_the_seed_alone_decides_the_choices():
    first, again, other = (read("slake", ROOTS["slake"], split="all", seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert [sample.choices for sample in first] != [sample.choices for sample in other]
    assert [sample.target_text for sample in first] == [sample.target_text for sample in other]
    assert read("slake", ROOTS["slake"], split="validation")[0] in first


def test_vqa_rad_rows():
    report = read_with_report("vqa_rad", ROOTS["vqa_rad"])
    samples = by_id(report)
    assert (samples["vqa_rad/1"].target_text, samples["vqa_rad/1"].modality, samples["vqa_rad/1"].subject_id) == (
        "Yes",
        Modality.CT,
        "case-1",
    )
    assert (samples["vqa_rad/2"].target, samples["vqa_rad/2"].modality) == ("2", Modality.CT)
    assert samples["vqa_rad/3"].modality is None
    assert set(samples["vqa_rad/4"].choices) == {"Left", "Right"}
    assert samples["vqa_rad/5"].modality is None
    assert samples["vqa_rad/7"].question_type is QuestionType.DISEASE_DIAGNOSIS
    assert samples["vqa_rad/8"].question_type is None
    assert reasons(report) == {"vqa_rad/row 8": "'answer' is missing"}
    assert report.notes["image whose modality answers disagree"] == 1
    assert report.notes["number instead of text in 'answer'"] == 1
    assert report.notes["white space around 'answer_type'"] == 1
    assert [s.id for s in read("vqa_rad", ROOTS["vqa_rad"], split="test")] == ["vqa_rad/4", "vqa_rad/5"]


def test_jsonl_rows():
    report = read_with_report("jsonl", ROOTS["jsonl"] / "train.jsonl")
    assert [(s.id, s.question, s.choices, s.target) for s in report.samples] == [
        ("train/1", "What is it?", ("CT", "MRI"), "B"),
        ("mine/7", "What is it?", ("CT", "MRI"), "A"),
        ("train/3", "Describe it.", (), "A clear lung"),
        ("train/4", "Which?", ("CT", "MRI"), "A"),
        ("train/6", "Which?", ("CT", "MRI"), "A"),
        ("train/12", "Which?", ("CT", "MRI"), "A"),
    ]
    mine = report.samples[1]
    assert (mine.dataset, mine.subject_id, mine.context, mine.metadata) == ("mine", "p1", Context(text="Aged 60."), {"k": 1})
    assert (mine.modality, mine.question_type) == (Modality.XRAY, QuestionType.LESION_GRADING)
    assert [image.uri for image in mine.images] == ["a.png", "b.png"]
    assert [(refusal.row, refusal.reason.split(":")[0]) for refusal in report.refused] == [
        ("train.jsonl:5", "the right answer 'A' is the letter of one option and the text of another"),
        ("train.jsonl:7", "option letters A, C are not A, B, C in order"),
        ("train.jsonl:8", "'image' or 'images' is missing"),
        ("train.jsonl:9", "no 'answer', 'solution' or assistant message"),
        ("train.jsonl:10", "image path '/etc/a.png' must be relative to the image root, without '..'"),
        ("train.jsonl:11", "no message of role 'user'"),
        ("train.jsonl:13", "the row is not an object"),
        ("train.jsonl:14", "is not valid JSON (Expecting property name enclosed in double quotes, line 1 column 2)"),
    ]
    assert read("jsonl", ROOTS["jsonl"], split="train") == list(report.samples)


@pytest.mark.parametrize(
    ("name", "file", "row", "reason"),
    [
        ("jsonl", "rows.json", {"image": "a.png", "question": "What?", "messages": 5}, "'messages' is no list of messages"),
        ("jsonl", "rows.json", {"image": "a.png", "question": "What?", "messages": "CT"}, "'messages' is no list of messages"),
        (
            "slake",
            "train.json",
            {"qid": 1, "question": "Q", "answer": "A", "content_type": "C", "answer_type": "O", "q_lang": "en", "img_name": "."},
            None,
        ),
    ],
)
def test_a_field_of_an_unusual_value_stops_no_reader(tmp_path, name, file, row, reason):
    (tmp_path / file).write_text(json.dumps([row]))
    report = read_with_report(name, tmp_path)
    assert [refusal.reason for refusal in report.refused] == ([reason] if reason else [])
    assert len(report.samples) == (reason is None)


def test_phantom_needs_no_files():
    samples = read("phantom", split="test", modalities=["MRI", "CT"], num_questions=5, seed=3, size=64, difficulty={"noise": 0.5})
    assert Counter(sample.modality for sample in samples) == {Modality.MRI: 5, Modality.CT: 5}


# What the user gets wrong


@pytest.mark.parametrize(
    ("name", "root", "options", "message"),
    [
        ("nosuch", None, {}, "unknown reader 'nosuch': use one of phantom, phantom_study, mni152, med_r1"),
        ("med_r1", None, {}, "needs a root: the folder"),
        ("med_r1", "med_r1", {"axes": "modality"}, "unknown option 'axes' of reader 'med_r1': use split, seed, axis"),
        ("med_r1", "med_r1", {"axis": "organ"}, "unknown axis 'organ': use one of modality, question_type"),
        ("med_r1", "med_r1", {"split": "validation"}, "unknown split 'validation': use one of train, test"),
        ("med_r1", "med_r1", {"name": "sonar"}, "unknown modality 'sonar'"),
        ("med_r1", "med_r1", {"seed": "x"}, "use a whole number"),
        ("omnimedvqa", "omnimedvqa", {"split": "train"}, "without a train split"),
        ("omnimedvqa", "omnimedvqa", {"name": "Absent"}, "there are Invented"),
        ("omnimedvqa", "omnimedvqa", {"access": "none"}, "unknown access"),
        ("huatuo", "huatuo", {"modalities": ["sonar"]}, "unknown modality"),
        ("slake", "slake", {"language": "fr"}, "use one of en, zh, all"),
        ("vqa_rad", "vqa_rad", {"split": "validation"}, "unknown split"),
        ("phantom", None, {"difficulty": {"colour": 1}}, "contrast, noise, lesion_size"),
        ("phantom", None, {"difficulty": "hard"}, "contrast, noise, lesion_size"),
        ("phantom", None, {"modalities": ["sonar"]}, "unknown modality"),
    ],
)
def test_a_wrong_option_is_one_line(name, root, options, message):
    with pytest.raises(ConfigError) as caught:
        read(name, ROOTS.get(root), **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["med_r1", "omnimedvqa", "huatuo", "slake", "vqa_rad", "jsonl"])
def test_a_root_without_the_files_is_one_line(name, tmp_path):
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=r"check the data root|name the|holds|hold"):
            read(name, root)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not valid JSON"),
        (b"[1, 2", "is not valid JSON"),
        (b"{}", "holds an object, not a list of rows"),
        (b'"text"', "holds text"),
        (b"null", "holds null"),
        (b"\xff\xfe[]", "is not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b"[1" + b"0" * 5000 + b"]", "number that is too long"),
    ],
)
def test_a_broken_annotation_file_is_one_line(tmp_path, data, message):
    (tmp_path / "rows.json").write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        load_rows(tmp_path / "rows.json")
    assert str(tmp_path / "rows.json") in str(caught.value)


def test_a_byte_order_mark_is_no_harm(tmp_path):
    (tmp_path / "rows.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert load_rows(tmp_path / "rows.json") == [1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
KEYS = [
    "image", "problem", "solution", "question", "options", "answer", "choices", "messages", "prompt",
    "images", "id", "dataset", "modality", "qid", "gt_answer", "option_A", "option_B", "image_path",
    "img_name", "content_type", "answer_type", "q_lang", "phrase_type", "image_name", "question_type", "metadata", "target",
]  # fmt: skip
ROW = JSON | st.dictionaries(st.sampled_from(KEYS), JSON | st.sampled_from(["A", "en", "Which? A)x, B)y", ["x", "y"], "a.png"]))


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(ROW, max_size=4))
@pytest.mark.parametrize("name", ["huatuo", "omnimedvqa", "jsonl", "vqa_rad", "slake", "med_r1"])
def test_any_row_becomes_a_sample_or_a_refusal(tmp_path_factory, name, rows):
    folder = tmp_path_factory.mktemp("rows")
    relative = {"slake": "train.json", "med_r1": "modality/test/ct_test.json"}.get(name, "rows.json")
    (folder / relative).parent.mkdir(parents=True, exist_ok=True)
    (folder / relative).write_text(json.dumps(rows))
    options = {"language": "all"} if name == "slake" else {}
    report = read_with_report(name, folder if name in ("slake", "med_r1") else folder / relative, **options)
    assert len(report.samples) + len(report.refused) == len(rows)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_every_card_is_filled(reader):
    assert all((reader.card.title, reader.card.source, reader.card.licence, reader.card.counts, reader.card.layout))
    assert not set(reader.card.options) & set(COMMON_OPTIONS)


@pytest.mark.parametrize(("name", "splits"), [("slake", "train, validation, test"), ("vqa_rad", "train, test"), ("med_r1", "train, test")])
def test_several_splits_are_not_read_into_one_list_unasked(name, splits):
    with pytest.raises(ConfigError, match=f"{name} has the splits {splits}: name one, or split='all'"):
        read(name, ROOTS[name])
    assert read(name, ROOTS[name], split="all") == list(read_with_report(name, ROOTS[name]).samples)


@pytest.mark.parametrize(
    ("name", "reader", "why"),
    [
        ("slake", "slake", "train.json, validate.json, test.json and imgs/"),
        ("vqa_rad", "vqa_rad", "VQA_RAD Dataset Public.json"),
        ("med_r1", "med_r1", "modality/"),
        ("omnimedvqa", "omnimedvqa", "QA_information/"),
        ("huatuo", "huatuo", "dataset and subset"),
        ("jsonl", "jsonl", "train.jsonl"),
    ],
)
def test_a_layout_is_recognised(tmp_path, name, reader, why):
    root = tmp_path / name
    shutil.copytree(ROOTS[name], root)
    if name == "slake":
        (root / "imgs").mkdir(exist_ok=True)
    found, reason = recognise(root)
    assert (found, why in reason) == (reader, True), reason
