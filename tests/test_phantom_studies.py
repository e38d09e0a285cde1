"""Questions about phantom studies can be answered from all pictures, from no single one, and from nothing else."""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter
from functools import cache

import numpy as np
import pytest
from test_phantom_questions import BASELINES

from osler import read
from osler.config import load_config
from osler.data.phantom import Difficulty
from osler.data.phantom.studies import ASPECTS, Aspect, PhantomStudy, StudyKind, ask, build_studies
from osler.data.phantom.studies.facts import ANSWER_SIGNS, facts_of, study_terms
from osler.data.phantom.studies.truth import Mark, Spot, Truth, level_of, pool_of
from osler.data.select import load_split
from osler.errors import ConfigError
from osler.facts import Facts, Kind
from osler.grading import judge
from osler.prompts import render, target_completion
from osler.types import PLACE, HasDigest, ImageSource, Sample
from tools.single_picture import count_right, measure, read_all_pictures

PAIRS = [(kind, aspect) for kind in StudyKind for aspect in ASPECTS[kind]]
IDS = [f"{kind}-{aspect}" for kind, aspect in PAIRS]
NUM_STUDIES = 600


@cache
def questions(kind: StudyKind, split: str = "test", num: int = 300) -> tuple[Sample, ...]:
    return tuple(build_studies(kind=kind, split=split, seed=0, num_questions=num))  # type: ignore[arg-type]


def study(kind: StudyKind, aspect: Aspect, index: int = 0, **settings: object) -> PhantomStudy:
    return PhantomStudy(kind=kind, aspect=aspect, **{"split": "train", "seed": 0, "index": index} | settings)  # type: ignore[arg-type]


# What pictures tell

BEST_OF_ONE = {  # by `python -m tools.single_picture`, with 10,000 studies each
    Aspect.SIDE: 0.61,
    Aspect.LEVEL: 0.555,
    Aspect.COUNT: 0.34,
    Aspect.EXTENT: 0.42,
    Aspect.DIAGNOSIS: 0.385,
    Aspect.MOTION: 0.445,
    Aspect.CONTRACTION: 0.425,
    Aspect.SITE: 0.50,
    Aspect.CHANGE: 0.525,
    Aspect.NEW_SITE: 0.50,
}
MARGIN = 0.075  # 3.5 standard errors of a share of 600 questions


@pytest.mark.integration
@pytest.mark.parametrize(("kind", "aspect"), PAIRS, ids=IDS)
def test_all_pictures_answer_and_no_single_one_does(kind: StudyKind, aspect: Aspect) -> None:
    shares = measure(kind, aspect, num_studies=NUM_STUDIES)
    assert shares.of_all == shares.total
    assert len(shares.of_pictures) == (2 if kind.has_views else 8)
    assert shares.chance - MARGIN < max(shares.of_pictures) / shares.total < BEST_OF_ONE[aspect] + MARGIN, shares


@pytest.mark.integration
def test_a_study_that_one_picture_answers_is_found_out() -> None:
    """The measure must be able to fail: lesions on all slices of the volume tell the side on each."""
    sides = ("left", "right") * 25
    spots = {"left": Spot(x=0.3, y=0.3, radius=0.2), "right": Spot(x=-0.3, y=0.3, radius=0.2)}
    truths = [
        Truth(
            kind=StudyKind.CT_VOLUME,
            aspect=Aspect.SIDE,
            num_pictures=8,
            marks=(Mark(name="cyst", spots=(spots[side],) * 8),),
            answer=side,
        )
        for side in sides
    ]
    assert [count_right(truths, truths, [("left", "right")] * 50, place) for place in range(8)] == [50] * 8


