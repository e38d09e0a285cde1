#!/usr/bin/env bash
# torch 2.13.0: under `torch.autocast` a weight that requires a gradient is cast once and kept, with gradients and under `torch.no_grad`. Under
# `torch.inference_mode`, the mode that is recommended for generation, nothing is kept: every forward pass casts every weight again. A policy
# of float32 weights that generates in mixed precision during its training so reads and writes all its weights once more for each token.
# A weight that requires no gradient (the base below a LoRA adapter) is cast again in every mode.
#
# Seen: casts to bfloat16 in four forward passes of one linear layer (weight, bias, input):
#       trained: grad 6, no_grad 6, inference_mode 12
#       frozen: grad 12, no_grad 12, inference_mode 12
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/count.py" <<'PYTHON'
import contextlib
import torch
from torch.profiler import profile

modes = {"grad": contextlib.nullcontext, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
for name, is_trained in (("trained", True), ("frozen", False)):
    counts = []
    for mode, enter in modes.items():
        layer = torch.nn.Linear(64, 64).requires_grad_(is_trained)
        rows = torch.randn(2, 64)
        with torch.autocast("cpu", dtype=torch.bfloat16), enter(), profile() as profiled:
            for _ in range(4):
                layer(rows)
        casts = sum(event.count for event in profiled.key_averages() if event.key == "aten::_to_copy")
        counts.append(f"{mode} {casts}")
    print(f"{name}: {', '.join(counts)}")
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 2> /dev/null
seen=$("$folder/venv/bin/python" "$folder/count.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "trained: grad 6, no_grad 6, inference_mode 12
frozen: grad 12, no_grad 12, inference_mode 12" ] || { echo "changed" >&2; exit 1; }
