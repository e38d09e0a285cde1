"""What Osler does on a GPU, at the size of Qwen2-VL-2B: one script, at most ten minutes on one card.

    make gpu                                                                                     on one card
    PYTHONPATH=. python tests/gpu/first_contact.py --device cpu --layers 2 --tokens 12           every line of it, without a GPU

1. A step with shared prompts against TRL's log-probabilities: bf16 arithmetic, bf16 weights, float32; completions of unequal length.
2. Rollouts: plain and static decoding against Transformers' `generate`, token for token, and the time of a token.
3. Static rollouts of other prompts with other weights: steps are recorded once, and what is replayed is what a new recording computes.
4. The recipe medvlm_r1 on phantoms: seconds of each phase, peak memory, MFU; Osler's trainer, then TRL's with its default rollout.
5. The trained policy, loaded again and evaluated in bf16 and in float32.
6. results.json, and results.md with the tables of benchmarks/README.md.

The weights are random, so answers mean nothing. A check that fails is named at the end, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from osler.cli.main import main as osler
from osler.config import Config, load_config
from osler.files import read_json_lines, write_json, write_whole
from osler.grading import resolve_rewards
from osler.policies.load import Policy, load_policy
from osler.policies.quiet import quiet_training
from osler.training.arguments import grpo_arguments
from osler.training.checkpoints import load_for_training
from osler.training.dataset import read_prompts
from osler.training.grpo import build_trainer, train_grpo
from osler.training.phases import PHASES
from osler.training.shared_prefix.attention import install
from osler.training.shared_prefix.groups import collect
from osler.training.shared_prefix.packed_row import PromptBatch
from osler.training.shared_prefix.rollout import Decoding, roll_out
from osler.training.shared_prefix.static_decoders import StaticDecoders
from tools.make_checkpoint import save_checkpoint

PEAK_FLOPS: Final = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16
PRECISIONS: Final[Mapping[str, Sequence[str]]] = {
    "bf16 arithmetic": ("--policy.dtype=float32", "--grpo.bf16=true"),
    "bf16 weights": ("--policy.dtype=bfloat16", "--grpo.bf16=false", "--policy.lora.r=16"),
    "float32": ("--policy.dtype=float32", "--grpo.bf16=false"),
}
NUM_GENERATIONS: Final = 4
REPLAYED: Final = ((0, 1), (2, 3), (0, 1))  # the questions of each rollout of `check_replays`


def overrides(options: argparse.Namespace, *own: str) -> list[str]:
    """Settings of every part: phantoms of 196 image tokens (a few on a CPU), the checkpoint, the device."""
    pixels = 153664 if options.device == "cuda" else 12544
    return [
        *("--data.reader=phantom", "--data.train.limit=64", "--data.test.limit_per_modality=4"),
        *(f"--policy.path={options.policy}", f"--policy.device={options.device}"),
        *(f"--policy.min_pixels={pixels}", f"--policy.max_pixels={pixels}", "--trainer.print_completions_every=0"),
        *("--trainer.checkpoint=none", f"--sampling.max_completion_length={options.tokens}"),
        *own,
    ]


def make_trainer(config: Config, out: Path, *, stops: bool) -> Any:
    """The trainer of a recipe before its first step; with `stops` every eleventh token ends a completion, so that lengths differ."""
    prompts, arguments = read_prompts(config), grpo_arguments(config, out)
    policy = load_for_training(config, prompts, arguments)
    if stops:
        policy.model.generation_config.eos_token_id += list(range(0, 151643, 11))
    return build_trainer(config, policy, prompts, resolve_rewards(config.rewards.names), arguments)


def check_exactness(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One step in each precision; the trainer compares itself with TRL's log-probabilities."""
    rows = []
    for name, precision in PRECISIONS.items():
        own = ("--grpo.max_steps=1", "--grpo.per_device_train_batch_size=8", "--grpo.gradient_accumulation_steps=1", "--policy.lora.r=16")
        config = load_config("medvlm_r1", overrides(options, *precision, *own))
        torch.manual_seed(0)
        with quiet_training():
            trainer = make_trainer(config, options.out / "exactness", stops=True)
            trainer.train()
        largest: dict[str, dict[str, Any]] = {}  # by the way to measure, over all kinds of batches
        for one in (one for found in trainer.checked.values() for one in found):
            if one.how not in largest or one.found > largest[one.how]["found"]:
                largest[one.how] = {"how": one.how, "found": one.found, "allowed": one.allowed}
        rows.append(
            {
                "precision": name,
                "is_shared": trainer.shares_prefix,
                "differences": list(largest.values()),
                "is_ragged": any(kind.is_ragged for kind in trainer.checked),
            }
        )
        del trainer
        _free()
    return rows