@pytest.mark.integration
@pytest.mark.parametrize("kind", [StudyKind.CT_VOLUME, StudyKind.MRI_VOLUME, StudyKind.XRAY_VIEWS, StudyKind.FOLLOW_UP])
def test_a_lesion_is_drawn_where_the_truth_says_and_nowhere_else(kind: StudyKind) -> None:
    axis = (np.arange(84) + 0.5) / 42 - 1
    for aspect in ASPECTS[kind]:
        for index in range(3):
            shown, hidden = (study(kind, aspect, index, difficulty=Difficulty(noise=0, contrast=contrast)) for contrast in (1.0, 0.0))
            truth = shown.truth
            for place in range(truth.num_pictures):
                difference = np.abs(shown.values(place + 1).astype(float) - hidden.values(place + 1))
                spots = [spot for mark in truth.marks if (spot := mark.spots[place]) is not None]
                assert (difference.max() > 50) == bool(spots)
                if len(spots) == 1:
                    weight = difference / difference.sum()
                    assert weight.sum(axis=0) @ axis == pytest.approx(spots[0].x, abs=0.05)
                    assert weight.sum(axis=1) @ axis == pytest.approx(spots[0].y, abs=0.05)


@pytest.mark.parametrize("aspect", ASPECTS[StudyKind.ULTRASOUND_CINE])
def test_a_cine_moves_as_the_truth_says(aspect: Aspect) -> None:
    axis = (np.arange(84) + 0.5) / 42 - 1
    quiet = study(StudyKind.ULTRASOUND_CINE, aspect, 1, difficulty=Difficulty(noise=0))
    (mark,) = quiet.truth.marks
    for number, spot in enumerate(mark.spots, start=1):
        assert spot is not None
        values = quiet.values(number).astype(float)
        x, y = np.meshgrid(axis, axis)
        near = np.hypot(x - spot.x, y - spot.y) < 1.3 * spot.radius  # not the dark corners
        inside = near & ((values > 165) if aspect is Aspect.MOTION else (values < 30))
        assert np.sqrt(inside.sum() / (1 if aspect is Aspect.MOTION else 1.15) / np.pi) / 42 == pytest.approx(spot.radius, rel=0.12)
        if aspect is Aspect.MOTION:
            centre = tuple(inside.sum(axis=along) @ axis / inside.sum() for along in (0, 1))
            assert centre == pytest.approx((spot.x, spot.y), abs=0.04)


def test_the_body_does_not_tell_the_place_in_the_volume() -> None:
    """A volume begins at a random height: the same slice number shows a pelvis in one volume and lungs in another."""
    for kind in (StudyKind.CT_VOLUME, StudyKind.MRI_VOLUME):
        lowest = [study(kind, Aspect.LEVEL, index, difficulty=Difficulty(noise=0, contrast=0)).values(1) for index in range(12)]
        highest = [study(kind, Aspect.LEVEL, index, difficulty=Difficulty(noise=0, contrast=0)).values(8) for index in range(12)]
        between = [np.abs(one.astype(float) - other).mean() for one in lowest for other in highest]
        within = [np.abs(one.astype(float) - other).mean() for place, one in enumerate(lowest) for other in lowest[:place]]
        assert min(between) < np.median(within)  # some first slice looks like some last one


LEVELS = [(0, 8, "lower"), (2, 8, "lower"), (3, 8, "middle"), (4, 8, "middle"), (5, 8, "upper"), (1, 6, "lower"), (23, 24, "upper")]


@pytest.mark.parametrize(("number", "total", "level"), LEVELS)
def test_the_third_of_a_slice(number: int, total: int, level: str) -> None:
    assert level_of(number, total) == level


# Questions


