#!/usr/bin/env bash
# TRL 1.16.0 with PEFT 0.21.2: a trainer that gets `peft_config` takes the model without its adapter as the reference of the KL term and of DPO.
# Two ways to start a LoRA adapter, `init_lora_weights="pissa"` and `"olora"`, move the greatest part of the weights into the adapter and subtract
# it from the base. The reference is then what is left, a model that nobody trained: before the first update, where policy and reference are one
# model, the KL term is not 0 and DPO's loss is not log 2 (0.6931), without an error or a warning. Then `beta` pulls the policy towards
# that remainder. The same adapter put on by `get_peft_model` and passed as a model is copied as the reference, and all is right.
#
# Seen: the KL term in GRPO's first step and the loss in DPO's, for `peft_config` and for a model from `get_peft_model`:
#       default: KL 0.000, loss 0.6931; wrapped before: KL 0.000, loss 0.6931
#       pissa: KL 2.310, loss 0.7535; wrapped before: KL 0.000, loss 0.6931
#       olora: KL 2.336, loss 0.8107; wrapped before: KL 0.000, loss 0.6931
# The numbers of "pissa" and "olora" depend on the random weights; the check is that they are, or are not, those of equal models.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/train.py" <<'PYTHON'
import contextlib
import io
import math
import sys
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

WORDS = ["<pad>", "<eos>", *(f"w{i}" for i in range(30))]
backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")
prompts = Dataset.from_list([{"prompt": "w1 w2 w3"}] * 4)
pairs = Dataset.from_list([{"prompt": "w1 w2", "chosen": " w3 w4", "rejected": " w5 w6"}] * 4)
settings = {"output_dir": sys.argv[1], "per_device_train_batch_size": 4, "max_steps": 1, "logging_steps": 1, "report_to": [],
            "save_strategy": "no", "use_cpu": True, "bf16": False, "disable_tqdm": True}
grpo = GRPOConfig(**settings, num_generations=4, max_completion_length=8, beta=0.04)
dpo = DPOConfig(**settings)


def make_model():
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                                         num_key_value_heads=2, eos_token_id=1, pad_token_id=0, bos_token_id=None))
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def length(completions, **_):
    return [float(len(text) % 3) for text in completions]


def first_step(start, is_wrapped):
    """The KL term of GRPO and the loss of DPO before any update."""
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=start, task_type="CAUSAL_LM")
    adapter = {} if is_wrapped else {"peft_config": lora}
    first, second = ([get_peft_model(make_model(), lora) for _ in range(2)] if is_wrapped else [make_model() for _ in range(2)])
    trainers = (
        (GRPOTrainer(first, length, grpo, prompts, processing_class=tokenizer, **adapter), "kl"),
        (DPOTrainer(second, args=dpo, train_dataset=pairs, processing_class=tokenizer, **adapter), "loss"),
    )
    for trainer, name in trainers:
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
        yield trainer.state.log_history[0][name]


for start, name in ((True, "default"), ("pissa", "pissa"), ("olora", "olora")):
    for is_wrapped in (False, True):
        kl, loss = first_step(start, is_wrapped)
        is_own = abs(kl) < 1e-3 and abs(loss - math.log(2)) < 1e-3
        where = "wrapped before" if is_wrapped else "peft_config"
        print(f"{name}, {where}: KL {abs(kl):.3f}, loss {loss:.4f}", file=sys.stderr, flush=True)
        print(f"{name}, {where}: the reference is {'the policy' if is_own else 'another model'}", flush=True)
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 trl==1.16.0 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0 \
  numpy==2.4.6 2> /dev/null
export OMP_NUM_THREADS=1
seen=$(HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/train.py" "$folder/out" 2> "$folder/errors") || { tail -5 "$folder/errors"; exit 1; }
grep ": KL " "$folder/errors"
echo "$seen"
[ "$seen" = "default, peft_config: the reference is the policy
default, wrapped before: the reference is the policy
pissa, peft_config: the reference is another model
pissa, wrapped before: the reference is the policy
olora, peft_config: the reference is another model
olora, wrapped before: the reference is the policy" ] || { echo "the behaviour has changed" >&2; exit 1; }
