"""Phantom questions can be answered from the pixels and from nothing else."""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest

from osler.data.phantom import ATLASES, GRADES, NORMAL, Difficulty, PhantomImage, build_samples
from osler.errors import ConfigError
from osler.taxonomy import SPLITS, Modality, QuestionType
from osler.types import LETTERS, ImageSource, Sample

NUM_QUESTIONS = 4_000

# Eight modalities times thirteen baselines are 104 comparisons: about five of them would fall outside a 95 % interval by chance. So each
# comparison allows 3.5 standard errors, the two-sided 95 % interval after Bonferroni correction (0.05 / 104). The pooled test has a
# standard error smaller by the square root of eight, so it detects a weak leak that all modalities have in common.
MAX_Z = 3.5
MAX_POOLED_Z = 3.0  # 13 comparisons


@cache
def ask(modality: Modality, split: str) -> tuple[Sample, ...]:
    return tuple(build_samples(modality=modality, split=split, seed=0, num_questions=NUM_QUESTIONS))  # type: ignore[arg-type]


Rating = Callable[[Sample, str], float]


def fold(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum() or letter == " ")


def rate_by(key: Callable[[Sample, str], object]) -> Callable[[Sequence[Sample]], Rating]:
    """How often an option with this key was right in training, smoothed as in the published leak study."""

    def fit(train: Sequence[Sample]) -> Rating:
        seen: Counter[object] = Counter()
        gold: Counter[object] = Counter()
        for sample in train:
            for choice in sample.choices:
                seen[key(sample, choice)] += 1
            gold[key(sample, sample.target_text)] += 1
        return lambda sample, choice: (gold[key(sample, choice)] + 0.25) / (seen[key(sample, choice)] + 1)

    return fit


def rate(rule: Rating) -> Callable[[Sequence[Sample]], Rating]:
    return lambda _train: rule


def position(letter: str) -> Callable[[Sequence[Sample]], Rating]:
    return rate(lambda sample, choice: float(sample.choices.index(choice) == LETTERS.index(letter)))


BASELINES: dict[str, Callable[[Sequence[Sample]], Rating]] = {
    "option prior": rate_by(lambda _, choice: fold(choice)),
    "option and question": rate_by(lambda sample, choice: (sample.question, fold(choice))),
    "option set and question": rate_by(lambda sample, choice: (sample.question, frozenset(sample.choices), choice)),
    "ordered options": rate_by(lambda sample, choice: (sample.choices, choice)),
    "position and question": rate_by(lambda sample, choice: (sample.question, len(sample.choices), sample.choices.index(choice))),
    "longest": rate(lambda _, choice: len(choice)),
    "shortest": rate(lambda _, choice: -len(choice)),
    "lower case": rate(lambda _, choice: float(choice == choice.lower())),
    "upper case": rate(lambda _, choice: float(choice != choice.lower())),
    "first": position("A"),
    "second": position("B"),
    "third": position("C"),
    "fourth": position("D"),
}


def surplus(baseline: str, modality: Modality) -> tuple[float, float]:
    """Credit beyond chance over the test questions, and the variance of that credit under chance; ties share the credit."""
    rating = BASELINES[baseline](ask(modality, "train"))
    beyond = variance = 0.0
    for sample in ask(modality, "test"):
        ratings = [rating(sample, choice) for choice in sample.choices]
        best = [choice for choice, value in zip(sample.choices, ratings, strict=True) if value == max(ratings)]
        chance, share = 1 / len(sample.choices), 1 / len(best)
        beyond += share * (sample.target_text in best) - chance
        variance += share * chance - chance**2  # the credit is `share` with probability chance / share
    return beyond, variance


_SLOW = ("option prior", "option and question", "option set and question")


@pytest.mark.integration
@pytest.mark.parametrize("baseline", [pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else []) for name in BASELINES])
def test_no_blind_rule_beats_chance(baseline: str) -> None:
    surpluses = {modality: surplus(baseline, modality) for modality in Modality}
    for modality, (beyond, variance) in surpluses.items():
        assert abs(beyond) <= MAX_Z * variance**0.5, f"{baseline} on {modality}: {beyond / NUM_QUESTIONS:+.3f} from chance"
    beyond, variance = (sum(column) for column in zip(*surpluses.values(), strict=True))
    assert abs(beyond) <= MAX_POOLED_Z * variance**0.5, f"{baseline} pooled: {beyond / NUM_QUESTIONS / len(Modality):+.4f} from chance"