@pytest.mark.integration
@pytest.mark.parametrize(("kind", "aspect"), PAIRS, ids=IDS)
def test_questions_are_well_formed_and_answers_uniform(kind: StudyKind, aspect: Aspect) -> None:
    samples = [ask(study(kind, aspect, index)) for index in range(300)]
    pool = pool_of(kind, aspect)
    answers, letters = Counter(sample.target_text for sample in samples), Counter(sample.target for sample in samples)
    assert set(answers) == set(pool)
    for counts, num in ((answers, len(pool)), (letters, min(4, len(pool)))):
        assert all(abs(count / 300 - 1 / num) < 4 * (1 / num / 300) ** 0.5 for count in counts.values()), counts
    for sample in samples[:40]:
        assert set(sample.choices) <= set(pool)
        assert 2 <= len(sample.choices) == min(4, len(pool))
        assert sample.question.endswith("?")
        assert len(sample.images) == (2 if kind.has_views else 8)
        assert sample.question.count(PLACE) == (2 if kind.has_views else 0)
        assert len([part for part in render(sample, "think").messages[-1]["content"] if part["type"] == "image"]) == len(sample.images)
        assert target_completion(sample, "think").endswith(f"<answer>{sample.target}</answer>")


@pytest.mark.integration
@pytest.mark.parametrize(("kind", "aspect"), PAIRS, ids=IDS)
def test_reference_findings_are_true_and_bear_on_the_question(kind: StudyKind, aspect: Aspect) -> None:
    wordings = set()
    for index in range(60):
        sample = ask(study(kind, aspect, index))
        assert sample.rationale is not None
        assert sample.facts is not None
        assert sample.rationale.endswith(f": {sample.target_text}")
        statements = judge(
            sample.rationale, facts=sample.facts, terms=sample.terms, answer_text=sample.target_text, question_type=sample.question_type
        )
        assert {statement.truth for statement in statements} == {"true"}, (sample.rationale, statements)
        assert any(statement.is_relevant and not statement.repeats_answer for statement in statements), sample.rationale
        wordings.add(sample.question)
    assert len(wordings) == 3


STATEMENTS = [  # of a lesion on slices 5 and 6 of 8, on the patient's left, behind
    ("The lesion is on slices 5 to 6.", ["true"]),
    ("The lesion appears on slices 5 and 6 of 8.", ["true"]),
    ("The lesion appears on slices 5-6.", ["true"]),
    ("The lesion is on slice 6.", ["true"]),
    ("The lesion is on slices 4 to 6.", ["false"]),
    ("The lesion is on slice 2.", ["false"]),
    ("The lesion is not on slice 2.", ["true"]),
    ("It lies on the left.", ["true"]),
    ("It lies on the right.", ["false"]),
    ("The lesion is in the upper third.", ["true"]),
    ("The lesion is in the lower third of the volume.", ["false"]),
    ("Two lesions are visible.", ["false", "true"]),
    ("I see a bright ring with a dark centre.", ["false"]),
]


@pytest.mark.parametrize(("text", "truths"), STATEMENTS, ids=[text for text, _ in STATEMENTS])
def test_statements_about_slices_are_graded(text: str, truths: list[str]) -> None:
    spot = Spot(x=0.3, y=0.3, radius=0.2)
    mark = Mark(name="cyst", spots=(None, None, None, None, spot, spot, None, None))
    truth = Truth(kind=StudyKind.CT_VOLUME, aspect=Aspect.EXTENT, num_pictures=8, marks=(mark,), answer="two")
    facts = facts_of(truth)
    assert Kind.LEVEL in facts.closed  # slice 5 is in the middle third, slice 6 in the upper one
    assert [statement.truth for statement in judge(text, facts=facts, terms=study_terms(StudyKind.CT_VOLUME, 8))] == truths


@pytest.mark.parametrize(
    ("aspect", "text", "truth"),
    [
        (Aspect.MOTION, "The spot is {sign}.", "true"),
        (Aspect.CONTRACTION, "I see {sign}.", "true"),
        (Aspect.MOTION, "The spot moves {answer}.", "true"),
        (Aspect.MOTION, "The spot moves {other}.", "false"),
        (Aspect.CONTRACTION, "It contracts {other}.", "false"),
    ],
)
def test_statements_about_motion_are_graded(aspect: Aspect, text: str, truth: str) -> None:
    sample = ask(study(StudyKind.ULTRASOUND_CINE, aspect))
    other = next(choice for choice in sample.choices if choice != sample.target_text)
    told = text.format(sign=ANSWER_SIGNS[sample.target_text], answer=sample.target_text, other=other)
    assert isinstance(sample.facts, Facts)
    assert [statement.truth for statement in judge(told, facts=sample.facts, terms=sample.terms)] == [truth]


