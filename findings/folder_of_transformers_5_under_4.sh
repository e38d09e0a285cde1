#!/usr/bin/env bash
# A Qwen2-VL that transformers 5.23.0 saved, loaded by 4.57.6 on the same torch: tokenizer and forward pass fail. The class
# `TokenizersBackend` and `rope_parameters` are unknown there, and a list of `extra_special_tokens` has no keys. With `rope_scaling` added it
# runs, with other logits: 4.57 takes its own default of `rope_theta`. With `rope_theta` added too the logits are still other ones where the
# output layer is the embedding: 5.23 writes `tie_word_embeddings` for the whole model only, 4.57 reads it of the text model and gives the
# output layer random weights, which it says in a log message and not in an error. With all three the logits are equal.
#
# Seen: what 4.57.6 does with the folder, edited step by step:
#       as saved: tokenizer fails, forward TypeError
#       rope_scaling: other logits
#       and rope_theta: other logits
#       and tie_word_embeddings of the text: equal logits
#       PreTrainedTokenizerFast: tokenizer fails
#       and additional_special_tokens: tokenizer equal
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/make.py" <<'PYTHON'
import sys
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

folder = sys.argv[1]
backend = Tokenizer(models.WordLevel({"<pad>": 0, "a": 1, "b": 2, "<image>": 3}, unk_token="<pad>"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", extra_special_tokens=["<image>"]).save_pretrained(folder)
text = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "eos_token_id": 99, "pad_token_id": 99, "bos_token_id": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "mrope_section": [4, 2, 2]}}
vision = {"depth": 1, "num_heads": 2, "hidden_size": 32, "embed_dim": 32}
config = AutoConfig.for_model("qwen2_vl", text_config=text, vision_config=vision, image_token_id=90, tie_word_embeddings=True)
torch.manual_seed(0)
model = AutoModelForImageTextToText.from_config(config).eval()
for weight in model.parameters():
    if weight.ndim >= 2:
        torch.nn.init.normal_(weight, std=0.3)
model.save_pretrained(folder)
with torch.no_grad():
    torch.save(model(input_ids=torch.arange(1, 9)[None]).logits, folder + ".pt")
PYTHON
cat > "$folder/load.py" <<'PYTHON'
import json, pathlib, sys
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer, logging

logging.set_verbosity_error()
folder = pathlib.Path(sys.argv[1])
expected = torch.load(sys.argv[1] + ".pt")

def edit(name, **values):
    content = json.loads((folder / name).read_text())
    (content["text_config"] if name == "config.json" else content).update(values)
    (folder / name).write_text(json.dumps(content))

def tokenizer():
    try:
        return "equal" if AutoTokenizer.from_pretrained(folder)("a <image> b")["input_ids"] == [1, 3, 2] else "other"
    except Exception:  # which one depends on the packages that are installed
        return "fails"

def forward():
    try:
        with torch.no_grad():
            found = AutoModelForImageTextToText.from_pretrained(folder).eval()(input_ids=torch.arange(1, 9)[None]).logits
    except Exception as error:
        return type(error).__name__
    return ("equal" if torch.allclose(found, expected, atol=1e-4) else "other") + " logits"

print(f"as saved: tokenizer {tokenizer()}, forward {forward()}")
edit("config.json", rope_scaling={"rope_type": "default", "mrope_section": [4, 2, 2]})
print("rope_scaling:", forward())
edit("config.json", rope_theta=5000.0)
print("and rope_theta:", forward())
edit("config.json", tie_word_embeddings=True)
print("and tie_word_embeddings of the text:", forward())
edit("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
print("PreTrainedTokenizerFast: tokenizer", tokenizer())
content = json.loads((folder / "tokenizer_config.json").read_text())
content["additional_special_tokens"] = content.pop("extra_special_tokens")
(folder / "tokenizer_config.json").write_text(json.dumps(content))
print("and additional_special_tokens: tokenizer", tokenizer())
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 numpy==2.4.6 pillow==12.0.0 2> /dev/null
"$folder/venv/bin/pip" install --quiet --target "$folder/four" transformers==4.57.6 numpy==2.4.6 2> /dev/null
"$folder/venv/bin/python" "$folder/make.py" "$folder/saved" > /dev/null 2> /dev/null
seen=$(PYTHONPATH="$folder/four" "$folder/venv/bin/python" "$folder/load.py" "$folder/saved" 2> /dev/null)
echo "$seen"
[ "$seen" = "as saved: tokenizer fails, forward TypeError
rope_scaling: other logits
and rope_theta: other logits
and tie_word_embeddings of the text: equal logits
PreTrainedTokenizerFast: tokenizer fails
and additional_special_tokens: tokenizer equal" ] || { echo "changed" >&2; exit 1; }
