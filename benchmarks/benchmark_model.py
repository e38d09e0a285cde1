"""The model and the questions of the benchmarks: a Qwen2-VL of 6.5 million parameters with random weights, random words, noise images.

It is small enough for a CPU, and the vision encoder takes a large part of the computation, as in the 2B model. The tokenizer is trained on
the words of the questions; its chat template and special tokens are those of the packaged `osler-tiny`.
"""

from __future__ import annotations

import random
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from osler.policies.sources import PACKAGED_POLICIES

WORDS: Final = """
which modality organ finding grade lesion is shown in this image choose one option ct mri xray ultrasound dermoscopy fundus oct
microscopy liver kidney lung heart brain retina bone skin benign malignant normal abnormal left right answer with a single letter
"""
VOCABULARY: Final = 513  # tokens


def make_processor() -> Any:
    """A Qwen2-VL processor with a byte-level BPE tokenizer of at most VOCABULARY tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from osler.policies.processor import image_only_processor

    packaged = AutoTokenizer.from_pretrained(PACKAGED_POLICIES / "osler-tiny")
    special_tokens = sorted(packaged.all_special_tokens, key=packaged.convert_tokens_to_ids)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - len(special_tokens), initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator((make_text(20, seed) for seed in range(500)), trainer)
    backend.add_special_tokens(special_tokens)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special_tokens[3:],
        padding_side="left",
    )
    tokenizer.chat_template = packaged.chat_template
    image_processor = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=28 * 28 * 1280)
    return image_only_processor(Qwen2VLProcessor, image_processor, tokenizer)


def make_model(processor: Any, **sizes: int) -> Any:
    """The model in float32 and training mode; the weights are the same in each call. `sizes` replace those of its text decoder."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    token_id = processor.tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "bos_token_id": token_id("<|endoftext|>"),
        "eos_token_id": token_id("<|im_end|>"),
        "pad_token_id": token_id("<|endoftext|>"),
        **sizes,
    }
    section = text["hidden_size"] // text["num_attention_heads"] // 2  # of a head: time, rows and columns
    text["rope_parameters"]["mrope_section"] = [section - 2 * (3 * section // 8), 3 * section // 8, 3 * section // 8]
    vision = {"depth": 4, "embed_dim": 160, "num_heads": 4, "hidden_size": text["hidden_size"], "mlp_ratio": 4, "patch_size": 14}
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    model.generation_config.eos_token_id = token_id("<|im_end|>")
    model.generation_config.pad_token_id = token_id("<|endoftext|>")
    return model.train()


def make_text(num_words: int, seed: int) -> str:
    """A question of `num_words` random words."""
    rng, words = random.Random(seed), WORDS.split()
    return " ".join(rng.choice(words) for _ in range(num_words))


def make_image(size: int, seed: int) -> Image.Image:
    """A noise image of `size` x `size` pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8))


def make_questions(processor: Any, num_questions: int, size: int, num_tokens: int) -> list[dict[str, Any]]:
    """Rows as trainers read them: `prompt`, a conversation of `num_tokens` tokens or a few more, one image in `images`, and `sample_id`."""

    def row(seed: int, num_words: int) -> dict[str, Any]:
        prompt = [{"role": "user", "content": make_text(num_words, seed)}]
        return {"prompt": prompt, "images": [make_image(size, seed)], "sample_id": str(seed)}

    def length(num_words: int) -> int:
        content = [{"type": "image"}, {"type": "text", "text": make_text(num_words, 0)}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
        return len(processor(text=[text], images=[make_image(size, 0)])["input_ids"][0])

    num_words = next(num for num in range(1, 1000) if length(num) >= num_tokens)
    return [row(seed, num_words) for seed in range(num_questions)]
