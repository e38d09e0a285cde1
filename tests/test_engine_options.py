"""Option probabilities against the model's own logits, and votes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from osler.config import Config, SamplingConfig, build_config
from osler.data.select import load_split
from osler.errors import ConfigError
from osler.evaluation.engines.hf import HfEngine
from osler.evaluation.engines.options import find_answer
from osler.evaluation.records import read_records, record_from_json, record_to_json
from osler.evaluation.run import evaluate
from osler.evaluation.votes import Votes, grade_group
from osler.policies.letters import find_letter_tokens
from osler.policies.load import Policy, load_policy
from osler.prompts import render
from osler.types import Completion, FinishReason, Prompt

# Qwen's tokenizer joins the end of a tag with the letter.
VOCABULARY = {
    token: number
    for number, token in enumerate(
        [
            "<",
            "answer",
            ">",
            "A",
            "B",
            "C",
            "ĠA",
            "ĠB",
            ">A",
            ">B",
            "</",
            "CT",
            "ĠCT",
            ")",
            "<think>",
            "</think>",
            "Ċ",
            "Ġ",
            "a",
            "AB",
            ">C",
        ]
    )
}
TOKENIZER: Any = SimpleNamespace(
    get_vocab=lambda: VOCABULARY,
    batch_decode=lambda rows: ["".join(list(VOCABULARY)[token] for token in row).replace("Ġ", " ").replace("Ċ", "\n") for row in rows],
)


def test_a_letter_is_a_token_alone_or_after_a_mark() -> None:
    letters = {list(VOCABULARY)[token]: letter for token, letter in find_letter_tokens(TOKENIZER).items()}
    assert letters == {"A": 0, "B": 1, "C": 2, "ĠA": 0, "ĠB": 1, ">A": 0, ">B": 1, ">C": 2}


TAG = ["<", "answer", ">"]
END = ["</", "answer", ">"]
PLACES: list[tuple[str, list[str], str, int | None]] = [
    ("a tag", [*TAG, "B", *END], "", 3),
    ("a tag joined with its letter", ["<", "answer", ">B", *END], "", 2),
    ("a blank before the letter", [*TAG, "ĠB", *END], "", 3),
    ("the last tag", [*TAG, "A", *END, "Ċ", *TAG, "B", *END], "", 11),
    ("not inside reasoning", ["<think>", *TAG, "A", *END, "</think>", *TAG, "B", *END], "", 12),
    ("never closed", [*TAG, "B"], "", 3),
    ("a letter with its text", [*TAG, "B", ")", "ĠCT", *END], "", 3),
    ("an option's text", [*TAG, "CT", *END], "", None),
    ("the begin of a text", [*TAG, "C", "a", *END], "", None),
    ("a statement", ["B"], "", 0),
    ("a statement after reasoning", ["<think>", "a", "</think>", "Ċ", "B", ")"], "", 4),
    ("prose", ["CT", "ĠB"], "", None),
    ("a letter before words", ["A", "ĠCT"], "", None),
    ("nothing", [], "", None),
    ("after a prefix", ["B", *END], "<think>a</think><answer>", 0),
    ("a prefix that reasons", ["B", *END], "<think>", None),
]


@pytest.mark.parametrize(("name", "tokens", "before", "step"), PLACES, ids=[row[0] for row in PLACES])
def test_where_the_answer_was_written(name: str, tokens: list[str], before: str, step: int | None) -> None:
    token_ids = [VOCABULARY[token] for token in tokens]
    assert find_answer(TOKENIZER, token_ids, before, find_letter_tokens(TOKENIZER)) == step


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("osler-tiny")


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    config = build_config({"data": {"test": {"modalities": ["mri", "xray"], "limit": 6}}})
    return [render(sample, strategy) for sample in load_split(config.data, "test") for strategy in ("no_think", "think")]


def test_probabilities_are_those_of_one_forward_pass(policy: Policy, prompts: list[Prompt]) -> None:
    """Batches, padding and the cache change nothing; the default call gives the same completions without them."""
    plain = HfEngine(policy, batch_size=5).generate(prompts, max_completion_length=64)
    found = HfEngine(policy, batch_size=5, option_probabilities=True).generate(prompts, max_completion_length=64)
    assert [group[0].text for group in plain] == [group[0].text for group in found]
    assert all(group[0].option_probabilities is None for group in plain)
    checked = 0
    for prompt, (completion,) in zip(prompts, found, strict=True):
        head, tag, rest = completion.text.rpartition("<answer>")
        if not tag or completion.option_probabilities is None:
            continue
        processor = policy.processor
        text = processor.apply_chat_template(list(prompt.messages), add_generation_prompt=True, tokenize=False)
        images = [source.load() for source in prompt.sample.images]
        inputs = dict(processor(text=[text + head + tag], images=images, return_tensors="pt"))
        with torch.inference_mode():
            logits = policy.model(**inputs).logits[0, -1]
        letters = [policy.tokenizer.convert_tokens_to_ids(letter) for letter in "ABCDEFGH"[: len(prompt.sample.choices)]]
        assert completion.option_probabilities == pytest.approx(torch.softmax(logits[letters], dim=0).tolist(), abs=1e-4)
        assert sum(completion.option_probabilities) == pytest.approx(1, abs=1e-5)
        assert rest[0] == "ABCDEFGH"[max(range(len(letters)), key=completion.option_probabilities.__getitem__)]
        checked += 1
    assert checked >= len(prompts) // 2


def test_a_group_has_probabilities_for_each_completion(policy: Policy, prompts: list[Prompt]) -> None:
    engine = HfEngine(policy, option_probabilities=True)
    (group,) = engine.generate(prompts[:1], max_completion_length=16, num_generations=4, sampling=SamplingConfig(temperature=2.0))
    assert len(group) == 4
    assert len({completion.option_probabilities for completion in group if completion.text == group[0].text}) == 1
    assert engine.generate([], max_completion_length=4) == []


def completions(texts: Sequence[str]) -> list[Completion]:
    return [Completion(text=text, token_ids=(1,) * (i + 1), finish_reason=FinishReason.STOP) for i, text in enumerate(texts)]


VOTES: list[tuple[list[str], str | None, int, float | None]] = [
    (["<answer>A</answer>"], "A", 0, None),
    (["<answer>A</answer>", "<answer>B</answer>", "<answer>B) {B}</answer>"], "B", 1, 2 / 3),
    (["<answer>B</answer>", "<answer>A</answer>"], "B", 0, 0.5),
    (["", "I cannot say", "<answer>A</answer>", "<answer>A or B</answer>"], "A", 2, 0.25),
    (["", "I cannot say"], None, 0, 0.0),
]


@pytest.mark.parametrize(("texts", "winner", "first", "share"), VOTES)
def test_the_most_frequent_answer_wins(
    prompts: list[Prompt], texts: list[str], winner: str | None, first: int, share: float | None
) -> None:
    prompt = prompts[0]
    filled = [text.replace("{B}", prompt.sample.choices[1]) for text in texts]
    record = grade_group(prompt, completions(filled), "me")
    assert (record.answer, record.completion, record.num_tokens) == (winner, filled[first], first + 1)
    assert record.vote_share == (pytest.approx(share) if share is not None else None)
    assert record_from_json(record_to_json(record)) == record


def test_chunks_draw_with_seeds_of_their_own() -> None:
    votes = Votes(num=4, sampling=SamplingConfig(), seed=0)
    seeds = {votes.seed_of(start) for start in range(0, 4096, 256)}
    assert len(seeds) == 16
    assert votes.seed_of(256) != Votes(num=4, sampling=SamplingConfig(), seed=256).seed_of(0)


def vote_config(folder: Path, **evaluation: Any) -> Config:
    return build_config(
        {
            "data": {"test": {"modalities": ["mri"], "limit": 20, "size": 56}},
            "prompt": {"strategy": "no_think"},
            "policy": {"path": str(folder), "device": "cpu"},
            "eval": {"max_completion_length": 2, "batch_size": 1, "num_votes": 3, "option_probabilities": True, **evaluation},
        }
    )


@pytest.mark.integration
def test_voting_resumes(tiny_folder: Path, tmp_path: Path) -> None:
    config = vote_config(tiny_folder)
    evaluate(config, tmp_path / "run")
    path = tmp_path / "run" / "records" / "eval.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:9]) + b'{"sample')
    evaluate(config, tmp_path / "run")
    assert path.read_bytes() == whole
    assert all(record.vote_share is not None for record in read_records(path))
    terms = json.loads(path.with_suffix(".terms.json").read_text())
    assert (terms["num_votes"], terms["sampling"]["temperature"], terms["option_probabilities"]) == (3, 1.0, True)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("changes", "key"), [({"num_votes": 5}, "num_votes"), ({"num_votes": 1}, "num_votes"), ({"option_probabilities": False}, "option_pro")]
)
def test_votes_are_not_mixed(tiny_folder: Path, tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    run = tmp_path / "run"
    (run / "records").mkdir(parents=True)
    script = tmp_path / "script.jsonl"
    script.write_text("")
    first = vote_config(tiny_folder, engine="option_prior")
    evaluate(first, run)
    (run / "config.json").unlink()
    (run / "environment.json").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=f"with other {key}"):
        evaluate(vote_config(tiny_folder, engine="option_prior", **changes), run)
