"""`[rewards] looking`: the gradient is that of the expected reward minus what another image earns, and a run resumes exactly."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_expected_training import ENUMERATED, LOSSES, NO_THINK, configure, differentiate, enumerate_answers, score, train

from osler.config import Config
from osler.data.donors import find_contradicting
from osler.data.phantom import build_samples
from osler.errors import ConfigError
from osler.grading.rewards import resolve_rewards
from osler.prompts import render
from osler.taxonomy import Modality, QuestionType
from osler.training.arguments import grpo_arguments
from osler.training.expectation_settings import check_expectation
from osler.types import Prompt

WEIGHT = 0.5
LOOKING = {"rewards": {"looking": WEIGHT}}
ROWS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((loss, {"loss_type": loss, "scale_rewards": "none"}, {}) for loss in LOSSES),
    ("grpo_group", {"loss_type": "grpo", "scale_rewards": "group"}, {}),
    ("bnpo_group", {"loss_type": "bnpo", "scale_rewards": "group"}, {}),
    ("batch", {"scale_rewards": "batch"}, {}),
    ("one_at_a_time", {}, {"trainer": {"groups_per_forward": 1}}),
    ("lora", {"scale_rewards": "group"}, {"policy": {"lora": {"r": 4}}}),
    ("frozen", {}, {"policy": {"freeze_vision": True}}),
    ("accumulation", {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 8, "loss_type": "grpo"}, {}),
]
QUICK = {"grpo_group", "dr_grpo", "dapo", "one_at_a_time"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ask() -> list[Prompt]:
    """Two questions in the same words with different answers, and a question of another type, which has no twin."""
    build = partial(build_samples, modality=Modality.MRI, split="train", seed=0)
    diagnoses = build(num_questions=40, question_types=[QuestionType.DISEASE_DIAGNOSIS])
    other = build(num_questions=1, question_types=[QuestionType.MODALITY_RECOGNITION])
    first = diagnoses[0]
    second = next(sample for sample in diagnoses if sample.question == first.question and sample.target_text != first.target_text)
    return [render(sample, "no_think", phase="train") for sample in (first, second, *other)]


def swap(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    """Those that have a twin, with its images."""
    donors = find_contradicting([prompt.sample for prompt in prompts], seed=seed)
    pairs = zip(prompts, donors, strict=True)
    return [render(replace(one.sample, images=donor.images), "no_think", phase="train") for one, donor in pairs if donor is not None]


def deviation(config: Config, mean_B: torch.Tensor, square_B: torch.Tensor) -> Any:
    mean_B, square_B = mean_B.detach(), square_B.detach()
    return {
        "group": (square_B - mean_B**2).sqrt() + 1e-4,
        "batch": (square_B.mean() - mean_B.mean() ** 2).sqrt() + 1e-4,
        "none": 1.0,
    }[str(config.grpo["scale_rewards"])]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("grpo", "sections"), [pytest.param(*row[1:], id=row[0], marks=[] if row[0] in QUICK else [pytest.mark.slow]) for row in ROWS]
)
def test_the_gradient_is_that_of_what_the_image_adds(grpo: dict[str, Any], sections: dict[str, Any]) -> None:
    config = configure(NO_THINK, ENUMERATED, LOOKING, sections, **{"per_device_train_batch_size": 24, **grpo})
    prompts = ask()
    trainer, gradients = train(config, prompts)
    twins = swap(prompts, config.seed)
    assert len(twins) == 2
    earned = []
    for is_twin, some in ((False, prompts), (True, twins)):
        asked, ids, paid = enumerate_answers(trainer, some)
        probs = score(trainer, asked, ids).sum(dim=1).exp()
        sizes = [len(prompt.sample.choices) for prompt in some]
        split = list(zip(probs.split(sizes), paid.split(sizes), strict=True))
        if is_twin:
            split = [(own / own.sum(), rewards) for own, rewards in split]
        mean_B, square_B = (torch.stack([(own * rewards**power).sum() for own, rewards in split]) for power in (1, 2))
        earned.append((mean_B / deviation(config, mean_B, square_B)).sum() / len(prompts))
    wanted = -(earned[0] - WEIGHT * earned[1]) * LOSSES[str(config.grpo["loss_type"])]
    exact = differentiate(trainer, wanted)
    torch.testing.assert_close(gradients[0], exact, rtol=0, atol=2e-4 * float(exact.abs().max()))
    line = next(line for line in trainer.state.log_history if "looking/reward" in line)
    if config.grpo["scale_rewards"] == "none":
        assert line["looking/reward"] == pytest.approx(float(earned[1].detach()) * len(prompts) / len(twins), abs=1e-4)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("sampled", {}, 'expectation = "enumerated"'),
    ("not_shared", {"trainer": {"share_prefix": False}}, 'expectation = "enumerated"'),
    ("partial", {"prompt": {"strategy": "think"}, "trainer": {"expectation": "partial"}}, "without reasoning"),
    ("after", {"prompt": {"strategy": "think_after"}, **ENUMERATED}, "without reasoning"),
    ("no_twin", ENUMERATED, "another answer"),
]


@pytest.mark.parametrize(("sections", "told"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_has_no_meaning_is_refused(sections: dict[str, Any], told: str) -> None:
    config = configure(NO_THINK, LOOKING, sections)
    prompts = ask()[-1:] if sections is ENUMERATED else ask()
    with pytest.raises(ConfigError, match=told) as refused:
        check_expectation(config, grpo_arguments(config, Path("run")), prompts, resolve_rewards(config.rewards.names))
    assert "\n" not in str(refused.value)
    assert "looking = 0" in str(refused.value)
