#!/usr/bin/env bash
# transformers 5.24.0, Qwen2-VL: the positions of the text behind a video begin behind the *larger side* of a frame, no longer behind its last
# frame as in 4.57.6 (and as Qwen2-VL was trained: the largest position so far, plus one). A video of more pairs of frames than its larger side
# has tokens overlaps the text behind it in time, and the first generated token leaves a gap. An image, and a short video, are not concerned.
#
# Seen: positions in time of 16 pairs of frames of 4 x 4 tokens behind 2 tokens of text, and of the 3 tokens behind them:
#       4.57.6: the last frame 17, the text behind it 18, 19, 20
#       5.24.0: the last frame 17, the text behind it 6, 7, 8
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/positions.py" <<'PYTHON'
import inspect
import torch
import transformers
from transformers import Qwen2VLConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

transformers.logging.set_verbosity_error()
VIDEO, SIDE, PAIRS = 91, 4, 16
rope = {"rope_type": "default", "mrope_section": [1, 1, 2]}
text = {"vocab_size": 100, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "eos_token_id": 99, "pad_token_id": 99, "bos_token_id": None,
        **({"rope_parameters": rope | {"rope_theta": 1e4}} if transformers.__version__ >= "5" else {"rope_scaling": rope | {"type": "mrope"}})}
config = Qwen2VLConfig(text_config=text, vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2},
                       image_token_id=90, video_token_id=VIDEO, vision_start_token_id=92, vision_end_token_id=93)
model = Qwen2VLModel(config)
num = PAIRS * SIDE * SIDE
ids = torch.tensor([[1, 92, *[VIDEO] * num, 93, 2, 3]])
inputs = {"video_grid_thw": torch.tensor([[PAIRS, 2 * SIDE, 2 * SIDE]])}  # in patches, two for each side of a token
if "mm_token_type_ids" in inspect.signature(model.get_rope_index).parameters:
    inputs["mm_token_type_ids"] = (ids == VIDEO).int() * 2
time = model.get_rope_index(ids, **inputs)[0][0, 0].tolist()
print(f"{transformers.__version__}: the last frame {time[1 + num]}, the text behind it {', '.join(map(str, time[2 + num:]))}")
PYTHON
for version in 4.57.6 5.24.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet torch==2.13.0 transformers==$version
    "$folder/$version/bin/python" "$folder/positions.py"
done | tee "$folder/found"
diff - "$folder/found" <<'SEEN'
4.57.6: the last frame 17, the text behind it 18, 19, 20
5.24.0: the last frame 17, the text behind it 6, 7, 8
SEEN
