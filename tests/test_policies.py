import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import CHAT_TEMPLATE, apply_lora, make_model, save_hub_layout, save_tiny

from osler.config import LoraSection, PolicyConfig
from osler.errors import PolicyError
from osler.policies.families import FAMILIES
from osler.policies.load import load_policy
from osler.policies.lora import lora_config
from osler.policies.sources import PACKAGED_POLICIES, find_policy, fingerprint

PROMPT = torch.tensor([[65, 66, 67, 68]])


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=PROMPT).logits


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_loads(tmp_path: Path, model_type: str) -> None:
    policy = load_policy(PolicyConfig(path=str(save_tiny(tmp_path / "mine", model_type)), device="cpu"))
    assert policy.name == "mine"
    assert policy.family is FAMILIES[model_type]
    assert policy.device.type == "cpu"
    assert not policy.model.training
    assert policy.model.get_submodule(policy.family.vision) is not None
    assert policy.model.get_submodule(policy.family.language) is not None
    assert type(policy.processor).__name__ == policy.family.processor_class
    assert torch.equal(logits(policy.model), logits(make_model(model_type)))


@pytest.fixture(scope="module")
def hub_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_hub_layout(tmp_path_factory.mktemp("hub") / "Qwen2-VL-2B-Instruct")


def test_the_published_layout_loads(hub_layout: Path) -> None:
    policy = load_policy(PolicyConfig(path=str(hub_layout), device="cpu", max_pixels=401408))
    assert torch.equal(logits(policy.model), logits(make_model()))
    assert policy.model.lm_head.weight is policy.model.model.language_model.embed_tokens.weight
    assert policy.model.config.text_config.rope_parameters["mrope_section"] == [2, 1, 1]
    assert policy.processor.chat_template == CHAT_TEMPLATE
    assert policy.processor.image_processor.size["shortest_edge"] == 3136
    assert policy.processor.image_processor.size["longest_edge"] == 401408
    assert policy.tokenizer.padding_side == "left"


