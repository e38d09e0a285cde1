"""Every family at its published size, in bfloat16 with LoRA: `osler eval`, `sft`, `train`, and the trained policy loaded again.

`make test-true-size`: 24 GB of memory, 30 GB of disk, about an hour on two cores. OSLER_QWEN_RANKS names the wheel or the file of
ranks that tools/make_checkpoint.py takes; without it the checkpoints have the tokenizer of osler-tiny.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from osler.policies.families import FAMILIES

SHARED = (
    *("--data.reader=phantom", "--data.train.limit=8", "--data.test.limit_per_modality=1", "--data.options={}"),
    *("--data.train.options={}", "--policy.dtype=bfloat16", "--policy.device=cpu", "--trainer.print_completions_every=0"),
    *("--prompt.strategy=no_think", "--eval.max_completion_length=4", "--trainer.checkpoint=none"),
)
LORA = ("--policy.lora.r=8", "--policy.freeze_vision=true")
COMMANDS: list[tuple[str, tuple[str, ...]]] = [
    ("eval", ()),
    ("sft", (*LORA, "--sft.max_steps=1", "--sft.per_device_train_batch_size=1", "--sft.bf16=false")),
    (
        "train",
        (
            *(
                *LORA,
                "--grpo.max_steps=1",
                "--grpo.gradient_accumulation_steps=1",
                "--grpo.bf16=false",
                "--sampling.max_completion_length=8",
            ),
            "--grpo.entropy_coef=0.01",  # a gradient, although random weights earn no reward
        ),
    ),
]
MOST_GB = 24


def run_osler(*arguments: str) -> tuple[int, str, float]:
    """Exit code, output, and the peak memory of one command in GB."""
    with subprocess.Popen(
        [sys.executable, "-m", "osler", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, output, used.ru_maxrss / 1e6


def count_weights(file: Path) -> int:
    """The number of weights of a safetensors file, from its header."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


@pytest.mark.true_size
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_at_its_true_size(model_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranks = os.environ.get("OSLER_QWEN_RANKS")
    folder = tmp_path / model_type
    making = [sys.executable, "-m", "tools.make_checkpoint", model_type, str(folder), *(["--ranks", ranks] if ranks else [])]
    subprocess.run(making, check=True, stdout=subprocess.DEVNULL)  # a process of its own gives its memory back
    parameters = sum(map(count_weights, folder.glob("*.safetensors")))
    assert parameters > 2e9
    used = {}
    for verb, own in COMMANDS:
        out = tmp_path / verb
        code, output, used[verb] = run_osler(verb, "med_r1_modality", f"--policy.path={folder}", "--out", str(out), *SHARED, *own)
        assert code == 0, output[-2000:]
        if verb == "eval":
            continue
        step = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
        assert step["grad_norm"] > 0
        assert (out / "adapter" / "adapter_model.safetensors").is_file()
        again = ("--policy", str(out / "policy"), "--out", str(tmp_path / f"{verb}-eval"))
        code, output, used[f"{verb}, loaded again"] = run_osler("eval", "med_r1_modality", *again, *SHARED)
        assert code == 0, output[-2000:]
    with capsys.disabled():
        print(
            f"\n{model_type}, {parameters / 1e9:.2f} billion parameters: "
            + ", ".join(f"{name} {size:.1f} GB" for name, size in used.items())
        )
    assert max(used.values()) < MOST_GB