def read_batch(policy: Policy, config: Config, numbers: Sequence[int]) -> PromptBatch:
    """The prompts of the training questions with these numbers as tensors."""
    questions = read_prompts(config)
    asked = [questions[number] for number in numbers]
    processor = policy.processor
    texts = [processor.apply_chat_template(list(prompt.messages), add_generation_prompt=True, tokenize=False) for prompt in asked]
    images = [[source.load() for source in prompt.sample.images] for prompt in asked]
    inputs = processor(text=texts, images=[image for own in images for image in own])
    groups = collect(inputs["input_ids"], images, inputs, NUM_GENERATIONS, policy.tokenizer.pad_token_id, policy.device)
    return groups.prompts(range(len(numbers)))


def check_decoding(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Greedy completions of `generate`, of plain and of static decoding: the share of equal tokens, and milliseconds of a token."""
    dtype = "bfloat16" if options.device == "cuda" else "float32"
    config = load_config("medvlm_r1", overrides(options, f"--policy.dtype={dtype}"))
    policy = load_policy(config.policy)
    prompts = read_batch(policy, config, (0, 1))
    results, first, decoders = [], None, StaticDecoders()
    for name in ("generate", "plain", "static"):
        write(name, policy, prompts, options.tokens, decoders)  # warm-up, and the recording
        written, seconds = time_writing(name, policy, prompts, options.tokens, decoders)
        first = first or written
        results.append({"way": name, "ms_per_token": 1e3 * seconds / options.tokens, "equal_tokens": share_equal(written, first)})
    return results


def check_replays(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Static rollouts of other prompts and weights with kept decoders, with new ones, and plain: equal tokens, recordings, seconds."""
    config, tokens = load_config("medvlm_r1", overrides(options, "--policy.dtype=float32")), min(options.tokens, 32)
    policy, rows = load_policy(config.policy), []
    for precision, is_mixed in (("float32", False), ("bf16 arithmetic", True)):
        decoders, written, seconds = StaticDecoders(), [], []
        for numbers in REPLAYED:
            ways = (("static", decoders), ("static", StaticDecoders()), ("plain", None))
            prompts, results = read_batch(policy, config, numbers), []
            for way, kept in ways:
                with torch.autocast(options.device, dtype=torch.bfloat16, enabled=is_mixed):
                    results.append(time_writing(way, policy, prompts, tokens, kept))
            written.append([result[0] for result in results])
            seconds.append([result[1] for result in results])
            change_weights(policy.model)
        rows.append(
            {
                "precision": precision,
                "rollouts": len(REPLAYED),
                "shapes": decoders.num_kept,
                "recordings": decoders.num_recordings,
                "equal_to_new": statistics.mean(share_equal(kept, new) for kept, new, _ in written),
                "equal_to_plain": statistics.mean(share_equal(kept, plain) for kept, _, plain in written),
                "is_changed": written[0][0] != written[2][0],  # the same prompts, other weights
                # Without the first rollout, which also loads kernels.
                **dict(zip(("replayed_s", "recorded_s", "plain_s"), map(statistics.median, zip(*seconds[1:], strict=True)), strict=True)),
                "memory_gb": sum(tensor.nbytes for tensor in decoders.tensors) / 1e9,
            }
        )
    return rows


def change_weights(model: Any) -> None:
    """Change the weights of the text decoder in place, as an optimizer does, so much that greedy tokens change."""
    with torch.no_grad():
        for weight in model.model.language_model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2 * weight.std(correction=0))