def test_the_checkpoints_sampling_defaults_are_dropped(hub_layout: Path) -> None:
    policy = load_policy(PolicyConfig(path=str(hub_layout), device="cpu"))
    tokenizer, kept = policy.tokenizer, policy.model.generation_config
    assert kept.eos_token_id == [tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert kept.pad_token_id == tokenizer.pad_token_id
    assert {getattr(kept, name) for name in ("temperature", "top_p", "top_k", "do_sample", "repetition_penalty")} <= {None}


def test_settings_are_applied(tiny_folder: Path) -> None:
    config = PolicyConfig(
        path=str(tiny_folder),
        dtype="bfloat16",
        device="cpu",
        attn_implementation="eager",
        min_pixels=3136,
        max_pixels=6272,
        freeze_vision=True,
    )
    policy = load_policy(config)
    assert policy.model.dtype is torch.bfloat16
    assert policy.model.config._attn_implementation == "eager"
    assert policy.processor.image_processor.size["longest_edge"] == 6272
    trainable = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    assert trainable
    assert not any(name.startswith(policy.family.vision) for name in trainable)


def test_a_run_stands_for_its_policy(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "grpo-think" / "policy")
    (tmp_path / "grpo-think" / "config.json").write_text('{"name": "a recipe"}')
    for path in (tmp_path / "grpo-think", tmp_path / "grpo-think" / "policy"):
        source = find_policy(path)
        assert source.name == "grpo-think"
        assert Path(source.path) == tmp_path / "grpo-think" / "policy"


@pytest.mark.skipif(not (PACKAGED_POLICIES / "osler-tiny" / "config.json").is_file(), reason="osler-tiny is not built yet")
def test_the_packaged_policy_loads() -> None:
    policy = load_policy("osler-tiny")
    assert policy.name == "osler-tiny"
    assert policy.model.name_or_path == "osler-tiny"


# LoRA


def make_adapter(tiny_folder: Path, folder: Path, base: str | None = None) -> Any:
    """A saved adapter with weights that matter, and the wrapped model it came from."""
    model = apply_lora(load_policy(PolicyConfig(path=str(tiny_folder), device="cpu")), LoraSection(r=2, alpha=64.0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    if base is not None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
    return model.eval()


def test_a_fresh_adapter_changes_nothing_and_leaves_vision_alone(tiny_folder: Path) -> None:
    policy = load_policy(PolicyConfig(path=str(tiny_folder), device="cpu"))
    before = logits(policy.model)
    model = apply_lora(policy, LoraSection(r=2))
    assert torch.equal(logits(model), before)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora" in name and "visual" not in name and "lm_head" not in name for name in trained)


@pytest.mark.parametrize(
    ("targets", "touches_vision"),
    [("all-linear", False), (("q_proj", "v_proj"), False), (("visual.blocks.0.attn.qkv",), True), (r".*visual.*\.fc1", True)],
    ids=str,
)
def test_vision_is_adapted_on_wish(tiny_folder: Path, targets: str | tuple[str, ...], touches_vision: bool) -> None:
    model = apply_lora(load_policy(PolicyConfig(path=str(tiny_folder), device="cpu")), LoraSection(r=2, target_modules=targets))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert names
    assert any("visual" in name for name in names) == touches_vision


def test_an_adapter_loads_on_its_base(tiny_folder: Path, tmp_path: Path) -> None:
    expected = logits(make_adapter(tiny_folder, tmp_path / "sft" / "policy"))
    merged = load_policy(PolicyConfig(path=str(tmp_path / "sft"), device="cpu"))
    wrapped = load_policy(PolicyConfig(path=str(tmp_path / "sft" / "policy"), device="cpu"), merge_adapter=False)
    base = load_policy(PolicyConfig(path=str(tiny_folder), device="cpu"))
    assert merged.name == wrapped.name == "sft"
    assert merged.family is base.family
    torch.testing.assert_close(logits(merged.model), expected)
    torch.testing.assert_close(logits(wrapped.model), expected)
    assert not torch.allclose(logits(base.model), expected)


def test_lora_config_is_peft(tiny_folder: Path) -> None:
    config = lora_config(LoraSection(r=4, alpha=8, dropout=0.1), FAMILIES["qwen3_vl"])
    assert (config.r, config.lora_alpha, config.lora_dropout, config.target_modules) == (4, 8, 0.1, "all-linear")


# What goes wrong


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def split_off_index(folder: Path, shard: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"a": shard}}))


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def drop_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if name.endswith("norm.weight")))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def widen(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit_json(folder / "config.json", text_config={**text, "intermediate_size": 2 * text["intermediate_size"]})


def make_odd_adapter(folder: Path, **values: Any) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "osler-none/x", **values}))


BAD_FOLDERS: list[tuple[str, Callable[[Path], object], str]] = [
    ("no config", lambda f: (f / "config.json").unlink(), "no config.json"),
    ("broken config", lambda f: (f / "config.json").write_text("{"), "not JSON"),
    ("a list for a config", lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
    ("another architecture", lambda f: edit_json(f / "config.json", model_type="llava"), "'llava'.*qwen2_vl, qwen2_5_vl, qwen3_vl"),
    ("no type", lambda f: edit_json(f / "config.json", model_type=None), "supports qwen2_vl"),
    ("pickled weights", pickle_weights, "pickled weights.*safetensors"),
    ("no weights", lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    ("a shard is missing", lambda f: split_off_index(f, "model-00001-of-00001.safetensors"), "lacks model-00001"),
    ("a shard outside", lambda f: split_off_index(f, "../secret.safetensors"), "same folder"),
    ("a pickled shard", lambda f: split_off_index(f, "pytorch_model.bin"), "same folder"),
    ("half a download", lambda f: (f / "model.safetensors").write_bytes(b"\x10\0\0"), "cannot load"),
    ("a weight is missing", drop_a_weight, "norm.weight and 0 others"),
    ("other sizes", widen, "mlp.*its config differ"),
    ("cut short", lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-64]), "cannot load"),
    ("no tokenizer", lambda f: (f / "tokenizer.json").unlink(), "processor|tokenizer"),
    ("no image settings", lambda f: (f / "processor_config.json").unlink(), "preprocessor_config.json"),
    ("no chat template", lambda f: (f / "chat_template.jinja").unlink(), "no chat template"),
    ("no end token", lambda f: edit_json(f / "tokenizer_config.json", eos_token=None), "eos_token"),
    ("an adapter without weights", lambda f: make_odd_adapter(f), "adapter_model.safetensors"),
    ("another kind of adapter", lambda f: make_odd_adapter(f, peft_type="IA3"), "loads LoRA"),
]


