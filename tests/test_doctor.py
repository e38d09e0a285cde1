"""`osler doctor`: what it says of a machine and a recipe, and that it and a training find the same causes of learning nothing."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import assert_same_lines, read_lines, recipe

from osler.cli.main import main
from osler.config import Config, build_config, load_config
from osler.doctor.checks import ImageChoice
from osler.doctor.doctor import Diagnosis, Options, examine
from osler.doctor.findings import isolated
from osler.doctor.reward_alive import UPDATES, judge_trial, steps_of_rollout, trial_config
from osler.errors import DataError
from osler.policies.load import Policy, load_policy
from osler.reports.load_runs import load_runs
from osler.training.arguments import grpo_arguments
from osler.training.blank_images import Watched
from osler.training.checkpoints import save_model
from osler.training.grpo import train_grpo
from osler.training.symptoms import CAUSES, WARNINGS

QUICK = {"grpo": {"max_steps": 2, "save_strategy": "no"}}


def tiny_recipe(**sections: Any) -> Config:
    """Eight MRI questions a step with four short completions each, by osler-tiny."""
    values: dict[str, Any] = {
        "data": {"reader": "phantom", "train": {"modalities": ["mri"], "limit": 96}},
        "prompt": {"strategy": "no_think"},
        "policy": {"path": "osler-tiny", "device": "cpu"},
        "sampling": {"max_completion_length": 8},
        "grpo": {
            "num_generations": 4,
            "per_device_train_batch_size": 32,
            "max_steps": 11,
            "learning_rate": 1e-5,
            "beta": 0.04,
            "disable_tqdm": True,
            "save_strategy": "no",
        },
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return build_config(values)


def forget_images(policy: Policy) -> None:
    """Every image becomes the same tokens."""
    last = policy.model.model.visual.merger.mlp[2]
    last.weight.zero_()
    last.bias.zero_()


def know_one_letter(policy: Policy) -> None:
    """Letters other than A cannot be written: their embeddings, which are the rows of the head too, are zero."""
    rows = policy.model.model.language_model.embed_tokens.weight
    for letter in "BCDEFGH":
        rows[policy.tokenizer.convert_tokens_to_ids(letter)].zero_()


def change(folder: Path, edit: Callable[[Policy], None]) -> str:
    policy = load_policy("osler-tiny")
    with torch.no_grad():
        edit(policy)
    save_model(policy.model, policy.processor, folder)
    return str(folder)


Sections = Mapping[str, Mapping[str, Any]]
ROWS: list[tuple[str, Sections, Callable[[Policy], None] | None]] = [
    ("equal_rewards", {"rewards": {"names": ["format"]}, "sampling": {"temperature": 0.7}}, None),
    ("unread_answers", {"sampling": {"temperature": 4.0, "max_completion_length": 24}}, None),
    ("cut_completions", {"sampling": {"max_completion_length": 2}}, None),
    ("exploding_kl", {"grpo": {"learning_rate": 0.02}}, None),
    ("identical_completions", {"sampling": {"top_k": 1}}, None),
    ("entropy_collapse", {"sampling": {"temperature": 0.02}}, None),
    ("one_letter", {}, know_one_letter),
    ("blind_answers", {"policy": {"freeze_vision": True}, "trainer": {"watch_image_every": 2}}, forget_images),
]


def test_every_cause_has_a_recipe() -> None:
    assert {row[0] for row in ROWS} == {*CAUSES}


@pytest.mark.slow
@pytest.mark.parametrize(("cause", "sections", "edit"), ROWS, ids=[row[0] for row in ROWS])
def test_a_flat_recipe_is_caught_before_and_during_training(
    cause: str, sections: Sections, edit: Callable[[Policy], None] | None, tmp_path: Path
) -> None:
    config = tiny_recipe(**sections)
    if edit is not None:
        policy = {**config.policy.model_dump(exclude_none=True), "path": change(tmp_path / "changed", edit)}
        config = tiny_recipe(**{**sections, "policy": policy})
    diagnosis = examine(config, tmp_path, Options())
    assert not diagnosis.would_fail
    assert cause in warnings_of(diagnosis)
    run = train_grpo(config, tmp_path / "run")
    told = [warning["cause"] for line in read_lines(run) for warning in line.get(WARNINGS, ())]
    assert told.count(cause) == 1
    assert len(told) == len(set(told))


def warnings_of(diagnosis: Diagnosis) -> list[str]:
    return [finding.check for finding in diagnosis.findings if finding.level == "warning" and finding.check != "disk"]


@pytest.mark.slow
def test_a_recipe_that_learns_raises_no_alarm(tmp_path: Path) -> None:
    config = tiny_recipe(trainer={"watch_image_every": 3})
    diagnosis = examine(config, tmp_path, Options(rollouts=5))
    assert warnings_of(diagnosis) == []
    lines = read_lines(train_grpo(config, tmp_path / "run"))
    assert [line for line in lines if WARNINGS in line] == []
    assert [line["step"] for line in lines if "blank_image/questions" in line] == [1, 4, 7, 10]


@pytest.mark.integration
def test_random_weights_are_caught_before_and_during_training(tiny_folder: Path, tmp_path: Path) -> None:
    config = recipe(tiny_folder, grpo={"max_steps": 10, "save_strategy": "no", "beta": 0.1})
    causes = ["cut_completions", "unread_answers", "equal_rewards"]
    diagnosis = examine(config, tmp_path, Options())
    assert warnings_of(diagnosis) == causes
    assert not diagnosis.would_fail
    assert diagnosis.trial is not None
    assert diagnosis.trial.before.kl == 0  # no rollout but those of the policy as it starts
    assert diagnosis.trial.after.kl is not None
    assert diagnosis.trial.after.kl > 0
    lines = read_lines(train_grpo(config, tmp_path / "run"))
    assert [warning["cause"] for line in lines for warning in line.get(WARNINGS, ())] == causes


@pytest.mark.integration
def test_watching_the_image_changes_no_step(tiny_folder: Path, tmp_path: Path) -> None:
    plain = read_lines(train_grpo(recipe(tiny_folder, **QUICK), tmp_path / "plain"))
    watched = read_lines(train_grpo(recipe(tiny_folder, **QUICK, trainer={"watch_image_every": 1}), tmp_path / "watched"))
    assert_same_lines([{key: value for key, value in line.items() if "blank" not in key} for line in watched], plain)


@pytest.mark.integration
@pytest.mark.parametrize(("logging_steps", "asked"), [(1, [8, 8, 8]), (3, [24])])
def test_the_image_is_watched_on_test_questions_in_turn(tmp_path: Path, logging_steps: int, asked: list[int]) -> None:
    grpo = {"max_steps": 3, "save_strategy": "no", "per_device_train_batch_size": 8, "logging_steps": logging_steps}
    run = train_grpo(tiny_recipe(grpo=grpo, trainer={"watch_image_every": 1}), tmp_path / "run")
    lines = [line for line in read_lines(run) if "blank_image/gain" in line]
    assert [line["blank_image/asked"] for line in lines] == asked  # counts are summed over steps, and not averaged
    for line in lines:
        assert line["blank_image/different"] == 48
        assert line["blank_image/questions"] == int(line["blank_image/questions"]) <= line["blank_image/asked"]
        assert line["blank_image/gain"] == pytest.approx(line["blank_image/accuracy"] - line["blank_image/accuracy_blank"])
    (loaded,) = load_runs([run.root])
    assert loaded.curves["image_gain"].values == pytest.approx([line["blank_image/gain"] for line in lines])
    assert loaded.gains[-1].num_pooled == sum(line["blank_image/questions"] for line in lines)
    counted = sum(line["blank_image/gain"] * line["blank_image/questions"] for line in lines)
    assert loaded.gains[-1].gain.value == pytest.approx(counted / loaded.gains[-1].num_pooled)


# Steps between two comparisons, those at which rollouts begin, and those at which they are due.
ROLLOUTS: list[tuple[int, list[int], list[int]]] = [
    (2, [0, 1, 2, 3, 4], [0, 2, 4]),
    (2, [0, 3, 6, 9], [0, 3, 6, 9]),  # one begins at 3, and none at 2
    (4, [0, 3, 6, 9, 12], [0, 6, 9, 12]),
    (5, [0, 2, 4, 6, 8, 10], [0, 6, 10]),
    (100, [0, 12, 96, 108, 120], [0, 108]),
    (0, [0, 1, 2], []),
]


@pytest.mark.parametrize(("every", "begins", "due"), ROLLOUTS)
def test_the_image_is_watched_at_the_first_rollout_from_each_multiple_on(every: int, begins: list[int], due: list[int]) -> None:
    watched, found = Watched(), []
    for step in begins:
        if watched.is_due(step, every):
            assert watched.times == len(found)  # so that every question comes before one comes again
            watched = watched.after(step)
            found.append(step)
    assert found == due


@pytest.mark.integration
def test_rollouts_of_several_steps_are_watched(tmp_path: Path) -> None:
    grpo = {"max_steps": 4, "save_strategy": "no", "per_device_train_batch_size": 8, "num_iterations": 3}
    run = train_grpo(tiny_recipe(grpo=grpo, trainer={"watch_image_every": 2}), tmp_path / "run")
    assert [line["step"] for line in read_lines(run) if "blank_image/asked" in line] == [1, 4]


@pytest.mark.integration
def test_a_trial_keeps_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    diagnosis = examine(recipe(tiny_folder), tmp_path / "runs", Options(rollouts=2, images="all"))
    levels = {finding.check: finding.level for finding in diagnosis.findings}
    assert levels["reward"] == levels["images"] == levels["policy"] == levels["prompts"] == "ok"
    assert diagnosis.trial is not None
    assert diagnosis.trial.num_rollouts == 2
    assert list(tmp_path.iterdir()) == []


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("questions", {"data": {"reader": "slake", "root": "nowhere"}}, "nowhere"),
    ("settings", {"rewards": {"names": ["acuracy"]}}, "accuracy"),
    ("settings", {"grpo": {"learning_rat": 1}}, "learning_rate"),
    ("settings", {"grpo": {"per_device_train_batch_size": 64}}, "select more"),
    ("policy", {"policy": {"path": "no/such/policy"}}, "no/such/policy"),
    ("prompts", {"trainer": {"max_prompt_length": 20}}, "max_prompt_length"),
    ("device", {"policy": {"device": "tpu"}}, "tpu"),
]


@pytest.mark.parametrize(("check", "sections", "says"), FAULTS)
def test_what_would_stop_a_run_is_a_finding(check: str, sections: dict[str, Any], says: str, tiny_folder: Path, tmp_path: Path) -> None:
    diagnosis = examine(recipe(tiny_folder, **sections), tmp_path, Options())
    failures = [finding for finding in diagnosis.findings if finding.level == "failure"]
    assert diagnosis.would_fail
    assert check in {finding.check for finding in failures}
    assert any(says in finding.says for finding in failures if finding.check == check)
    assert {finding.level for finding in diagnosis.findings if finding.check == "reward"} == {"skipped"}


def test_an_image_that_cannot_be_read_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    row = {"question": "What is shown?", "choices": ["CT", "MRI"], "answer": "A", "image": "broken.png"}
    (tmp_path / "train.jsonl").write_text(json.dumps({"id": "1", **row}) + "\n", encoding="utf-8")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    config = recipe(tiny_folder, data={"reader": "jsonl", "root": str(tmp_path), "train": {"split": "train"}})
    cases: list[tuple[ImageChoice, list[str]]] = [("sample", ["failure"]), ("none", ["skipped"])]
    for choice, levels in cases:
        diagnosis = examine(config, tmp_path, Options(images=choice, rollouts=0))
        found = [finding for finding in diagnosis.findings if finding.check == "images"]
        assert [finding.level for finding in found] == levels
        assert ("broken.png" in found[0].says) == (choice == "sample")


def boom() -> Any:
    raise ZeroDivisionError("no number\nsecond line")


def refuse() -> Any:
    raise DataError("row 3 has no answer: add one")


@pytest.mark.parametrize(("run", "says"), [(boom, "ZeroDivisionError: no number; "), (refuse, "row 3 has no answer: add one")])
def test_a_failing_check_is_a_finding(run: Callable[[], Any], says: str) -> None:
    (finding,) = isolated("here", run)
    assert (finding.check, finding.level) == ("here", "failure")
    assert finding.says.startswith(says)


STEPS: list[tuple[dict[str, Any], int]] = [
    ({"per_device_train_batch_size": 4}, 1),
    ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, 1),
    ({"per_device_train_batch_size": 4, "num_iterations": 3}, 3),
    ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "steps_per_generation": 8}, 4),
]


@pytest.mark.parametrize(("grpo", "steps"), STEPS)
def test_how_many_steps_use_a_rollout(grpo: dict[str, Any], steps: int, tiny_folder: Path, tmp_path: Path) -> None:
    config = recipe(tiny_folder, grpo={**grpo, "warmup_steps": 7, "save_steps": 1})
    assert steps_of_rollout(grpo_arguments(config, tmp_path)) == steps
    arguments = grpo_arguments(trial_config(config, 5, steps), tmp_path)
    assert arguments.max_steps == (5 + UPDATES) * steps
    assert (arguments.warmup_steps, str(arguments.save_strategy.value), arguments.report_to) == (0, "no", [])


def test_what_updates_bring_about_is_judged_behind_them(tiny_folder: Path) -> None:
    still = [{"reward": 0.5, "kl": 0.0, "entropy": 0.5, "answers/correct": 0.2}] * 6
    trial = judge_trial([*still, still[0], *[{**still[0], "kl": 9.0, "entropy": 0.02}] * 2], recipe(tiny_folder), num_frozen=6)
    assert [symptom.cause for symptom in trial.symptoms] == ["exploding_kl", "entropy_collapse"]
    assert (trial.num_rollouts, trial.before.kl, trial.after.kl) == (6, 0.0, 9.0)


def test_the_verb_without_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    out = capsys.readouterr()
    result = json.loads(out.out.splitlines()[-1])
    assert [finding["check"] for finding in result["findings"]] == ["installed", "device", "disk"]
    assert "Python" in out.err


USAGE = [["--rollouts", "0"], ["--rollouts", "3", "--no-rollouts"], ["--images", "few"], ["no_such_recipe"]]


@pytest.mark.parametrize("arguments", USAGE)
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: Any = main(["doctor", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.integration
def test_the_trial_as_json(tiny_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        f"""
[data.train]
modalities = ["mri"]
limit = 4
[prompt]
strategy = "no_think"
[policy]
path = "{tiny_folder}"
device = "cpu"
[sampling]
max_completion_length = 6
[grpo]
num_generations = 2
per_device_train_batch_size = 4
disable_tqdm = true
""",
        encoding="utf-8",
    )
    assert main(["doctor", str(path), "--json", "--rollouts", "1"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=pytest.fail)
    assert result["exit_code"] == 0
    assert result["trial"]["num_rollouts"] == 1
    assert {finding["check"] for finding in result["findings"] if finding["level"] == "warning"} >= {"cut_completions", "unread_answers"}


@pytest.mark.integration
def test_a_training_that_does_not_fit_fails_with_settings(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--data.train.limit=48", "--no-rollouts", "--images=none", "--json"]
    found = []
    for memory in ("80", "0.05"):
        code = main(["doctor", *arguments, "--memory", memory])
        found.append((code, json.loads(capsys.readouterr().out.splitlines()[-1])))
    (fits, plain), (fails, small) = found
    assert (fits, fails) == (0, 1)
    assert plain["memory"]["peak"] == small["memory"]["peak"] > 50e6
    (finding,) = [one for one in small["findings"] if one["level"] == "failure"]
    assert finding["check"] == "memory"
    assert load_config("demo", finding["remedy"].split(" ")) != load_config("demo")


def test_the_exit_code_of_a_run_that_would_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "demo", "--policy.path=no/such/policy", "--data.train.limit=48", "--images=none"]) == 1
    out = capsys.readouterr().out
    assert "FAILS    policy" in out
    assert "findings that would stop a run: 1, warnings: 0" in out
