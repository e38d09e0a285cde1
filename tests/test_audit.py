"""Blind baselines against counts made by hand, against each other, and on phantoms."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osler.audits.baselines import BASELINES, OptionPrior, blind_accuracy, blind_credits, case_style, chance, punctuation_style
from osler.audits.numbering import SampleTable
from osler.audits.question_arrays import Vocabulary
from osler.data.phantom import build_samples
from osler.metrics import DASH
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


@pytest.mark.integration
def test_phantom_gives_nothing_away() -> None:
    training, testing = (build_samples(modality=Modality.MRI, split=split, seed=5, num_questions=2000) for split in ("train", "test"))
    prior = OptionPrior.fit(training)
    chance = sum(1 / len(sample.choices) for sample in testing) / len(testing)
    assert sum(prior.credit(sample) for sample in testing) / len(testing) == pytest.approx(chance, abs=3 * (0.2 / 2000) ** 0.5)


TESTED = [
    question(10, ("CT", "MRI"), "A"),
    question(11, ("PET", "a very long option", "MRI"), "B"),
    question(12, ("x-ray", "CT", "PET"), "A"),
    question(13, ("MRI", "CT."), "A"),
]


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("option_prior", [1, 0.5, 0, 0]),  # rates: ct 0.75, xray 0.42, unknown 0.25, mri 0.08
        ("question_prior", [1, 0.5, 0, 0]),  # every question here is "?"
        ("longest", [0, 1, 1, 0.5]),
        ("shortest", [1, 0, 0, 0.5]),
        ("lower_case", [0.5, 1, 1, 0.5]),
        (
            "case",
            [0.5, 1, 1, 0.5],
        ),  # of the options in train 1 of 3 in capitals, 1 of 2 like a sentence and 1 of 1 in small letters were right
        ("punctuation", [0.5, 1 / 3, 1, 0]),  # with none 1 of 3, with a hyphen 1 of 2, with a full stop 1 of 1
        ("position", [1, 1 / 3, 1 / 3, 1]),  # with two options A was right 2 of 3 times; three were never seen
        ("majority_letter", [1, 0, 1, 1]),
    ],
)
def test_baselines(baseline: str, expected: list[float]) -> None:
    training = [
        question(0, ("CT", "MRI"), "A"),
        question(1, ("ct.", "X-ray"), "A"),
        question(2, ("MRI", "X-ray"), "B"),
        question(3, (), "liver"),
    ]
    found = blind_credits(training, [*TESTED, question(14, (), "liver")])[baseline]
    assert found == pytest.approx({sample.id: credit for sample, credit in zip(TESTED, expected, strict=True)})


OPTIONS = st.lists(st.sampled_from(["CT", "ct", "MRI", "X-ray", "x ray", "PET scan", "no", "Liver.", "(a)", "Ω"]), min_size=2, max_size=5)


@st.composite
def questions(draw: st.DrawFn) -> list[Sample]:
    drawn = draw(st.lists(st.tuples(OPTIONS, st.integers(0, 4), st.sampled_from("qr")), max_size=12))
    return [
        replace(question(number, tuple(options), "ABCDE"[right % len(options)]), question=text)
        for number, (options, right, text) in enumerate(drawn)
    ]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(training=questions(), testing=questions())
def test_arrays_agree_with_the_lookup(training: list[Sample], testing: list[Sample]) -> None:
    found = blind_credits(training, testing)
    assert "longest" in found
    assert set(found) == (set(BASELINES) if training else {"longest", "shortest", "lower_case"})
    assert all(0 <= credit <= 1 for scored in found.values() for credit in scored.values())
    if training:
        prior = OptionPrior.fit(training)
        assert found["option_prior"] == pytest.approx({sample.id: prior.credit(sample) for sample in testing})


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(training=questions(), testing=questions())
def test_question_prior_is_an_option_prior_for_each_question(training: list[Sample], testing: list[Sample]) -> None:
    found = blind_credits(training, testing).get("question_prior", {})
    priors = {text: OptionPrior.fit([sample for sample in training if sample.question == text]) for text in "qr"}
    assert found == pytest.approx({sample.id: priors[sample.question].credit(sample) for sample in testing} if training else {})


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_interval_is_wilsons(share: float) -> None:
    from statsmodels.stats.proportion import proportion_confint

    found = blind_accuracy(share, 40)
    assert (found.low, found.high) == pytest.approx(proportion_confint(40 * share, 40, method="wilson"))


def test_nothing_has_no_value() -> None:
    found = blind_accuracy(None, 0)
    assert (found.value, found.low, found.high, str(found)) == (None, None, None, DASH)
    assert chance(Vocabulary().encode(SampleTable.of([]))) is None


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("liver", "lower"),
        ("CT", "upper"),
        ("Liver", "title"),
        ("Left Lung", "title"),
        ("Left lung", "sentence"),
        ("12", "none"),
        ("pH", "mixed"),
    ],
)
def test_case_styles(text: str, style: str) -> None:
    assert case_style(text) == style


@pytest.mark.parametrize(("text", "style"), [("CT", ""), ("Benign, grade (II).", "(),."), ("a,b,c", ",")])
def test_punctuation_styles(text: str, style: str) -> None:
    assert punctuation_style(text) == style
