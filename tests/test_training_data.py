"""What a training reads: rows with the columns of the rewards, images, and the lengths of prompts."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from accelerate.utils import send_to_device
from PIL import Image
from small_runs import SOLID_SAMPLES, SolidImage, solid_sample
from small_studies import read_row, recipe, save_nifti

from osler.data.select import load_split
from osler.errors import ConfigError, DataError
from osler.evaluation.engines.hf import HfEngine
from osler.facts import Fact, Facts, Kind, Term
from osler.images.clip import Clip
from osler.images.files import ImageFile
from osler.policies.image_tokens import check_study_tokens, count_image_tokens, max_image_tokens
from osler.policies.load import load_policy
from osler.prompts import render
from osler.training.dataset import (
    ImageCache,
    Whole,
    build_dataset,
    check_images,
    check_prompt_lengths,
)
from osler.types import ImageSource


def test_long_prompts_are_found_by_their_real_length(tiny_folder: Path) -> None:
    """The limit is exact, for one image and for two, and images count by their tokens."""
    processor = load_policy(str(tiny_folder)).processor
    for sample in (solid_sample((1, 56)), solid_sample((2, 112), (3, 84))):
        prompt = render(sample, "no_think", phase="train")
        text = processor.apply_chat_template(list(prompt.messages), add_generation_prompt=True, tokenize=False)
        length = len(processor(text=[text], images=[source.load() for source in sample.images])["input_ids"][0])
        check_prompt_lengths([prompt], processor, length)
        with pytest.raises(DataError, match=f"^{sample.id} makes a prompt of {length} tokens"):
            check_prompt_lengths([prompt], processor, length - 1)


@pytest.mark.parametrize(("least", "most"), [(4, 16), (196, 196), (49, 64), (1, 1), (256, 1280)], ids=str)
def test_no_image_takes_more_tokens_than_the_bound(least: int, most: int) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    size = {"shortest_edge": 784 * least, "longest_edge": 784 * most}
    bound = max_image_tokens(SimpleNamespace(image_processor=SimpleNamespace(patch_size=14, merge_size=2, size=size)))
    sides = [*range(28, 400, 9), 997, 2048, 5600]
    tokens = [
        math.prod(smart_resize(height, width, 28, 784 * least, 784 * most)) // 784
        for height in sides
        for width in sides
        if max(height, width) <= 200 * min(height, width)
    ]
    assert most <= max(tokens) <= bound <= 3 * most + 230


@pytest.mark.parametrize("is_private", [False, True])
@pytest.mark.parametrize(
    ("study", "remedy"),
    [
        ({}, None),
        ({"layout": "video"}, None),
        ({"layout": "montage"}, None),
        ({"max_tokens": 0}, None),
        ({"max_tokens": 96}, r"16 image tokens, of which .* leaves it 12: set \[data.study\] min_tokens = 16, and max_tokens to no less"),
        ({"max_tokens": 96, "min_tokens": 16}, None),  # six slices
        ({"max_tokens": 96, "layout": "video"}, None),
        ({"max_tokens": 60, "layout": "video"}, "leaves it 15: set .* min_tokens = 16"),
        ({"max_tokens": 12, "layout": "montage"}, "leaves it 12: set .* min_tokens = 16, and max_tokens to no less"),
        ({"max_tokens": 96, "token_side": 32}, r"set \[data.study\] token_side = 28"),
    ],
)
def test_a_processor_keeps_the_tokens_of_a_study(tmp_path: Path, study: dict[str, Any], remedy: str | None, is_private: bool) -> None:
    """osler-tiny gives every square picture 16 tokens, however small it is."""
    policy = load_policy("osler-tiny")
    processor = policy.processor
    save_nifti(tmp_path / "v.nii", np.zeros((60, 60, 20), np.int16))
    read_row(tmp_path, ["v.nii"])
    data = recipe(tmp_path, study=study, private=is_private, key_file=str(tmp_path.parent / f"{tmp_path.name}.key")).data
    prompts = [render(sample, "no_think", phase="train") for sample in load_split(data, "train")]
    if remedy is None:
        check_study_tokens(prompts, processor)
        taken = sum(count_image_tokens(source, processor) for source in prompts[0].sample.images)
        assert taken <= (data.study.max_tokens or taken)
        return
    with pytest.raises(ConfigError, match=remedy):
        check_study_tokens(prompts, processor)
    with pytest.raises(ConfigError, match=remedy):
        HfEngine(policy).generate(prompts, max_completion_length=2)


def test_questions_with_and_without_images_are_not_mixed() -> None:
    with_image, without = solid_sample((1, 56)), replace(solid_sample((2, 56)), images=(), id="no/image")
    for alike in ([with_image], [without]):
        check_images([render(sample, "no_think", phase="train") for sample in alike])
    with pytest.raises(DataError, match="1 of 2 training questions have no image, the first is no/image"):
        check_images([render(sample, "no_think", phase="train") for sample in (with_image, without)])


def test_rows_carry_what_rewards_read() -> None:
    prompts = [render(sample, "no_think", phase="train") for sample in SOLID_SAMPLES]
    row, twin = build_dataset(prompts)[[2, 2]].values().__iter__(), build_dataset(prompts).__getitems__([2, 2])
    assert len(next(row)) == 2
    assert {key: twin[0][key] for key in ("sample_id", "choices", "target", "strategy")} == {
        "sample_id": "solid/80-120",
        "choices": ("yes", "no"),
        "target": "A",
        "strategy": "no_think",
    }
    assert [image.size for image in twin[0]["images"]] == [(84, 84), (56, 56)]
    assert twin[0]["images"][0] is twin[1]["images"][0]  # decoded once for all copies
    assert twin[0]["facts"] is None
    facts, terms = Facts(facts=(Fact(kind=Kind.SIDE, value="left"),)), (Term(phrase="on the left", kind=Kind.SIDE, value="left"),)
    known = [replace(prompt, sample=replace(prompt.sample, facts=facts, terms=terms)) for prompt in prompts]
    rows = build_dataset(known).__getitems__([0, 1])
    assert all(row["facts"] is facts and tuple(row["terms"]) == terms for row in rows)


class Counted:
    """An image source that counts how often it is pickled."""

    uri = "counted"
    times = 0

    def load(self) -> Image.Image:
        return Image.new("RGB", (56, 56))

    def __reduce__(self) -> Any:
        Counted.times += 1
        return Counted, ()


def test_building_a_dataset_pickles_no_question() -> None:
    """`datasets` would do so to name a cache; of ten thousand questions that takes seconds."""
    (prompt,) = (render(replace(sample, images=(Counted(),)), "no_think", phase="train") for sample in SOLID_SAMPLES[:1])
    (row,) = build_dataset([prompt]).__getitems__([0])
    assert row["images"][0].size == (56, 56)
    assert Counted.times == 0


def test_the_image_cache_is_bounded() -> None:
    cache = ImageCache(max_bytes=3 * 56 * 56 * 2)
    first, second, third = (SolidImage(grey=grey, size=56) for grey in (1, 2, 3))
    kept = cache.load(first)
    assert cache.load(first) is kept
    cache.load(second)
    cache.load(first)
    cache.load(third)  # the second was used longest ago
    assert cache.num_bytes == cache.max_bytes
    assert cache.load(first) is kept


def test_terms_pass_through_accelerate_as_they_are() -> None:
    terms = Whole(("calcification", "oedema"))
    assert send_to_device({"terms": [terms]}, "cpu")["terms"][0] is terms
    assert (list(terms), len(terms), terms[-1]) == (["calcification", "oedema"], 2, "oedema")


@pytest.mark.parametrize("size", [(112, 112), (56, 300), (700, 411), (13, 2000), (31, 29)])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_tokens_are_counted_as_the_processor_makes_them(tmp_path: Path, tiny_folder: Path, size: tuple[int, int], frames: int) -> None:
    processor = load_policy(tiny_folder).processor
    Image.new("RGB", size).save(tmp_path / "a.png")
    source: ImageSource = ImageFile(root=tmp_path, path="a.png")
    source = source if frames == 1 else Clip(sources=(source,) * frames)
    ids = processor(text=["<|vision_start|><|image_pad|><|vision_end|>"], images=[source.load()])["input_ids"][0]
    assert count_image_tokens(source, processor) == len(ids) - 2
