"""The sizes of `osler-tiny`, and its folder: an ordinary Qwen2-VL checkpoint that the Auto classes of Transformers load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from osler.policies.processor import image_only_processor
from osler.publishing.files import make_readable

IMAGE_SIZE: Final = 112  # pixels of a side; 16 visual tokens
PATCH_SIZE: Final = 14
MERGE_SIZE: Final = 2  # 2 x 2 patches are one visual token
HIDDEN_SIZE: Final = 128
NUM_LAYERS: Final = 4
NUM_HEADS: Final = 4
NUM_VISION_LAYERS: Final = 3
MAX_POSITIONS: Final = 2048  # tokens
INIT_STD: Final = 0.05  # with 0.02 a model of this hidden size never learnt to answer by letter


def build_model(tokenizer: Any, *, seed: int) -> Any:
    """A `Qwen2VLForConditionalGeneration` in float32 with random weights; the same seed yields the same weights."""
    import torch
    from transformers import Qwen2VLForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(_config(tokenizer))
    model.generation_config = _generation_config(tokenizer)
    return model.float()


def _config(tokenizer: Any) -> Any:
    from transformers import Qwen2VLConfig

    index = tokenizer.convert_tokens_to_ids
    num_frequencies = HIDDEN_SIZE // NUM_HEADS // 2
    spatial = num_frequencies * 3 // 8
    sections = [num_frequencies - 2 * spatial, spatial, spatial]  # of time, row and column
    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN_SIZE,
            "intermediate_size": 2 * HIDDEN_SIZE,
            "num_hidden_layers": NUM_LAYERS,
            "num_attention_heads": NUM_HEADS,
            "num_key_value_heads": NUM_HEADS,
            "max_position_embeddings": MAX_POSITIONS,
            # With a large base the low frequencies hardly depend on the position, as attention from a query to its option needs.
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": sections,
                "rope_theta": 1e6,
            },
            "bos_token_id": index("<|endoftext|>"),
            "eos_token_id": index("<|im_end|>"),
            "pad_token_id": index("<|endoftext|>"),
            "initializer_range": INIT_STD,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": NUM_VISION_LAYERS,
            "embed_dim": HIDDEN_SIZE,
            "hidden_size": HIDDEN_SIZE,
            "num_heads": NUM_HEADS,
            "mlp_ratio": 3,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
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

    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    return GenerationConfig(do_sample=False, bos_token_id=pad, eos_token_id=[end, pad], pad_token_id=pad)


def build_image_processor() -> Any:
    """Qwen2-VL's image processor, with IMAGE_SIZE as its default image size."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    pixels = IMAGE_SIZE * IMAGE_SIZE
    return Qwen2VLImageProcessorPil(
        min_pixels=pixels, max_pixels=pixels, patch_size=PATCH_SIZE, merge_size=MERGE_SIZE, temporal_patch_size=2
    )


def save_policy(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write `folder` in the layout of a Qwen2-VL checkpoint: configuration, safetensors, tokenizer, processor and chat template."""
    from transformers import Qwen2VLProcessor

    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    image_processor = build_image_processor()
    image_only_processor(Qwen2VLProcessor, image_processor, tokenizer).save_pretrained(folder)
    # Qwen2-VL's own folders hold these settings in preprocessor_config.json only; two files with the same settings could disagree.
    (folder / "processor_config.json").unlink()
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "min_pixels": IMAGE_SIZE * IMAGE_SIZE,
        "max_pixels": IMAGE_SIZE * IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "temporal_patch_size": 2,
        "merge_size": MERGE_SIZE,
        "image_mean": list(image_processor.image_mean),
        "image_std": list(image_processor.image_std),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    _set_tokenizer_class(folder / "tokenizer_config.json")
    make_readable(folder)


def _set_tokenizer_class(path: Path) -> None:
    """Name the generic tokenizer class: Qwen2's own class would replace the pre-tokenizer of the folder with its own."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
