"""A clip is seen as Qwen2-VL sees a video: pairs of frames share their tokens, and the logits are those of the video."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from small_studies import ROW, save_nifti, save_picture, values

import osler
from osler.cli.main import main
from osler.config import Config, StudyConfig, build_config
from osler.errors import ConfigError, DataError
from osler.evaluation.ablations import Ablation, ablate
from osler.evaluation.run import evaluate
from osler.images.clip import Clip, count_frames, count_image_units, part_frames
from osler.images.files import ImageFile
from osler.images.slices import choose_pictures
from osler.images.study import Study
from osler.policies.clips import read_clips
from osler.policies.load import load_policy
from osler.training.grpo import train_grpo

SIZE = 112


def clip_of(tmp_path: Path, number: int, *, seed: int = 0) -> Clip:
    rng = np.random.default_rng(seed)
    for place in range(number):
        PIL.Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(tmp_path / f"{seed}-{place}.png")
    return Clip(sources=tuple(ImageFile(root=tmp_path, path=f"{seed}-{place}.png") for place in range(number)))


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_a_clip_carries_its_frames(tmp_path: Path, number: int) -> None:
    clip = clip_of(tmp_path, number)
    picture = clip.load()
    assert (count_frames(picture), picture.size) == (number, (SIZE, SIZE * number))
    frames = part_frames(picture)
    assert [frame.tobytes() for frame in frames] == [source.load().tobytes() for source in clip.sources]
    assert [count_frames(frame) for frame in frames] == [1] * number
    assert count_image_units(clip) == (number + 1) // 2
    assert clip.digest() != clip_of(tmp_path, number, seed=1).digest()


def test_frames_of_one_size(tmp_path: Path) -> None:
    for name, size in (("a.png", (3, 2)), ("b.png", (2, 3))):
        save_picture(tmp_path / name, 1, size)
    with pytest.raises(DataError, match="differ in size, as a clip cannot"):
        Clip(sources=tuple(ImageFile(root=tmp_path, path=name) for name in ("a.png", "b.png"))).load()


@pytest.mark.parametrize(("number", "times"), [(1, 1), (2, 1), (3, 2), (8, 4)])
def test_the_model_gives_what_it_gives_for_the_video(tmp_path: Path, tiny_folder: Path, number: int, times: int) -> None:
    policy = load_policy(tiny_folder)
    processor, model = policy.processor, policy.model
    picture = clip_of(tmp_path, number).load()
    text = "<|vision_start|><|image_pad|><|vision_end|>Which way?"
    inputs = dict(processor(text=[text], images=[picture], return_tensors="pt"))
    grid = inputs["image_grid_thw"]
    assert grid[0, 0] == times
    # The frames as patches of a video, made here from the pixels: time, then (rows, columns) of merged patches, then colour, time, pixels.
    plain = [processor.image_processor(images=[frame], return_tensors="np")["pixel_values"] for frame in part_frames(picture)]
    plain += plain[-1:] if number % 2 else []
    halves = [patches.reshape(len(patches), 3, 2, -1)[:, :, 0] for patches in plain]
    video = np.concatenate([np.stack(pair, axis=2).reshape(len(pair[0]), -1) for pair in zip(halves[::2], halves[1::2], strict=True)])
    np.testing.assert_array_equal(inputs["pixel_values"].numpy(), video)
    as_image = model(**inputs).logits
    is_image = inputs["input_ids"] == model.config.image_token_id
    as_video = model(
        input_ids=inputs["input_ids"].masked_fill(is_image, model.config.video_token_id),
        attention_mask=inputs["attention_mask"],
        mm_token_type_ids=is_image.int() * 2,
        pixel_values_videos=torch.from_numpy(video),
        video_grid_thw=grid,
    ).logits
    torch.testing.assert_close(as_image, as_video, rtol=0, atol=0)


def test_pictures_and_clips_of_one_call(tmp_path: Path, tiny_folder: Path) -> None:
    image_processor = load_policy(tiny_folder).processor.image_processor
    still, clip, other = (clip_of(tmp_path, number, seed=number).load() for number in (1, 4, 3))
    joined = image_processor(images=[still, clip, still, other], return_tensors="pt")
    alone = [image_processor(images=[picture], return_tensors="pt") for picture in (still, clip, still, other)]
    assert joined["image_grid_thw"].tolist() == [piece["image_grid_thw"][0].tolist() for piece in alone]
    assert torch.equal(joined["pixel_values"], torch.cat([piece["pixel_values"] for piece in alone]))
    assert type(image_processor).__name__ == "Qwen2VLImageProcessorPil" or "Fast" in type(image_processor).__name__


def test_an_image_processor_with_clips_can_be_pickled(tmp_path: Path, tiny_folder: Path) -> None:
    image_processor = load_policy(tiny_folder).processor.image_processor
    again = pickle.loads(pickle.dumps(image_processor))
    picture = clip_of(tmp_path, 4).load()
    found = [one(images=[picture], return_tensors="pt") for one in (image_processor, again)]
    assert torch.equal(found[0]["pixel_values"], found[1]["pixel_values"])
    assert found[1]["image_grid_thw"][0, 0] == 2


def test_other_families_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    image_processor = load_policy(tiny_folder).processor.image_processor
    read_clips(image_processor, joins_frames=False)
    image_processor(images=[clip_of(tmp_path, 1).load()])
    with pytest.raises(ConfigError, match=r"is for policies of the type qwen2_vl"):
        image_processor(images=[clip_of(tmp_path, 2).load()])


@pytest.mark.parametrize("ablation", [Ablation.BLANK, Ablation.NOISE])
def test_an_ablated_clip_is_a_clip(tmp_path: Path, ablation: Ablation) -> None:
    (sample, *_) = osler.read("phantom", split="test", num_questions=1)
    sample = osler.Sample(**{**{name: getattr(sample, name) for name in sample.__slots__}, "images": (clip_of(tmp_path, 3),)})
    (ablated,) = ablate([sample], ablation).samples
    (picture,) = [source.load() for source in ablated.images]
    assert (count_frames(picture), picture.size) == (3, (SIZE, 3 * SIZE))


def test_the_budget_of_a_clip_is_that_of_its_pairs(tmp_path: Path) -> None:
    save_nifti(tmp_path / "v.nii", np.zeros((280, 280, 5), np.int16))
    (clip,) = choose_pictures(Study(root=tmp_path, path="v.nii"), StudyConfig(layout="video", max_tokens=27)).pictures
    assert isinstance(clip, Clip)
    assert [source.load().size for source in clip.sources] == [(84, 84)] * 5  # 3 x 3 tokens for each of three pairs


def recipe(root: Path, policy: Path, **sections: Any) -> Config:
    for number in range(8):
        save_nifti(root / f"{number}.nii.gz", np.repeat(np.repeat(values() + number, 10, 0), 10, 1))
    rows = [{**ROW, "id": str(number), "images": [f"{number}.nii.gz"], "modality": "ct"} for number in range(8)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return build_config(
        {
            "data": {
                "reader": "jsonl",
                "root": str(root / "rows.jsonl"),
                "study": {"layout": "video", "slices": 3},
                "test": {"split": "train"},
            },
            "prompt": {"strategy": "no_think"},
            "policy": {"path": str(policy)},
            "sampling": {"max_completion_length": 4},
            "grpo": {"num_generations": 2, "per_device_train_batch_size": 8, "max_steps": 2, "bf16": False, "learning_rate": 1e-3},
            "eval": {"max_completion_length": 4},
            **sections,
        }
    )


@pytest.mark.integration
@pytest.mark.parametrize("share_prefix", [True, False])
def test_grpo_trains_and_evaluates_on_clips(tmp_path: Path, tiny_folder: Path, share_prefix: bool) -> None:
    config = recipe(tmp_path, tiny_folder, trainer={"share_prefix": share_prefix})
    train_grpo(config, tmp_path / "run")
    result = evaluate(config, tmp_path / "eval")
    (line, *_) = (tmp_path / "eval" / "records" / "eval.jsonl").read_text().splitlines()
    assert json.loads(line)["image_uris"][0].startswith("clip:0.nii.gz?axis=2&index=0")
    assert result is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--to=verl", "--out=x", "--data.study.layout=video"], "is no file that other tools read"),
        (["eval", "demo", "--data.study.layout=film"], "data.study.layout: Input should be 'images', 'montage' or 'video'"),
    ],
)
def test_what_is_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