@pytest.mark.parametrize(("name", "damage", "message"), BAD_FOLDERS, ids=[row[0] for row in BAD_FOLDERS])
def test_bad_folders_are_refused_in_one_line(
    tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], object], message: str
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "policy-folder"))
    damage(folder)
    with pytest.raises(PolicyError, match=message) as caught:
        load_policy(PolicyConfig(path=str(folder), device="cpu"))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


ADAPTER_ROWS: list[tuple[str, Callable[[Path], str], str]] = [
    ("a base that is gone", lambda folder: str(folder / "gone" / "deep" / "x"), "no policy at"),
    ("a base without a name", lambda _: "", "base_model_name_or_path"),
    ("a base that is an adapter", lambda folder: str(folder), "adapter itself"),
]


@pytest.mark.parametrize(("name", "base", "message"), ADAPTER_ROWS, ids=[row[0] for row in ADAPTER_ROWS])
def test_bad_bases_are_refused(tiny_folder: Path, tmp_path: Path, name: str, base: Callable[[Path], str], message: str) -> None:
    make_adapter(tiny_folder, tmp_path / "first")
    make_adapter(tiny_folder, tmp_path / "second", base=base(tmp_path / "first"))
    with pytest.raises(PolicyError, match=message):
        load_policy(PolicyConfig(path=str(tmp_path / "second"), device="cpu"))


BAD_CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"path": "nobody/nothing-at-all"}, "hub gives no such policy"),
    ({"path": "misspelt-tiny"}, "hub gives no such policy"),
    ({"path": "./no/such/folder"}, "no policy at"),
    ({"path": "/no/such/folder"}, "no policy at"),
    ({"path": "https://example.org/model"}, "no policy at"),
    ({"path": ""}, "no config.json|no policy at"),
    ({"path": __file__}, "is a file"),
    ({"device": "tpu-9000"}, "is no device"),
    ({"device": "meta"}, "is no device"),
    *([] if torch.backends.mps.is_available() else [({"device": "mps"}, "this machine has no such device: use auto or cpu")]),
    ({"device": "cuda:63"}, "GPUs"),
    ({"attn_implementation": "flash_attention_9"}, "attn_implementation|cannot load"),
    ({"attn_implementation": "flash_attention_2"}, "attn_implementation|cannot load"),
    ({"min_pixels": 6272, "max_pixels": 3136}, "swap them"),
]


@pytest.mark.parametrize(("values", "message"), BAD_CONFIGS, ids=[str(row[0]) for row in BAD_CONFIGS])
def test_bad_settings_are_refused_in_one_line(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError, match=message) as caught:
        load_policy(PolicyConfig(**{"path": str(tiny_folder), "device": "cpu", **values}))
    assert "\n" not in str(caught.value)


def test_fingerprints_follow_the_weights(tiny_folder: Path, tmp_path: Path) -> None:
    same = Path(shutil.copytree(tiny_folder, tmp_path / "same"))
    other = save_tiny(tmp_path / "other", seed=1)
    make_adapter(tiny_folder, tmp_path / "adapter")
    prints = [fingerprint(path) for path in (tiny_folder, other, tmp_path / "adapter", "Qwen/Qwen2-VL-2B-Instruct")]
    assert len(set(prints)) == 4
    assert fingerprint(same) == prints[0]
