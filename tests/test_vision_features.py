"""Features of a frozen vision tower: computed once, kept within their bound, and the same as computed again."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_prefix_cases import UNLIKE, make_sharp, pay, read_groups, run
from tiny_checkpoint import make_processor, save_tiny

from osler.errors import ConfigError
from osler.policies.families import FAMILIES
from osler.policies.vision_features import FeatureStore, FrozenVision, ImageFeatures, fingerprint_processor, has_same_tower, is_frozen
from osler.training.shared_prefix.packed_row import prefill


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def count_images(model: Any) -> list[int]:
    """Notes how many images the tower meets in each call."""
    seen: list[int] = []
    model.model.visual.register_forward_pre_hook(lambda _module, _args, kwargs: seen.append(len(kwargs["grid_thw"])), with_kwargs=True)
    return seen


@pytest.mark.parametrize("model_type", FAMILIES)
def test_features_take_the_place_of_images(model_type: str, tmp_path: Path) -> None:
    """From the tower, from the folder, and in another order; Qwen3-VL's come with those of its inner layers."""
    model, groups = make_sharp(model_type), read_groups(model_type, UNLIKE)
    model.model.visual.requires_grad_(False)
    assert is_frozen(model)
    expected = prefill(model, groups.prompts([1, 0]))
    seen = count_images(model)
    for number_seen in ([2], []):
        seen.clear()
        groups.encode_images(FrozenVision(model, FeatureStore(tmp_path / "kept", 1 << 30)))
        assert seen == number_seen
        found = prefill(model, groups.prompts([1, 0]))
        assert seen == number_seen
        torch.testing.assert_close(found.last_BE, expected.last_BE, rtol=1e-5, atol=1e-5)
    assert len(list((tmp_path / "kept").glob("*.safetensors"))) == 2


def test_another_tower_has_features_of_its_own(tmp_path: Path) -> None:
    model, groups = make_sharp("qwen2_vl"), read_groups("qwen2_vl", UNLIKE)
    store = FeatureStore(tmp_path, 1 << 30)
    groups.encode_images(FrozenVision(model, store))
    other = make_sharp("qwen2_vl")
    assert has_same_tower(model, other)
    with torch.no_grad():
        next(other.model.visual.parameters()).add_(1)
    assert not has_same_tower(model, other)
    seen = count_images(other)
    groups.encode_images(FrozenVision(other, store))
    groups.encode_images(FrozenVision(other, store, "bf16"))
    groups.encode_images(FrozenVision(other, store))
    assert seen == [2, 2]


def test_features_are_kept_under_pixels_and_processor(tmp_path: Path) -> None:
    """A picture of the same size with one other pixel, and a processor with one other setting, have features of their own."""
    model, groups = make_sharp("qwen2_vl"), read_groups("qwen2_vl", UNLIKE)
    processor, store = make_processor("qwen2_vl"), FeatureStore(tmp_path, 1 << 30)
    settings = fingerprint_processor(processor)
    assert settings == fingerprint_processor(make_processor("qwen2_vl"))
    seen = count_images(model)
    groups.encode_images(FrozenVision(model, store, settings))
    changed = groups.members[0].pictures[0].copy()
    changed.putpixel((3, 4), (1, 2, 3))
    groups.members[0] = replace(groups.members[0], pictures=(changed,))
    groups.encode_images(FrozenVision(model, store, settings))
    processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    groups.encode_images(FrozenVision(model, store, fingerprint_processor(processor)))
    assert seen == [2, 1, 2]


def make_features(value: float) -> ImageFeatures:
    return ImageFeatures(pooled_TE=torch.full((16, 32), value), deepstack_TE=(torch.zeros(16, 32), torch.full((16, 32), value)))


def test_the_folder_is_bounded(tmp_path: Path) -> None:
    """The longest unused file goes first, and one that is larger than all there is room for is not kept."""
    store = FeatureStore(tmp_path, 1 << 30)
    store.write("a", make_features(1))
    size = (tmp_path / "a.safetensors").stat().st_size
    store = FeatureStore(tmp_path, 2 * size)
    store.write("b", make_features(2))
    for name, age in (("a", 50), ("b", 100)):
        os.utime(tmp_path / f"{name}.safetensors", (age, age))
    cpu = torch.device("cpu")
    assert store.read("b", cpu) is not None  # used now
    store.write("c", make_features(3))
    assert sorted(file.stem for file in tmp_path.glob("*.safetensors")) == ["b", "c"]
    kept = store.read("c", cpu)
    assert kept is not None
    assert [float(tensor.max()) for tensor in (kept.pooled_TE, *kept.deepstack_TE)] == [3, 0, 3]
    FeatureStore(tmp_path, size - 1).write("d", make_features(4))
    assert store.read("d", cpu) is None


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 64])
def test_a_broken_file_counts_as_absent(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    assert FeatureStore(tmp_path, 1 << 20).read("a", torch.device("cpu")) is None


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^\[trainer\] vision_cache = '.*file/kept': .*; name a folder that can be written$"):
        FeatureStore(tmp_path / "file" / "kept", 1)


@pytest.mark.integration
def test_a_second_training_sees_no_image(tmp_path: Path) -> None:
    """Nor does the second epoch of the first; the check of the first update asks TRL, which has no cache."""
    folder = save_tiny(tmp_path / "policy", hidden=32, layers=2)
    seen: list[int] = []

    def watch(trainer: Any) -> None:
        trainer.checks_itself = False
        trainer.model.model.visual.register_forward_pre_hook(
            lambda _module, _args, kwargs: seen.append(len(kwargs["grid_thw"])), with_kwargs=True
        )

    sections = {"policy": {"freeze_vision": True}, "trainer": {"vision_cache": str(tmp_path / "kept")}}
    first = run(folder, pay, {"max_steps": 4}, dict(sections), share=True, prepare=watch)
    assert sum(seen) == 7  # the images of six questions, one of which has two
    seen.clear()
    second = run(folder, pay, {"max_steps": 4}, dict(sections), share=True, prepare=watch)
    assert seen == []
    for name, weight in first[3].items():
        torch.testing.assert_close(second[3][name], weight, rtol=0, atol=0)
