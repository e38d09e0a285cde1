"""Blind credits beside the records: earned on the recipe's own questions, kept, read, and refused when damaged."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from osler.audits.baselines import BASELINES
from osler.audits.credits import compute_credits, credits_file, read_credits, update_credits, write_credits
from osler.config import DataConfig, SelectionConfig
from osler.data.phantom import build_samples
from osler.data.select import load_split
from osler.errors import DataError
from osler.types import Sample

DATA = DataConfig.model_validate(
    {"train": {"limit_per_modality": 40, "modalities": ["ct"]}, "test": {"limit_per_modality": 20, "modalities": ["ct"]}}
)


def test_every_baseline_earns_on_every_question(tmp_path: Path) -> None:
    test = load_split(DATA, "test")
    earned = compute_credits(DATA, test).credits
    assert set(earned) == {baseline.title for baseline in BASELINES.values()}
    for own in earned.values():
        assert own.keys() == {sample.id for sample in test}
        assert all(0 <= credit <= 1 for credit in own.values())
    write_credits(tmp_path / "x.jsonl", earned)
    kept = read_credits(tmp_path / "x.jsonl")
    assert {title: pytest.approx(own, abs=1e-6) for title, own in earned.items()} == kept


def test_without_training_questions_only_what_needs_no_fit_earns() -> None:
    absent = DATA.model_copy(update={"train": SelectionConfig(split="nowhere")})
    earned = compute_credits(absent, list(build_samples(modality="mri", split="test", seed=0, num_questions=10))).credits
    assert set(earned) == {baseline.title for baseline in BASELINES.values() if baseline.how == "fixed"}


def test_no_file_is_no_credit(tmp_path: Path) -> None:
    assert read_credits(tmp_path / "x.jsonl") == {}


Change = Callable[[DataConfig, list[Sample]], tuple[DataConfig, list[Sample]]]

CHANGES: list[tuple[str, Change, bool]] = [
    ("nothing", lambda data, test: (data, test), True),
    ("a target", lambda data, test: (data, [replace(test[0], target="B" if test[0].target == "A" else "A"), *test[1:]]), False),
    ("a question less", lambda data, test: (data, test[1:]), False),
    ("the training questions", lambda data, test: (data.model_copy(update={"train": SelectionConfig(limit=5)}), test), False),
    ("the seed", lambda data, test: (data.model_copy(update={"seed": 1}), test), False),
]


@pytest.mark.parametrize(("name", "change", "is_kept"), CHANGES, ids=[row[0] for row in CHANGES])
def test_credits_are_earned_once_for_the_same_questions(tmp_path: Path, name: str, change: Change, is_kept: bool) -> None:
    path, test = tmp_path / "x.jsonl", load_split(DATA, "test")
    earned = update_credits(path, DATA, test)
    assert earned == {title: pytest.approx(own, abs=1e-6) for title, own in compute_credits(DATA, test).credits.items()}
    marked = json.loads(credits_file(path).read_text())
    marked["credits"]["guessing twice"] = [0.5] * len(marked["samples"])  # which nobody earns
    credits_file(path).write_text(json.dumps(marked))
    assert ("guessing twice" in update_credits(path, *change(DATA, test))) is is_kept
    assert "guessing twice" not in update_credits(path, *change(DATA, test), fresh=True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"samples": ["a"], "credits": {"option prior": [1.0]}}'])
def test_a_file_without_its_questions_is_earned_again(tmp_path: Path, content: str) -> None:
    path, test = tmp_path / "x.jsonl", load_split(DATA, "test")
    credits_file(path).write_text(content)
    assert update_credits(path, DATA, test) == read_credits(path)
    assert read_credits(path).keys() == compute_credits(DATA, test).credits.keys()


def test_credits_without_training_questions_are_earned_again(tmp_path: Path) -> None:
    path, test = tmp_path / "x.jsonl", load_split(DATA, "test")
    update_credits(path, DATA, test)
    content = json.loads(credits_file(path).read_text())
    fixed = {title: row for title, row in content["credits"].items() if title != BASELINES["option_prior"].title}
    credits_file(path).write_text(json.dumps({**content, "credits": fixed}))
    assert BASELINES["option_prior"].title in update_credits(path, DATA, test)


def test_a_manifest_counts_by_its_content(tmp_path: Path) -> None:
    path, manifest = tmp_path / "x.jsonl", tmp_path / "split.json"
    test = load_split(DATA, "test")
    data = DATA.model_copy(update={"manifest": str(manifest)})
    digests = []
    for content in ("one", "another"):
        manifest.write_text(content)
        update_credits(path, data, test)
        digests.append(json.loads(credits_file(path).read_text())["digest"])
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"samples": ["a"], "credits": {"x": []}}',
        '{"samples": ["a"], "credits": {"x": ["b"]}}',
        '{"samples": 3, "credits": {}}',
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: str) -> None:
    credits_file(tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(DataError, match="delete it and evaluate again"):
        read_credits(tmp_path / "x.jsonl")