def share_equal(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """The share of equal tokens at equal places."""
    return statistics.mean(float(our == their) for our, their in zip(ours, theirs, strict=True))


def time_writing(
    way: str, policy: Policy, prompts: PromptBatch, num_tokens: int, decoders: StaticDecoders | None
) -> tuple[list[int], float]:
    """The tokens of `write`, one after the other, and its seconds."""
    _wait(policy.device)
    start = time.perf_counter()
    written = [token for tokens in write(way, policy, prompts, num_tokens, decoders) for token in tokens]
    _wait(policy.device)
    return written, time.perf_counter() - start


@torch.no_grad()
def write(way: str, policy: Policy, prompts: PromptBatch, num_tokens: int, decoders: StaticDecoders | None) -> list[list[int]]:
    """NUM_GENERATIONS equal completions of each prompt, all of `num_tokens` tokens; `decoders` are those of static decoding."""
    model, pad_id = policy.model.eval(), policy.tokenizer.pad_token_id
    if way != "generate":
        install(model)
        decoding = Decoding(max_new_tokens=num_tokens, stop_ids=(), pad_id=pad_id, do_sample=False, is_static=way == "static")
        return roll_out(model, [prompts], NUM_GENERATIONS, decoding, decoders=decoders).completion_ids
    assert prompts.types_BP is not None
    assert prompts.pixel_values is not None
    assert prompts.image_grid_thw is not None
    rows = torch.arange(len(prompts.ids_BP), device=policy.device).repeat_interleave(NUM_GENERATIONS)
    patches = torch.split(prompts.pixel_values, prompts.image_grid_thw.prod(1).tolist())
    tokens = model.generate(
        input_ids=prompts.ids_BP[rows],
        attention_mask=prompts.mask_BP[rows],
        mm_token_type_ids=prompts.types_BP[rows],
        pixel_values=torch.cat([patches[row] for row in rows.tolist()]),
        image_grid_thw=prompts.image_grid_thw[rows],
        max_new_tokens=num_tokens,
        eos_token_id=None,
        do_sample=False,
        pad_token_id=pad_id,
    )
    written: list[list[int]] = tokens[:, prompts.ids_BP.shape[1] :].tolist()
    return written


def run_training(options: argparse.Namespace, *, is_shared: bool) -> dict[str, Any]:
    """Three steps of medvlm_r1: medians of the seconds of each phase, peak memory and MFU; the policy of Osler's run is kept."""
    name = "osler" if is_shared else "trl"
    own = [f"--grpo.max_steps={options.steps}", f"--trainer.share_prefix={str(is_shared).lower()}", f"--name=gpu-{name}"]
    if options.device == "cpu":
        own.append("--grpo.bf16=false")
    config = load_config("medvlm_r1", overrides(options, *own))
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run = train_grpo(config, options.out / name, fresh=True)
    steps = read_json_lines(run.root / "metrics.jsonl")
    memory = (
        torch.cuda.max_memory_allocated() / 1e9 if options.device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    )
    seconds = statistics.median(sum(step[f"seconds/{phase}"] for phase in PHASES) for step in steps)
    tokens = (steps[-1]["num_tokens"] - steps[0]["num_tokens"]) / max(1, len(steps) - 1)
    _free()
    return {
        "trainer": name,
        "seconds": seconds,
        "phases": {phase: statistics.median(step[f"seconds/{phase}"] for step in steps) for phase in PHASES},
        "memory_gb": memory,
        "tokens_per_step": tokens,
        "mfu": _mfu(options, tokens / seconds),
    }


def _mfu(options: argparse.Namespace, tokens_per_second: float) -> float | None:
    """The share of the card's peak that 8 operations for each parameter and token make: a rollout's forward pass, an update's two passes.

    Tokens are counted as TRL counts them, each prompt G times, so a trainer that shares prompts can exceed the hardware's share.
    """
    if options.device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    peak = next((flops for card, flops in PEAK_FLOPS.items() if card in name), None)
    return None if peak is None else 8 * options.parameters * tokens_per_second / peak


def check_policy(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluate the saved policy in bf16 and in float32 with `osler eval`, and count equal answers."""
    answers = {}
    for dtype in ("bfloat16", "float32"):
        own = overrides(options, f"--eval.dtype={dtype}", "--eval.max_completion_length=8", "--policy.dtype=float32")
        folder = options.out / f"eval-{dtype}"
        code = osler(["eval", "medvlm_r1", "--policy", str(options.out / "osler"), "--out", str(folder), "--label", dtype, *own])
        records = read_json_lines(folder / "records" / f"{dtype}.jsonl") if code == 0 else []
        answers[dtype] = [record["completion"] for record in records]
    return {
        "questions": len(answers["float32"]),
        "equal_answers": sum(one == other for one, other in zip(answers["bfloat16"], answers["float32"], strict=False)),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _free() -> None:
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def find_failures(results: Mapping[str, Any]) -> list[str]:
    """The checks that did not hold."""
    failures = [f"{row['precision']}: prompts are not shared" for row in results["exactness"] if not row["is_shared"]]
    failures += [f"{row['precision']}: completions of equal length" for row in results["exactness"] if not row["is_ragged"]]
    least = 1.0 if results["device"] == "cpu" else 0.9  # in bf16 a nearly equal logit may win
    failures += [f"{row['way']}: tokens differ from generate's" for row in results["decoding"] if row["equal_tokens"] < least]
    for row in results["replays"]:
        where = f"static decoding, {row['precision']}"
        if row["recordings"] != row["shapes"]:
            failures.append(f"{where}: {row['recordings']} recordings of {row['shapes']} shapes")
        if row["equal_to_new"] < least:
            failures.append(f"{where}: replayed tokens differ from those of a new recording")
        if row["precision"] == "float32" and row["equal_to_plain"] < least:
            failures.append(f"{where}: tokens differ from those of plain decoding")
        if not row["is_changed"]:
            failures.append(f"{where}: the tokens did not change with the weights")
    if not results["policy"]["questions"]:
        failures.append("the saved policy could not be evaluated")
    return failures


def to_markdown(results: Mapping[str, Any]) -> str:
    """The tables of benchmarks/README.md."""
    lines = [f"{results['machine']}, torch {torch.__version__}, {results['parameters'] / 1e9:.2f} billion parameters", ""]
    lines += ["| precision | difference | allowed | measured |", "|---|---|---|---|"]
    lines += [
        f"| {row['precision']} | {one['found']:.1e} | {one['allowed']:.1e} | {one['how']} |"
        for row in results["exactness"]
        for one in row["differences"]
    ]
    lines += ["", "| decoding | ms per token | equal tokens |", "|---|---|---|"]
    lines += [f"| {row['way']} | {row['ms_per_token']:.1f} | {row['equal_tokens']:.1%} |" for row in results["decoding"]]
    lines += ["", "| static rollouts | shapes | recordings | s recorded | s replayed | s plain | as recorded | as plain | memory |"]
    lines += ["|---" * 9 + "|"]
    lines += [
        f"| {row['precision']} | {row['shapes']} | {row['recordings']} | {row['recorded_s']:.2f} | {row['replayed_s']:.2f} "
        f"| {row['plain_s']:.2f} | {row['equal_to_new']:.1%} | {row['equal_to_plain']:.1%} | {row['memory_gb']:.2f} GB |"
        for row in results["replays"]
    ]
    lines += ["", f"| trainer | seconds of a step | {' | '.join(PHASES)} | memory | MFU |", "|---" * (len(PHASES) + 4) + "|"]
    for row in results["training"]:
        phases = " | ".join(f"{row['phases'][phase]:.2f}" for phase in PHASES)
        mfu = "–" if row["mfu"] is None else f"{row['mfu']:.1%}"
        lines.append(f"| {row['trainer']} | {row['seconds']:.2f} | {phases} | {row['memory_gb']:.1f} GB | {mfu} |")
    policy = results["policy"]
    lines += ["", f"The saved policy gave {policy['equal_answers']} of {policy['questions']} answers equally in bf16 and in float32."]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Run all parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder of the results (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--policy", type=Path, help="a checkpoint of tools/make_checkpoint.py (default: one is made in --out)")
    parser.add_argument("--layers", type=int, help="depth of the checkpoint that is made (default: all)")
    parser.add_argument("--steps", type=int, default=3, help="steps of each trainer (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of a completion (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU: --device cpu --layers 2 --tokens 12 runs every line without one")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.policy is None:
        options.policy = options.out / "policy"
        if not options.policy.exists():
            save_checkpoint("qwen2_vl", options.policy, None, layers=options.layers, device=options.device)
    options.parameters = sum(
        weight.numel() for weight in load_policy(load_config("medvlm_r1", overrides(options)).policy).model.parameters()
    )
    machine = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    results: dict[str, Any] = {"device": options.device, "machine": machine, "parameters": options.parameters, "seconds": {}}
    parts: dict[str, Callable[[], Any]] = {
        "exactness": lambda: check_exactness(options),
        "decoding": lambda: check_decoding(options),
        "replays": lambda: check_replays(options),
        "training": lambda: [run_training(options, is_shared=is_shared) for is_shared in (True, False)],
        "policy": lambda: check_policy(options),
    }
    for name, part in parts.items():
        start = time.perf_counter()
        results[name] = part()
        results["seconds"][name] = time.perf_counter() - start
        write_json(options.out / "results.json", results)  # nothing is lost when the lease ends
        print(f"{name}: {results['seconds'][name]:.0f} s {json.dumps(results[name])}", flush=True)
    failures = find_failures(results)
    write_whole(options.out / "results.md", to_markdown(results))
    print((options.out / "results.md").read_text(encoding="utf-8"))
    print("\n".join(f"FAILED: {failure}" for failure in failures) or "all checks hold")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
