"""Checkpoints with random weights for tests: every supported family, a few hundred kilobytes each, in the layouts of real checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tools.build_tiny.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS

HIDDEN, LAYERS, HEADS = 32, 2, 4
MROPE_SECTION = [2, 1, 1]  # time, row, column; the sum is half the size of an attention head


def make_tokenizer() -> Any:
    """A byte-level tokenizer: one token per byte, then the special tokens of Qwen2-VL."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={character: index for index, character in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in SPECIAL_TOKENS if token not in ("<|im_end|>", "<|endoftext|>")],
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_processor(model_type: str = "qwen2_vl", tokenizer: Any = None) -> Any:
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from osler.policies.families import FAMILIES
    from osler.policies.processor import image_only_processor

    image_processor = Qwen2VLImageProcessorPil(patch_size=16 if model_type == "qwen3_vl" else 14, min_pixels=56 * 56, max_pixels=112 * 112)
    processor_class = getattr(transformers, FAMILIES[model_type].processor_class)
    return image_only_processor(processor_class, image_processor, tokenizer or make_tokenizer())


def make_model(model_type: str = "qwen2_vl", tokenizer: Any = None, seed: int = 0, hidden: int = HIDDEN, layers: int = LAYERS) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    tokenizer = tokenizer or make_tokenizer()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    half = hidden // HEADS // 2
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [half - 2 * (half // 4), half // 4, half // 4]}
    vision: dict[str, Any] = {"depth": 2, "num_heads": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if model_type == "qwen2_vl":
        vision |= {"embed_dim": hidden, "hidden_size": hidden, "mlp_ratio": 2, "patch_size": 14}
    else:
        vision |= {"hidden_size": hidden, "out_hidden_size": hidden, "intermediate_size": 2 * hidden, "patch_size": 14}
    if model_type == "qwen2_5_vl":
        vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
    if model_type == "qwen3_vl":
        vision |= {"patch_size": 16, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        rope["mrope_interleaved"] = True
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": hidden // HEADS,
        "max_position_embeddings": 2048,
        "rope_parameters": rope,
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    config = AutoConfig.for_model(
        model_type,
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():  # weights large enough that prompts and images change the generated tokens
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.02 if "embed" in name else parameter.shape[-1] ** -0.5)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model


def save_tiny(folder: Path, model_type: str = "qwen2_vl", *, seed: int = 0, hidden: int = HIDDEN, layers: int = LAYERS) -> Path:
    """Write a checkpoint with `save_pretrained`."""
    from osler.policies.quiet import quiet_loading

    tokenizer = make_tokenizer()
    with quiet_loading():
        make_model(model_type, tokenizer, seed, hidden, layers).save_pretrained(folder)
    make_processor(model_type, tokenizer).save_pretrained(folder)
    return folder


PUBLISHED_PREPROCESSOR = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
}


def published_config(text: Any, ids: dict[str, int], vocab_size: int) -> dict[str, Any]:
    """The flat config.json of the first Qwen2-VL releases."""
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": text.intermediate_size,
        "max_position_embeddings": 32768,
        "max_window_layers": LAYERS,
        "model_type": "qwen2_vl",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": 2,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": 2,
            "embed_dim": HIDDEN,
            "mlp_ratio": 2,
            "num_heads": 4,
            "in_chans": 3,
            "hidden_size": HIDDEN,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": MROPE_SECTION},
        "vocab_size": vocab_size,
    }


def save_hub_layout(folder: Path) -> Path:
    """Write a checkpoint as published for Qwen2-VL: flat config.json, old weight names, shards with an index, nearly greedy sampling."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    tokenizer = make_tokenizer()
    model = make_model("qwen2_vl", tokenizer)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    weights = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: weights[name] for name in members}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, members in shards.items() for name in members}
    total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    text = model.config.text_config
    files: dict[str, dict[str, Any]] = {
        "model.safetensors.index.json": {"metadata": {"total_size": total}, "weight_map": weight_map},
        "config.json": published_config(text, ids, len(tokenizer)),
        "generation_config.json": {
            "bos_token_id": ids["<|endoftext|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "do_sample": True,
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            "repetition_penalty": 1.0,
            "temperature": 0.01,
            "top_p": 0.001,
            "top_k": 1,
            "transformers_version": "4.37.0",
        },
        "preprocessor_config.json": PUBLISHED_PREPROCESSOR,
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
    }
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values, indent=2))
    return folder


def apply_lora(policy: Any, section: Any) -> Any:
    """The policy's model with a new LoRA adapter, as TRL adds it from `lora_config`."""
    from peft import get_peft_model

    from osler.policies.lora import lora_config
    from osler.policies.quiet import quiet_loading

    with quiet_loading():
        return get_peft_model(policy.model, lora_config(section, policy.family))
