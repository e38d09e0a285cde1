"""Static decoders stay between rollouts: one recording serves all rollouts of a shape, and their completions are those of any decoder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_operators import record_operators
from shared_prefix_cases import ONE, PAIR, SAMPLES, UNLIKE, G, make_sharp, pay, read_groups, read_prompts, run
from small_runs import solid_sample
from tiny_checkpoint import save_tiny

from osler.training.shared_prefix.attention import install
from osler.training.shared_prefix.decoding_cache import WIDTH_MULTIPLE
from osler.training.shared_prefix.rollout import Decoding, Rollout, roll_out
from osler.training.shared_prefix.static_decoders import Advance, StaticDecoders, call_each_time

DECODING = Decoding(max_new_tokens=12, stop_ids=tuple(range(0, 256, 11)), pad_id=256, suppressed_ids=(7, 8))
STATIC = replace(DECODING, is_static=True)
EVEN = [replace(sample, question=sample.question + "?" * 43) for sample in (solid_sample((40, 112)), solid_sample((50, 112)))]
LONG = [replace(sample, question=sample.question * 5) for sample in UNLIKE]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Counter:
    """A recorder that keeps the number of rows of each recording."""

    def __init__(self, record: Callable[..., Advance] = call_each_time) -> None:
        self.record, self.rows = record, list[int]()

    def __call__(self, step: Any, num_rows: int, device: torch.device) -> Advance:
        self.rows.append(num_rows)
        return self.record(step, num_rows, device)


def make_policy(*, lora: bool = False, model_type: str = "qwen2_vl") -> Any:
    """A model with sharp weights; the second of its two layers has a trained adapter on request."""
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    model = make_sharp(model_type)
    if lora:
        adapter = LoraConfig(target_modules=r".*language_model\.layers\.1\..*(q_proj|up_proj)", init_lora_weights=False, r=4, lora_alpha=64)
        model = inject_adapter_in_model(adapter, model)
    install(model)
    return model


def write(model: Any, samples: Any, decoding: Decoding, decoders: StaticDecoders | None = None, *, apart: bool = False) -> Rollout:
    """A rollout with a seed of its own; `apart` gives each prompt a prefill of its own."""
    groups = read_groups(model.config.model_type, samples)
    chunks = [[number] for number in range(len(samples))] if apart else [list(range(len(samples)))]
    torch.manual_seed(3)
    return roll_out(model, [groups.prompts(chunk) for chunk in chunks], G, decoding, scores=True, decoders=decoders)


def logps_of(rollout: Rollout) -> torch.Tensor:
    """The log-probabilities of the tokens of each completion, 0 behind its end."""
    assert rollout.logps_NT is not None
    lengths = torch.tensor([len(tokens) for tokens in rollout.completion_ids])
    return rollout.logps_NT.where(torch.arange(rollout.logps_NT.shape[1]) < lengths[:, None], 0.0)


def train_a_little(model: Any) -> None:
    """Change all weights in place, as an optimizer does."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2 * weight.std(correction=0))


# Two prompts that need no padding, of unlike length, one by one, with two images each, again some of before; then one prompt, longer ones.
ROLLOUTS: list[tuple[Any, bool]] = [(EVEN, False), (UNLIKE, False), (SAMPLES[4:], True), (PAIR, False), (UNLIKE, False)]
OTHER_SHAPES: list[tuple[Any, bool]] = [(ONE, False), (LONG, False), (PAIR, True), (ONE, False)]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("model_type", "lora", "record", "splits_cache"),
    [
        ("qwen2_vl", False, call_each_time, False),
        pytest.param("qwen2_vl", False, record_operators, False, marks=pytest.mark.slow),
        ("qwen2_vl", True, record_operators, True),
        pytest.param("qwen2_vl", False, record_operators, True, marks=pytest.mark.slow),
        pytest.param("qwen2_5_vl", True, record_operators, True, marks=pytest.mark.slow),
        pytest.param("qwen3_vl", False, record_operators, True, marks=pytest.mark.slow),
    ],
)
def test_completions_are_those_of_any_decoder(model_type: str, lora: bool, record: Callable[..., Advance], splits_cache: bool) -> None:
    model, recorder = make_policy(lora=lora, model_type=model_type), Counter(record)
    decoders = StaticDecoders(recorder)
    written = []
    for samples, apart in ROLLOUTS + OTHER_SHAPES:
        plain = write(model, samples, replace(DECODING, splits_cache=splits_cache), apart=apart)
        static = write(model, samples, replace(STATIC, splits_cache=splits_cache), decoders, apart=apart)
        assert static.completion_ids == plain.completion_ids
        torch.testing.assert_close(logps_of(static), logps_of(plain), rtol=1e-3, atol=1e-3)
        written.append(plain.completion_ids)
        train_a_little(model)
    assert recorder.rows == [2 * G, G, 2 * G]
    assert written[1] != written[4]  # the weights matter


