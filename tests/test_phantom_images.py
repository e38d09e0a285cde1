"""Every combination can be drawn, grades differ in extent, lesions are in the right place, and the files match the samples."""

import json
import re
from itertools import pairwise, product

import numpy as np
import pytest
from PIL import Image

from osler.data.phantom import build_samples
from osler.data.phantom.atlas import GRADES, LOCATIONS, NORMAL, Atlas, Findings
from osler.data.phantom.canvas import Difficulty
from osler.data.phantom.images import ATLASES, PhantomImage
from osler.data.phantom.sheet import contact_sheet
from osler.data.phantom.stamps import discs, outline, scatter, scatter_in_disc
from osler.data.phantom.write import MODALITY_NAMES, QUESTION_TYPE_NAMES, write_med_r1
from osler.errors import ConfigError, DataError, OslerError
from osler.taxonomy import Modality, QuestionType, parse_modality, parse_question_type
from osler.types import Sample

PLAIN = Difficulty()
SIDES = {"far left": (-1.0, -0.44), "left of centre": (-0.44, 0.0), "right of centre": (0.0, 0.44), "far right": (0.44, 1.0)}
LESIONS = [(m, disease) for m, atlas in ATLASES.items() for disease in atlas.diseases if disease != NORMAL]
PLACED = [(m, d) for m, d in LESIONS if ATLASES[m].other_kind in ("location", "side") and d not in ATLASES[m].diseases_without_other]


def pick(atlas: Atlas, disease: str, *, technique: int = 0, anatomy: int = 0, grade: int = 2, other: int = 0) -> Findings:
    return Findings(
        modality=atlas.modality,
        technique=atlas.techniques[technique % len(atlas.techniques)],
        anatomy=atlas.anatomies[anatomy % len(atlas.anatomies)],
        disease=disease,
        grade=None if disease == NORMAL else GRADES[grade % 4],
        other=None if disease in atlas.diseases_without_other else atlas.others[other % len(atlas.others)],
    )


def draw(findings: Findings, seed: int = 0, size: int = 112, difficulty: Difficulty = PLAIN) -> np.ndarray:
    return ATLASES[findings.modality].draw(findings, np.random.default_rng(seed), size, difficulty)


def lesion_map(findings: Findings, seed: int) -> np.ndarray:
    """The difference between the picture and the same picture with a lesion of zero contrast, (size, size)."""
    unseen = draw(findings, seed, difficulty=Difficulty(contrast=0.0, noise=0.0))
    return np.abs(draw(findings, seed, difficulty=Difficulty(noise=0.0)) - unseen).mean(axis=2)


