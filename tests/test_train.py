"""`osler train` from a recipe to a saved policy: what it refuses, what it writes, and how it goes on."""

import json
import math
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import assert_same_lines, read_lines, recipe
from tiny_checkpoint import apply_lora
from trl import GRPOConfig

from osler.cli.common import describe_recipe
from osler.cli.main import main
from osler.config import Config, LoraSection, build_config, load_config
from osler.errors import ConfigError, DataError, MissingExtra, OslerError
from osler.files import read_json_lines
from osler.policies.load import load_policy
from osler.policies.lora import describe_adapter
from osler.run_folder import Run
from osler.training.arguments import PLACES, check_reporters, grpo_arguments
from osler.training.arguments import REFUSED as REASONS
from osler.training.callbacks import MetricsWriter
from osler.training.checkpoints import last_checkpoint
from osler.training.grpo import train_grpo
from osler.training.kept_completions import read_kept
from osler.training.sft import sft_arguments

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_every_recipe_builds_trls_arguments(path: Path, tmp_path: Path) -> None:
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    values["policy"]["device"] = "cpu"
    config = build_config(values)
    grpo = grpo_arguments(config, tmp_path)
    sft = sft_arguments(config, tmp_path, num_samples=600)
    assert config.name == path.stem
    assert {key: getattr(grpo, key) for key in config.grpo} == config.grpo
    assert {key: getattr(sft, key) for key in config.sft} == config.sft
    assert (grpo.temperature, grpo.top_p, grpo.top_k) == (config.sampling.temperature, config.sampling.top_p, config.sampling.top_k)


PAPERS = [
    ("medvlm_r1", {"per_step": 4, "beta": 0.04, "learning_rate": 1e-6, "loss_type": "grpo", "epochs": 2, "completion": 512}),
    ("med_r1_modality", {"per_step": 4, "beta": 0.04, "learning_rate": 1e-6, "loss_type": "grpo", "epochs": 1, "completion": 256}),
    ("med_r1_question_type", {"per_step": 4, "beta": 0.04, "learning_rate": 1e-6, "loss_type": "grpo", "epochs": 1, "completion": 256}),
]


@pytest.mark.parametrize(("name", "expected"), PAPERS, ids=[name for name, _ in PAPERS])
def test_the_papers_settings(name: str, expected: dict[str, Any], tmp_path: Path) -> None:
    values = tomllib.loads((RECIPES[0].parent / f"{name}.toml").read_text(encoding="utf-8"))
    values["policy"]["device"] = "cpu"
    grpo = grpo_arguments(build_config(values), tmp_path)
    assert {
        "per_step": grpo.generation_batch_size // grpo.num_generations,
        "beta": grpo.beta,
        "learning_rate": grpo.learning_rate,
        "loss_type": grpo.loss_type,
        "epochs": grpo.num_train_epochs,
        "completion": grpo.max_completion_length,
    } == expected
    assert (grpo.scale_rewards, grpo.num_iterations, grpo.num_generations, grpo.temperature) == ("group", 1, 4, 1.0)
    assert str(grpo.lr_scheduler_type) == "SchedulerType.LINEAR"
    assert grpo.get_warmup_steps(300) == 0


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_training_takes_the_device_of_the_policy(tiny_folder: Path, tmp_path: Path, device: str) -> None:
    config = recipe(tiny_folder, policy={"device": device})
    assert grpo_arguments(config, tmp_path).device.type == load_policy(config.policy).device.type


