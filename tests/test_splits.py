"""Groups against a search by hand, and assignments that keep groups whole and cells even."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osler.data.splits.group import MEDVLM_R1, assign_groups, assign_protocol, group_samples, stratify
from osler.errors import ConfigError, DataError
from osler.images.files import ImageFile
from osler.images.fingerprints import Fingerprint
from osler.taxonomy import Modality, QuestionType
from osler.types import ImageSource, Sample


def make(number: int, *images: str, **changes: Any) -> Sample:
    values: dict[str, Any] = {
        "id": f"t/{number}",
        "dataset": "t",
        "images": tuple(ImageFile(root=".", path=image) for image in images),  # type: ignore[arg-type]
        "question": "?",
        "choices": ("CT", "MRI"),
        "target": "A",
        "modality": None,
        "question_type": None,
    }
    return Sample(**{**values, **changes})


def prints(**found: tuple[str | None, int | None]) -> dict[ImageSource, Fingerprint]:
    return {
        ImageFile(root=".", path=name): Fingerprint(digest=digest, perceptual_hash=value)  # type: ignore[arg-type]
        for name, (digest, value) in found.items()
    }


FAR = 0xFFFF0000FFFF0000
GROUP_ROWS: list[tuple[str, list[Sample], dict[ImageSource, Fingerprint], list[int]]] = [
    ("nothing shared", [make(0, "a"), make(1, "b"), make(2)], {}, [0, 1, 2]),
    ("one path", [make(0, "a"), make(1, "b"), make(2, "a")], {}, [0, 1, 0]),
    ("one of several images", [make(0, "a", "b"), make(1, "c"), make(2, "b", "c")], {}, [0, 0, 0]),
    ("equal bytes", [make(0, "a"), make(1, "b")], prints(a=("x", None), b=("x", None)), [0, 0]),
    ("other bytes", [make(0, "a"), make(1, "b")], prints(a=("x", None), b=("y", None)), [0, 1]),
    ("near", [make(0, "a"), make(1, "b")], prints(a=("x", 0b1111), b=("y", 0)), [0, 0]),
    ("equal hashes", [make(0, "a"), make(1, "b")], prints(a=("x", FAR), b=("y", FAR)), [0, 0]),
    ("too far", [make(0, "a"), make(1, "b")], prints(a=("x", 0b11111), b=("y", 0)), [0, 1]),
    ("near by steps", [make(i, n) for i, n in enumerate("abc")], prints(a=("x", 0), b=("y", 0b1111), c=("z", 0b1111_1111)), [0, 0, 0]),
    ("one subject", [make(0, "a", subject_id="p"), make(1, "b", subject_id="p")], {}, [0, 0]),
    ("a subject of another dataset", [make(0, "a", subject_id="p"), make(1, "b", subject_id="p", dataset="u")], {}, [0, 1]),
    ("one case by name", [make(0, "Images/Mura/v/patient1/study1/a.png"), make(1, "Images/Mura/v/patient1/study2/b.png")], {}, [0, 0]),
    ("other cases by name", [make(0, "Images/Mura/v/patient1/study1/a.png"), make(1, "Images/Mura/v/patient2/study1/a.png")], {}, [0, 1]),
    ("unknown stays apart", [make(0, "a"), make(1, "b")], prints(a=(None, None), b=(None, None)), [0, 1]),
]


@pytest.mark.parametrize(("name", "samples", "fingerprints", "groups"), GROUP_ROWS, ids=[row[0] for row in GROUP_ROWS])
def test_groups(name: str, samples: list[Sample], fingerprints: dict[ImageSource, Fingerprint], groups: list[int]) -> None:
    assert group_samples(samples, fingerprints, max_distance=4).tolist() == groups


TURNED_ROWS: list[tuple[str, list[tuple[str, str]], list[int]]] = [
    ("none", [], [0, 1, 2]),
    ("one pair", [("a", "c")], [0, 1, 0]),
    ("a chain", [("a", "b"), ("b", "c")], [0, 0, 0]),
    ("of an image that no question has", [("a", "z")], [0, 1, 2]),
]


@pytest.mark.parametrize(("name", "pairs", "groups"), TURNED_ROWS, ids=[row[0] for row in TURNED_ROWS])
def test_turned_copies_are_in_one_group(name: str, pairs: list[tuple[str, str]], groups: list[int]) -> None:
    samples = [make(number, path) for number, path in enumerate("abc")]
    images = {path: ImageFile(root=".", path=path) for path in "abcz"}  # type: ignore[arg-type]
    turned: list[tuple[ImageSource, ImageSource]] = [(images[one], images[other]) for one, other in pairs]
    assert group_samples(samples, {}, max_distance=4, turned=turned).tolist() == groups


def test_no_distance_reads_no_hash() -> None:
    samples, fingerprints = [make(0, "a"), make(1, "b")], prints(a=("x", 7), b=("y", 7))
    assert group_samples(samples, fingerprints, max_distance=None).tolist() == [0, 1]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 6)), min_size=1, max_size=25))
def test_groups_are_the_closure_of_sharing(rows: list[tuple[int, int, int]]) -> None:
    samples = [make(i, f"i{one}", f"i{other}", subject_id=f"p{who}" if who else None) for i, (one, other, who) in enumerate(rows)]
    keys = [{*(image.uri for image in s.images), *([s.subject_id] if s.subject_id else [])} for s in samples]
    reach = np.array([[bool(one & other) for other in keys] for one in keys])
    for _ in samples:
        reach = reach @ reach
    groups = group_samples(samples, {}, max_distance=4)
    assert ((groups[:, None] == groups[None, :]) == reach).all()


def population(number: int, seed: int = 0) -> tuple[list[Sample], np.ndarray]:
    """Samples of uneven groups, modalities, types and answers."""
    rng = np.random.default_rng(seed)
    sizes = rng.zipf(2.0, number).clip(max=12)
    groups = np.repeat(np.arange(number), sizes)[:number].astype(np.int32)
    kinds = {int(group): (rng.choice(["ct", "mri", "xray"], p=[0.6, 0.3, 0.1])) for group in set(groups.tolist())}
    return [
        make(
            index,
            f"i{group}",
            modality=Modality(kinds[int(group)]),
            question_type=list(QuestionType)[rng.integers(3)],
            target="AB"[rng.integers(2)],
        )
        for index, group in enumerate(groups)
    ], groups


@pytest.mark.parametrize("fractions", [{"train": 0.8, "test": 0.2}, {"train": 0.7, "validation": 0.1, "test": 0.2}, {"a": 0.5, "b": 0.5}])
def test_assignment_is_whole_and_even(fractions: dict[str, float]) -> None:
    samples, groups = population(3000)
    sides = assign_groups(groups, [stratify(sample) for sample in samples], fractions, seed=1)
    assert len({(group, side) for group, side in zip(groups.tolist(), sides, strict=True)}) == len(set(groups.tolist()))
    for level in range(4):
        cells = Counter(stratify(sample)[level] for sample in samples)
        inside = Counter((stratify(sample)[level], side) for sample, side in zip(samples, sides, strict=True))
        for (cell, total), (side, share) in itertools.product(cells.items(), fractions.items()):
            assert inside[cell, side] == pytest.approx(share * total, abs=2 + 0.02 * total), (cell, side)


def test_assignment_follows_the_seed() -> None:
    samples, groups = population(600)
    strata = [stratify(sample) for sample in samples]
    first, again, other = (assign_groups(groups, strata, {"train": 0.8, "test": 0.2}, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_unique_answers_do_not_flow_to_the_larger_side() -> None:
    samples = [make(index, f"i{index}", choices=(), target=f"word {index}") for index in range(500)]
    groups = group_samples(samples, {}, max_distance=None)
    sides = Counter(assign_groups(groups, [stratify(sample) for sample in samples], {"train": 0.8, "test": 0.2}))
    assert sides == {"train": 400, "test": 100}


@pytest.mark.parametrize(
    "fractions", [{"train": 1.0}, {"train": 0.5, "test": 0.4}, {"train": 1.2, "test": -0.2}, {"train": 1.0, "test": 0.0}, {}]
)
def test_fractions_that_are_no_shares(fractions: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="add up to 1"):
        assign_groups(np.zeros(1, dtype=np.int32), [[()]], fractions)


def test_protocol_gives_its_numbers_from_groups_of_their_own() -> None:
    samples, groups = population(9000)
    sides = assign_protocol(samples, groups, MEDVLM_R1, seed=3)
    assert Counter((side, sample.modality) for sample, side in zip(samples, sides, strict=True) if side) == {
        (split, modality): number for split, modality, number in MEDVLM_R1
    }
    groups_of = {split: {group for group, side in zip(groups.tolist(), sides, strict=True) if side == split} for split in ("train", "test")}
    assert not groups_of["train"] & groups_of["test"]


def test_protocol_needs_enough() -> None:
    samples, groups = population(600)
    with pytest.raises(DataError, match="the protocol takes 600 mri questions for train"):
        assign_protocol(samples, groups, MEDVLM_R1)


def test_protocol_never_puts_a_mixed_group_on_two_sides() -> None:
    samples = [make(i, f"i{i // 2}", modality=(Modality.CT, Modality.MRI)[i % 2]) for i in range(40)]
    groups = group_samples(samples, {}, max_distance=None)
    sides = assign_protocol(samples, groups, (("train", Modality.MRI, 8), ("test", Modality.MRI, 4), ("test", Modality.CT, 4)))
    found = [{sides[2 * pair], sides[2 * pair + 1]} for pair in range(20)]
    assert {"train", "test"} not in found
