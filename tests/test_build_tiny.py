"""`osler-tiny`: the shipped folder, its tokenizer, the fast path, and a miniature run of its recipe."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from osler.data.phantom import build_samples
from osler.grading import grade
from osler.policies.load import PACKAGED_POLICIES
from osler.policies.processor import load_processor
from osler.prompts import STRATEGIES, render
from osler.taxonomy import Modality
from osler.types import Outcome, Sample
from tools.build_tiny import recipe
from tools.build_tiny.card import COUNTS_FILE, measure, read_counts
from tools.build_tiny.drills import drill_bare
from tools.build_tiny.encoding import Encoder
from tools.build_tiny.fast import IGNORED, FastPath, Row, cut_patches, locate
from tools.build_tiny.pool import build_pool, shuffle_choices
from tools.build_tiny.scaffold import Scaffold
from tools.build_tiny.tokenizer import MAX_VOCABULARY, list_phrases

FOLDER = PACKAGED_POLICIES / "osler-tiny"


@cache
def load_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


@cache
def load_model() -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(FOLDER).eval()


@cache
def ask(num_questions: int = 5) -> tuple[Sample, ...]:
    return tuple(
        sample for modality in Modality for sample in build_samples(modality=modality, split="test", seed=11, num_questions=num_questions)
    )


def test_auto_classes_load_the_folder() -> None:
    from transformers import AutoConfig, AutoImageProcessor

    assert AutoConfig.from_pretrained(FOLDER).model_type == "qwen2_vl"
    assert type(load_model()).__name__ == "Qwen2VLForConditionalGeneration"
    assert type(AutoImageProcessor.from_pretrained(FOLDER)).__name__.startswith("Qwen2VLImageProcessor")
    assert load_tokenizer().eos_token == "<|im_end|>"
    assert load_model().generation_config.do_sample is False


def test_folder_is_small_and_safe() -> None:
    assert 1e6 <= sum(parameter.numel() for parameter in load_model().parameters()) <= 6e6
    assert (FOLDER / "model.safetensors").stat().st_size <= 12e6
    assert {path.suffix for path in FOLDER.iterdir()} <= {".json", ".jinja", ".safetensors", ".md"}
    assert len(load_tokenizer()) <= MAX_VOCABULARY


USER = "<|im_start|>user\n"
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
REPLY = "<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "user", "content": "Hi"}], f"{SYSTEM}{USER}Hi{REPLY}"),
        ([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}], f"{SYSTEM}{USER}{PICTURE}Hi{REPLY}"),
        ([{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}], f"{SYSTEM}{USER}{PICTURE}{PICTURE}{REPLY}"),
        (
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            f"<|im_start|>system\nBe brief.<|im_end|>\n{USER}Hi{REPLY}",
        ),
        (
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": "Go"}],
            f"{SYSTEM}{USER}Hi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n{USER}Go{REPLY}",
        ),
    ],
)
def test_chat_template_is_that_of_qwen2_vl(messages: list[dict[str, Any]], expected: str) -> None:
    assert load_tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == expected


def test_every_phrase_is_one_token_wherever_it_stands() -> None:
    tokenizer = load_tokenizer()
    for phrase in list_phrases():
        (token,) = tokenizer.encode(phrase)
        for text in (f"A) {phrase}\n", f"A){phrase}, B)", f"the finding is {phrase}</think>"):
            assert token in tokenizer.encode(text), text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n\n  \t",
        "abscesses, abnormal",
        "naïve œdème 日本語 🙂‍↔️",
        "a  b   c",
        "A) x\r\nB)y",
        "<think>x</think>\n<answer>B</answer>",
        "\u200b\x00",
    ],
)
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = load_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_prompts_are_short_and_encoded_by_line_alike(strategy: str) -> None:
    tokenizer = load_tokenizer()
    encoder = Encoder(tokenizer)
    for sample in ask():
        tokens = encoder.prompt(sample, strategy)
        assert len(tokens) <= 110
        text = render(sample, strategy, phase="train").text
        assert encoder.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_rows_know_their_options_and_where_the_letter_is_said(strategy: str) -> None:
    encoder = Encoder(load_tokenizer())
    for sample in ask():
        row = encoder.question_row(sample, strategy, 0)
        assert [row.tokens[place] for place in row.options] == [encoder.token(choice) for choice in sample.choices]
        (query,) = row.queries
        assert row.labels[query.at] == encoder.token(str(sample.target))
        assert row.tokens[row.options[query.option]] == query.word


def test_bare_drills_ask_for_the_letter_of_an_option() -> None:
    pool = build_pool(split="train", seed=1, subjects=1)
    shop = recipe.open_workshop(load_model(), load_tokenizer(), pool, seed=0, advance=lambda _: None)
    for row in [row for tagged in (False, True) for row in drill_bare(shop.drills, shop.rng, 8, tagged=tagged)]:
        assert [query.at for query in row.queries] == [place for place, label in enumerate(row.labels) if label != IGNORED]
        for query in row.queries:
            place = row.options[query.option]
            assert row.tokens[place] == query.word
            assert row.labels[query.at] == row.tokens[place - 2]


def test_scaffold_costs_nothing_without_options() -> None:
    path = FastPath(load_model(), load_tokenizer())
    tokens = Encoder(load_tokenizer()).wrap("", has_picture=False)
    row = Row(tokens=tokens, labels=[*tokens[1:], IGNORED])
    assert Scaffold(path).loss([row], path.run([row]).states) == 0


def test_fast_path_equals_the_model() -> None:
    from transformers import Qwen2VLProcessor

    samples = ask()[::5]
    processor = load_processor(FOLDER, Qwen2VLProcessor)
    texts = [processor.apply_chat_template(list(render(s, "think").messages), tokenize=False, add_generation_prompt=True) for s in samples]
    inputs = processor(text=texts, images=[s.images[0].load() for s in samples], return_tensors="pt", padding=True)
    path, encoder = FastPath(load_model(), load_tokenizer()), Encoder(load_tokenizer())
    prompts = [encoder.prompt(sample, "think", phase="eval") for sample in samples]
    patches = torch.from_numpy(np.stack([cut_patches(np.asarray(sample.images[0].load())) for sample in samples]))
    with torch.no_grad():
        expected = load_model()(**inputs).logits[:, -1]
        for index, prompt in enumerate(prompts):
            assert prompt == inputs["input_ids"][index][inputs["attention_mask"][index].bool()].tolist()
            positions = torch.from_numpy(locate(prompt, path.image_token, len(prompt)))[:, None]
            hidden = path.language(inputs_embeds=path.embed(torch.tensor([prompt]), path.see(patches[[index]])), position_ids=positions)
            assert (path.head(hidden.last_hidden_state[0, -1]) - expected[index]).abs().max() < 1e-4
        generated = load_model().generate(**inputs, max_new_tokens=20)[:, inputs["input_ids"].shape[1] :].tolist()
    for fast, slow in zip(path.generate(prompts, patches, max_new=20), generated, strict=True):
        assert fast == slow[: len(fast)]


@pytest.mark.parametrize("strategy", ["think", "no_think", "think_after", "zero_shot"])
def test_shipped_policy_follows_the_format_and_beats_chance(strategy: str) -> None:
    counts = measure(load_model(), load_tokenizer(), subjects=5, strategies=[strategy])
    total = sum(count.total for count in counts)
    assert total == 200
    assert sum(count.well_formed for count in counts) >= 0.9 * total
    # Chance is .29 with a standard error of .032.
    assert sum(count.correct for count in counts) >= 0.38 * total


def test_generate_follows_the_format() -> None:
    from transformers import Qwen2VLProcessor

    processor = load_processor(FOLDER, Qwen2VLProcessor)
    samples = ask()[::4]
    texts = [processor.apply_chat_template(list(render(s, "think").messages), tokenize=False, add_generation_prompt=True) for s in samples]
    inputs = processor(text=texts, images=[s.images[0].load() for s in samples], return_tensors="pt", padding=True)
    tokens = load_model().generate(**inputs, max_new_tokens=24)[:, inputs["input_ids"].shape[1] :]
    verdicts = [
        grade(text, choices=sample.choices, target=sample.target, strategy="think")
        for text, sample in zip(processor.batch_decode(tokens, skip_special_tokens=True), samples, strict=True)
    ]
    assert sum(verdict.is_well_formed for verdict in verdicts) >= 0.9 * len(samples)
    assert any(verdict.outcome is Outcome.CORRECT for verdict in verdicts)


def test_shuffling_keeps_the_right_answer() -> None:
    rng = np.random.default_rng(0)
    for sample in ask():
        assert shuffle_choices(sample, rng).target_text == sample.target_text


def test_card_holds_what_was_measured() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    run = read_counts(FOLDER)
    assert f"seed {run.seed}" in card
    assert "must not be used for any\nclinical purpose" in card
    for strategy in ("think", "no_think"):
        counts = [count for count in run.counts if count.strategy == strategy]
        share = sum(count.correct for count in counts) / sum(count.total for count in counts)
        assert 0.4 < share < 0.7
        assert f"{100 * share:.1f} [" in card


def test_recipe_runs_to_the_end_and_reproduces_its_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("first", "second"):
        recipe.build(tmp_path / name, seed=3, time_scale=0.001)
        digests.append(hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest())
        assert (tmp_path / name / COUNTS_FILE).exists()
    assert digests[0] == digests[1]
