"""Annotations, boxes and DICOM headers become facts; a sample never has a fact that only its own question states."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from PIL import Image

from osler.cli.data import print_check
from osler.data import inspect
from osler.data.facts.dicom import dicom_facts, plane_of
from osler.data.facts.multiple_choice import add_facts
from osler.data.facts.places import Place, asked_place, place_facts, place_of_answer, place_of_box
from osler.data.facts.questions import findings_listed, read_facts
from osler.data.facts.table import CONTRADICTION, FactTable
from osler.data.readers import read, read_with_report
from osler.errors import DataError
from osler.facts import Fact, Facts, Kind, Statement, Truth
from osler.grading import check, judge
from osler.images.files import ImageFile
from osler.taxonomy import Modality, QuestionType
from osler.types import Sample

DATA = os.environ.get("OSLER_TEST_DATA")
NEEDS_DATA = pytest.mark.skipif(not DATA, reason="OSLER_TEST_DATA does not name the folder of real annotation files")


def short(facts) -> set[str]:
    """Facts as texts: "side left @liver", "-presence fracture"."""
    return {f"{'' if fact.holds else '-'}{fact.kind} {fact.value}{f' @{fact.about}' if fact.about else ''}" for fact in facts}


QUESTIONS = [
    ("Does the picture contain liver?", "Yes", {"anatomy liver"}),
    ("Does the picture contain brian?", "Yes", {"anatomy brain", "-anatomy chest", "-anatomy abdomen", "-anatomy pelvis"}),
    ("Are/Is there kidneys in the picture?", "No", {"-anatomy kidney"}),
    ("Is there a fracture?", "no", {"-presence fracture"}),
    ("Is there a rib fracture?", "no", set()),  # denies less than the noun alone
    ("Is there evidence of a pneumothorax", "No", {"-presence pneumothorax"}),
    ("Is there evidence of a right apical pneumothorax on this chest x-ray?", "yes", set()),
    ("Is there edema?", "Yes", {"presence oedema", "presence lesion"}),
    ("Does this patient have a pleural effusion?", "yes", {"presence pleural effusion", "presence effusion", "presence lesion"}),
    ("Can pneumonia be observed on the lower right lung in this picture?", "No", set()),
    ("Is the heart enlarged?", "no", {"-presence cardiomegaly", "-size enlarged @heart"}),
    ("Is this image normal?", "No", {"presence lesion"}),
    ("Does this image look normal?", "Yes", {"-presence lesion"}),
    ("Is the liver normal?", "yes", set()),  # another organ can be abnormal
    ("Is this a CT?", "No", {"-modality ct"}),
    ("Is this sagittal plane?", "No", {"-plane sagittal"}),
    ("Is this an axial view of the brain?", "yes", {"plane axial"}),
    ("What is the scanning plane of this image?", "Transverse  Plane", {"plane axial"}),
    ("What is the mr weighting in this image?", "T2", {"technique t2-weighted", "-technique t1-weighted"}),
    ("What is the best MRI weighting for ring enhancing lesions?", "T2", set()),
    ("How many kidneys in this image?", "1", {"count 1 @kidney", "-count 2 @kidney", "-count 3 @kidney", "-count 4 @kidney",
                                              "anatomy kidney"}),
    ("How many lesions are present in the image?", "one", set()),
    ("What color is the lung in the picture?", "Black", {"colour black @lung", "-colour white @lung"}),
    ("What color is the bladder in the picture?", "Dark Gray", {"colour grey @bladder"}),
    ("What is the main organ in the image?", "Lung, Heart", {"anatomy lung", "anatomy heart"}),
    ("What is the main organ in the image?", "Lung, something", set()),
    ("What diseases are included in the picture?", "None", {"-presence lesion"}),
    ("What disease is/are shown on the right of lung?", "Atelectasis", {"presence atelectasis", "presence lesion"}),
    ("Which is bigger in this image, liver or heart?", "Heart", set()),
    ("", "", set()),
]  # fmt: skip


@pytest.mark.parametrize(("question", "answer", "facts"), QUESTIONS)
def test_a_question_and_its_answer_state_facts(question: str, answer: str, facts: set[str]) -> None:
    assert short(read_facts(question, answer)) == facts


def test_a_complete_list_of_diseases_denies_the_others_but_not_other_names() -> None:
    facts = short(findings_listed(["Noudle"], is_complete=True))
    assert {"presence nodule", "presence lesion", "-presence pneumonia", "-presence effusion"} <= facts
    assert facts.isdisjoint({"-presence mass", "-presence cancer"})  # a nodule can be called a mass
    assert "-presence oedema" not in facts  # SLAKE does not list oedema of the lungs
    assert not any(fact.startswith("-") for fact in short(findings_listed(["Noudle", "an unknown word"], is_complete=True)))
    tumour = short(findings_listed(["Brain Non-enhancing Tumor"], is_complete=False))
    assert tumour == {"presence non-enhancing tumour", "presence tumour", "presence lesion"}


BOXES = [
    ((10, 10, 20, 20), Place("left", "upper")),
    ((70, 140, 20, 40), Place("right", "lower")),
    ((40, 90, 20, 20), Place(None, None)),  # the centre is the middle
    ((36, 10, 20, 20), Place(None, "upper")),  # 46 % of the width: inside the dead zone
]


@pytest.mark.parametrize(("box", "place"), BOXES)
def test_a_box_lies_in_a_half(box: tuple[float, float, float, float], place: Place) -> None:
    assert place_of_box(box, (100, 200)) == place


ANSWERS = [
    ("Left", Place("left", None)),
    ("Left Lung, Right", Place("left", None)),  # the patient's left lung, on the right of the image
    ("Left Lung, Upper Right", Place("left", "upper")),
    ("Right Lung,Upper Left", Place("right", "upper")),
    ("Lower Left Lung", Place("left", "lower")),
    ("Upper right Lobe", Place("right", "upper")),
    ("Left and Top", Place("left", "upper")),
    ("Top", Place(None, "upper")),
    ("Above the rectum", None),
    ("Both Lung", None),
    ("Center", None),
    ("Heart", None),
    ("left right", None),
]


@pytest.mark.parametrize(("answer", "place"), ANSWERS)
def test_an_answer_states_a_place(answer: str, place: Place | None) -> None:
    assert place_of_answer(answer) == place


def test_position_questions_are_found() -> None:
    assert asked_place("Where is the liver in this image?") == "liver"
    assert asked_place("Where is/are the abnormality located?") == "abnormality"
    assert asked_place("Which part of the body does this image belong to?") is None


def test_a_place_excludes_the_opposite_ones() -> None:
    assert short(place_facts("liver", Place("left", None))) == {
        "side left @liver", "-side right @liver", "-position upper right @liver", "-position lower right @liver"
    }  # fmt: skip
    corner = short(place_facts("liver", Place("left", "upper")))
    assert {"position upper left @liver", "-position lower left @liver", "position upper @liver", "-position lower @liver"} < corner
    assert short(place_facts("liver", Place(None, None))) == set()


def test_a_fact_of_the_own_question_is_held_out() -> None:
    notes: Counter[str] = Counter()
    table = FactTable(notes)
    axial, liver, no_liver, heart = (
        Fact(kind=Kind.PLANE, value="axial"),
        Fact(kind=Kind.ANATOMY, value="liver"),
        Fact(kind=Kind.ANATOMY, value="liver", holds=False),
        Fact(kind=Kind.ANATOMY, value="heart"),
    )
    table.add("image", [heart])
    table.add("image", [axial, heart], "q1")
    table.add("image", [liver], "q2")
    table.add("image", [no_liver], "q3")  # two annotations that contradict each other
    assert table.facts_of("image", "q1") == Facts(facts=(heart,))  # not closed either: the plane is not known
    assert table.facts_of("image", "q2") == Facts(facts=(heart, axial), closed=(Kind.PLANE,))
    assert table.facts_of("image", "q2") is table.facts_of("image", "q4")
    assert notes[CONTRADICTION] == 2
    assert table.facts_of("other", "q1") is None


def test_two_values_of_a_kind_with_one_value_are_left_out() -> None:
    table = FactTable(Counter())
    table.add("image", [Fact(kind=Kind.PLANE, value="axial"), Fact(kind=Kind.PLANE, value="coronal")])
    assert table.facts_of("image", "q") is None


def write_slake(root: Path, boxes: object, rows: list[tuple[str, str]], *, location: str, has_own_file: bool = False) -> None:
    folder = root / "imgs" / "xmlab1"
    folder.mkdir(parents=True)
    Image.new("RGB", (100, 100)).save(folder / "source.jpg")
    file = folder / "detection.json" if has_own_file else root / "detection.json"
    file.write_text(json.dumps(boxes if has_own_file else {"xmlab1": boxes}))
    keys = {"img_name": "xmlab1/source.jpg", "q_lang": "en", "location": location, "modality": "CT", "answer_type": "OPEN"}
    rows_of_file = [
        {**keys, "qid": number, "question": question, "answer": answer, "content_type": "Position"}
        for number, (question, answer) in enumerate(rows)
    ]
    (root / "train.json").write_text(json.dumps(rows_of_file))


LIVER, LEFT_LUNG, NODULE = {"Liver": [10, 40, 20, 20]}, {"Left Lung": [70, 40, 20, 20]}, {"Nodule": [75, 70, 10, 10]}


@pytest.mark.parametrize("has_own_file", [False, True])
def test_boxes_of_slake_become_places(tmp_path: Path, has_own_file: bool) -> None:
    write_slake(tmp_path, [LIVER, LEFT_LUNG, NODULE], [("What is it?", "x")], location="Chest_lung", has_own_file=has_own_file)
    (sample,) = read("slake", tmp_path, split="all")
    assert sample.facts is not None
    facts = short(sample.facts.facts)
    assert {"modality ct", "anatomy chest", "anatomy liver", "anatomy lung"} < facts
    assert {"side left @liver", "-side right @liver"} < facts  # an organ: the image's side
    assert {"side left @nodule", "position lower left @nodule"} < facts  # a disease: the patient's side
    assert not any("@lung" in fact for fact in facts)
    assert sample.facts.closed == (Kind.MODALITY,)
    for text, truth in (("The liver lies on the left.", Truth.TRUE), ("There is a nodule on the right.", Truth.FALSE)):
        assert {s.truth for s in judge(text, facts=sample.facts, terms=sample.terms) if s.kind is Kind.SIDE} == {truth}


@pytest.mark.parametrize("location", ["Brain", "Abdomen"])
def test_the_side_of_a_disease_is_unknown_where_slake_gives_the_image_side(tmp_path: Path, location: str) -> None:
    write_slake(tmp_path, [NODULE], [("Where is the nodule?", "Lower Right"), ("What is it?", "x")], location=location)
    samples = read("slake", tmp_path, split="all")
    for sample in samples:
        assert sample.facts is not None
        facts = short(sample.facts.facts)
        assert "position lower @nodule" in facts
        assert not any(fact.startswith(("side", "-side", "position lower ri")) for fact in facts)


def test_a_box_and_an_answer_that_disagree_state_no_side(tmp_path: Path) -> None:
    write_slake(tmp_path, [LIVER], [("Where is the liver?", "Right"), ("What is it?", "x")], location="Abdomen")
    report = read_with_report("slake", tmp_path)
    assert report.notes[CONTRADICTION] > 0
    assert not any(fact.kind is Kind.SIDE for sample in report.samples if sample.facts for fact in sample.facts.facts)


def test_boxes_that_are_damaged_are_counted(tmp_path: Path) -> None:
    write_slake(tmp_path, [{"Liver": [1, 2, 3]}, {"Heart": "x"}, 7, LIVER], [("What is it?", "x")], location="Abdomen")
    assert read_with_report("slake", tmp_path).notes["box that is not [x, y, width, height]"] == 2
    (tmp_path / "detection.json").write_text("[]")
    assert "holds no object" in read_with_report("slake", tmp_path).refused[0].reason


def test_check_counts_the_images_with_each_kind_of_fact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_slake(tmp_path, [LIVER], [("What is it?", "x"), ("Is this a transverse plane?", "Yes")], location="Abdomen")
    report = inspect.check("slake", tmp_path)
    assert report.num_images_with_facts == 1
    print_check(report)
    assert "facts: 1 of 1 images: modality 1, plane 1, anatomy 1, side 1, position 1\n" in capsys.readouterr().out
    print_check(replace(report, num_images_with_facts=0, facts={}))
    assert "facts: 0 of 1 images: none\n" in capsys.readouterr().out


def sample_of(number: int, image: str, question: str, target: str, question_type: QuestionType) -> Sample:
    return Sample(
        id=f"x/{number}", dataset="x", images=(ImageFile(root=Path(), path=image),), question=question, choices=(target, "Other"),
        target="A", modality=Modality.ULTRASOUND, question_type=question_type,
    )  # fmt: skip


def test_other_questions_about_an_image_with_options_state_facts() -> None:
    samples = [
        sample_of(1, "a.png", "What is depicted?", "Breast tissue", QuestionType.ANATOMY_IDENTIFICATION),
        sample_of(2, "a.png", "What can be observed?", "Cyst", QuestionType.DISEASE_DIAGNOSIS),
        sample_of(3, "b.png", "What can be observed?", "Cyst", QuestionType.DISEASE_DIAGNOSIS),
    ]
    facts = [short(sample.facts.facts) for sample in add_facts(samples, Counter()) if sample.facts]
    known = {"modality ultrasound"}
    assert facts == [{*known, "presence cyst", "presence lesion"}, {*known, "anatomy breast"}, known]


HEADERS = [
    ({"Modality": "CT", "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, {"modality ct", "plane axial"}),
    ({"Modality": "MR", "ImageOrientationPatient": ["0", "1", "0", "0", "0", "-1"]}, {"modality mri", "plane sagittal"}),
    ({"Modality": "DX", "BodyPartExamined": "KNEE", "ImageLaterality": "L"},
     {"modality xray", "anatomy knee", "side left @knee", "-side right @knee"}),
    ({"BodyPartExamined": "CHESTABDOMEN", "Laterality": "B"}, {"anatomy chest", "anatomy abdomen", "side left", "side right",
                                                               "side bilateral"}),
    ({"BodyPartExamined": "BRAIN"}, {"anatomy brain", "anatomy head", "-anatomy chest", "-anatomy abdomen", "-anatomy pelvis"}),
    ({"Modality": "SEG", "BodyPartExamined": "WHOLEBODY", "Laterality": "U", "ImageOrientationPatient": None}, set()),
    ({}, set()),
]  # fmt: skip


@pytest.mark.parametrize(("header", "facts"), HEADERS)
def test_a_dicom_header_states_facts(header: dict[str, object], facts: set[str]) -> None:
    assert short(dicom_facts(header).facts) == facts


@pytest.mark.parametrize(("header", "facts"), HEADERS)
def test_a_pydicom_dataset_states_the_same_facts(header: dict[str, object], facts: set[str]) -> None:
    dataset = pydicom.Dataset()
    for keyword, value in header.items():
        setattr(dataset, keyword, value)
    assert short(dicom_facts(dataset).facts) == facts


def test_no_patient_element_is_read() -> None:
    class Header(dict[str, object]):
        def get(self, key: str, default: object = None, /) -> object:
            assert not key.startswith(("Patient", "Other", "Study", "Referring", "Institution"))
            return super().get(key, default)

    dicom_facts(Header(Modality="CT"))


TILTS = [(0, "axial"), (19, "axial"), (21, None), (45, None), (69, None), (71, "coronal"), (90, "coronal")]


@pytest.mark.parametrize(("degrees", "plane"), TILTS)
def test_an_oblique_image_has_no_plane(degrees: int, plane: str | None) -> None:
    from math import cos, radians, sin

    assert plane_of([1, 0, 0, 0, cos(radians(degrees)), sin(radians(degrees))]) == plane


@pytest.mark.parametrize("orientation", [None, [], [1, 0, 0], ["a"] * 6, [0] * 6, [float("nan")] * 6, "x"])
def test_an_orientation_that_is_no_orientation_has_no_plane(orientation: list[object] | None) -> None:
    assert plane_of(orientation) is None


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"facts": [{"kind": "mood", "value": "x"}]}, "'facts.facts.0.kind' is wrong"),
        ({"facts": [], "closed": ["plane"], "x": 1}, "'facts.x' is wrong"),
        (3, "'facts' is wrong"),
    ],
)
def test_wrong_facts_of_a_jsonl_row_refuse_the_row(tmp_path: Path, facts: object, reason: str) -> None:
    row = {"image": "a.png", "question": "What?", "choices": ["a", "b"], "target": "A", "facts": facts}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    assert reason in read_with_report("jsonl", tmp_path / "x.jsonl").refused[0].reason


def test_an_image_size_is_read_from_the_header(tmp_path: Path) -> None:
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    assert ImageFile(root=tmp_path, path="a.png").read_size() == (30, 20)
    with pytest.raises(DataError):
        ImageFile(root=tmp_path, path="b.png").read_size()


@pytest.mark.integration
@NEEDS_DATA
def test_the_facts_of_real_slake_agree_with_themselves() -> None:
    """Every fact, read as a statement, is true of its image, whatever other facts the image has."""
    samples = read("slake", Path(str(DATA)) / "slake", split="all")
    truths: Counter[Truth] = Counter()
    for facts in {sample.images: sample.facts for sample in samples if sample.facts}.values():
        for fact in facts.facts:
            statement = Statement(kind=fact.kind, value=fact.value, about=fact.about, holds=fact.holds, begin=0, end=1)
            truths[check(statement, facts)] += 1
    assert truths[Truth.TRUE] > 10_000
    assert truths[Truth.FALSE] == 0
    assert all(sample.facts for sample in samples)