@pytest.mark.integration
def test_a_planted_leak_is_caught() -> None:
    """The test must be able to fail: with one correct answer in eight moved to A, the baseline is far outside the interval."""
    samples = ask(Modality.CT, "test")
    planted = sum((number % 8 == 0) or sample.target == "A" for number, sample in enumerate(samples))
    chance = [1 / len(sample.choices) for sample in samples]
    assert planted - sum(chance) > MAX_Z * sum(share - share**2 for share in chance) ** 0.5


@pytest.mark.integration
@pytest.mark.parametrize("modality", Modality)
def test_questions_are_well_formed(modality: Modality) -> None:
    samples = ask(modality, "train")
    counts = Counter(sample.question_type for sample in samples)
    assert set(counts) == set(QuestionType)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len({sample.id for sample in samples}) == len(samples)
    wordings: dict[QuestionType | None, set[str]] = defaultdict(set)
    for sample in samples:
        assert sample.question.endswith("?")
        assert len(sample.question.split()) <= 10
        assert len(set(sample.choices)) == len(sample.choices) in (2, 4)
        assert sample.rationale is not None
        assert sample.rationale.endswith(f" {sample.target_text}")
        assert 3 <= len(sample.rationale.split()) <= 48, sample.rationale
        assert 1 <= sample.rationale.count(". ") <= 3, sample.rationale
        wordings[sample.question_type].add(sample.question)
    assert all(3 <= len(texts) <= 5 for texts in wordings.values())
    assert 0.12 < sum(len(sample.choices) == 2 for sample in samples) / len(samples) < 0.18


@pytest.mark.integration
@pytest.mark.parametrize("modality", Modality)
def test_splits_share_no_subject_and_no_picture(modality: Modality) -> None:
    subjects = [{sample.subject_id for sample in ask(modality, split)} for split in ("train", "test")]
    assert not subjects[0] & subjects[1]
    assert max(Counter(sample.subject_id for sample in ask(modality, "train")).values()) == len(QuestionType)
    pictures = {hashlib.sha256(PhantomImage(modality=modality, split=split, seed=0, index=0).render()).digest() for split in SPLITS}
    assert len(pictures) == len(SPLITS)


@pytest.mark.parametrize("modality", Modality)
def test_the_seed_decides_every_byte(modality: Modality) -> None:
    def digest(seed: int, index: int = 5, size: int = 112) -> str:
        return hashlib.sha256(PhantomImage(modality=modality, split="train", seed=seed, index=index, size=size).render()).hexdigest()

    assert digest(0) == digest(0)
    assert len({digest(0), digest(1), digest(0, index=6), digest(0, size=84)}) == 4
    asked = [build_samples(modality=modality, split="train", seed=seed, num_questions=50) for seed in (3, 3, 4)]
    assert asked[0] == asked[1] != asked[2]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("question_types", "num_questions", "num_images"),
    [
        (tuple(QuestionType), 10, 4),
        ((QuestionType.LESION_GRADING,), 7, 7),
        ((QuestionType.DISEASE_DIAGNOSIS, QuestionType.ANATOMY_IDENTIFICATION), 6, 3),
        ((QuestionType.MODALITY_RECOGNITION, QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES), 5, 5),
    ],
)
def test_fewer_types_ask_the_same_questions_of_more_subjects(
    question_types: tuple[QuestionType, ...], num_questions: int, num_images: int
) -> None:
    samples = build_samples(modality=Modality.XRAY, split="test", seed=0, num_questions=num_questions, question_types=question_types)
    assert len(samples) == num_questions
    assert len({sample.images for sample in samples}) == num_images
    everything = {sample.id: sample for sample in ask(Modality.XRAY, "test")}
    assert all(everything[sample.id] == sample for sample in samples)