@pytest.mark.integration
@pytest.mark.parametrize("baseline", BASELINES)
def test_no_blind_rule_beats_chance(baseline: str) -> None:
    """13 rules on 5 kinds: 3.5 standard errors are the two-sided 95 % interval after Bonferroni correction (0.05 / 65)."""
    for kind in StudyKind:
        rating = BASELINES[baseline](questions(kind, "train"))
        beyond = variance = 0.0
        for sample in questions(kind):
            ratings = [rating(sample, choice) for choice in sample.choices]
            best = [choice for choice, value in zip(sample.choices, ratings, strict=True) if value == max(ratings)]
            chance, share = 1 / len(sample.choices), 1 / len(best)
            beyond += share * (sample.target_text in best) - chance
            variance += share * chance - chance**2
        assert abs(beyond) <= 3.5 * variance**0.5, (kind, beyond)


# Sources and the reader


def test_a_picture_is_a_small_source_with_a_stable_name() -> None:
    whole = study(StudyKind.CT_VOLUME, Aspect.LEVEL, 17)
    picture = whole.pictures[4]
    assert isinstance(picture, ImageSource)
    assert isinstance(picture, HasDigest)
    assert picture.uri == "phantom:ct_volume/level/train/17?seed=0&slice=5"
    changed = study(StudyKind.CT_VOLUME, Aspect.LEVEL, 17, size=112, num_slices=12, difficulty=Difficulty(noise=0.5)).pictures[0]
    assert changed.uri == "phantom:ct_volume/level/train/17?seed=0&slice=1&size=112&slices=12&noise=0.5"
    assert pickle.loads(pickle.dumps(picture)) == picture
    assert len({picture, pickle.loads(pickle.dumps(picture))}) == 1
    assert (picture.load().mode, picture.load().size, changed.load().size) == ("RGB", (84, 84), (112, 112))
    assert np.array_equal(picture.render(), picture.render())


def test_every_setting_changes_the_pixels() -> None:
    settings: list[dict[str, object]] = [{}, {"seed": 1}, {"split": "test"}, {"index": 1}, {"size": 112}, {"num_slices": 12}]
    settings += [{"difficulty": Difficulty(**{name: 0.5})} for name in ("contrast", "noise", "lesion_size")]
    pictures = [study(StudyKind.MRI_VOLUME, Aspect.SIDE, **{"index": 0} | setting) for setting in settings]  # type: ignore[arg-type]
    digests = {hashlib.sha256(b"".join(picture.render().tobytes() for picture in whole.pictures)).hexdigest() for whole in pictures}
    assert len(digests) == len(settings)
    others = [study(kind, aspect) for kind, aspect in PAIRS]
    assert len({whole.pictures[0].render().tobytes() for whole in others}) == len(PAIRS)


def test_one_slice_leaves_the_question_as_it_is() -> None:
    whole = read("phantom_study", split="test", num_questions=6)
    alone = read("phantom_study", split="test", num_questions=6, single_slice=2)
    for all_of_it, one in zip(whole, alone, strict=True):
        assert one.images == all_of_it.images[1:2]
        assert (one.id, one.choices, one.target, one.facts, one.rationale) == (
            all_of_it.id, all_of_it.choices, all_of_it.target, all_of_it.facts, all_of_it.rationale)  # fmt: skip
        assert one.question.splitlines()[-1] == all_of_it.question.splitlines()[-1]
        assert one.question.count(PLACE) == all_of_it.question.count(PLACE) / 2
        assert render(one, "no_think")


