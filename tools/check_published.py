"""Whether a published folder gives equal logits in two versions of Transformers: `python tools/check_published.py FOLDER --other PYTHON`.

Run by hand. PYTHON is the interpreter of another environment, for example::

    python3 -m venv /tmp/transformers-4.57
    /tmp/transformers-4.57/bin/pip install torch==2.13.0 transformers==4.57.6 pillow numpy torchvision gguf

Both versions load model, tokenizer and image processor from the folder, without Osler. They get the same picture and text, and must agree
in the tokens, in the pixel values, and in the logits. Where an environment has torchvision, the whole processor is loaded too, and where it
has gguf, every weight must have a name in llama.cpp's table (its converter itself is no package). Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

TEXT: Final = "Which organ is shown?\nA) Liver\nB) Spleen\nThink inside <think> </think>, then give the letter inside <answer> </answer>."
TOLERANCE: Final = 1e-4
"""The largest difference between logits in float32 that counts as equal."""

SIDE: Final = 96  # pixels of the picture


def measure(folder: Path) -> dict[str, Any]:
    """What the installed Transformers makes of the folder: tokens, pixel values and logits as nested lists, and the versions."""
    import torch
    import transformers
    from PIL import Image
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    transformers.logging.set_verbosity_error()
    is_old = transformers.__version__.startswith("4.")
    config = AutoConfig.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    images = AutoImageProcessor.from_pretrained(folder, **({"use_fast": False} if is_old else {}))
    picture = Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB")
    pixels = images(images=[picture], return_tensors="pt")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": TEXT}]}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    number = int(pixels["image_grid_thw"].prod()) // config.vision_config.spatial_merge_size**2
    ids = torch.tensor([tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * number))["input_ids"]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}
    if not is_old:  # 4.x finds the tokens of the image itself
        inputs["mm_token_type_ids"] = (ids == config.image_token_id).long()
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(**inputs).logits[0]
    return {
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "ids": ids.tolist(),
        "special": [tokenizer.eos_token_id, tokenizer.pad_token_id, sorted(tokenizer.all_special_ids)],
        "pixels": pixels["pixel_values"].tolist(),
        "logits": logits.tolist(),
        "settings": {key: getattr(model.generation_config, key) or None for key in ("do_sample", "max_new_tokens", "eos_token_id")},
        "processor": whole_processor(folder, picture, text),
        "unnamed": unnamed_weights(folder, config),
    }


def whole_processor(folder: Path, picture: Any, text: str) -> list[list[int]] | None:
    """The tokens that AutoProcessor gives; None without torchvision, which its video part needs."""
    if find_spec("torchvision") is None:
        return None
    from transformers import AutoProcessor

    tokens: list[list[int]] = AutoProcessor.from_pretrained(folder)(text=[text], images=[picture])["input_ids"]
    return [list(row) for row in tokens]


def unnamed_weights(folder: Path, config: Any) -> list[str] | None:
    """The weights that have no name in llama.cpp's tables of this family; None without the package gguf."""
    if find_spec("gguf") is None:
        return None
    import gguf  # type: ignore[import-not-found, unused-ignore]
    from safetensors import safe_open

    architecture = gguf.MODEL_ARCH.QWEN3VL if config.model_type == "qwen3_vl" else gguf.MODEL_ARCH.QWEN2VL
    text = gguf.get_tensor_name_map(architecture, config.get_text_config().num_hidden_layers)
    # Three or more: the numbers of the blocks also count the layers of the merger, of which there are three.
    vision = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, max(3, config.vision_config.depth))
    names = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            names += list(weights.keys())
    if config.model_type == "qwen3_vl":  # the converter names these by itself
        names = [name for name in names if ".merger." not in name and ".deepstack_merger_list." not in name]
    return [name for name in names if not _is_named(name, text, vision)]


def _is_named(name: str, text: Any, vision: Any) -> bool:
    """As the converter looks names up: without what newer families put before them, and the fused `qkv` of the vision tower in three."""
    endings = (".weight", ".bias")
    name = name.replace("language_model.", "")
    name = name.removeprefix("model.") if "visual" in name else name
    parts = [name.replace("qkv", part) for part in ("q", "k", "v")] if "visual" in name and "qkv" in name else [name]
    table = vision if "visual" in name else text
    return all(table.get_name(part, try_suffixes=endings) is not None for part in parts)


def largest_difference(first: Any, second: Any) -> float:
    """Of two nested lists of numbers of one shape; infinite where the shapes differ."""
    import numpy as np

    left, right = np.array(first), np.array(second)
    return float(np.abs(left - right).max()) if left.shape == right.shape else float("inf")


def compare(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """What differs, a line for each; [] where the versions agree."""
    found = [f"{name} differ: {here[name]} and {there[name]}" for name in ("ids", "special", "settings") if here[name] != there[name]]
    measured = {name: largest_difference(here[name], there[name]) for name in ("pixels", "logits")}
    found += [f"{name} differ by {difference:.1e}" for name, difference in measured.items() if difference > TOLERANCE]
    for side in (here, there):
        version = f"transformers {side['versions']['transformers']}"
        if side["processor"] is not None and side["processor"] != side["ids"]:
            found.append(f"{version}: the whole processor gives other tokens")
        if side["unnamed"]:
            found.append(f"no name in llama.cpp's table: {', '.join(side['unnamed'])}")
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure in both versions and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a folder that osler publish wrote")
    parser.add_argument("--other", type=Path, help="the Python of an environment with another version of Transformers")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # the other interpreter writes its measurements here
    options = parser.parse_args(arguments)
    here = measure(options.folder)
    if options.measure is not None:
        options.measure.write_text(json.dumps(here), encoding="utf-8")
        return 0
    if options.other is None:
        parser.error("the following arguments are required: --other")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "there.json"
        if subprocess.run([options.other, __file__, str(options.folder), "--measure", str(out)], check=False).returncode:
            sys.stdout.write(f"{options.folder} cannot be measured with {options.other}\n")
            return 1
        there = json.loads(out.read_text(encoding="utf-8"))
    print_comparison(options.folder, here, there)
    differences = compare(here, there)
    sys.stdout.write("".join(f"{line}\n" for line in differences))
    return 1 if differences else 0


def print_comparison(folder: Path, here: dict[str, Any], there: dict[str, Any]) -> None:
    """Print the versions, what was checked in each, and the largest differences."""
    sys.stdout.write(f"{folder}: {len(here['ids'][0])} tokens\n")
    for side in (here, there):
        more = {"the whole processor": side["processor"], "llama.cpp's names": side["unnamed"]}
        checked = [name for name, value in more.items() if value is not None]
        versions = ", ".join(f"{name} {version}" for name, version in side["versions"].items())
        sys.stdout.write(f"{versions}: {', '.join(['model', 'tokenizer', 'image processor', *checked])}\n")
    pixels, logits = (largest_difference(here[name], there[name]) for name in ("pixels", "logits"))
    sys.stdout.write(f"largest difference of pixels {pixels:.1e}, of logits {logits:.1e}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
