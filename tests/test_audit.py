"""The option prior against counts made by hand, on phantoms, and on the papers' own files."""

import os
from pathlib import Path

import pytest

from osler.audit import OptionPrior, fold_option
from osler.phantom import build_samples
from osler.readers import read
from osler.taxonomy import Modality
from osler.types import Sample


def question(number: int, choices: tuple[str, ...], target: str) -> Sample:
    return Sample(
        id=f"test/{number}", dataset="test", images=(), question="?", choices=choices, target=target, modality=None, question_type=None
    )


TRAINING = [
    question(0, ("CT", "MRI"), "A"),
    question(1, ("ct.", "X-ray"), "A"),
    question(2, ("MRI", "X-ray"), "B"),
    question(3, (), "liver"),
]


@pytest.mark.parametrize(("choice", "rate"), [("CT", 2.25 / 3), ("mri", 0.25 / 3), ("X-Ray", 1.25 / 3), ("PET", 0.25)])
def test_rates(choice: str, rate: float) -> None:
    assert OptionPrior.fit(TRAINING).rate(choice) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("choices", "best", "credit"),
    [
        (("MRI", "CT"), ("B",), 0.0),
        (("CT", "MRI"), ("A",), 1.0),
        (("PET", "SPECT"), ("A", "B"), 0.5),
        (("MRI", "PET", "SPECT"), ("B", "C"), 0.0),
    ],
)
def test_best_and_credit(choices: tuple[str, ...], best: tuple[str, ...], credit: float) -> None:
    sample = question(9, choices, "A")
    prior = OptionPrior.fit(TRAINING)
    assert prior.best(sample) == best
    assert prior.credit(sample) == credit
    assert prior.pick(sample) in best


def test_open_ended_has_no_letter() -> None:
    assert OptionPrior.fit(TRAINING).pick(TRAINING[3]) is None


@pytest.mark.parametrize(("text", "key"), [("X-ray (frontal).", "xray frontal"), ("  CT  scan", "ct scan"), ("x_ray", "xray")])
def test_fold_option(text: str, key: str) -> None:
    assert fold_option(text) == key


def test_phantom_gives_nothing_away() -> None:
    training, testing = (build_samples(modality=Modality.MRI, split=split, seed=5, num_questions=2000) for split in ("train", "test"))
    prior = OptionPrior.fit(training)
    chance = sum(1 / len(sample.choices) for sample in testing) / len(testing)
    assert sum(prior.credit(sample) for sample in testing) / len(testing) == pytest.approx(chance, abs=3 * (0.2 / 2000) ** 0.5)


@pytest.mark.parametrize(
    ("name", "percent"),
    [("ct", 99.0), ("xray", 94.6), ("ultrasound", 83.4), ("dermoscopy", 95.1), ("fundus", 94.9), ("oct", 100.0), ("microscopy", 98.6)],
)
def test_published_files_are_answered_blind(name: str, percent: float) -> None:
    folder = os.environ.get("OSLER_TEST_DATA")
    if not folder:
        pytest.skip("OSLER_TEST_DATA does not name the folder of the annotation files")
    training, testing = (
        read("med_r1", Path(folder) / "omnimedvqa_splits", axis="modality", name=name, split=split) for split in ("train", "test")
    )
    prior = OptionPrior.fit(training)
    assert 100 * sum(prior.credit(sample) for sample in testing) / len(testing) == pytest.approx(percent, abs=0.06)
