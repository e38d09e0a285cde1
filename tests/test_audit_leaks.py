"""Leaks counted by hand, near-duplicates by brute force, and the cases that file names tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pytest

from osler.audits.leaks import (
    Leak,
    LeakKeys,
    case_keys,
    cases_by_source,
    count_shared_images,
    hash_keys,
    image_keys,
    image_uris,
    leak_matrix,
    names_target,
    near_spread,
    turned_spread,
)
from osler.audits.numbering import Keys, KeyTable, SampleTable
from osler.data.splits.cases import CASES, case_of, read_case
from osler.images.files import ImageFile
from osler.types import Sample

if TYPE_CHECKING:
    from osler.audits.leaks import Spread

ROOT = Path("nowhere")
Domains = Mapping[str, list[Sample]]


def sample(
    path: str, *, number: int = 0, question: str = "What is it?", choices: tuple[str, ...] = ("CNV", "DME"), target: str = "A"
) -> Sample:
    return Sample(
        id=f"test/{number}",
        dataset="test",
        images=(ImageFile(root=ROOT, path=path),),
        question=question,
        choices=choices,
        target=target,
        modality=None,
        question_type=None,
    )


TRAIN = {"x": [sample("a.png"), sample("b.png", choices=("DME", "CNV"), target="B")], "empty": []}
TEST = {
    "x": [
        sample("a.png"),  # the row itself
        sample("b.png"),  # the same with its options in another order
        sample("a.png", question="Where is it?"),  # the image only
        sample("c.png"),
    ],
    "none": [],
}


def leaks(keys: Keys | None, train: Domains, test: Domains, spread: Spread | None = None) -> dict[str, dict[str, Leak]]:
    """The matrix of the samples of some domains, by the keys of rows where none are given."""
    samples: list[Sample] = []
    places: list[dict[str, np.ndarray]] = []
    for part in (train, test):
        places.append({})
        for name, rows in part.items():
            places[-1][name] = np.arange(len(samples), len(samples) + len(rows))
            samples += rows
    table = SampleTable.of(samples).rows() if keys is None else KeyTable.of(keys, samples)
    return leak_matrix(LeakKeys(table=table, spread=spread), *places)


@pytest.mark.parametrize(("keys", "shared"), [(None, 2), (image_keys({}), 3), (case_keys, 0)])
def test_matrix(keys: Keys | None, shared: int) -> None:
    found = leaks(keys, TRAIN, TEST)
    assert found["x"] == {"x": Leak(shared=shared, total=4), "none": Leak(shared=0, total=0)}
    assert found["x"]["none"].value is None
    assert found["empty"]["x"].value is None  # nothing is known of an absent train file


def test_digests_find_copies_under_another_name() -> None:
    digests = {ImageFile(root=ROOT, path=path): digest for path, digest in (("a.png", "1"), ("c.png", "1"), ("b.png", None))}
    assert leaks(image_keys(digests), TRAIN, TEST)["x"]["x"].shared == 4
    table = KeyTable.of(image_keys(digests), [*TRAIN["x"], *TEST["x"]])
    assert count_shared_images(table, np.arange(2), np.arange(2, 6)) == Leak(shared=2, total=2)


TURNED = [("a.png", "b.png"), ("b.png", "b-turned.png")]
TURNED_ROWS = [
    # train images, test images, test rows with a turned copy in train
    (["a.png"], ["b.png", "c.png"], 1),
    (["b.png"], ["a.png", "b-turned.png"], 2),
    (["a.png", "b.png"], ["b.png"], 1),
    (["b.png"], ["b.png"], 0),  # the same image is another kind of leak
    (["a.png"], ["b-turned.png"], 0),
    ([], ["b.png"], 0),
]


@pytest.mark.parametrize(("train", "test", "shared"), TURNED_ROWS)
def test_turned_copies_are_found_from_both_sides(train: list[str], test: list[str], shared: int) -> None:
    pairs = [(ImageFile(root=ROOT, path=one), ImageFile(root=ROOT, path=other)) for one, other in TURNED]
    rows = {"train": [sample(path) for path in train], "test": [sample(path, number=9) for path in test]}
    found = leaks(image_uris, {"x": rows["train"]}, {"x": rows["test"]}, turned_spread(pairs))["x"]["x"]
    assert found.shared == shared


@pytest.mark.parametrize("distance", [0, 3, 8])
def test_near_duplicates_against_brute_force(distance: int) -> None:
    hashes = {f"{number}.png": (number * 0x9E3779B97F4A7C15 ^ (number % 5) << 7) % 2**64 for number in range(12)}
    hashes |= {f"{number}-copy.png": value ^ (0b1011 << number) for number, value in enumerate(hashes.values())}
    train, test = (
        [sample(path, number=number) for number, path in enumerate(hashes) if ("copy" in path) == is_copy] for is_copy in (False, True)
    )
    keys = hash_keys({row.images[0]: hashes[row.images[0].path] for row in (*train, *test)})
    near = {
        other.id
        for one, other in product(train, test)
        if (hashes[one.images[0].path] ^ hashes[other.images[0].path]).bit_count() <= distance
    }
    assert leaks(keys, {"x": train}, {"x": test}, near_spread(distance))["x"]["x"] == Leak(shared=len(near), total=len(test))


@pytest.mark.parametrize(
    ("path", "case"),
    [
        ("Images/Mura/MURA-v1.1/valid/XR_HAND/patient11275/study1_positive/image3.png", "Mura:patient11275"),
        ("Images/BreakHis/benign/SOB_B_A-14-22549AB-100-001.png", "BreakHis:14-22549"),
        ("Images/BreakHis/malignant/SOB_M_PC-15-190EF-400-005.png", "BreakHis:15-190"),
        ("Images/Chest CT Scan/val/large.cell_IIIa/000118 (2).png", "Chest CT Scan:large.cell_IIIa/000118"),
        ("Images/Chest CT Scan/test/normal/10 (2) - Copy.png", None),
        ("Images/Blood Cell/val/MONOCYTE/_1_5377.jpeg", "Blood Cell:MONOCYTE/_1"),
        ("Images/OCT & X-Ray 2017/test/CNV/CNV-1016042-3.jpeg", "kermany:CNV-1016042"),
        ("Images/OCT & X-Ray 2017/test/PNEUMONIA/person150_bacteria_717.jpeg", "kermany:person150_bacteria"),
        ("Images/CoronaHack/test/person150_bacteria_718.jpeg", "kermany:person150_bacteria"),
        ("Images/CoronaHack/test/NORMAL2-IM-0173-0001-0001.jpeg", "kermany:NORMAL2-IM-0173"),
        ("Images/Chest X-Ray PA/normal/00000248_025.png", "kermany:00000248"),
        ("Images/Chest X-Ray PA/covid/COVID19(114).jpg", None),
        ("Images/COVIDx CXR-4/test/MIDRC-RICORD-1C-419639-001829-30276-0.png", "COVIDx CXR-4:MIDRC-RICORD-1C-419639-001829"),
        ("Images/DeepDRiD/regular-fundus-test/347/347_r1.jpg", "DeepDRiD:347"),
        ("Images/Diabetic Retinopathy/0/1000_right.jpeg", "Diabetic Retinopathy:1000"),
        ("Images/Knee Osteoarthritis/test/0/9003175L.png", "Knee Osteoarthritis:9003175"),
        ("Images/MAlig Lymph/CLL/sj-05-5269-R10_011.tif", "MAlig Lymph:sj-05-5269"),
        ("Images/NLM- Malaria Data/Parasitized/C100P61ThinF_IMG_20150918_144104_cell_165.png", "NLM- Malaria Data:P61"),
        ("Images/OLIVES/train/Prime_FULL_Prime_FULL_01-001_W0_OS_fundus_W0.png", "OLIVES:01-001"),
        ("Images/OLIVES/train/TREX DME_GILA_0234GOD_V8_OD_fundus_OD_V8.tif", "OLIVES:0234"),
        ("Images/PAD-UFES-20/uncompresses_data/imgs_part_1/PAT_101_1041_651.png", "PAD-UFES-20:PAT_101"),
        ("Images/Covid CT/CT_COVID/2020.01.24.919183-p27-132.png", "Covid CT:2020.01.24.919183"),
        ("Images/Covid CT/CT_NonCOVID/1061.png", None),
        ("Images/RadImageNet/normal/abd-normal062546.png", None),
        ("imgs/xmlab1/source.jpg", None),
    ],
)
def test_cases(path: str, case: str | None) -> None:
    assert read_case(path) == case
    assert case_of(sample(path)) == case


def test_every_rule_is_tested() -> None:
    (cases,) = (mark for mark in test_cases.pytestmark if mark.name == "parametrize")
    tested = {path.split("/")[1] for path, case in cases.args[1] if case is not None}
    assert tested == set(CASES)


def test_a_named_subject_beats_the_file_name() -> None:
    row = replace(sample("Images/DeepDRiD/regular-fundus-test/347/347_r1.jpg"), subject_id="7")
    assert case_of(row) == "test:7"
    assert case_of(replace(row, images=(), subject_id=None)) is None


def test_cases_by_source_count_only_known_ones() -> None:
    first, second, unread = (f"Images/Chest CT Scan/test/normal/{name}.png" for name in ("000108", "000109", "10"))
    samples = [sample(path) for path in (first, first, second, unread, "Images/ACRIMA/Im1.png")]
    found = cases_by_source(samples, KeyTable.of(case_keys, samples), np.arange(1), np.arange(1, 5))
    assert found == {"Chest CT Scan": Leak(shared=1, total=2)}


@pytest.mark.parametrize(
    ("path", "choices", "target", "is_named"),
    [
        ("test/CNV/CNV-17.jpeg", ("CNV", "DME"), "A", True),
        ("test/CNV/CNV-17.jpeg", ("CNV", "DME"), "B", False),
        ("test/left.lung_cancer/1.png", ("Left lung", "Right lung"), "A", True),
        ("test/lung/1.png", ("Left lung", "Right lung"), "A", False),  # both options as much
        ("test/17.png", ("2", "3"), "A", False),
    ],
)
def test_labels_in_paths(path: str, choices: tuple[str, ...], target: str, is_named: bool) -> None:
    assert names_target(sample(path, choices=choices, target=target)) is is_named


def test_open_ended_rows_have_no_options_in_the_path() -> None:
    assert not names_target(sample("cnv.png", choices=(), target="CNV"))


@dataclass(frozen=True)
class Unreadable:
    uri: str = "gone.png"

    def load(self) -> NoReturn:
        raise AssertionError("comparing by path opens nothing")


def test_paths_open_nothing() -> None:
    row = replace(sample("a.png"), images=(Unreadable(),))
    assert leaks(image_keys({}), {"x": [row]}, {"x": [row]})["x"]["x"].shared == 1
