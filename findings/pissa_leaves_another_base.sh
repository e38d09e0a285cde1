#!/usr/bin/env bash
# TRL 1.16.0 and PEFT 0.21.2: a LoRA adapter that starts with `init_lora_weights="pissa"` or `"olora"` holds a part of the weights, and PEFT
# subtracts that part from the base. Two places forget it, without an error or a warning:
# 1. A TRL trainer that gets `peft_config` takes the model without its adapter as the reference of the KL term and of DPO. That is what is left
#    of the base, a model that nobody trained: before the first update, where policy and reference are one model, the KL term is not 0 and
#    DPO's loss is not log 2 (0.6931), and `beta` pulls the policy towards the remainder. The same adapter, put on by `get_peft_model`
#    and passed as a model, is copied as the reference, and all is right.
# 2. `"pissa_niter_4"`, the quick form that the documentation gives, finds the part with random numbers, and neither they nor the part are saved.
#    `PeftModel.from_pretrained` finds another part: the model that it loads is not the one that was saved. "pissa" and "olora" find the same.
#
# Seen: the KL term in GRPO's first step and the loss in DPO's:
#       default, peft_config: KL 0.000, loss 0.6931
#       default, wrapped before: KL 0.000, loss 0.6931
#       pissa, peft_config: KL 2.310, loss 0.7535
#       pissa, wrapped before: KL 0.000, loss 0.6931
#       olora, peft_config: KL 2.336, loss 0.8107
#       olora, wrapped before: KL 0.000, loss 0.6931
# and the largest difference of the loaded adapter's logits from the saved one's, over what the training changed:
#       default: difference 0.000
#       pissa: difference 0.000
#       olora: difference 0.000
#       pissa_niter_4: difference 1.567
#       pissa_niter_16: difference 0.357
# These numbers depend on the random weights; the check is whether there is a difference.
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
from peft import LoraConfig, PeftModel, get_peft_model
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

tokens = torch.arange(2, 20)[None]
for start in (True, "pissa", "olora", "pissa_niter_4", "pissa_niter_16"):
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=start, task_type="CAUSAL_LM")
    trained = get_peft_model(make_model(), lora).eval()
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            if "lora_" in name:
                weight.add_(0.05 * torch.randn_like(weight))  # the training
        trained.save_pretrained(f"{sys.argv[1]}/{start}")
        base = make_model()
        torch.manual_seed(1)  # another process
        loaded = PeftModel.from_pretrained(base, f"{sys.argv[1]}/{start}").eval()
        logits = [model(tokens).logits for model in (loaded, trained, make_model().eval())]
    off = ((logits[0] - logits[1]).abs().max() / (logits[1] - logits[2]).abs().max()).item()
    name = "default" if start is True else start
    print(f"{name}: difference {off:.3f}", file=sys.stderr, flush=True)
    print(f"{name}: what is loaded is {'what was saved' if off < 1e-3 else 'another model'}", flush=True)
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 trl==1.16.0 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0 \
  numpy==2.4.6 2> /dev/null
export OMP_NUM_THREADS=1
seen=$(HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/train.py" "$folder/out" 2> "$folder/errors") || { tail -5 "$folder/errors"; exit 1; }
grep -E ": KL |: difference " "$folder/errors"
echo "$seen"
[ "$seen" = "default, peft_config: the reference is the policy
default, wrapped before: the reference is the policy
pissa, peft_config: the reference is another model
pissa, wrapped before: the reference is the policy
olora, peft_config: the reference is another model
olora, wrapped before: the reference is the policy
default: what is loaded is what was saved
pissa: what is loaded is what was saved
olora: what is loaded is what was saved
pissa_niter_4: what is loaded is another model
pissa_niter_16: what is loaded is another model" ] || { echo "the behaviour has changed" >&2; exit 1; }
