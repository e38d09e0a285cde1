"""LoRA adapters of other versions and tools: their weights find their modules, or the adapter is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoint import save_tiny

from osler.config import PolicyConfig
from osler.errors import PolicyError
from osler.policies.families import FAMILIES
from osler.policies.load import load_policy
from osler.policies.quiet import quiet_loading

Weights = dict[str, torch.Tensor]
Row = tuple[str, dict[str, Any]]
R, ALPHA = 2, 6.0


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint of every family."""
    folder = tmp_path_factory.mktemp("bases")
    return {model_type: save_tiny(folder / model_type, model_type) for model_type in FAMILIES}


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Weights:
    """The weights of the tiny policy without an adapter."""
    weights: Weights = load(tiny_folder).state_dict()
    return weights


def load(folder: Path, *, merge: bool = True) -> Any:
    return load_policy(PolicyConfig(path=str(folder), device="cpu"), merge_adapter=merge).model


def make(folder: Path, base: Path, **settings: Any) -> Path:
    """An adapter as peft saves it, with random weights."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(**{"r": R, "lora_alpha": ALPHA, "init_lora_weights": False, "task_type": "CAUSAL_LM", **settings})
    with quiet_loading():
        wrapped = get_peft_model(load(base), config)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "modules_to_save" in name or "magnitude" in name:
                weight.add_(0.1 * torch.rand_like(weight))
    wrapped.save_pretrained(folder)
    values = json.loads((folder / "adapter_config.json").read_text())
    edit(folder, base_model_name_or_path=str(base), target_modules=settings.get("target_modules", values["target_modules"]))
    return folder


def edit(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: weight.contiguous() for name, weight in change(load_file(path)).items()}, path, metadata={"format": "pt"})


def rename(*pairs: tuple[str, str]) -> Callable[[Weights], Weights]:
    def change(weights: Weights) -> Weights:
        for old, new in pairs:
            weights = {name.replace(old, new): weight for name, weight in weights.items()}
        return weights

    return change


VISION = ("model.visual.", "visual.")
BEFORE_4_52 = (("model.language_model.", "model."), VISION)
VLLM = (("model.language_model.", "language_model.model."), VISION)
WITHOUT_HEAD = (("model.language_model.", "language_model."), VISION)
BARE = (("base_model.model.", ""),)
LAYOUTS = [
    ("same", (), FAMILIES),
    ("before 4.52", BEFORE_4_52, ("qwen2_vl", "qwen2_5_vl")),
    ("vLLM", VLLM, FAMILIES),
    ("without head", WITHOUT_HEAD, FAMILIES),
    ("bare", BARE, FAMILIES),
    ("bare vLLM", (*VLLM, *BARE), FAMILIES),
]
ALL = {"target_modules": ["q_proj", "down_proj", "qkv"]}


@pytest.fixture(scope="module")
def products(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Weights]]:
    """For every family an adapter, which whoever changes it copies, and the weights of its base plus its product."""
    found = {}
    for model_type, base in bases.items():
        folder = make(tmp_path_factory.mktemp("adapters") / model_type, base, **ALL)
        weights = load_file(folder / "adapter_model.safetensors")
        expected = load(base).state_dict()
        adapted = {key.partition(".lora_")[0] for key in weights}
        assert any("visual" in name for name in adapted)
        assert any("language_model" in name for name in adapted)
        for name in adapted:
            product = weights[f"{name}.lora_B.weight"] @ weights[f"{name}.lora_A.weight"]
            expected[f"{name.removeprefix('base_model.model.')}.weight"] += ALPHA / R * product
        found[model_type] = folder, expected
    return found


@pytest.mark.integration
@pytest.mark.parametrize(
    ("pairs", "model_type"),
    [pytest.param(pairs, family, id=f"{name}-{family}") for name, pairs, families in LAYOUTS for family in families],
)
def test_what_is_loaded_is_the_base_plus_its_product(
    products: dict[str, tuple[Path, Weights]], tmp_path: Path, pairs: tuple[tuple[str, str], ...], model_type: str
) -> None:
    made, expected = products[model_type]
    folder = shutil.copytree(made, tmp_path / "adapter")
    rewrite(folder, rename(*pairs))
    merged = load(folder).state_dict()
    assert merged.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(merged[name], weight)


def test_a_merge_rounds_once(bases: dict[str, Path], tmp_path: Path) -> None:
    """In bfloat16 the sum is that of float32, rounded to what the weights are stored in."""
    folder = make(tmp_path / "adapter", bases["qwen2_vl"], target_modules=["q_proj"])
    weights = load_file(folder / "adapter_model.safetensors")
    base, merged = (
        load_policy(PolicyConfig(path=str(path), device="cpu", dtype="bfloat16")).model.state_dict() for path in (bases["qwen2_vl"], folder)
    )
    for name in {key.partition(".lora_")[0] for key in weights}:
        key = f"{name.removeprefix('base_model.model.')}.weight"
        product = weights[f"{name}.lora_B.weight"] @ weights[f"{name}.lora_A.weight"]
        assert torch.equal(merged[key], (base[key].float() + ALPHA / R * product).bfloat16())
        assert not torch.equal(merged[key], base[key] + (ALPHA / R * product).bfloat16())


SETTINGS: list[Row] = [
    ("all linear layers", {"target_modules": "all-linear"}),
    ("a regex", {"target_modules": r".*language_model\.layers\.1\..*(q_proj|up_proj)"}),
    ("excluded modules", {"target_modules": "all-linear", "exclude_modules": r"(.*\.)?model\.visual\..*"}),
    ("one layer", {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}),
    ("ranks", {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 4}, "alpha_pattern": {"v_proj": 32}}),
    ("rsLoRA", {"target_modules": ["q_proj"], "use_rslora": True}),
    ("DoRA", {"target_modules": ["q_proj"], "use_dora": True}),
    ("whole modules", {"target_modules": ["q_proj"], "modules_to_save": ["merger"]}),
    ("biases", {"target_modules": ["q_proj"], "bias": "lora_only"}),
    ("PiSSA", {"target_modules": ["q_proj"], "init_lora_weights": "pissa"}),
    ("OLoRA", {"target_modules": ["q_proj"], "init_lora_weights": "olora"}),
    ("new tokens", {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]}),
]


@pytest.mark.integration
@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=[row[0] for row in SETTINGS])
def test_pefts_settings_are_kept(tiny_folder: Path, base: Weights, tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    from peft import PeftModel

    folder = make(tmp_path / "adapter", tiny_folder, **settings)
    with quiet_loading():
        expected = PeftModel.from_pretrained(load(tiny_folder), str(folder)).merge_and_unload().state_dict()
    merged = load(folder).state_dict()
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[key], expected[key]) for key in expected)
    assert any(not torch.equal(merged[key], base[key]) for key in base)


FORMER_SETTINGS: list[Row] = [
    ("a regex", {"target_modules": r"^(?!.*visual)model\.layers\.1\..*\.(q_proj|up_proj)$"}),
    ("a regex that now names both parts", {"target_modules": r"^(model)(?!.*(lm_head|embed)).*\.(q_proj|qkv|fc1)$"}),
    ("excluded modules", {"target_modules": ["q_proj", "qkv"], "exclude_modules": r"visual\..*"}),
    ("one layer", {"target_modules": ["q_proj"], "layers_to_transform": 1}),
    ("full names", {"target_modules": ["model.layers.0.self_attn.q_proj", "visual.blocks.0.attn.qkv"]}),
    ("ranks by full name", {"target_modules": ["q_proj"], "rank_pattern": {r"^model.layers.0.self_attn.q_proj": 4}}),
    ("settings of present names", {}),
    ("scales by full name", {"target_modules": ["q_proj"], "alpha_pattern": {r"^model.layers.0.self_attn.q_proj": 32}}),
]
PRESENT_SETTINGS: dict[str, dict[str, Any]] = {
    "settings of present names": {
        "target_modules": ["q_proj", "qkv"],
        "exclude_modules": r"(.*\.)?model\.visual\..*",
        "alpha_pattern": {"model.language_model.layers.0.self_attn.q_proj": 32},
    },
    "a regex": {"target_modules": r"^(?!.*visual)model\.language_model\.layers\.1\..*\.(q_proj|up_proj)$"},
    "a regex that now names both parts": {"target_modules": ["q_proj"]},
    "excluded modules": {"target_modules": ["q_proj"]},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": 1},
    "full names": {"target_modules": r"model\.language_model\.layers\.0\..*q_proj|model\.visual\.blocks\.0\.attn\.qkv"},
    "ranks by full name": {"target_modules": ["q_proj"], "rank_pattern": {r".*layers.0.self_attn.q_proj": 4}},
    "scales by full name": {"target_modules": ["q_proj"], "alpha_pattern": {r".*layers.0.self_attn.q_proj": 32}},
}


@pytest.mark.integration
@pytest.mark.parametrize(("name", "settings"), FORMER_SETTINGS, ids=[row[0] for row in FORMER_SETTINGS])
def test_settings_are_read_with_the_names_they_were_written_for(
    tiny_folder: Path, base: Weights, tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    """The same adapter twice: with present names, and with the weights, and mostly the settings, as Transformers 4.51 named them."""
    present = make(tmp_path / "present", tiny_folder, **PRESENT_SETTINGS[name])
    former = Path(shutil.copytree(present, tmp_path / "former"))
    rewrite(former, rename(*BEFORE_4_52))
    edit(former, **settings)
    expected, merged = (load(folder).state_dict() for folder in (present, former))
    assert all(torch.equal(merged[key], expected[key]) for key in expected)
    assert any(not torch.equal(merged[key], base[key]) for key in base)


def test_an_adapter_that_stays_apart_is_peft(tiny_folder: Path, tmp_path: Path) -> None:
    folder = make(tmp_path / "adapter", tiny_folder, **ALL)
    rewrite(folder, rename(*BEFORE_4_52))
    wrapped = load(folder, merge=False)
    assert wrapped.peft_config["default"].inference_mode
    assert wrapped.peft_config["default"].base_model_name_or_path == str(tiny_folder)
    assert not wrapped.training
    assert not any(weight.requires_grad for name, weight in wrapped.named_parameters() if "lora_" in name)
    merged, alone = load(folder).state_dict(), wrapped.merge_and_unload().state_dict()
    assert all(torch.equal(merged[key], alone[key]) for key in merged)


FIRST = "model.language_model.layers.0.self_attn.q_proj.lora_A.weight"


def drop_half(weights: Weights) -> Weights:
    return {name: weights[name] for name in sorted(weights)[: len(weights) // 2]}


def add(name: str, *shape: int) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda weights: {**weights, f"base_model.model.{name}": torch.ones(*shape)})


def widen(folder: Path) -> None:
    rewrite(folder, lambda weights: {name: torch.cat([weight, weight], int("lora_B" in name)) for name, weight in weights.items()})


MISFITS: list[tuple[str, Callable[[Path], object], str]] = [
    (
        "half of the weights",
        lambda f: rewrite(f, drop_half),
        r"lacks model\.language_model\.layers\.1\..* and 1 others, which its config asks for",
    ),
    ("no weights", lambda f: rewrite(f, lambda _: {}), rf"lacks {FIRST} and 3 others, .*download it again"),
    ("one of two", lambda f: rewrite(f, lambda w: {n: t for n, t in w.items() if "lora_A" in n}), r"lacks .*lora_B.weight and 1 other"),
    ("unknown names", lambda f: rewrite(f, rename(("layers", "blocks"))), r"no module.*takes model.language_model.blocks.* and 3 other"),
    ("deeper base", lambda f: rewrite(f, rename((".1.", ".7."))), r"no module.*language_model\.layers\.7\..* and 1 other.*trained on"),
    ("another adapter's name", lambda f: rewrite(f, rename(("lora_A.", "lora_A.mine."))), r"no module.*lora_A\.mine\.weight and 1 other"),
    ("packed as in vLLM", lambda f: rewrite(f, rename(("q_proj", "qkv_proj"))), r"no module.*qkv_proj"),
    ("a DoRA part", add(FIRST.replace("lora_A.weight", "lora_magnitude_vector"), 32), r"no module.*takes .*lora_magnitude_vector, "),
    ("DoRA without its part", lambda f: edit(f, use_dora=True), r"lacks .*lora_magnitude_vector and 1 other"),
    ("a whole module", add("lm_head.weight", 2, 2), r"has another shape for lm_head.weight, "),
    ("a whole layer", add("model.visual.merger.mlp.0.weight", 4, 4), r"no module.*takes model.visual.merger.mlp.0.weight, "),
    ("no whole module", lambda f: edit(f, modules_to_save=["merger"]), r"lacks model.visual.merger.* and 5 others"),
    ("another rank", lambda f: edit(f, r=4), rf"another shape for {FIRST} and 3 other"),
    ("a wider base", widen, rf"another shape for {FIRST} and 3 other"),
    ("targets that are nowhere", lambda f: edit(f, target_modules=["c_attn"]), r"not found in the base"),
    ("a broken regex", lambda f: edit(f, target_modules="(q_proj"), r"does not fit"),
    ("targets of another type", lambda f: edit(f, target_modules=7), r"does not fit"),
    ("named twice", lambda f: rewrite(f, lambda w: {**w, FIRST: torch.ones(2, 32)}), r"names a weight twice"),
    ("cut short", lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x10\0\0"), r"does not fit"),
    ("a base that was drawn", lambda f: edit(f, init_lora_weights="pissa_niter_4"), r"'pissa_niter_4'.* not saved.*weight_conversion"),
    ("pickled", lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), r"safe_serialization=True"),
]


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("adapters") / "adapter", tiny_folder, target_modules=["q_proj"])


@pytest.mark.parametrize(("name", "damage", "message"), MISFITS, ids=[row[0] for row in MISFITS])
def test_an_adapter_that_does_not_fit_is_refused(
    adapter: Path, tmp_path: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    damage(folder)
    with pytest.raises(PolicyError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning", "ignore:Model has `tie_word_embeddings:UserWarning")
def test_an_adapter_of_tied_weights_is_not_merged(tiny_folder: Path, tmp_path: Path) -> None:
    """Merged, the change of the embedding would also change the output layer."""
    folder = make(tmp_path / "adapter", tiny_folder, target_modules=["embed_tokens"])
    weights = load_file(folder / "adapter_model.safetensors")
    assert "base_model.model.model.language_model.embed_tokens.base_layer.weight" in weights
    wrapped = load(folder, merge=False)
    loaded = wrapped.get_base_model().model.language_model.embed_tokens.lora_embedding_A["default"]
    assert torch.equal(loaded, weights["base_model.model.model.language_model.embed_tokens.lora_embedding_A"])
    with pytest.raises(PolicyError, match=r"adapts model\.language_model\.embed_tokens, whose weights are both"):
        load(folder)
