"""Continuing `osler-tiny` on the images of a recipe: tokenizer, embeddings, classes of repeated questions, a miniature training."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from osler.data.phantom import build_samples
from osler.errors import DataError
from osler.policies.load import load_policy
from osler.taxonomy import Modality
from osler.types import Sample
from tools.build_tiny.__main__ import main
from tools.build_tiny.real_images import MIN_IMAGES, Labels, RealImages, build_on_images, extend_tokenizer


def questions(num: int, choices: tuple[str, ...] = ("Small Bowel", "Zygoma")) -> list[Sample]:
    """So many questions with other words and options than phantoms have, every second one answered B."""
    samples = build_samples(modality=Modality.CT, split="train", seed=0, num_questions=num)
    return [
        replace(sample, question="Which zygomatic organ?", choices=choices, target="AB"[index % 2]) for index, sample in enumerate(samples)
    ]


@pytest.mark.slow
def test_frequent_options_and_words_become_tokens_and_known_ones_keep_their_embeddings() -> None:
    policy = load_policy("osler-tiny")
    before, known = policy.model.get_input_embeddings().weight.detach().clone(), policy.tokenizer.get_vocab()
    extended = extend_tokenizer(policy.model, policy.tokenizer, questions(6))
    weight = policy.model.get_input_embeddings().weight
    assert [len(extended(text, add_special_tokens=False)["input_ids"]) for text in ("Small Bowel", "Zygoma", " zygomatic")] == [1, 1, 1]
    assert len(weight) == len(extended) == policy.model.config.text_config.vocab_size
    assert policy.model.get_output_embeddings().weight is weight
    kept = {token: index for token, index in extended.get_vocab().items() if token in known}
    assert kept.keys() >= {"A", "<answer>", "<|image_pad|>", "cyst"}
    assert torch.equal(weight[list(kept.values())], before[[known[token] for token in kept]])
    for name in ("<|image_pad|>", "<|im_end|>", "<|endoftext|>"):  # which the configuration names by number
        assert extended.get_vocab()[name] == known[name]


def test_repeated_questions_with_several_answers_are_classes() -> None:
    often = questions(2 * MIN_IMAGES)
    always = [replace(sample, question="Always the same?", target="A") for sample in often]
    rare = [replace(sample, question="Rarely asked?") for sample in often[: MIN_IMAGES - 1]]
    images = RealImages.of([*often, *always, *rare, replace(often[0], choices=(), target="open")])
    labels = Labels.of(images)
    assert labels.num_outputs == 2
    answers = {
        source: [sample.target_text for sample in asked if sample.question == often[0].question]
        for source, asked in images.questions.items()
    }
    assert labels.of_image.keys() == answers.keys()
    for source, own in labels.of_image.items():
        assert [right for _, right in own] == [["Small Bowel", "Zygoma"].index(answer) for answer in answers[source]]
        assert {(outputs.start, outputs.stop) for outputs, _ in own} == {(0, 2)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.root=x"], "unrecognized arguments: --data.root=x"),
        (["--studies", "--images", "demo"], "name one"),
        (["--images", "no_such"], "no_such"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path / "policy"), *arguments])
    said = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert message in said[-1]


def test_a_question_with_choices_and_one_image_is_needed(tmp_path: Path) -> None:
    (asked,) = questions(1)
    with pytest.raises(DataError, match="no training question has choices and a single image"):
        build_on_images(tmp_path / "policy", [replace(asked, choices=(), target="open"), replace(asked, images=asked.images * 2)], seed=0)


@pytest.mark.slow
def test_a_miniature_loads_answers_and_is_built_to_the_same_bytes_twice(tmp_path: Path) -> None:
    digests = []
    samples = questions(2 * MIN_IMAGES)
    for name in ("first", "second"):
        build_on_images(tmp_path / name, samples, seed=3, vision_steps=2, language_steps=3)
        digests.append(hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    before = dict(load_policy("osler-tiny").model.named_parameters())
    after = dict(load_policy(tmp_path / "first").model.named_parameters())
    trained = {
        ".visual." in name for name, weight in after.items() if weight.shape == before[name].shape and not weight.equal(before[name])
    }
    assert trained == {True, False}  # the vision encoder and the language model
