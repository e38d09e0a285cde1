#!/usr/bin/env bash
# transformers 5.23.0, Qwen2-VL, Qwen2.5-VL and Qwen3-VL: the rotary positions of an image's tokens come from `mm_token_type_ids`, which the
# processor returns. Inputs without them (rebuilt from `input_ids`, `pixel_values` and `image_grid_thw`, as in code for transformers 4) are
# accepted by `generate` in all three families: every token, also those of the image, then counts 1, 2, 3 .., and other logits come out,
# without an error or a warning. A plain forward pass raises for two families; Qwen2.5-VL is silent there too.
#
# Seen: for each family, whether generate's first logits are those with token types, and what a forward pass without them does:
#       qwen2_vl: generate other logits, forward ValueError
#       qwen2_5_vl: generate other logits, forward other logits
#       qwen3_vl: generate other logits, forward ValueError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/ask.py" <<'PYTHON'
import warnings
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, logging

warnings.simplefilter("error")
IMAGE, SIDE = 90, 8  # the image's token, and the patches of a side of the image

def make(family):
    patch = 16 if family == "qwen3_vl" else 14
    vision = {"depth": 2, "num_heads": 2, "patch_size": patch, "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_size": 32}
    if family == "qwen2_vl":
        vision["embed_dim"] = 32
    else:
        vision |= {"out_hidden_size": 32, "intermediate_size": 64}
    if family == "qwen2_5_vl":
        vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
    if family == "qwen3_vl":
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    text = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "head_dim": 16, "eos_token_id": 99, "pad_token_id": 99, "bos_token_id": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": family == "qwen3_vl"}}
    config = AutoConfig.for_model(family, text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=91,
                                  vision_start_token_id=92, vision_end_token_id=93)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    for weight in model.parameters():
        if weight.ndim >= 2:
            torch.nn.init.normal_(weight, std=0.3)
    num = SIDE * SIDE // 4
    ids = torch.tensor([[1, 92, *[IMAGE] * num, 93, 2, 3, 4, 5]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "image_grid_thw": torch.tensor([[1, SIDE, SIDE]]),
              "pixel_values": torch.randn(SIDE * SIDE, 3 * 2 * patch * patch)}
    return model, inputs, (ids == IMAGE).long()

logging.set_verbosity_error()
for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
    model, inputs, types = make(family)
    with torch.no_grad():
        right = model(**inputs, mm_token_type_ids=types).logits[0, -1]
        settings = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        assert torch.allclose(model.generate(**inputs, mm_token_type_ids=types, **settings).logits[0][0], right, atol=1e-4)
        found = model.generate(**inputs, **settings).logits[0][0]
        generated = "same" if torch.allclose(found, right, atol=1e-4) else "other"
        model, inputs, types = make(family)  # without what an earlier call left on the model
        try:
            found = model(**inputs).logits[0, -1]
            forward = ("same" if torch.allclose(found, right, atol=1e-4) else "other") + " logits"
        except Exception as error:
            forward = type(error).__name__
    print(f"{family}: generate {generated} logits, forward {forward}")
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 numpy==2.4.6 pillow==12.0.0 2> /dev/null
seen=$("$folder/venv/bin/python" "$folder/ask.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "qwen2_vl: generate other logits, forward ValueError
qwen2_5_vl: generate other logits, forward other logits
qwen3_vl: generate other logits, forward ValueError" ] || { echo "changed" >&2; exit 1; }