@pytest.mark.integration
@pytest.mark.parametrize("modality", Modality)
def test_every_combination_draws(modality: Modality) -> None:
    atlas = ATLASES[modality]
    combinations = list(product(range(len(atlas.techniques)), range(len(atlas.anatomies)), atlas.diseases))
    for i, (technique, anatomy, disease) in enumerate(combinations):
        size = 224 if i % 8 == 0 else 112
        picture = draw(pick(atlas, disease, technique=technique, anatomy=anatomy, grade=i, other=i // 4), i, size)
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.float32
        assert np.clip(picture, 0, 1).std() > 0.02
        assert -0.5 < picture.min() <= picture.max() < 2  # noise may exceed 0..1; `render` clips it


@pytest.mark.parametrize("modality", Modality)
def test_atlas_is_complete(modality: Modality) -> None:
    atlas = ATLASES[modality]
    assert set(atlas.signs) == {*atlas.techniques, *atlas.anatomies, *atlas.diseases, *atlas.other_signs}
    assert all(len(set(pool)) >= 4 for pool in (atlas.techniques, atlas.anatomies, atlas.diseases, atlas.others))
    for sign in atlas.signs.values():
        assert 2 <= len(sign.split()) <= 9, sign
        assert not sign.endswith(".")
    if atlas.other_kind == "location":
        assert atlas.others == LOCATIONS


@pytest.mark.parametrize("modality", Modality)
@pytest.mark.parametrize("size", [112, 224])
def test_same_seed_same_picture(modality: Modality, size: int) -> None:
    findings = pick(ATLASES[modality], ATLASES[modality].diseases[0])
    assert np.array_equal(draw(findings, 5, size), draw(findings, 5, size))
    assert not np.array_equal(draw(findings, 5, size), draw(findings, 6, size))


@pytest.mark.parametrize("modality", Modality)
@pytest.mark.parametrize("field", ["technique", "anatomy", "other"])
def test_every_entry_of_a_pool_looks_different(modality: Modality, field: str) -> None:
    atlas = ATLASES[modality]
    pictures = [draw(pick(atlas, atlas.diseases[0], **{field: i}), 3) for i in range(4)]
    assert all(np.abs(pictures[i] - pictures[k]).mean() > 0.004 for i in range(4) for k in range(i))


@pytest.mark.integration
@pytest.mark.parametrize(("modality", "disease"), LESIONS)
def test_a_higher_grade_changes_more_of_the_picture(modality: Modality, disease: str) -> None:
    atlas = ATLASES[modality]
    for technique in (0, 3):
        amounts = [
            np.mean([lesion_map(pick(atlas, disease, technique=technique, anatomy=s, grade=g, other=s), s).mean() for s in range(3)])
            for g in range(4)
        ]
        assert amounts[0] > 0
        assert all(more > less for less, more in pairwise(amounts)), (technique, amounts)


@pytest.mark.integration
@pytest.mark.parametrize(("modality", "disease"), PLACED)
def test_a_lesion_lies_where_it_should(modality: Modality, disease: str) -> None:
    atlas = ATLASES[modality]
    axis = (np.arange(112) + 0.5) / 56 - 1
    for other, anatomy, grade in product(range(4), range(4), (0, 3)):
        findings = pick(atlas, disease, technique=other + anatomy, anatomy=anatomy, grade=grade, other=other)
        weight = lesion_map(findings, 17 * other + grade)
        x, y = float(weight.sum(axis=0) @ axis / weight.sum()), float(weight.sum(axis=1) @ axis / weight.sum())
        if atlas.other_kind == "side":
            low, high = SIDES[findings.other or ""]
            assert low < x < high, (findings, x)
        else:
            height, side = (findings.other or "").split()
            assert side == ("right" if x > 0 else "left"), (findings, x)
            # A stone changes the picture most by the acoustic shadow below it.
            assert disease == "stone" or height == ("lower" if y > 0 else "upper"), (findings, y)


@pytest.mark.parametrize("modality", Modality)
@pytest.mark.parametrize("harder", [Difficulty(contrast=0.4), Difficulty(noise=2.0), Difficulty(lesion_size=0.6)])
def test_difficulty_changes_the_picture(modality: Modality, harder: Difficulty) -> None:
    findings = pick(ATLASES[modality], ATLASES[modality].diseases[0], grade=3)
    assert not np.array_equal(draw(findings, 2), draw(findings, 2, difficulty=harder))


def test_stamps() -> None:
    rng = np.random.default_rng(0)
    assert discs(112, [0.0], [0.0], 0.5).sum() == pytest.approx(np.pi * 28**2, rel=0.01)
    assert discs(112, [], [], 0.5).sum() == 0
    assert discs(112, [5.0], [0.0], 0.5).sum() == 0
    assert outline(112, 0, 0, 0.5, np.zeros(3), np.zeros(3)).sum() == pytest.approx(np.pi * 28**2, rel=0.01)
    assert np.abs(scatter(rng, 9, extent=0.8)).max() <= 0.8
    assert np.hypot(*(scatter_in_disc(rng, 20, 0.1, 0.2, 0.3) - (0.1, 0.2)).T).max() < 0.42


def questions() -> list[Sample]:
    return [
        sample
        for modality, split in product((Modality.OCT, Modality.MICROSCOPY), ("train", "test"))
        for sample in build_samples(modality=modality, split=split, seed=3, num_questions=10)
    ]


def test_written_files_hold_the_samples(tmp_path) -> None:
    samples = questions()
    written = write_med_r1(tmp_path, samples=samples)
    assert written.num_questions == len(samples) == 40
    assert written.num_images == len(list(tmp_path.rglob("*.png"))) == len({sample.images[0].uri for sample in samples})
    assert not list(tmp_path.rglob(".*"))
    rows = [json.loads(line) for line in (tmp_path / "phantom.jsonl").read_text().splitlines()]
    for sample, row in zip(samples, rows, strict=True):
        assert (row["id"], row["rationale"], row["subject_id"]) == (sample.id, sample.rationale, sample.subject_id)
        assert np.array_equal(np.asarray(Image.open(tmp_path / row["image"])), np.asarray(sample.images[0].load()))
    for axis in ("modality", "question_type"):
        files = sorted((tmp_path / axis).rglob("*.json"))
        items = [item for file in files for item in json.loads(file.read_text())]
        assert sorted(item["image"] for item in items) == sorted(row["image"] for row in rows)
        for item in items:
            assert list(item) == ["image", "problem", "solution"]
            letters = re.findall(r"(?:^|, | )([A-D])\)", item["problem"])
            assert letters == list("ABCD"[: len(letters)])
            assert re.fullmatch(r"<answer> [A-D] </answer>", item["solution"])
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")}
    assert names == set(written.questions_per_file)
    assert "modality/test/OCT (Optical Coherence Tomography_test.json" in names
    assert "question_type/train/Lesion Grading_train.json" in names


def test_names_mean_what_they_say() -> None:
    assert all(parse_modality(name) == modality for modality, name in MODALITY_NAMES.items())
    assert all(parse_question_type(name) == question_type for question_type, name in QUESTION_TYPE_NAMES.items())
    assert set(QUESTION_TYPE_NAMES) == set(QuestionType)


def mixed_sizes() -> list[Sample]:
    return [s for size in (56, 112) for s in build_samples(modality=Modality.CT, split="test", seed=0, num_questions=2, size=size)]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda out: write_med_r1(out, samples=mixed_sizes()), DataError),
        (lambda _: contact_sheet(num_columns=0), ConfigError),
        (lambda _: contact_sheet(size=20), ConfigError),
    ],
)
def test_mistakes_are_named(call, error: type[OslerError], tmp_path) -> None:
    with pytest.raises(error):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


def test_contact_sheet_has_a_row_per_modality() -> None:
    sheet = np.asarray(contact_sheet(size=112, num_columns=2, seed=1))
    assert sheet.shape[1] == 2 * 120 + 8
    rows = np.array_split(sheet, len(Modality))
    assert all(row.std() > 20 for row in rows)
    assert np.array_equal(sheet, np.asarray(contact_sheet(size=112, num_columns=2, seed=1)))


@pytest.mark.parametrize("size", [112, 168])
@pytest.mark.parametrize("modality", Modality)
def test_a_picture_that_was_loaded_before_is_drawn_as_at_first(modality: Modality, size: int) -> None:
    image = PhantomImage(modality=modality, split="train", seed=3, index=7, size=size)
    first = image.load()
    first.putpixel((0, 0), (1, 2, 3))  # nobody else sees what a caller paints
    harder = PhantomImage(modality=modality, split="train", seed=3, index=7, size=size, difficulty=Difficulty(noise=2))
    for source in (image, harder, image):
        assert np.array_equal(np.asarray(source.load()), source.render())
