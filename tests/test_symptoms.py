"""The rules that find out a training which learns nothing: what each says, when it is silent, and that its remedy can be typed."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest

from osler.config import Config, build_config, load_config
from osler.training.arguments import grpo_arguments
from osler.training.callbacks import MetricsWriter
from osler.training.rollout_figures import Answered, describe_answers, describe_blank, read_answers
from osler.training.symptoms import CAUSES, MIN_COMPARED, WARNINGS, BlankImage, RolloutFigures, find_symptoms
from osler.training.watching import FIRST, WINDOW, Watch

HEALTHY: dict[str, Any] = {
    "equal_groups": 0.1,
    "reward": 0.6,
    "parsed": 0.95,
    "correct": 0.4,
    "cut": 0.02,
    "kl": 0.05,
    "entropy": 0.6,
    "first_entropy": 0.7,
    "identical": 0.2,
    "letters": {"A": 0.3, "B": 0.7},
    "targets": {"A": 0.5, "B": 0.5},
    "blank": BlankImage(num_questions=64, same=0.3, accuracy=0.6, blank_accuracy=0.3),
}


def blank(same: float, number: int = 64) -> BlankImage:
    return BlankImage(num_questions=number, same=same, accuracy=0.5, blank_accuracy=0.5)


def config(**sections: Any) -> Config:
    return build_config({"name": "r", "policy": {"device": "cpu"}, "grpo": {"learning_rate": 1e-5, "beta": 0.04}, **sections})


SFT = "--policy.path=runs/r-sft/policy"
FOUND: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [  # cause, figures, sections of the recipe, remedy
    ("equal_rewards", {"equal_groups": 0.95}, {}, "--data.curriculum=variance"),
    ("equal_rewards", {"equal_groups": 1.0, "correct": 0.01}, {}, SFT),
    ("equal_rewards", {"equal_groups": 1.0}, {"data": {"curriculum": "variance"}}, SFT),
    ("equal_rewards", {"equal_groups": 1.0}, {"rewards": {"names": ["format"]}}, "--rewards.names=\"['format', 'accuracy']\""),
    (
        "equal_rewards",
        {"equal_groups": 1.0},
        {"rewards": {"names": ["format"], "weights": [2]}},
        "--rewards.names=\"['format', 'accuracy']\" --rewards.weights=\"[2.0, 1.0]\"",
    ),
    ("unread_answers", {"parsed": 0.24}, {}, SFT),
    ("unread_answers", {"parsed": 0.0}, {"sampling": {"temperature": 1.5}}, "--sampling.temperature=1.0"),
    ("cut_completions", {"cut": 0.51}, {"sampling": {"max_completion_length": 64}}, "--sampling.max_completion_length=128"),
    ("exploding_kl", {"kl": 2.1}, {}, "--grpo.learning_rate=1.0e-06"),
    ("exploding_kl", {"kl": math.inf}, {"grpo": {}}, "--grpo.learning_rate=1.0e-07"),
    ("identical_completions", {"identical": 0.98}, {}, "--sampling.temperature=1.3"),
    ("identical_completions", {"identical": 1.0}, {"sampling": {"top_k": 1}}, "--sampling.top_k=0"),
    ("identical_completions", {"identical": 1.0}, {"sampling": {"top_p": 0.5}}, "--sampling.top_p=1.0"),
    ("identical_completions", {"identical": 1.0}, {"sampling": {"temperature": 0.2}}, "--sampling.temperature=1.0"),
    ("entropy_collapse", {"entropy": 0.009}, {}, "--grpo.entropy_coef=0.01"),
    ("entropy_collapse", {"entropy": 0.034}, {"grpo": {}}, "--grpo.beta=0.04"),
    ("entropy_collapse", {"entropy": 0.009}, {"sampling": {"temperature": 0.1}}, "--sampling.temperature=1.0"),
    (
        "entropy_collapse",
        {"entropy": 0.0},
        {"grpo": {"beta": 0.1, "entropy_coef": 0.1, "learning_rate": 1e-3}},
        "--grpo.learning_rate=1.0e-04",
    ),
    ("one_letter", {"letters": {"A": 0.1, "B": 0.9}}, {}, "--data.shuffle_options=true"),
    ("one_letter", {"letters": {"B": 1.0}}, {"data": {"shuffle_options": True}, "grpo": {}}, "--grpo.beta=0.04"),
    ("blind_answers", {"blank": blank(0.9)}, {}, "--data.distractors=redrawn"),
    ("blind_answers", {"blank": blank(1.0)}, {"policy": {"freeze_vision": True}}, "--policy.freeze_vision=false"),
    (
        "blind_answers",
        {"blank": blank(1.0)},
        {"prompt": {"strategy": "no_think"}},
        "--trainer.expectation=enumerated --rewards.looking=0.5",
    ),
]


@pytest.mark.parametrize(("cause", "figures", "sections", "remedy"), FOUND)
def test_a_cause_is_found_alone_and_its_remedy_can_be_typed(
    cause: str, figures: dict[str, Any], sections: dict[str, Any], remedy: str, tmp_path: Path
) -> None:
    recipe = config(**sections)
    (symptom,) = find_symptoms(RolloutFigures(**{**HEALTHY, **figures}), recipe)
    assert (symptom.cause, symptom.remedy) == (cause, remedy)
    assert "\n" not in symptom.line
    written = tmp_path / "recipe.toml"
    written.write_text(to_toml(sections), encoding="utf-8")
    changed = load_config(written, ["--policy.device=cpu", *shlex.split(symptom.remedy)])
    assert changed != load_config(written, ["--policy.device=cpu"])
    grpo_arguments(changed, tmp_path)


def to_toml(sections: dict[str, Any]) -> str:
    return "\n".join(
        line
        for name, values in sections.items()
        for line in (f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()))
    )


def test_every_cause_has_a_row() -> None:
    assert {row[0] for row in FOUND} == {*CAUSES}


SILENT: list[dict[str, Any]] = [
    {},
    {"equal_groups": 0.94, "cut": 0.5, "parsed": 0.25, "kl": 2.0, "identical": 0.97, "entropy": 0.036},
    {"equal_groups": 1.0, "identical": 1.0, "entropy": 0.0, "correct": 0.9},  # learnt
    {"letters": {"A": 1.0}, "targets": {"A": 0.7, "B": 0.3}},  # mostly right
    {"letters": {}, "targets": {}},
    {"blank": blank(1.0, MIN_COMPARED - 1)},
    {"blank": blank(0.89)},
    dict.fromkeys(set(HEALTHY) - {"letters", "targets"}),  # nothing was measured
]


@pytest.mark.parametrize("figures", SILENT)
def test_no_false_alarm(figures: dict[str, Any]) -> None:
    assert find_symptoms(RolloutFigures(**{**HEALTHY, **figures}), config()) == []


def answered(*texts: str, target: str | None = "A") -> list[Answered]:
    return [Answered(text=text, answer=text or None, is_correct=text == target, target=target) for text in texts]


DESCRIBED: list[tuple[list[Answered], int, dict[str, float]]] = [
    ([], 2, {}),
    (
        answered("A", "A", "B", ""),
        2,
        {"answers/parsed": 0.75, "answers/correct": 0.5, "completions/identical": 0.5, "answers/letter_A": 2 / 3, "answers/letter_B": 1 / 3}
        | {"answers/target_A": 1.0, "answers/target_B": 0.0},
    ),
    (answered("", "", ""), 3, {"answers/parsed": 0.0, "answers/correct": 0.0, "completions/identical": 1.0, "answers/target_A": 1.0}),
    (answered("lung", "A", target=None), 1, {"answers/parsed": 1.0, "answers/correct": 0.0}),
]


@pytest.mark.parametrize(("rows", "num_generations", "figures"), DESCRIBED)
def test_a_rollout_is_described(rows: list[Answered], num_generations: int, figures: dict[str, float]) -> None:
    assert describe_answers(rows, num_generations) == pytest.approx(figures)


def test_answers_are_read_as_rewards_read_them() -> None:
    rows = [{"choices": ("CT", "MRI"), "target": "B", "strategy": "no_think"}, {"choices": (), "target": "liver", "strategy": "no_think"}]
    closed, opened = read_answers(rows, ["<answer>B</answer>", "<answer>the liver</answer>"])
    assert (closed.answer, closed.is_correct, closed.target) == ("B", True, "B")
    assert (opened.is_correct, opened.target) == (True, None)


def test_blank_answers_count_where_the_plain_one_was_read() -> None:
    pairs = list(zip(answered("A", "B", "", "A"), answered("A", "A", "A", ""), strict=True))
    figures = {
        "asked": 4,
        "questions": 3,
        "same_answers": 1 / 3,
        "accuracy": 2 / 3,
        "accuracy_blank": 2 / 3,
        "accuracy_both": 1 / 3,
        "gain": 0,
    }
    assert describe_blank(pairs) == pytest.approx({f"blank_image/{name}": value for name, value in figures.items()})
    assert describe_blank(pairs, 48) == describe_blank(pairs) | {"blank_image/different": 48}
    assert describe_blank(pairs[2:3]) == {}


def line(step: int, **values: Any) -> dict[str, Any]:
    return {"step": step, "frac_reward_zero_std": 0.0, "entropy": 0.5, "kl": 0.01, "answers/correct": 0.5, **values}


def test_a_cause_is_told_once_when_the_window_is_full_and_not_again_after_a_resume() -> None:
    watch, cut = Watch(config()), {"completions/clipped_ratio": 1.0}
    found = [watch.observe(line(step, **cut)) for step in range(1, WINDOW + 3)]
    assert [len(one) for one in found] == [0] * (WINDOW - 1) + [1, 0, 0]
    resumed = Watch(config())
    resumed.resume([*(line(step, **cut) for step in range(1, WINDOW)), line(WINDOW, **cut, warnings=[{"cause": "cut_completions"}])])
    assert [one.cause for one in resumed.observe(line(11, **cut, kl=9.0))] == []
    assert [one.cause for step in range(12, 20) for one in resumed.observe(line(step, **cut, kl=9.0))] == ["exploding_kl"]


def test_one_wild_step_is_no_explosion_and_the_first_entropies_are_kept() -> None:
    watch = Watch(config())
    assert not any(watch.observe(line(step, kl=1e6 if step == 5 else 0.01)) for step in range(1, 15))
    found = [one for step in range(15, 30) for one in watch.observe(line(step, entropy=0.02))]
    assert [one.cause for one in found] == ["entropy_collapse"]
    assert watch.figures().first_entropy == pytest.approx(0.5)
    assert FIRST <= WINDOW


def test_blank_images_are_pooled_over_steps() -> None:
    watch = Watch(config())
    for step in range(1, 40):
        same = 0.0 if step < 20 else 1.0
        asked = {
            "blank_image/questions": 8.0,
            "blank_image/same_answers": same,
            "blank_image/accuracy": 0.5,
            "blank_image/accuracy_blank": 0.25,
        }
        found = watch.observe(line(step, **(asked if step % 2 else {})))
        assert [one.cause for one in found] == (["blind_answers"] if step == 29 else []), step
    assert watch.figures().blank == BlankImage(num_questions=MIN_COMPARED, same=1.0, accuracy=0.5, blank_accuracy=0.25)


def test_letters_that_a_step_lacks_count_as_none() -> None:
    watch = Watch(config(), window=2)
    watch.resume([line(1, **{"answers/letter_A": 1.0, "answers/target_B": 1.0}), line(2, **{"answers/letter_B": 1.0}), line(3)])
    watch.resume([line(3, **{"answers/letter_A": 1.0})])
    assert watch.figures().letters == {"A": 1.0}
    assert Watch(config()).figures() == RolloutFigures()


def test_what_is_learnt_by_enumeration_raises_no_alarm() -> None:
    for paid, causes in ((0.5, ["equal_rewards"]), (0.95, [])):
        watch = Watch(config())
        solved = {"frac_reward_zero_std": 1.0, "rewards/accuracy/mean": paid, "answers/correct": None, "entropy": 0.0}
        found = [one.cause for step in range(1, 15) for one in watch.observe(line(step, **solved))]
        assert found == causes


class State:
    """What a callback reads of a trainer's state."""

    is_world_process_zero = True

    def __init__(self, step: int) -> None:
        self.global_step = step


def test_the_line_of_the_step_holds_the_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path, Watch(config()))
    writer.on_train_begin(None, State(0), None)
    for step in range(1, WINDOW + 2):
        writer.on_log(None, State(step), None, logs={"completions/clipped_ratio": 1.0})
    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    assert [one["step"] for one in lines if WARNINGS in one] == [WINDOW]
    ((warning,),) = (one[WARNINGS] for one in lines if WARNINGS in one)
    assert warning == {"cause": "cut_completions", "says": warning["says"], "remedy": "--sampling.max_completion_length=512"}
    assert capsys.readouterr().err.count("cut_completions") == 1
    again = MetricsWriter(path, Watch(config()))
    again.on_train_begin(None, State(WINDOW), None)
    again.on_log(None, State(WINDOW + 1), None, logs={"completions/clipped_ratio": 1.0})
    assert "cut_completions" not in capsys.readouterr().err