class OwnLayer(torch.nn.Module):
    """A linear layer that is no `torch.nn.Linear`."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.weight = layer.weight

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(rows, self.weight)


@pytest.mark.integration
@pytest.mark.parametrize(("kind", "splits_cache"), [("plain", False), ("lora", True), ("own layer", True)])
def test_mixed_precision_reads_the_present_weights(kind: str, splits_cache: bool) -> None:
    """Every rollout ends autocast and its copies of weights. A recording of the same rollout alone rounds equally; any other nearly so."""
    model, recorder = make_policy(lora=kind == "lora"), Counter(record_operators)
    if kind == "own layer":
        mlp = model.model.language_model.layers[1].mlp
        mlp.down_proj = OwnLayer(mlp.down_proj)
    model.model.language_model.layers[0].requires_grad_(False)
    decoders, static = StaticDecoders(recorder), replace(STATIC, splits_cache=splits_cache)
    for samples, apart in ROLLOUTS[:3]:
        rollouts = []
        for how, kept in ((static, decoders), (static, None), (replace(static, is_static=False), None)):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rollouts.append(write(model, samples, how, kept, apart=apart))
        found, alone, plain = rollouts
        assert found.completion_ids == alone.completion_ids
        same = [one[:2] == other[:2] for one, other in zip(found.completion_ids, plain.completion_ids, strict=True)]
        assert sum(same) >= len(same) / 2
        torch.testing.assert_close(logps_of(found)[same, :2], logps_of(plain)[same, :2], rtol=0.05, atol=0.05)
        train_a_little(model)
    assert len(recorder.rows) == 1
    assert all(type(weight) is torch.nn.Parameter and weight.dtype == torch.float32 for weight in model.parameters())


def adapter_layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "merged_adapters")]


def assign(model: Any) -> None:
    model.load_state_dict({name: weight.clone() for name, weight in model.state_dict().items()}, assign=True)


def move(model: Any) -> None:
    weight = model.model.language_model.layers[1].mlp.down_proj.weight
    weight.data = weight.data.clone()


def switch_off(model: Any) -> None:
    for layer in adapter_layers(model):
        layer.enable_adapters(enabled=False)


def merge(model: Any) -> None:
    for layer in adapter_layers(model):
        layer.merge()


def scale(model: Any) -> None:
    for layer in adapter_layers(model):
        layer.scale_layer(0.5)


# What happens between two rollouts, under autocast or not, and how often their step is recorded.
EVENTS: list[tuple[Callable[[Any], None], bool, int]] = [
    (train_a_little, False, 1),
    (train_a_little, True, 1),
    (lambda model: model.requires_grad_(False), True, 1),
    (lambda model: model.load_state_dict(model.state_dict()), False, 1),
    (assign, False, 2),
    (assign, True, 2),
    (move, False, 2),
    (switch_off, False, 2),
    (merge, True, 2),
    (scale, False, 2),
]


@pytest.mark.integration
@pytest.mark.parametrize(("change", "autocast", "num_recordings"), EVENTS)
def test_a_step_is_recorded_again_when_weights_move(change: Callable[[Any], None], autocast: bool, num_recordings: int) -> None:
    model, recorder = make_policy(lora=True), Counter(record_operators)
    decoders = StaticDecoders(recorder)
    places = []
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            found, alone = (write(model, UNLIKE, STATIC, kept) for kept in (decoders, None))
        assert found.completion_ids == alone.completion_ids
        places.append([tensor.data_ptr() for kept in decoders._kept.values() for tensor in kept.decoder.tensors])
        if len(places) == 1:
            change(model)
    assert len(recorder.rows) == num_recordings
    assert places[0] == places[1] == places[2]  # the KV cache stays, whatever happens to the weights


@pytest.mark.parametrize("splits_cache", [False, True], ids=["joined", "split"])
def test_all_memory_stays_where_it_is(splits_cache: bool) -> None:
    model, decoders = make_policy(), StaticDecoders()
    places = set()
    for samples, apart in ROLLOUTS:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            write(model, samples, replace(STATIC, splits_cache=splits_cache), decoders, apart=apart)
        places.add(tuple(tensor.data_ptr() for tensor in decoders.tensors))
        train_a_little(model)
    assert len(places) == 1
    decoders.clear()
    assert (decoders.num_kept, decoders.tensors) == (0, [])


# Shapes of successive rollouts, how many are kept, the rows of the recordings that are made.
ORDERS: list[tuple[list[Any], int, list[int]]] = [
    ([UNLIKE, ONE, UNLIKE, ONE], 2, [2 * G, G]),
    ([UNLIKE, ONE, UNLIKE, ONE], 1, [2 * G, G, 2 * G, G]),
    ([UNLIKE, ONE, SAMPLES[:3], ONE, UNLIKE], 2, [2 * G, G, 3 * G, 2 * G]),
    ([UNLIKE, ONE, UNLIKE, SAMPLES[:3], UNLIKE, ONE], 2, [2 * G, G, 3 * G, G]),
]


@pytest.mark.parametrize(("order", "max_kept", "recorded"), ORDERS)
def test_the_least_recently_used_shape_is_freed(order: list[Any], max_kept: int, recorded: list[int]) -> None:
    model, recorder = make_policy(), Counter()
    decoders, sizes = StaticDecoders(recorder, max_kept), []
    for samples in order:
        write(model, samples, replace(STATIC, max_new_tokens=2), decoders)
        sizes.append(decoders.num_kept)
    assert recorder.rows == recorded
    assert max(sizes) == max_kept


def test_prompts_are_padded_to_few_widths() -> None:
    model, decoders = make_policy(), StaticDecoders()
    assert {int(length) for length in read_prompts("qwen2_vl", EVEN).mask_BP.sum(dim=1)} == {3 * WIDTH_MULTIPLE}
    for samples in (EVEN, UNLIKE, PAIR, SAMPLES[4:], LONG):
        write(model, samples, STATIC, decoders)
    widths = [shape.width for shape in decoders._kept]
    assert len(widths) == 2
    assert [width % WIDTH_MULTIPLE for width in widths] == [0, 0]


@pytest.mark.integration
def test_a_training_records_once_and_frees_its_memory(tmp_path: Path) -> None:
    """Three steps; the slow of `test_shared_prefix_steps` compare static decoding with TRL's."""
    recorder, kept = Counter(record_operators), []

    def watch(trainer: Any) -> None:
        trainer.decoders.record = recorder
        clear = trainer.decoders.clear
        trainer.decoders.clear = lambda: (kept.append(trainer.decoders.num_kept), clear())

    folder = save_tiny(tmp_path / "policy", hidden=32, layers=2)
    settings: dict[str, Any] = {"max_steps": 3, "learning_rate": 1e-2}
    static, plain = (
        run(folder, pay, settings, {"trainer": own}, share=True, prepare=prepare)
        for own, prepare in (({"static_decoding": True}, watch), ({}, None))
    )
    assert static[1] == plain[1]
    assert len(recorder.rows) == 1
    assert kept == [1]
    assert static[0].decoders.num_kept == 0
