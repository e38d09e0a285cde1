"""The option prior on the same rows before and after their distractors are redrawn, against sums done by other means."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from osler.audits.baselines import OptionPrior
from osler.audits.redrawn import RedrawnComparison, compare_redrawn
from osler.data.distractors import Distractors, redraw_distractors
from osler.data.readers import read
from osler.images.files import ImageFile
from osler.types import LETTERS, Sample

GOLDS = ("cyst", "tumour", "abscess", "haematoma", "calcification", "stone")


def question(split: str, number: int, choices: Sequence[str], target: str, *, image: int | None = None, modality: str = "ct") -> Sample:
    return Sample(
        id=f"{split}/{number}",
        dataset="made",
        images=(ImageFile(root=Path("/nowhere"), path=f"{split}-{number if image is None else image}.png"),),
        question="What?",
        choices=tuple(choices),
        target=target,
        modality=modality,  # type: ignore[arg-type]
        question_type=None,
    )


def made_up(split: str, num: int, *, per_image: int = 1, seed: int = 0) -> list[Sample]:
    """Right answers among distractors that are mostly never right, and every seventh question one of yes and no."""
    rng = random.Random(f"{split}/{seed}")
    samples = []
    for number in range(num):
        if number % 7 == 6:
            samples.append(question(split, number, ("yes", "no"), rng.choice("AB"), image=number // per_image))
            continue
        choices = [rng.choice(GOLDS), *rng.sample(["w1", "w2", "w3", "w4", "Stone"], 3)]
        order = rng.sample(range(4), 4)
        target = LETTERS[order.index(0)]
        samples.append(question(split, number, [choices[place] for place in order], target, image=number // per_image))
    return samples


def compare_one(train: Sequence[Sample], test: Sequence[Sample], **options: Any) -> RedrawnComparison:
    (found,) = compare_redrawn(train, test, **options).values()
    return found


@pytest.mark.parametrize(("per_image", "num_clusters"), [(1, 180), (3, 70)])
def test_both_sides_are_on_the_same_rows(per_image: int, num_clusters: int) -> None:
    train, test = made_up("train", 300), made_up("test", 210, per_image=per_image)
    found = compare_one(train, test)
    new_train, new_test = redraw_distractors(train), redraw_distractors(test)
    kept = [place for place, sample in enumerate(new_test) if sample.metadata["distractors"] == Distractors.REDRAWN]
    before, after = OptionPrior.fit(train), OptionPrior.fit(new_train)
    original = np.array([before.credit(test[place]) for place in kept])
    redrawn = np.array([after.credit(new_test[place]) for place in kept])
    assert (found.num_test, found.num_redrawn, found.num_clusters) == (210, len(kept), num_clusters)
    assert found.counts == {Distractors.REDRAWN: len(kept), Distractors.YES_NO: 210 - len(kept)}
    assert found.original.value == pytest.approx(original.mean())
    assert found.redrawn.value == pytest.approx(redrawn.mean())
    assert found.difference.value == pytest.approx((redrawn - original).mean())
    assert found.chance == pytest.approx(0.25)
    assert found.all_rows.redrawn == pytest.approx(np.mean([after.credit(sample) for sample in new_test]))
    # The paired interval against a bootstrap of whole images.
    images = Counter(test[place].images[0].uri for place in kept)
    rows = {uri: [n for n, place in enumerate(kept) if test[place].images[0].uri == uri] for uri in images}
    rng, names = np.random.default_rng(1), list(rows)
    draws = []
    for _ in range(1500):
        drawn = [n for pick in rng.integers(len(names), size=len(names)) for n in rows[names[pick]]]
        draws.append((redrawn[drawn] - original[drawn]).mean())
    low, high = np.percentile(draws, [2.5, 97.5])
    assert (found.difference.low, found.difference.high) == (pytest.approx(low, abs=0.035), pytest.approx(high, abs=0.035))


def test_questions_about_one_image_count_as_fewer() -> None:
    train, test = made_up("train", 300), made_up("test", 60)
    copies = [replace(sample, id=f"{sample.id}/{copy}") for copy in range(4) for sample in test]
    shared = compare_one(train, copies)
    own_images = [replace(sample, images=(ImageFile(root=Path("/nowhere"), path=f"{sample.id}.png"),)) for sample in copies]
    own = compare_one(train, own_images)
    assert (shared.num_redrawn, shared.num_clusters, own.num_clusters) == (208, 52, 208)
    assert shared.original.value == own.original.value
    widths = [(found.original.high or 0) - (found.original.low or 0) for found in (shared, own)]
    assert widths[0] > 1.3 * widths[1]


def test_nothing_to_train_on_or_to_redraw() -> None:
    test = made_up("test", 30)
    untaught = compare_one([], test)
    assert (untaught.original.value, untaught.redrawn.value, untaught.difference.low, untaught.all_rows.redrawn) == (None, None, None, None)
    assert untaught.num_redrawn == 26
    plain = compare_one(made_up("train", 30), [question("test", 0, ("yes", "no"), "A")])
    assert (plain.num_redrawn, plain.num_clusters, plain.chance, plain.original.value, plain.difference.value) == (0, 0, None, None, None)
    assert plain.all_rows.original is not None
    assert compare_redrawn(made_up("train", 9), [question("test", 9, (), "cyst")]) == {}
    assert compare_redrawn([], []) == {}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("axis", "name", "original", "redrawn", "rows", "of"),
    [
        ("modality", "oct", 100.0, 25.7, 729, 848),
        pytest.param("modality", "ultrasound", 81.7, 27.6, 1888, 2074, marks=pytest.mark.slow),  # its shares: test_audit_real.py
        ("question_type", "lesion_grading", 97.2, 50.9, 391, 436),
        ("question_type", "other_biological_attributes", 100.0, 29.5, 407, 704),
        pytest.param("question_type", "modality_recognition", 96.2, 39.3, 422, 2392, marks=pytest.mark.slow),  # as the other types
    ],
)
def test_published_files(axis: Any, name: str, original: float, redrawn: float, rows: int, of: int) -> None:
    folder = os.environ.get("OSLER_TEST_DATA")
    if not folder:
        pytest.skip("OSLER_TEST_DATA does not name the folder of the annotation files")
    root = Path(folder) / "omnimedvqa_splits"
    train, test = (read("med_r1", root, axis=axis, name=name, split=split) for split in ("train", "test"))
    ((domain, found),) = compare_redrawn(train, test, by=axis).items()
    assert (domain, found.num_redrawn, found.num_test) == (name, rows, of)
    assert 100 * (found.original.value or 0) == pytest.approx(original, abs=0.06)
    assert 100 * (found.redrawn.value or 0) == pytest.approx(redrawn, abs=0.06)
    assert found.difference.high is not None
    assert found.difference.high < -0.3
