"""`osler-tiny`: the packaged folder, its tokenizer, the batched forward pass, and a miniature build."""

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
from osler.policies.processor import load_processor
from osler.policies.sources import PACKAGED_POLICIES
from osler.prompts import STRATEGIES, render
from osler.taxonomy import Modality
from osler.types import Outcome, Sample
from tools.build_tiny import recipe
from tools.build_tiny.__main__ import main
from tools.build_tiny.auxiliary_head import AuxiliaryHead
from tools.build_tiny.batched_model import BatchedModel, cut_patches, position_ids
from tools.build_tiny.batches import option_list_rows
from tools.build_tiny.card import COUNTS_FILE, measure, read_counts
from tools.build_tiny.encoding import PromptEncoder
from tools.build_tiny.image_pool import Question, build_pool, keep_fewer, shuffle_choices
from tools.build_tiny.rows import IGNORE_INDEX, TrainingRow
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
def build_questions(num_questions: int = 5) -> tuple[Sample, ...]:
    return tuple(
        sample for modality in Modality for sample in build_samples(modality=modality, split="test", seed=11, num_questions=num_questions)
    )


def test_auto_classes_load_the_folder() -> None:
    from transformers import AutoConfig
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

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
    encoder = PromptEncoder(tokenizer)
    for sample in build_questions():
        tokens = encoder.prompt(sample, strategy)
        assert len(tokens) <= 110
        text = render(sample, strategy, phase="train").text
        assert encoder.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_rows_hold_the_positions_of_their_options_and_of_the_answer(strategy: str) -> None:
    encoder = PromptEncoder(load_tokenizer())
    for sample in build_questions():
        row = encoder.question_row(sample, strategy)
        assert [row.tokens[position] for position in row.option_positions] == [encoder.token_id(choice) for choice in sample.choices]
        (query,) = row.queries
        assert row.labels[query.position] == encoder.token_id(str(sample.target))
        assert row.tokens[row.option_positions[query.option]] == query.option_token


@pytest.mark.slow
def test_option_list_rows_have_the_letter_of_an_option_as_label() -> None:
    pool = build_pool(split="train", seed=1, subjects=1)
    state = recipe.make_state(load_model(), load_tokenizer(), pool, seed=0, report=lambda _: None)
    for row in [row for tagged in (False, True) for row in option_list_rows(state.text_tasks, state.rng, 8, tagged=tagged)]:
        assert [query.position for query in row.queries] == [index for index, label in enumerate(row.labels) if label != IGNORE_INDEX]
        for query in row.queries:
            position = row.option_positions[query.option]
            assert row.tokens[position] == query.option_token
            assert row.labels[query.position] == row.tokens[position - 2]


def test_auxiliary_loss_is_zero_without_options() -> None:
    model = BatchedModel(load_model(), load_tokenizer())
    tokens = PromptEncoder(load_tokenizer()).chat_prompt("", num_images=0)
    row = TrainingRow(tokens=tokens, labels=[*tokens[1:], IGNORE_INDEX])
    assert AuxiliaryHead(model).loss([row], model.forward([row]).hidden_states) == 0


def test_batched_model_equals_transformers() -> None:
    from transformers import Qwen2VLProcessor

    samples = build_questions()[::5]
    processor = load_processor(FOLDER, Qwen2VLProcessor)
    texts = [processor.apply_chat_template(list(render(s, "think").messages), tokenize=False, add_generation_prompt=True) for s in samples]
    inputs = processor(text=texts, images=[s.images[0].load() for s in samples], return_tensors="pt", padding=True)
    batched, encoder = BatchedModel(load_model(), load_tokenizer()), PromptEncoder(load_tokenizer())
    prompts = [encoder.prompt(sample, "think", phase="eval") for sample in samples]
    patches = torch.from_numpy(np.stack([cut_patches(np.asarray(sample.images[0].load())) for sample in samples]))
    with torch.no_grad():
        expected = load_model()(**inputs).logits[:, -1]
        for index, prompt in enumerate(prompts):
            assert prompt == inputs["input_ids"][index][inputs["attention_mask"][index].bool()].tolist()
            positions = torch.from_numpy(position_ids(prompt, batched.image_token, len(prompt)))[:, None]
            embedded = batched.embed(torch.tensor([prompt]), batched.encode_images(patches[[index]]))
            hidden = batched.language(inputs_embeds=embedded, position_ids=positions)
            assert (batched.head(hidden.last_hidden_state[0, -1]) - expected[index]).abs().max() < 1e-4
        generated = load_model().generate(**inputs, max_new_tokens=20)[:, inputs["input_ids"].shape[1] :].tolist()
    for ours, theirs in zip(batched.generate(prompts, patches, max_new_tokens=20), generated, strict=True):
        assert ours == theirs[: len(ours)]