def test_a_question_does_not_depend_on_the_others() -> None:
    everything = {sample.id: sample for sample in read("phantom_study", split="train", num_questions=30)}
    some = read("phantom_study", split="train", num_questions=5, kinds=["follow_up", "ct_volume"], aspects=["level", "change"])
    assert [sample.metadata["kind"] for sample in some[:4]] == ["ct_volume", "follow_up"] * 2
    assert all(everything[sample.id] == sample for sample in some)
    splits = [{sample.id for sample in read("phantom_study", split=split, num_questions=5)} for split in ("train", "validation", "test")]
    assert not splits[0] & splits[1] | splits[0] & splits[2]


LIMITS = [
    (["--data.test.limit=20"], 20, {"ct": 5, "mri": 5, "ultrasound": 5, "xray": 5}),
    (["--data.test.limit_per_modality=7"], 28, {"ct": 7, "mri": 7, "ultrasound": 7, "xray": 7}),
    (["--data.test.modalities=['mri']", "--data.test.limit=9"], 9, {"mri": 9}),
    (["--data.test.question_types=['lesion_grading']", "--data.test.limit_per_question_type=12"], 12, {"ct": 4, "mri": 4, "xray": 4}),
    (["--data.kinds=['mri_volume']", "--data.aspects=['level']", "--data.num_questions=3"], 3, {"mri": 3}),
]


@pytest.mark.parametrize(("overrides", "num", "modalities"), LIMITS, ids=[" ".join(row[0]) for row in LIMITS])
def test_a_recipe_draws_as_many_as_it_asks_for(overrides: list[str], num: int, modalities: dict[str, int]) -> None:
    samples = load_split(load_config(None, ["--data.reader=phantom_study", *overrides]).data, "test")
    assert len(samples) == num
    assert Counter(sample.modality for sample in samples) == modalities


MISTAKES = [
    ({"kinds": ["pet_volume"]}, "unknown name 'pet_volume' in kinds: use one of ct_volume, mri_volume"),
    ({"kinds": "ct_volume"}, "kinds is 'ct_volume': use a list of names"),
    ({"aspects": ["colour"]}, "unknown name 'colour' in aspects: use one of side, level"),
    ({"kinds": ["ct_volume"], "aspects": ["motion"]}, "no kind of study has such questions"),
    ({"num_slices": 5}, "5 slices cannot be drawn: use 6 to 64"),
    ({"num_slices": "8"}, "num_slices '8': use a whole number"),
    ({"single_slice": 9}, "single_slice 9: a study of ct_volume has the pictures 1 to 8"),
    ({"single_slice": 0}, "single_slice 0"),
    ({"single_slice": 3}, "a study of xray_views has the pictures 1 to 2"),
    ({"single_slice": True}, "single_slice True: use a whole number"),
    ({"size": 40}, "size 40 is too small"),
    ({"num_questions": -1}, "ask 0 or more"),
    ({"seed": -1}, "must lie in"),
    ({"difficulty": {"blur": 1}}, "contrast, noise, lesion_size"),
    ({"modalities": ["dermoscopy"]}, "no kind of study has such questions"),
    ({"slices": 8}, "unknown option 'slices'"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=[str(row[0]) for row in MISTAKES])
def test_mistakes_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read("phantom_study", split="test", **options)


def test_a_question_that_does_not_fit_its_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="no question about motion fits ct_volume"):
        study(StudyKind.CT_VOLUME, Aspect.MOTION)


def test_the_ideal_reader_reads_more_slices_too() -> None:
    for aspect in ASPECTS[StudyKind.CT_VOLUME]:
        truths = [study(StudyKind.CT_VOLUME, aspect, index, num_slices=num).truth for num in (6, 13, 24, 64) for index in range(30)]
        assert all(read_all_pictures(truth) == truth.answer for truth in truths)
