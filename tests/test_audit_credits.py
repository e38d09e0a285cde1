"""Blind credits beside the records: earned on the recipe's own questions, kept, read, and refused when damaged."""

from pathlib import Path

import pytest

from osler.audit.blind import BASELINES
from osler.audit.credits import credits_file, earn_credits, read_credits, write_credits
from osler.config import DataConfig, SelectionConfig
from osler.errors import DataError
from osler.phantom import build_samples
from osler.selection import load_split

DATA = DataConfig.model_validate(
    {"train": {"limit_per_modality": 40, "modalities": ["ct"]}, "test": {"limit_per_modality": 20, "modalities": ["ct"]}}
)


def test_every_baseline_earns_on_every_question(tmp_path: Path) -> None:
    test = load_split(DATA, "test")
    earned = earn_credits(DATA, test)
    assert set(earned) == {baseline.title for baseline in BASELINES.values()}
    for own in earned.values():
        assert own.keys() == {sample.id for sample in test}
        assert all(0 <= credit <= 1 for credit in own.values())
    write_credits(tmp_path / "x.jsonl", earned)
    kept = read_credits(tmp_path / "x.jsonl")
    assert {title: pytest.approx(own, abs=1e-6) for title, own in earned.items()} == kept


def test_without_training_questions_only_what_needs_no_fit_earns() -> None:
    absent = DATA.model_copy(update={"train": SelectionConfig(split="nowhere")})
    earned = earn_credits(absent, list(build_samples(modality="mri", split="test", seed=0, num_questions=10)))
    assert set(earned) == {baseline.title for baseline in BASELINES.values() if baseline.how == "fixed"}


def test_no_file_is_no_credit(tmp_path: Path) -> None:
    assert read_credits(tmp_path / "x.jsonl") == {}


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
