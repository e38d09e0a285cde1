"""Questions about the MNI152 brain have the answers of its files: of invented ones on the same grid, and of nilearn's where they are."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import nibabel
import numpy as np
import pytest

from osler import read
from osler.data.mni152 import FILES, ORIGIN, SHAPE, Ball, BrainSlice, find_root, grey_share
from osler.errors import ConfigError, DataError
from osler.grading import judge
from osler.types import HasDigest, ImageSource, Sample

HAS_NILEARN = importlib.util.find_spec("nilearn") is not None


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three volumes on the grid of the real ones: a bright egg, grey matter below and in front, white matter above."""
    folder = tmp_path_factory.mktemp("wheel") / "nilearn" / "datasets" / "data"
    folder.mkdir(parents=True)
    right, front, up = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    egg = ((right - 98) / 70) ** 2 + ((front - 116) / 85) ** 2 + ((up - 72) / 78) ** 2 < 1
    tissue = np.where(egg, 200, 0).astype(np.uint8)
    tissue[: SHAPE[0] // 2] //= 2  # the patient's left is darker
    share = np.clip((up - 20) * 2, 0, 255) * egg
    affine = np.eye(4)
    affine[:3, 3] = ORIGIN
    for name, values in (("t1", tissue), ("gm", egg * 255 - share), ("wm", share)):
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(values, np.uint8), affine), folder / FILES[name])
    return folder.parents[2]


def ask(root: Path | None, aspect: str, num: int = 12) -> list[Sample]:
    return read("mni152", root, split="test", aspects=[aspect], num_questions=num, size=233)


def dark_ball(picture: np.ndarray) -> tuple[float, float] | None:
    """The column and the row of a black disc inside the brain."""
    dark = picture == 0
    for row in dark:  # what is outside the brain is dark too
        bright = np.flatnonzero(~row)
        row[: bright[0] if len(bright) else None] = False
        if len(bright):
            row[bright[-1] :] = False
    rows, columns = np.nonzero(dark)
    return (float(columns.mean()), float(rows.mean())) if len(rows) > 20 else None


@pytest.mark.integration
def test_the_ball_lies_on_the_slices_and_the_side_of_the_answer(root: Path) -> None:
    for aspect in ("side", "level"):
        samples = ask(root, aspect, 8)
        assert len({sample.target_text for sample in samples}) == len(samples[0].choices)
        for sample in samples[:3]:
            pictures = [np.asarray(source.load())[..., 0] for source in sample.images]
            assert {picture.shape for picture in pictures} == {(233, 197)}
            shown = [place for place, picture in enumerate(pictures) if dark_ball(picture)]
            assert 1 <= len(shown) <= 2
            centre = dark_ball(pictures[shown[0]])
            assert centre is not None
            side = "left" if centre[0] > 98 else "right"  # the patient's right is on the left
            level = ("lower", "middle", "upper")[int(3 * (shown[0] + 0.5) / 8)]
            assert sample.target_text == (side if aspect == "side" else level), sample.id
            statements = judge(sample.rationale or "", facts=sample.facts, terms=sample.terms, answer_text=sample.target_text)  # type: ignore[arg-type]
            assert {statement.truth for statement in statements} == {"true"}
            assert any(not statement.repeats_answer for statement in statements)


def test_the_patients_left_is_on_the_right_of_the_picture(root: Path) -> None:
    picture = np.asarray(BrainSlice(root=find_root(root), plane="axial", index=72, size=233).load())[..., 0]
    assert (picture[116, 60], picture[116, 140]) == (200, 100)


def test_the_share_of_grey_matter_decides(root: Path) -> None:
    for sample in ask(root, "tissue", 6):
        first, second = (grey_share(find_root(root), source.index) for source in sample.images)  # type: ignore[attr-defined]
        assert abs(first - second) >= 0.08
        assert sample.target_text == ("the first" if first > second else "the second")


def test_planes_have_their_shape(root: Path) -> None:
    samples = ask(root, "plane", 9)
    assert {sample.target_text for sample in samples} == {"axial", "coronal", "sagittal"}
    for sample in samples:
        width, height = sample.images[0].load().size
        ratios = {"axial": 197 / 233, "coronal": 197 / 189, "sagittal": 233 / 189}
        assert width / height == pytest.approx(ratios[sample.target_text], rel=0.01)


def test_a_slice_is_a_small_source(root: Path) -> None:
    source = BrainSlice(root=find_root(root), plane="axial", index=80, ball=Ball(right=-20, front=10, head=8, radius=9))
    assert isinstance(source, ImageSource)
    assert isinstance(source, HasDigest)
    assert source.uri == "mni152:axial/80?size=112&ball=-20,10,8,9"
    assert pickle.loads(pickle.dumps(source)) == source
    assert source.load().size == (95, 112)
    assert source.digest() != BrainSlice(root=find_root(root), plane="axial", index=80).digest()


def test_splits_and_seeds_differ(root: Path) -> None:
    asked = [read("mni152", root, split=split, seed=seed, num_questions=8) for split, seed in (("train", 0), ("test", 0), ("test", 1))]
    assert len({sample.id for samples in asked for sample in samples}) == 24
    assert asked[1] == read("mni152", root, split="test", num_questions=8)
    assert {sample.subject_id for samples in asked for sample in samples} == {"mni152"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aspects": ["age"]}, "unknown aspect 'age': use one of side, level, plane, tissue"),
        ({"aspects": "side"}, "aspects is 'side': use a list"),
        ({"num_slices": 3}, "num_slices of 6 to 24"),
        ({"num_slices": 8.5}, "whole numbers"),
        ({"size": 5000}, "size of 28 to 1024"),
        ({"split": "dev"}, "unknown split 'dev'"),
    ],
)
def test_mistakes_are_named(root: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read("mni152", root, **({"split": "test"} | options))


def test_missing_and_other_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pip install --no-deps nilearn"):
        read("mni152", tmp_path, split="test")
    for name in FILES.values():
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / name)
    with pytest.raises(DataError, match="another grid"):
        read("mni152", tmp_path, split="test")


@pytest.mark.skipif(not HAS_NILEARN, reason="needs nilearn's files: pip install --no-deps nilearn==0.14.1")
def test_the_real_brain_answers_too() -> None:
    samples = ask(None, "level", 6)
    for sample in samples:
        shown = [place for place, source in enumerate(sample.images) if source.ball_radius >= 3]  # type: ignore[attr-defined]
        assert sample.target_text == ("lower", "middle", "upper")[int(3 * (shown[0] + 0.5) / 8)]
        assert all(np.asarray(source.load()).std() > 20 for source in sample.images)
    shares = [grey_share(find_root(None), index) for index in (40, 72, 110)]
    assert all(0.3 < share < 0.9 for share in shares)
