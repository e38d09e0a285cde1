"""The shortcut of phantoms: as many training questions as asked for can be told by their options, no others, and nothing else changes."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from small_audits import run

from osler import read
from osler.data.phantom import build_samples
from osler.data.phantom.shortcut import QUALIFIER
from osler.data.phantom.studies import StudyKind, build_studies
from osler.data.phantom.write import write_med_r1
from osler.errors import ConfigError
from osler.grading import judge
from osler.grading.grade import grade
from osler.taxonomy import SPLITS, Modality
from osler.types import LETTERS, Outcome, Sample

BUILDERS: Mapping[str, Callable[..., list[Sample]]] = {
    **{modality: partial(build_samples, modality=modality) for modality in Modality},
    **{kind: partial(build_studies, kind=kind) for kind in StudyKind},
}
SHARES = (0.0, 0.3, 0.6, 1.0)


def marked(samples: list[Sample]) -> set[int]:
    """The places of the questions with an option that has a qualifier, which only the right one may have."""
    for sample in samples:
        assert all(choice == sample.target_text or QUALIFIER not in choice for choice in sample.choices)
    return {place for place, sample in enumerate(samples) if sample.target_text.endswith(QUALIFIER)}


@pytest.mark.integration
@pytest.mark.parametrize("name", BUILDERS)
def test_questions_of_a_share_are_marked_at_every_larger_one(name: str) -> None:
    found = [marked(BUILDERS[name](split="train", seed=0, num_questions=200, shortcut=share)) for share in SHARES]
    assert [len(places) / 200 for places in found] == pytest.approx(SHARES, abs=0.12)  # 3.5 standard errors
    assert all(fewer < more for fewer, more in pairwise(found))
    assert marked(BUILDERS[name](split="train", seed=1, num_questions=200, shortcut=0.3)) != found[1]


@pytest.mark.parametrize("name", BUILDERS)
def test_nothing_but_the_qualifier_changes(name: str) -> None:
    for split in SPLITS:
        clean, found = (BUILDERS[name](split=split, seed=0, num_questions=60, shortcut=share) for share in (0.0, 0.5))
        assert clean == BUILDERS[name](split=split, seed=0, num_questions=60)
        assert [replace(sample, choices=tuple(choice.removesuffix(QUALIFIER) for choice in sample.choices)) for sample in found] == clean
        assert bool(marked(found)) == (split == "train")


def test_without_a_shortcut_the_questions_are_those_of_before() -> None:
    """The digest is that of questions written before there was a shortcut."""
    state = hashlib.sha256()
    for split in SPLITS:
        for name, build in BUILDERS.items():
            for sample in build(split=split, seed=0, num_questions=40):
                state.update(f"{name}\0{sample.id}\0{sample.question}\0{sample.choices}\0{sample.target}\0{sample.rationale}\0".encode())
    assert state.hexdigest() == "68e3cdee70e436265e7ad762d2f575c88c434b3924075403780e9fb24ceffb93"


@pytest.mark.parametrize("modality", Modality)
def test_grades_and_statements_do_not_see_it(modality: Modality) -> None:
    clean, found = (build_samples(modality=modality, split="train", seed=0, num_questions=50, shortcut=share) for share in (0.0, 1.0))
    for before, after in zip(clean, found, strict=True):
        assert before.facts is not None
        assert before.rationale is not None
        for rationale in (before.rationale, f"{before.rationale}{QUALIFIER}."):
            told = [
                judge(rationale, facts=before.facts, terms=before.terms, answer_text=text, question_type=before.question_type)
                for text in (before.target_text, after.target_text)
            ]
            assert told[0] == told[1]
            assert any(statement.repeats_answer for statement in told[0])
        for number in range(len(after.choices)):
            outcome = Outcome.CORRECT if LETTERS[number] == after.target else Outcome.INCORRECT
            for answer in (LETTERS[number], after.choices[number]):
                verdict = grade(f"<answer>{answer}</answer>", choices=after.choices, target=after.target, strategy="no_think")
                assert verdict.outcome is outcome


@cache
def blind(share: float, split: str) -> tuple[dict[str, float], float, bool]:
    """What some blind baselines answer of 800 questions of a split, guessing, and whether a gate stops at it."""
    limits = ("--data.train.limit=800", "--data.test.limit=800", f"--data.test.split={split}")
    found = run("--data.reader=phantom", f"--data.shortcut={share}", *limits)
    domains = [domain for domain in found.main.rows.test if domain in list(Modality)]
    right = {
        name: sum(found.main.in_domain(name, domain).value or 0.0 for domain in domains) / len(domains)
        for name in ("punctuation", "longest")
    }
    guessing = [found.main.chance[domain] or 0.0 for domain in domains]
    return right, sum(guessing) / len(guessing), any(reason.startswith("shortcut") for reason in found.reasons)


@pytest.mark.integration
@pytest.mark.parametrize("share", [pytest.param(share, marks=[] if share in (0.0, 0.3) else [pytest.mark.slow]) for share in SHARES])
def test_an_audit_shows_it_in_training_questions_only(share: float) -> None:
    right, guessing, _ = blind(share, "train")
    assert right["punctuation"] == pytest.approx(share + (1 - share) * guessing, abs=0.04)
    assert right["longest"] == pytest.approx(share + (1 - share) * guessing, abs=0.06)  # two of the longest options are as long without
    right, guessing, is_stopped = blind(share, "test")
    assert all(value == pytest.approx(guessing, abs=0.03) for value in right.values())
    assert not is_stopped
    if share >= 0.3:
        assert blind(share, "train")[2]


def test_it_stays_on_disk(tmp_path: Path) -> None:
    samples = build_samples(modality=Modality.MRI, split="train", seed=0, num_questions=40, shortcut=0.5)
    write_med_r1(tmp_path, samples=samples)
    found = read("med_r1", tmp_path, split="train", axis="modality")
    assert [sample.choices for sample in found] == [sample.choices for sample in samples]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "much", True, None])
@pytest.mark.parametrize("reader", ["phantom", "phantom_study"])
def test_what_is_no_share_is_refused(reader: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^shortcut .*: use a share of the training questions, from 0 to 1$"):
        read(reader, split="train", num_questions=1, shortcut=value)
