"""The parts of the running batch: text of tokens, draws, slots of the KV cache, limits of memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_cases import packaged, sampled, to_request
from small_runs import solid_sample
from tiny_checkpoint import make_model, make_processor, make_tokenizer, save_tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedTokenizerFast,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from osler.errors import EngineError
from osler.policies.families import FAMILIES
from osler.policies.load import load_policy
from osler.policies.patches import PatchReader, embed_linearly
from osler.policies.vision_features import ImageFeatures
from osler.prompts import render
from osler.serving.batch_settings import BatchSettings
from osler.serving.detokenise import Detokeniser
from osler.serving.image_cache import ImageCache, KnownImage
from osler.serving.prepare import Preparer
from osler.serving.sampler import Draws, Sampler
from osler.serving.slots import LENGTH_STEP, PromptPass, Shape, SlotCache


def words_tokenizer() -> Any:
    """A tokenizer whose tokens are words with a sign for the space before them: not of bytes."""
    words = ["▁the", "▁liver", "s", "▁is", "▁large", "<s>", "é", "▁"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<s>", pad_token="<s>")


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "bytes": make_tokenizer,
    "osler-tiny": lambda: packaged("osler-tiny").tokenizer,
    "words": words_tokenizer,
}


@cache
def detokeniser_of(name: str) -> Detokeniser:
    return Detokeniser(TOKENIZERS[name]())


@pytest.mark.parametrize("name", TOKENIZERS)
@given(seeds=st.lists(st.integers(0, 10_000), max_size=40))
@settings(max_examples=60, deadline=None)
def test_tokens_one_by_one_are_the_text_of_all(name: str, seeds: list[int]) -> None:
    detokeniser = detokeniser_of(name)
    tokenizer = detokeniser.tokenizer
    token_ids = [seed % (len(tokenizer) + 2) for seed in seeds]  # the last two are no tokens
    stream = detokeniser.stream()
    pieces = [stream.push(token_id) for token_id in token_ids]
    assert "".join(pieces) + stream.finish() == tokenizer.decode(token_ids, skip_special_tokens=True)


TEXTS = ["Lesion Ø 3 µm", "肝脏有一个病灶", "🫀 beats", "a\u200bb e\u0301"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_piece_holds_whole_characters(text: str) -> None:
    detokeniser = detokeniser_of("bytes")
    stream = detokeniser.stream()
    pieces = [stream.push(token_id) for token_id in detokeniser.tokenizer(text)["input_ids"]]
    assert [piece for piece in pieces if piece] == list(text)
    assert stream.finish() == ""


SAMPLINGS = [
    {},
    {"temperature": 0.6},
    {"top_k": 5},
    {"top_p": 0.7, "temperature": 1.3},
    {"min_p": 0.2},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.5},
    {"repetition_penalty": 0.5},
]
VOCABULARY, DRAWN = 40, 4000


@pytest.mark.parametrize("values", SAMPLINGS)
def test_tokens_are_drawn_from_the_distribution_of_transformers(values: dict[str, Any]) -> None:
    """Many completions with evenly spread numbers take each token as often as `generate` would."""
    sampling = sampled(**values)
    logits_V = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(0)) * 2
    prompt = [1, 2, 3, 3]
    seen_V = torch.zeros(VOCABULARY, dtype=torch.bool)
    seen_V[prompt] = True
    draws = [
        Draws(sampling=sampling, uniform_T=[(place + 0.5) / DRAWN], seen_V=seen_V.clone() if "repetition_penalty" in values else None)
        for place in range(DRAWN)
    ]
    tokens = Sampler([7], []).pick(logits_V.repeat(DRAWN, 1), draws).tokens
    shares_V = torch.tensor(tokens).bincount(minlength=VOCABULARY) / DRAWN
    device = torch.device("cpu")
    processors: list[Any] = [RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty), SuppressTokensLogitsProcessor([7], device)]
    processors.append(TemperatureLogitsWarper(sampling.temperature))
    processors += [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    processors += [TopPLogitsWarper(sampling.top_p)]
    processors += [MinPLogitsWarper(sampling.min_p)] if sampling.min_p else []
    expected_V = LogitsProcessorList(processors)(torch.tensor([prompt]), logits_V[None].clone()).softmax(dim=-1)[0]
    assert shares_V[7] == 0
    torch.testing.assert_close(shares_V, expected_V, atol=1.5 / DRAWN, rtol=0)


def test_rows_of_unlike_settings_are_picked_together_as_alone() -> None:
    logits_AV = torch.randn(6, VOCABULARY, generator=torch.Generator().manual_seed(1))
    settings_of = [None, {"top_k": 3}, {}, {"top_k": 3}, None, {"temperature": 2.0}]

    def draws() -> list[Draws]:
        return [
            Draws.begin(None if own is None else sampled(**own), seed=5, index=index, max_tokens=2, num_top=index or None, letters=True)
            for index, own in enumerate(settings_of)
        ]

    sampler = Sampler([0], [1, 2, *range(20, 40)])
    together = sampler.pick(logits_AV.clone(), draws())
    for row, own in enumerate(draws()):
        alone = sampler.pick(logits_AV[row : row + 1].clone(), [own])
        assert alone.tokens == together.tokens[row : row + 1]
        assert alone.scores.get(0) == together.scores.get(row)
        assert (0 in alone.letter_logits) == (row in together.letter_logits)
    logs_AV = logits_AV.log_softmax(dim=-1)
    for row, scores in together.scores.items():
        assert scores.logprob == pytest.approx(float(logs_AV[row, together.tokens[row]]))
        assert len(scores.top) == row
        assert scores.top[0][1] == pytest.approx(float(logs_AV[row].max()))


SHAPE = Shape(num_layers=2, num_kv=1, width=2, dtype=torch.float32, device=torch.device("cpu"))


def read_prompts(slots: SlotCache, widths: list[int], counts: list[int], value: float) -> None:
    """Compute prompts whose keys are `value` and more into new slots, in both layers."""
    start = len(slots)
    slots.add([width for width, count in zip(widths, counts, strict=True) for _ in range(count)])
    attention = PromptPass(slots, start, widths, counts)
    keys = torch.cat([torch.full((width, 1, 2), value + row) for row, width in enumerate(widths)])
    for layer in range(2):
        attention.attend(layer, None, torch.zeros_like(keys), (layer + 1) * keys, (layer + 1) * -keys, 1.0)


@given(seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_slots_hold_what_was_written_whoever_joins_and_leaves(seed: int) -> None:
    rng = random.Random(seed)
    slots = SlotCache(SHAPE, max_rows=7, max_tokens=7 * LENGTH_STEP)
    expected: list[list[float]] = []  # of each slot, the keys of its tokens
    for turn in range(12):
        if len(expected) <= 4 and (not expected or rng.random() < 0.5):
            widths, counts = [rng.randint(1, 60) for _ in range(2)], [1, rng.randint(1, 2)]
            read_prompts(slots, widths, counts, 100.0 * turn)
            expected += [[100.0 * turn + row] * widths[row] for row in (0, 1) for _ in range(counts[row])]
        for _ in range(rng.randint(0, 3)):
            begun = slots.begin()
            num = len(expected)
            keys = torch.rand(num, 1, 2) + 1000 * turn
            for layer in range(2):
                out = slots.attend(layer, begun, torch.zeros(num, 1, 2), (layer + 1) * keys, (layer + 1) * -keys, 1.0)
                # Queries of zeros see the mean of the values.
                means = [-(layer + 1) * (sum(own) + float(new[0, 0])) / (len(own) + 1) for own, new in zip(expected, keys, strict=True)]
                torch.testing.assert_close(out[:, 0], torch.tensor(means), rtol=1e-4, atol=1e-3)
            expected = [[*own, float(new[0, 0])] for own, new in zip(expected, keys, strict=True)]
        gone = [row for row in range(len(expected)) if rng.random() < 0.3]
        for source, hole in slots.remove(gone):
            expected[hole] = expected[source]
        del expected[len(slots) :]
        assert slots.lengths == [len(own) for own in expected]


def test_slots_keep_to_their_limit_of_tokens() -> None:
    """Many short completions, then a long one: the room of the short ones is given back."""
    slots = SlotCache(SHAPE, max_rows=8, max_tokens=4 * LENGTH_STEP)
    read_prompts(slots, [3] * 4, [1] * 4, 0.0)
    few = slots.num_bytes
    slots.remove([1, 2, 3])
    read_prompts(slots, [3 * LENGTH_STEP], [1], 0.0)
    assert slots.num_bytes <= 2 * few
    slots.clear()
    assert slots.num_bytes == 0


@pytest.mark.parametrize(("max_context", "expected"), [(2048, 65_536), (131_072, 131_072)])
def test_the_cache_holds_one_whole_context(max_context: int, expected: int) -> None:
    assert BatchSettings.of(max_rows=4, max_queued=1, max_context=max_context).max_cache_tokens == expected


def test_the_image_cache_keeps_the_latest_within_its_bytes() -> None:
    def image(tokens: int) -> KnownImage:
        return KnownImage(grid=(1, 2, 2), features=ImageFeatures(pooled_TE=torch.zeros(tokens, 4)))

    images = ImageCache(max_bytes=10 * 16)
    for name, tokens in (("a", 4), ("b", 4)):
        images.keep(name, image(tokens))
    assert images.find("a") is not None
    images.keep("c", image(4))  # "b" was not used for longest
    images.keep("large", image(11))
    assert [name for name in ("a", "b", "c", "large") if images.find(name)] == ["a", "c"]
    assert images.num_bytes == 8 * 16
    few = ImageCache(max_bytes=1000, max_images=2)
    for name in "abc":
        few.keep(name, image(1))
    assert (len(few), few.find("a"), few.num_bytes) == (2, None, 2 * 16)


SQUARES = {"one": [(40, 112)], "two": [(0, 56), (160, 84)], "none": []}


@pytest.mark.parametrize("squares", SQUARES.values(), ids=SQUARES)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_prompts_are_those_of_the_processor(model_type: str, squares: list[tuple[int, int]], tmp_path: Path) -> None:
    policy = load_policy(save_tiny(tmp_path, model_type))
    prompt = render(solid_sample(*squares), "no_think")
    found = Preparer(policy, ImageCache(1), 2048).prepare(to_request(prompt))
    text = policy.processor.apply_chat_template(list(prompt.messages), add_generation_prompt=True, tokenize=False)
    inputs = make_processor(model_type)(text=[text], images=[source.load() for source in prompt.sample.images] or None, return_tensors="pt")
    assert torch.equal(found.ids_P, inputs["input_ids"][0])
    assert found.num_image_tokens == int(inputs["mm_token_type_ids"].sum())
    if squares:
        assert torch.equal(torch.cat([image.patches for image in found.images if image.patches is not None]), inputs["pixel_values"])
        assert [image.grid for image in found.images] == [tuple(grid) for grid in inputs["image_grid_thw"].tolist()]


SIZES = [(224, 224), (40, 300), (57, 33), (1000, 700), (112, 112)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_patches_are_those_of_the_processor_to_the_bit(size: tuple[int, int], mode: str) -> None:
    image_processor = packaged("osler-tiny").processor.image_processor
    picture = PIL.Image.frombytes(mode, size, random.Random(1).randbytes(size[0] * size[1] * len(mode)))
    reader = PatchReader.of(image_processor)
    assert reader is not None
    patches, grid = reader.read(picture)
    expected = image_processor([picture], return_tensors="pt")
    assert torch.equal(patches, expected["pixel_values"])
    assert [grid] == [tuple(own) for own in expected["image_grid_thw"].tolist()]


def test_an_unknown_processor_makes_its_own_patches() -> None:
    image_processor = make_processor().image_processor
    assert PatchReader.of(image_processor) is not None
    image_processor.do_normalize = False
    assert PatchReader.of(image_processor) is None
    assert PatchReader.of(object()) is None


@pytest.mark.parametrize("model_type", FAMILIES)
def test_patches_are_embedded_alike_by_a_linear_layer(model_type: str) -> None:
    model = make_model(model_type)
    side = model.config.vision_config.patch_size
    patches, grid = torch.rand(16, 3 * 2 * side * side), torch.tensor([[1, 4, 4]])
    names = [name for name, _ in model.named_parameters()]
    with torch.no_grad():
        before = model.model.get_image_features(patches, grid).pooler_output[0]
        embed_linearly(model)
        assert type(model.model.visual.patch_embed.proj) is not torch.nn.Conv3d
        torch.testing.assert_close(model.model.get_image_features(patches, grid).pooler_output[0], before, rtol=1e-5, atol=1e-5)
    assert [name for name, _ in model.named_parameters()] == names


def test_limits_are_positive() -> None:
    with pytest.raises(EngineError, match="max_rows = 0"):
        BatchSettings(max_rows=0)
