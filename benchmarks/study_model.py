"""A Qwen2-VL of 6.5 million parameters with random weights, and questions for it: small enough for a CPU, vision-heavy as the real 2B is.

Nothing is read from disk or a network. The tokenizer is trained on the questions' own words.
"""

from __future__ import annotations

import random
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from tools.build_tiny.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS

WORDS: Final = """
which modality organ finding grade lesion is shown in this image choose one option ct mri xray ultrasound dermoscopy fundus oct
microscopy liver kidney lung heart brain retina bone skin benign malignant normal abnormal left right answer with a single letter
"""
VOCABULARY: Final = 513


def make_processor() -> Any:
    """A Qwen2-VL processor with a byte-level tokenizer of at most VOCABULARY tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from osler.policies.processor import image_only_processor

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - len(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator((make_text(20, seed) for seed in range(500)), trainer)
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    image_processor = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=28 * 28 * 1280)
    return image_only_processor(Qwen2VLProcessor, image_processor, tokenizer)


def make_model(processor: Any) -> Any:
    """The model, float32, in training mode, with the same weights each time."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    ids = {token: processor.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {"depth": 4, "embed_dim": 160, "num_heads": 4, "hidden_size": 256, "mlp_ratio": 4, "patch_size": 14}
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model.train()


def make_text(num_words: int, seed: int) -> str:
    """A question of that many words."""
    chosen, words = random.Random(seed), WORDS.split()
    return " ".join(chosen.choice(words) for _ in range(num_words))


def make_image(size: int, seed: int) -> Image.Image:
    """A square of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8))


def make_questions(processor: Any, number: int, size: int, num_tokens: int) -> list[dict[str, Any]]:
    """Rows as TRL takes them, with one image each, whose prompts have `num_tokens` tokens or a few more."""

    def row(seed: int, num_words: int) -> dict[str, Any]:
        return {"prompt": [{"role": "user", "content": make_text(num_words, seed)}], "images": [make_image(size, seed)]}

    def length(num_words: int) -> int:
        content = [{"type": "image"}, {"type": "text", "text": make_text(num_words, 0)}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
        return len(processor(text=[text], images=[make_image(size, 0)])["input_ids"][0])

    num_words = next(number for number in range(1, 1000) if length(number) >= num_tokens)
    return [row(seed, num_words) for seed in range(number)]
