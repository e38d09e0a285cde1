"""The geometry of `osler-tiny`, and the folder it is saved in: an ordinary Qwen2-VL folder that transformers' Auto classes load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from osler.policies.processor import image_only_processor

IMAGE_SIZE: Final = 112  # pixels; 16 visual tokens
PATCH: Final = 14
MERGE: Final = 2
WIDTH: Final = 128
LAYERS: Final = 4
HEADS: Final = 4
VISION_LAYERS: Final = 3
CONTEXT: Final = 2048  # tokens
INIT_STD: Final = 0.05  # 0.02 never learnt to bind letters at this width


def build_model(tokenizer: Any, *, seed: int) -> Any:
    """A `Qwen2VLForConditionalGeneration` with fresh weights; the same seed yields the same weights."""
    import torch
    from transformers import Qwen2VLForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(_config(tokenizer))
    model.generation_config = _generation_config(tokenizer)
    return model.float()


def _config(tokenizer: Any) -> Any:
    from transformers import Qwen2VLConfig

    index = tokenizer.convert_tokens_to_ids
    half = WIDTH // HEADS // 2
    spatial = half * 3 // 8
    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": CONTEXT,
            # A large base keeps the slow frequencies content-only, which is what letter lookup needs.
            "rope_parameters": {"rope_type": "default", "mrope_section": [half - 2 * spatial, spatial, spatial], "rope_theta": 1e6},
            "bos_token_id": index("<|endoftext|>"),
            "eos_token_id": index("<|im_end|>"),
            "pad_token_id": index("<|endoftext|>"),
            "initializer_range": INIT_STD,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": VISION_LAYERS,
            "embed_dim": WIDTH,
            "hidden_size": WIDTH,
            "num_heads": HEADS,
            "mlp_ratio": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "initializer_range": INIT_STD,
        },
        image_token_id=index("<|image_pad|>"),
        video_token_id=index("<|video_pad|>"),
        vision_start_token_id=index("<|vision_start|>"),
        vision_end_token_id=index("<|vision_end|>"),
        tie_word_embeddings=True,
        dtype="float32",
    )


def _generation_config(tokenizer: Any) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        eos_token_id=[tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.convert_tokens_to_ids("<|endoftext|>")],
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    )


def build_image_processor() -> Any:
    """Qwen2-VL's image processor, held to one size of picture unless the caller asks otherwise."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    pixels = IMAGE_SIZE * IMAGE_SIZE
    return Qwen2VLImageProcessorPil(min_pixels=pixels, max_pixels=pixels, patch_size=PATCH, merge_size=MERGE, temporal_patch_size=2)


def save_policy(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write `folder` in the layout of a Qwen2-VL repository: configuration, safetensors, tokenizer, processor and chat template."""
    from transformers import Qwen2VLProcessor

    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    image_processor = build_image_processor()
    image_only_processor(Qwen2VLProcessor, image_processor, tokenizer).save_pretrained(folder)
    # The hub's Qwen2-VL folders describe the pictures in preprocessor_config.json; with a second description readers would have to choose.
    (folder / "processor_config.json").unlink()
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "min_pixels": IMAGE_SIZE * IMAGE_SIZE,
        "max_pixels": IMAGE_SIZE * IMAGE_SIZE,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "image_mean": list(image_processor.image_mean),
        "image_std": list(image_processor.image_std),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    _name_tokenizer_class(folder / "tokenizer_config.json")


def _name_tokenizer_class(path: Path) -> None:
    """Qwen2's own tokenizer class would put its pre-tokenizer in place of ours, so the folder names the generic one."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