@pytest.mark.parametrize("modality", Modality)
def test_pools_hold_four_or_more_and_every_term_has_a_sign(modality: Modality) -> None:
    atlas = ATLASES[modality]
    for pool in (atlas.techniques, atlas.anatomies, atlas.diseases, atlas.others, GRADES):
        assert len(set(pool)) == len(pool) >= 4
    for term in (*atlas.techniques, *atlas.anatomies, *atlas.diseases):
        assert 1 <= len(atlas.signs[term].split()) <= 9
    for index in range(200):
        findings = PhantomImage(modality=modality, split="train", seed=0, index=index).findings
        assert (findings.grade is None) == (findings.disease == NORMAL)
        assert (findings.other is None) == (findings.disease in atlas.diseases_without_other)
        assert index % 2 == 0 or None not in (findings.grade, findings.other)


@pytest.mark.integration
@pytest.mark.parametrize("modality", Modality)
def test_a_simple_pixel_rule_tells_techniques_apart(modality: Modality) -> None:
    """The nearest neighbour among 120 pictures of 16 x 16 pixels finds the technique. Chance is 0.25, with a standard error of 0.06."""

    def shrink(index: int, split: str) -> tuple[np.ndarray, str]:
        image = PhantomImage(modality=modality, split=split, seed=0, index=index)  # type: ignore[arg-type]
        blocks = image.render().reshape(16, 7, 16, 7, 3)
        return np.concatenate([blocks.mean((1, 3)).ravel(), 2 * blocks.std((1, 3)).ravel()]), image.findings.technique

    known = [shrink(index, "train") for index in range(120)]
    vectors = np.stack([vector for vector, _ in known])
    unknown = [shrink(index, "test") for index in range(48)]
    right = sum(known[int(np.abs(vectors - vector).sum(1).argmin())][1] == technique for vector, technique in unknown)
    assert right / len(unknown) > 0.45


@pytest.mark.parametrize(
    "setting",
    [{"split": "dev"}, {"seed": -1}, {"seed": 2**32}, {"index": -1}, {"size": 20}],
    ids=lambda setting: next(iter(setting)),
)
def test_settings_out_of_range_are_refused_in_one_line(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"^phantom|^unknown phantom"):
        PhantomImage(**{"modality": Modality.CT, "split": "train", "seed": 0, "index": 0} | setting)  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", [{"contrast": -0.1}, {"noise": -1.0}, {"lesion_size": 0.0}, {"lesion_size": 2.0}], ids=str)
def test_difficulties_that_cannot_be_drawn_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="cannot be drawn"):
        Difficulty(**setting)


@pytest.mark.parametrize("modality", Modality)
@pytest.mark.parametrize("setting", [{"contrast": 0.5}, {"noise": 0.2}, {"lesion_size": 0.7}], ids=str)
def test_every_difficulty_setting_reaches_the_pixels(modality: Modality, setting: dict[str, float]) -> None:
    pictures = [
        PhantomImage(modality=modality, split="test", seed=0, index=1, difficulty=difficulty).render()
        for difficulty in (Difficulty(), Difficulty(**setting))
    ]
    assert not np.array_equal(*pictures)


def test_no_types_are_refused() -> None:
    with pytest.raises(ConfigError, match="of 0 types"):
        build_samples(modality=Modality.CT, split="train", seed=0, num_questions=3, question_types=())


def test_an_image_is_a_small_source_with_a_stable_name() -> None:
    image = PhantomImage(modality=Modality.MRI, split="test", seed=0, index=17)
    hard = PhantomImage(modality=Modality.MRI, split="test", seed=0, index=17, size=224, difficulty=Difficulty(contrast=0.5))
    assert isinstance(image, ImageSource)
    assert image.uri == "phantom:mri/test/17?seed=0"
    assert hard.uri == "phantom:mri/test/17?seed=0&size=224&contrast=0.5"
    assert image.subject_id == hard.subject_id == "phantom/test/mri/0/8"
    assert len(pickle.dumps(image)) < 600
    assert pickle.loads(pickle.dumps(image)) == image
    assert (image.load().mode, hard.load().size) == ("RGB", (224, 224))
    assert image.findings == hard.findings
