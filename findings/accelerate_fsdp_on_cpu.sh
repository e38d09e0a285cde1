#!/usr/bin/env bash
# accelerate 1.15.0 with torch 2.13.0: two processes on a CPU that ask for FSDP 2 get DistributedDataParallel. `Accelerator(fsdp_plugin=...)` is
# accepted, nothing is raised or warned, and every process holds all weights, although PyTorch's own fully_shard works on the same two
# processes. A trial of a sharded training on a CPU so tries something else.
#
# Seen: what prepare returns with the plugin, the share of the weights that a process holds, and the share under fully_shard:
#       accelerate: DistributedDataParallel, MULTI_CPU, 1.0 of the weights, 0 warnings
#       fully_shard: FSDPLinear, 0.5 of the weights
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/ask.py" <<'PYTHON'
import os
import warnings
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

def held(model):
    """The share of the 64 weights of which this process has the numbers."""
    return sum(getattr(weight, "_local_tensor", weight).numel() for weight in model.parameters()) / 64

with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    accelerator = Accelerator(cpu=True, fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2))
    model = accelerator.prepare(torch.nn.Linear(8, 8, bias=False))
about = [one for one in said if "fsdp" in str(one.message).lower() or "shard" in str(one.message).lower()]
first = f"accelerate: {type(model).__name__}, {accelerator.distributed_type.value}, {held(model)} of the weights, {len(about)} warnings"
own = fully_shard(torch.nn.Linear(8, 8, bias=False), mesh=init_device_mesh("cpu", (2,)))
second = f"fully_shard: {type(own).__name__}, {held(own)} of the weights"
if os.environ["RANK"] == "0":
    print(first, second, sep="\n", flush=True)
torch.distributed.barrier()
PYTHON
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 accelerate==1.15.0
export OMP_NUM_THREADS=1
found=$("$folder/env/bin/python" -m torch.distributed.run --standalone --nproc-per-node 2 "$folder/ask.py" 2> "$folder/errors") || { cat "$folder/errors"; exit 1; }
echo "$found"
expected="accelerate: DistributedDataParallel, MULTI_CPU, 1.0 of the weights, 0 warnings
fully_shard: FSDPLinear, 0.5 of the weights"
if [ "$found" != "$expected" ]; then
  echo "the behaviour has changed" >&2
  exit 1
fi
