"""Redrawn distractors, shuffled and rotated options: counted by hand, on free text, and on the papers' own files."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import assert_same_lines, forget_after, read_lines, recipe, solid_sample
from transformers import TrainerState

from osler.config import build_config
from osler.data.distractors import Distractors, redraw_distractors
from osler.data.option_order import refers_to_options, rotate_options, shuffle_options
from osler.data.select import describe_samples, load_split
from osler.errors import ConfigError
from osler.metrics import summarize_rotations
from osler.prompts import render
from osler.taxonomy import Modality, QuestionType
from osler.text import fold_option
from osler.training.arguments import grpo_arguments
from osler.training.callbacks import OptionShuffler
from osler.training.dataset import build_dataset, option_shuffler
from osler.training.grpo import train_grpo
from osler.training.sft import sft_target, train_sft
from osler.types import LETTERS, Record, Sample


def question(number: int, choices: tuple[str, ...], target: str, modality: Modality | None = Modality.CT) -> Sample:
    return replace(
        solid_sample((number, 56)),
        id=f"test/{number}",
        choices=choices,
        target=target,
        modality=modality,
        question_type=QuestionType.DISEASE_DIAGNOSIS,
    )


GOLDS = ["cyst", "tumour", "abscess", "haematoma", "calcification"]
WRITTEN = [question(number, (gold, "x", "y", "z"), "A") for number, gold in enumerate(GOLDS)]
"""Five golds, each with distractors that are never right: the option prior answers them all."""


def test_distractors_are_golds_and_the_answer_stays() -> None:
    redrawn = redraw_distractors(WRITTEN, seed=3)
    assert [sample.metadata["distractors"] for sample in redrawn] == [Distractors.REDRAWN] * 5
    for before, after in zip(WRITTEN, redrawn, strict=True):
        assert (after.id, after.target, after.target_text) == (before.id, before.target, before.target_text)
        assert set(after.choices) <= set(GOLDS)
        assert len(set(after.choices)) == 4
    assert redrawn == redraw_distractors(WRITTEN, seed=3)
    assert redrawn != redraw_distractors(WRITTEN, seed=4)


def same_image(number: int, gold: str) -> Sample:
    return replace(question(number, (gold, "x"), "A"), images=WRITTEN[0].images)


def with_content(sample: Sample, content_type: str) -> Sample:
    return replace(sample, metadata={"content_type": content_type})


KEPT: list[tuple[str, Sample, list[Sample], Distractors]] = [
    ("open", question(9, (), "a cyst"), WRITTEN, Distractors.OPEN_ENDED),
    ("yes and no", question(9, ("Yes", "No"), "A"), WRITTEN, Distractors.YES_NO),
    ("all of the above", question(9, ("cyst", "tumour", "All of the above"), "C"), WRITTEN, Distractors.REFERS),
    ("named", replace(question(9, ("cyst", "heart lobe"), "A"), question="A Cyst, or a heart-lobe?"), WRITTEN, Distractors.NAMED),
    ("another content type", with_content(question(9, ("cyst", "x"), "A"), "Color"), WRITTEN, Distractors.TOO_FEW_GOLDS),
    ("another modality", question(9, ("cyst", "x"), "A", Modality.MRI), WRITTEN, Distractors.TOO_FEW_GOLDS),
    ("no modality", question(9, ("cyst", "x"), "A", None), WRITTEN, Distractors.TOO_FEW_GOLDS),
    ("five golds, its own among them", question(9, ("cyst", "v", "w", "x", "y", "z"), "A"), WRITTEN, Distractors.TOO_FEW_GOLDS),
    ("its own in other letters", question(9, ("CYST.", "x"), "A"), [WRITTEN[0]], Distractors.TOO_FEW_GOLDS),
    ("golds of its own image", same_image(9, "oedema"), [WRITTEN[0], same_image(8, "stone")], Distractors.TOO_FEW_GOLDS),
]


@pytest.mark.parametrize(("name", "sample", "pool", "outcome"), KEPT, ids=[row[0] for row in KEPT])
def test_what_cannot_be_redrawn_is_kept_and_counted(name: str, sample: Sample, pool: list[Sample], outcome: Distractors) -> None:
    (kept,) = redraw_distractors([sample], pool=[sample, *pool])
    assert kept.choices == sample.choices
    assert kept.metadata["distractors"] == outcome


def test_distractors_are_of_the_same_content_type() -> None:
    pool = [with_content(sample, "Organ" if number < 2 else "Color") for number, sample in enumerate(WRITTEN)]
    (sample,) = redraw_distractors([with_content(question(9, ("oedema", "x", "y"), "A"), "Organ")], pool=pool)
    assert set(sample.choices) == {"oedema", *GOLDS[:2]}


def test_yes_is_no_distractor() -> None:
    pool = [*WRITTEN[:2], *(question(20 + number, ("yes", "no"), "A") for number in range(9))]
    (sample,) = redraw_distractors([question(9, ("oedema", "x", "y"), "A")], pool=pool)
    assert sample.choices[0] == "oedema"
    assert set(sample.choices[1:]) == {"cyst", "tumour"}


def test_texts_are_wrong_as_often_as_right() -> None:
    """With many golds of unequal frequency, every text is right in about a quarter of the four-option questions that show it."""
    golds = [name for weight, name in enumerate(("a0", "b0", "c0", "d0", "e0", "f0", "g0", "h0"), start=3) for _ in range(40 * weight)]
    samples = [replace(question(number, (gold, "x", "y", "z"), "A"), images=()) for number, gold in enumerate(golds)]
    shown: Counter[str] = Counter()
    for sample in redraw_distractors(samples):
        shown.update(sample.choices)
    right = Counter(golds)
    assert all(right[name] / shown[name] == pytest.approx(0.25, abs=0.05) for name in right)


texts = st.text(min_size=1, max_size=8).filter(lambda text: bool(fold_option(text)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=4)), min_size=1, max_size=8))
def test_no_text_breaks_a_redraw(rows: list[tuple[str, list[str]]]) -> None:
    samples = [question(number, (gold, *others), "A") for number, (gold, others) in enumerate(rows)]
    for before, after in zip(samples, redraw_distractors(samples), strict=True):
        assert (after.target_text, len(after.choices)) == (before.target_text, len(before.choices))
        if after.metadata["distractors"] == Distractors.REDRAWN:
            assert len({fold_option(choice) for choice in after.choices}) == len(after.choices)
        assert len(rotate_options(after)) in (0, len(after.choices))
        assert shuffle_options(after, "k").target_text == before.target_text


REFERS = [
    (("CT", "All of the above"), True),
    (("CT", "none of the above."), True),
    (("x", "y", "Both A and B"), True),
    (("x", "y", "A, B"), True),
    (("x", "y", "Only A"), True),
    (("Hepatitis A and B", "Hepatitis C"), False),
    (("Above the diaphragm", "Below the diaphragm"), False),
    (("A", "B", "AB", "O"), False),
    (("None", "Both lungs"), False),
    ((), False),
]


@pytest.mark.parametrize(("choices", "expected"), REFERS)
def test_options_that_refer_to_each_other(choices: tuple[str, ...], expected: bool) -> None:
    sample = question(0, choices, "A")
    assert refers_to_options(sample) is expected
    if expected:
        assert (shuffle_options(sample, "k"), rotate_options(sample)) == (sample, ())


def test_shuffling_is_seeded_and_keeps_the_answer() -> None:
    sample = question(0, ("a1", "b1", "c1", "d1"), "C")
    shuffled = [shuffle_options(sample, f"0/{epoch}") for epoch in range(400)]
    assert shuffled == [shuffle_options(sample, f"0/{epoch}") for epoch in range(400)]
    assert {one.target_text for one in shuffled} == {"c1"}
    assert len({one.choices for one in shuffled}) == 24
    assert all(80 <= times <= 120 for times in Counter(one.target for one in shuffled).values())


def test_rotations() -> None:
    turned = rotate_options(question(0, ("a1", "b1", "c1"), "B"))
    assert [(one.id, one.choices, one.target) for one in turned] == [
        ("test/0", ("a1", "b1", "c1"), "B"),
        ("test/0#rotation=1", ("b1", "c1", "a1"), "A"),
        ("test/0#rotation=2", ("c1", "a1", "b1"), "C"),
    ]
    assert [one.metadata["rotation"] for one in turned] == [0, 1, 2]


def rotation_records(rights: str, number: int) -> list[Record]:
    """One record for each mark of "+-": the rotations of one question."""
    samples = rotate_options(question(number, tuple(f"o{place}" for place in range(len(rights))), "A"))
    marks = {"+": "correct", "-": "incorrect"}
    return [
        Record(
            sample_id=sample.id, dataset="test", modality="ct", question_type=None, subject_id=None, image_uris=(f"{number}.png",),
            strategy="no_think", policy="me", prompt="?", completion="", num_tokens=1, finish_reason="stop", choices=sample.choices,
            target=sample.target, answer="A", reasoning=None, is_well_formed=True, outcome=marks[right], rule="r",
            rotation=sample.metadata["rotation"],
        )
        for sample, right in zip(samples, rights, strict=True)
    ]  # fmt: skip


CIRCLES: list[tuple[list[str], tuple[float | None, ...]]] = [
    (["++++", "+-++", "----", "++++"], (0.75, 11 / 16, 0.5, 1 / 256)),
    (["++", "-+"], (0.5, 0.75, 0.5, 0.25)),
    (["++", "+"], (1.0, 1.0, 1.0, 0.625)),
    ([], (None, None, None, None)),
]


@pytest.mark.parametrize(("questions", "expected"), CIRCLES, ids=[" ".join(row[0]) or "none" for row in CIRCLES])
def test_circular_accuracy(questions: list[str], expected: tuple[float | None, ...]) -> None:
    records = [record for number, rights in enumerate(questions) for record in rotation_records(rights, number)]
    found = summarize_rotations(records)
    assert (found.plain.value, found.mean.value, found.consistent.value, found.chance) == pytest.approx(expected)
    assert found.num_questions == len(questions)


def test_a_question_without_all_its_rotations_does_not_count() -> None:
    records = [*rotation_records("++++", 0), *rotation_records("++++", 1)[:3], replace(rotation_records("-", 2)[0], rotation=None)]
    assert summarize_rotations(records).num_questions == 1


# In recipes


def phantoms(**data: Any) -> Any:
    return build_config(
        {"data": {"train": {"modalities": ["mri"], "limit": 60}, "test": {"modalities": ["mri"], "limit": 60}, **data}}
    ).data


def test_a_recipe_redraws_and_counts() -> None:
    plain, redrawn = (load_split(phantoms(**data), "train") for data in ({}, {"distractors": "redrawn"}))
    assert [sample.id for sample in plain] == [sample.id for sample in redrawn]
    assert [sample.choices for sample in plain] != [sample.choices for sample in redrawn]
    assert "distractors" not in describe_samples(plain)
    assert sum(describe_samples(redrawn)["distractors"].values()) == 60


def test_evaluation_has_one_order_and_training_none_of_its_own() -> None:
    plain, shuffled, again = (load_split(phantoms(shuffle_options=on), "test") for on in (False, True, True))
    assert shuffled == again
    assert [sample.choices for sample in plain] != [sample.choices for sample in shuffled]
    assert [sample.target_text for sample in plain] == [sample.target_text for sample in shuffled]
    assert load_split(phantoms(shuffle_options=True), "train") == load_split(phantoms(), "train")


def test_rows_follow_the_epoch() -> None:
    samples = [question(number, ("a1", "b1", "c1", "d1"), LETTERS[number % 4]) for number in range(8)]
    shuffler, config = OptionShuffler(seed=0), build_config({"prompt": {"strategy": "no_think"}})
    prompts = [render(sample, "no_think", phase="train") for sample in samples]
    dataset = build_dataset(prompts, [""] * 8, shuffler=shuffler, complete=lambda sample: sft_target(sample, config))
    seen = []
    for epoch in (0, 1, 0):
        shuffler.epoch = epoch
        rows = dataset[list(range(8))]
        seen.append(rows["choices"])
        for sample, choices, target, prompt, written in zip(
            samples, rows["choices"], rows["target"], rows["prompt"], rows["completion"], strict=True
        ):
            assert choices[LETTERS.index(target)] == sample.target_text
            assert f"{target}) {sample.target_text}" in prompt[-1]["content"][-1]["text"]
            assert written[0]["content"] == f"<answer>{target}</answer>"
    assert seen[0] == seen[2] != seen[1]


@pytest.mark.parametrize(("counted", "epoch"), [(None, 0), (0, 0), (0.99, 0), (1.0, 1), (1.5, 1), (2.0, 2)])
def test_the_shuffler_counts_whole_epochs(counted: float | None, epoch: int) -> None:
    shuffler = OptionShuffler(seed=0)
    shuffler.on_epoch_begin(None, TrainerState(epoch=counted), None)
    assert shuffler.epoch == epoch


EPOCHS = {"max_steps": 4, "save_steps": 1, "save_total_limit": 4, "learning_rate": 1e-2}


@pytest.mark.integration
@pytest.mark.parametrize("verb", ["train", "sft"])
def test_a_shuffled_training_goes_on_in_its_second_epoch(tiny_folder: Path, tmp_path: Path, verb: str) -> None:
    """Four questions, two a step: the run is cut in the middle of its second epoch."""
    start = train_grpo if verb == "train" else train_sft
    data = {"reader": "phantom", "train": {"modalities": ["mri"], "limit": 4}, "shuffle_options": True}
    config = recipe(tiny_folder, data=data, grpo=EPOCHS, sft=EPOCHS)
    whole = start(config, tmp_path / "whole")
    expected = read_lines(whole)
    forget_after(whole, 3)
    assert_same_lines(read_lines(start(config, whole.root)), expected)


def test_workers_that_outlive_an_epoch_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    config = recipe(tiny_folder, data={"shuffle_options": True}, grpo={"dataloader_num_workers": 1, "dataloader_persistent_workers": True})
    with pytest.raises(ConfigError, match="dataloader_persistent_workers = false"):
        option_shuffler(config, grpo_arguments(config, tmp_path))