@pytest.mark.integration
@pytest.mark.parametrize(
    "strategy", ["think", *(pytest.param(name, marks=pytest.mark.slow) for name in ("no_think", "think_after", "zero_shot"))]
)
def test_packaged_policy_follows_the_format_and_beats_chance(strategy: str) -> None:
    counts = measure(load_model(), load_tokenizer(), subjects=5, strategies=[strategy])
    total = sum(count.total for count in counts)
    assert total == 200
    assert sum(count.well_formed for count in counts) >= 0.9 * total
    # Chance is .29 with a standard error of .032.
    assert sum(count.correct for count in counts) >= 0.38 * total


def test_generate_follows_the_format() -> None:
    from transformers import Qwen2VLProcessor

    processor = load_processor(FOLDER, Qwen2VLProcessor)
    samples = build_questions()[::4]
    texts = [processor.apply_chat_template(list(render(s, "think").messages), tokenize=False, add_generation_prompt=True) for s in samples]
    inputs = processor(text=texts, images=[s.images[0].load() for s in samples], return_tensors="pt", padding=True)
    tokens = load_model().generate(**inputs, max_new_tokens=24)[:, inputs["input_ids"].shape[1] :]
    verdicts = [
        grade(text, choices=sample.choices, target=sample.target, strategy="think")
        for text, sample in zip(processor.batch_decode(tokens, skip_special_tokens=True), samples, strict=True)
    ]
    assert sum(verdict.is_well_formed for verdict in verdicts) >= 0.9 * len(samples)
    assert any(verdict.outcome is Outcome.CORRECT for verdict in verdicts)


@pytest.mark.parametrize(("share", "kept"), [(1.0, {5}), (0.5, {2, 3}), (0.2, {1})])
def test_fewer_questions_about_one_modality(share: float, kept: set[int]) -> None:
    pool = build_pool(split="test", seed=1, subjects=5)
    fewer = keep_fewer(pool, Modality.MRI, share)
    for question_type, questions in pool.by_type.items():
        others = [question for question in questions if question.sample.modality is not Modality.MRI]
        left = fewer.by_type[question_type]
        assert [question for question in left if question.sample.modality is not Modality.MRI] == others
        assert len(left) - len(others) in kept
    assert fewer.by_image == pool.by_image


def test_shuffling_keeps_the_right_answer() -> None:
    rng = np.random.default_rng(0)
    for sample in build_questions():
        assert shuffle_choices(Question(sample=sample, image=0), rng).sample.target_text == sample.target_text


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


@pytest.mark.slow
def test_recipe_runs_to_the_end_and_reproduces_its_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("first", "second"):
        recipe.build(tmp_path / name, seed=3, time_scale=0.001)
        digests.append(hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest())
        assert (tmp_path / name / COUNTS_FILE).exists()
    assert digests[0] == digests[1]


def test_command_line_explains_itself_and_reports_user_errors_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    assert "20 minutes on one CPU core" in capsys.readouterr().out
    file = tmp_path / "file"
    file.touch()
    for arguments in ([], ["--out", "x", "--seed", "-1"], ["--out", "x", "--seed", "one"], ["--out", str(file)]):
        with pytest.raises(SystemExit, match=r"^2$"):
            main(arguments)
        assert capsys.readouterr().err.count("\n") == 1