ABSENT_REPORTERS = [name for name in ("wandb", "mlflow", "trackio") if find_spec(name) is None]
ABSENT_PACKAGES = [
    (section, error, message)
    for package, section, error, message in (
        (
            "deepspeed",
            {"grpo": {"deepspeed": {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto"}}},
            MissingExtra,
            r"deepspeed is not installed: pip install 'osler\[deepspeed\]'",
        ),
        ("vllm", {"grpo": {"use_vllm": True}, "trainer": {"share_prefix": False}}, ConfigError, r"needs a package that .* vLLM"),
        ("bitsandbytes", {"grpo": {"optim": "adamw_bnb_8bit"}}, ConfigError, r"needs a package that is not installed: .*bitsandbytes"),
    )
    if find_spec(package) is None
]
REFUSED = [
    ({"grpo": {"learning_rat": 1e-6}}, ConfigError, r"unknown key \[grpo\] learning_rat: .* did you mean 'learning_rate'"),
    ({"grpo": {"temperature": 0.5}}, ConfigError, r"\[grpo\] temperature is set elsewhere in a recipe: --sampling.temperature=.."),
    ({"grpo": {"generation_kwargs": {"top_k": 1}}}, ConfigError, r"generation_kwargs cannot be set, .* \[sampling\]"),
    ({"grpo": {"output_dir": "x"}}, ConfigError, r"output_dir cannot be set, the folder is --out"),
    ({"grpo": {"seed": 1}}, ConfigError, r"--seed=.."),
    ({"grpo": {"report_to": ["wandb"]}}, ConfigError, r"--trainer.report_to=.."),
    ({"grpo": {"beta": math.nan}}, ConfigError, r"\[grpo\] beta = nan is no number to train with"),
    ({"grpo": {"learning_rate": math.inf}}, ConfigError, r"learning_rate = inf is no number"),
    ({"grpo": {"beta": -0.1}}, ConfigError, r"beta = -0.1 would reward .* give 0 or more"),
    ({"grpo": {"learning_rate": "fast"}}, ConfigError, r"\[grpo\] learning_rate: .*'fast'"),
    ({"grpo": {"loss_type": "grpo", "num_generations": 3}}, ConfigError, r"\[grpo\] generation_batch_size \(4\) must be divisible"),
    ({"grpo": {"per_device_train_batch_size": 64}}, ConfigError, r"gives 4 questions and one rollout takes 32"),
    ({"rewards": {"names": ["accuracy"], "weights": [1.0, 2.0]}}, ConfigError, r"1 names and 2 weights"),
    ({"rewards": {"names": ["acuracy"]}}, ConfigError, r"acuracy"),
    ({"trainer": {"report_to": ["tensorbord"]}}, ConfigError, r"does not know 'tensorbord'; did you mean 'tensorboard'"),
    ({"trainer": {"max_prompt_length": 40}}, DataError, r"phantom/train/mri/\S+ makes a prompt of \d+ tokens \(16 of them image\)"),
    ({"prompt": {"strategy": "thinking"}}, ConfigError, r"unknown strategy 'thinking'"),
    ({"policy": {"device": "cuda:1"}}, ConfigError, r"training takes the first visible GPU"),
    ({"policy": {"path": "nowhere/at/all"}}, OslerError, r"no policy at nowhere/at/all"),
    ({"policy": {"lora": {"target_modules": ["lm_head"]}}}, ConfigError, r"names lm_head, whose adapter TRL would never train"),
    ({"policy": {"lora": {"target_modules": ["embed_tokens"]}}}, ConfigError, r"embed_tokens, whose weights are both embedding and output"),
    (
        {"policy": {"freeze_vision": True, "lora": {"target_modules": ["visual.blocks.0.attn.qkv", "q_proj"]}}},
        ConfigError,
        r"freeze_vision is on and \[policy.lora\] adapts model.visual.blocks.0.attn.qkv",
    ),
    ({"grpo": {"fsdp": True}}, ConfigError, r"fsdp shares the weights of several processes, and this is one: .*accelerate launch"),
    ({"grpo": {"fsdp": "full_shard"}}, ConfigError, r"fsdp shares the weights of several processes"),
    *(({"trainer": {"report_to": [name]}}, MissingExtra, f"{name} is not installed: pip install {name}") for name in ABSENT_REPORTERS),
    *ABSENT_PACKAGES,
]


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # peft's, before Osler refuses
@pytest.mark.parametrize(("sections", "error", "message"), REFUSED, ids=[next(iter(row[0].values())) and row[2][:30] for row in REFUSED])
def test_mistakes_are_refused_before_anything_is_written(
    tiny_folder: Path, tmp_path: Path, sections: dict[str, Any], error: type[OslerError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        train_grpo(recipe(tiny_folder, **sections), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


VALUES = {
    "report_to": "[]",
    "run_name": "x",
    "reward_weights": "[1.0, 1.0, 1.0]",
    "use_cpu": "cpu",
    "completion_only_loss": "med_r1_sft",
    "top_p": "1",
}


@pytest.mark.parametrize("key", [*PLACES])
def test_the_place_that_a_refusal_names_exists(key: str) -> None:
    load_config("demo", [f"--{PLACES[key]}={VALUES.get(key, '2')}"] if key != "min_p" else ["--sampling.min_p=0.5"])


@pytest.mark.parametrize("key", [*REASONS])
def test_what_cannot_be_set_exists_and_says_why(tiny_folder: Path, tmp_path: Path, key: str) -> None:
    assert key in {field.name for field in fields(GRPOConfig)}
    with pytest.raises(ConfigError, match=f"{key} cannot be set, .*: leave it out"):
        train_grpo(recipe(tiny_folder, grpo={key: "x"}), tmp_path / "run")


def out_of_space(**_: Any) -> list[float]:
    """A reward function that fails in the first step."""
    raise OSError("no space left")


@pytest.mark.integration
def test_a_run_that_made_nothing_leaves_no_folder_but_keeps_what_others_wrote(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "log.txt").write_text("of the job around it")

    with pytest.raises(OSError, match="no space"):
        train_grpo(recipe(tiny_folder, rewards={"names": ["test_train:out_of_space"]}), out)
    assert [path.name for path in out.iterdir()] == ["log.txt"]
    train_grpo(recipe(tiny_folder, grpo={"max_steps": 1}), out)  # another recipe is welcome
    assert Run(root=out).policy.is_dir()


@pytest.mark.parametrize("verb", ["train", "sft"])
def test_a_mistake_is_one_line_and_exit_code_2(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    arguments = [verb, "demo", "--out", str(tmp_path / "run"), f"--policy.path={tiny_folder}", "--data.train.limit=8"]
    assert main([*arguments, f"--{'sft' if verb == 'sft' else 'grpo'}.learning_rat=1"]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "did you mean 'learning_rate'" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("targets", "line"),
    [
        ("all-linear", "LoRA adapts 14 modules: 14 of the text model (down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj)"),
        (("q_proj", "visual.blocks.0.attn.qkv"), "LoRA adapts 3 modules: 2 of the text model (q_proj), 1 of the vision tower (qkv)"),
    ],
)
def test_the_adapted_modules_are_counted(tiny_folder: Path, targets: Any, line: str) -> None:
    """With "all-linear" peft alone adapts the vision tower too."""
    policy = load_policy(str(tiny_folder))
    assert describe_adapter(apply_lora(policy, LoraSection(target_modules=targets)), policy.family, freeze_vision=False) == line


# Four questions, two a step: two steps an epoch, so that an interrupted run has to find its place within a later epoch.
LONG = {"max_steps": 9, "save_steps": 1, "save_total_limit": 2, "learning_rate": 1e-3}


def long_recipe(policy: Path) -> Config:
    return recipe(policy, grpo=LONG)


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing interrupted."""
    return train_grpo(long_recipe(tiny_folder), tmp_path_factory.mktemp("runs") / "finished")


@pytest.mark.integration
def test_a_run_writes_what_it_should(finished: Run) -> None:
    lines = read_lines(finished)
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert all(line["grad_norm"] > 0 for line in lines)
    assert {"loss", "learning_rate", "reward", "rewards/accuracy/mean", "rewards/format/mean", "completions/mean_length"} <= lines[0].keys()
    manifest = json.loads(finished.manifest.read_text())
    assert manifest["train"]["num_samples"] == 4
    assert manifest["train"]["cells"].keys() == {"mri"}
    assert sorted(path.name for path in finished.root.iterdir()) == [
        "checkpoints",
        "completions.jsonl",
        "config.json",
        "environment.json",
        "lock",
        "manifest.json",
        "metrics.jsonl",
        "policy",
    ]
    assert not list(finished.policy.glob("*.bin"))  # nothing pickled in what is shared


@pytest.mark.integration
def test_the_saved_policy_loads(finished: Run, tiny_folder: Path) -> None:
    trained, start = load_policy(str(finished.root)), load_policy(str(tiny_folder))
    assert trained.name == "finished"
    assert trained.processor.chat_template == start.processor.chat_template
    weights = dict(start.model.named_parameters())
    assert any(not weight.equal(weights[name]) for name, weight in trained.model.named_parameters())
    config = json.loads((finished.policy / "config.json").read_text())
    assert str(tiny_folder) not in json.dumps(config)


@pytest.mark.integration
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tiny_folder: Path, tmp_path: Path, finished: Run) -> None:
    """SIGKILL in the second epoch; the same call finishes, no step appears twice, and every number is that of the uninterrupted run."""
    out = tmp_path / "killed"
    config = tmp_path / "config.json"
    config.write_text(long_recipe(tiny_folder).to_json())
    code = (
        "import json, sys; from pathlib import Path; from osler.config import build_config; from osler.training.grpo import train_grpo;"
        "train_grpo(build_config(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(config), str(out)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        while not (out / "checkpoints/checkpoint-3/trainer_state.json").is_file():
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "policy").exists()
    assert last_checkpoint(out / "checkpoints") is not None
    run = train_grpo(long_recipe(tiny_folder), out)
    assert_same_lines(read_lines(run), read_lines(finished))
    times = [json.loads(line)["time_s"] for line in run.metrics.read_text().splitlines()]
    assert times == sorted(times)


@pytest.mark.integration
def test_a_finished_run_is_left_alone(tiny_folder: Path, finished: Run) -> None:
    before = finished.metrics.stat().st_mtime_ns
    assert train_grpo(long_recipe(tiny_folder), finished.root) == finished
    assert finished.metrics.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"seed = 0, this recipe 1"):
        train_grpo(recipe(tiny_folder, grpo=LONG, seed=1), finished.root)


@pytest.mark.integration
def test_the_same_seed_gives_the_same_metrics(tiny_folder: Path, tmp_path: Path) -> None:
    first, second = (train_grpo(recipe(tiny_folder, grpo={"save_strategy": "no"}), tmp_path / name) for name in ("a", "b"))
    other = train_grpo(recipe(tiny_folder, grpo={"save_strategy": "no"}, seed=1), tmp_path / "c")
    assert read_lines(first) == read_lines(second)
    assert read_lines(first) != read_lines(other)


@pytest.mark.integration
@pytest.mark.parametrize(("policy", "name"), [({}, "full"), ({"lora": {"r": 4}, "freeze_vision": True}, "lora")], ids=["full", "lora"])
def test_the_reference_is_the_starting_policy(tiny_folder: Path, tmp_path: Path, policy: dict[str, Any], name: str) -> None:
    """The KL is 0 before the first update and not after it; the run's policy is an ordinary folder either way."""
    run = train_grpo(recipe(tiny_folder, policy=policy, grpo={"beta": 0.04, "learning_rate": 1e-2, "save_strategy": "no"}), tmp_path / name)
    first, second = read_lines(run)
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert second["kl"] > 1e-6
    assert (run.policy / "model.safetensors").is_file()
    assert not (run.policy / "adapter_config.json").exists()
    load_policy(str(run.root))


@pytest.mark.slow
def test_an_adapter_on_an_adapter_is_merged_and_not_kept(tiny_folder: Path, tmp_path: Path) -> None:
    lora = {"lora": {"r": 2}}
    first = train_grpo(recipe(tiny_folder, policy=lora, grpo={"max_steps": 1}), tmp_path / "first")
    second = train_grpo(recipe(first.adapter, policy=lora, grpo={"max_steps": 1}), tmp_path / "second")
    assert first.adapter.is_dir()
    assert not second.adapter.exists()
    weights = [load_policy(path).model.state_dict() for path in (tiny_folder, first.policy, second.policy)]
    for name in ("model.language_model.layers.0.self_attn.q_proj.weight", "model.language_model.layers.1.mlp.up_proj.weight"):
        assert not torch.equal(weights[1][name], weights[0][name])
        assert not torch.equal(weights[2][name], weights[1][name])


@pytest.mark.integration
def test_the_reference_of_an_adapter_is_the_adapter(tiny_folder: Path, tmp_path: Path) -> None:
    """TRL would load the adapter's base, and the policy would be pulled back to a place it never started from."""
    adapter = tmp_path / "adapter"
    model = apply_lora(load_policy(str(tiny_folder)), LoraSection(r=4))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.5)
    model.save_pretrained(adapter)
    run = train_grpo(recipe(adapter, grpo={"beta": 0.04, "max_steps": 1, "save_strategy": "no"}), tmp_path / "run")
    assert read_lines(run)[0]["kl"] == pytest.approx(0, abs=1e-6)


CHECKPOINTS = [
    ({}, None),
    ({"checkpoint-2": "{}"}, "checkpoint-2"),
    ({"checkpoint-2": "{}", "checkpoint-10": "{}"}, "checkpoint-10"),
    ({"checkpoint-2": "{}", "checkpoint-4": None}, "checkpoint-2"),  # killed before the state was written
    ({"checkpoint-2": "{}", "checkpoint-4": '{"epoch": 1'}, "checkpoint-2"),  # and while it was
    ({"checkpoint-x": "{}", "other-3": "{}"}, None),
]


@pytest.mark.parametrize(("states", "expected"), CHECKPOINTS)
def test_only_complete_checkpoints_count(tmp_path: Path, states: dict[str, str | None], expected: str | None) -> None:
    for name, state in states.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "optimizer.pt").touch()
        if state is not None:
            (tmp_path / name / "trainer_state.json").write_text(state)
    found = last_checkpoint(tmp_path)
    assert (found.name if found is not None else None) == expected


def test_metrics_go_on_without_repeating_a_step(tmp_path: Path) -> None:
    from transformers import TrainerControl, TrainerState

    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "time_s": float(step)}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "ti')
    writer = MetricsWriter(path)
    state = TrainerState(global_step=2, is_world_process_zero=True)
    writer.on_train_begin(None, state, TrainerControl())
    state.global_step = 3
    writer.on_log(None, state, TrainerControl(), logs={"loss": 0.5})
    writer.on_log(None, state, TrainerControl(), logs={"train_runtime": 1.0})
    lines = read_json_lines(path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[-1]["loss"] == 0.5
    assert lines[-1]["time_s"] >= 2.0


@pytest.mark.integration
def test_tensorboard_writes_into_the_run(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    config = recipe(tiny_folder, trainer={"report_to": ["tensorboard"]}, grpo={"save_strategy": "no", "max_steps": 1})
    run = train_grpo(config, tmp_path / "run")
    assert list((run.root / "tensorboard").glob("events.*"))


@pytest.mark.integration
@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2]), (2, [1]), (0, [])])
def test_a_few_completions_are_kept_with_what_they_earned(tiny_folder: Path, tmp_path: Path, every: int, steps: list[int]) -> None:
    grpo = {"save_strategy": "no", "max_steps": 2}
    run = train_grpo(recipe(tiny_folder, trainer={"keep_completions_every": every}, grpo=grpo), tmp_path / "run")
    kept = read_kept(run.completions)
    assert sorted({one.step for one in kept}) == steps
    assert all(one.sample_id and one.prompt and one.target and list(one.rewards) == ["accuracy", "format"] for one in kept)
    assert run.completions.exists() == bool(every)
    logged = [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]
    assert {one.step for one in kept} <= {*logged}  # one counting for all that a page shows
    assert not any(one.probabilities for one in kept)


def test_an_absent_reporter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises((MissingExtra, ConfigError), match="tensorboard"):
        check_reporters(["tensorboard"])


@pytest.mark.integration
def test_a_dry_run_loads_no_model() -> None:
    code = (
        "import sys; from osler.config import build_config; from osler.cli.common import describe_recipe;"
        "print(describe_recipe(build_config({'data': {'train': {'limit': 8}, 'test': {'limit': 8}}, 'prompt': {'strategy': 'no_think'}})));"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for expected in ('"reader": "phantom"', "train: 8 questions", "test: 8 questions", "strategy no_think", "<answer> </answer>"):
        assert expected in done.stdout


def test_a_description_names_the_answer(tiny_folder: Path) -> None:
    assert "target " in describe_recipe(recipe(tiny_folder))
