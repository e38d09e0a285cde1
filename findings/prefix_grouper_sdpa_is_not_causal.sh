#!/usr/bin/env bash
# prefix-grouper 0.0.1.post1 with transformers 5.23.0: `register_attention` adds PrefixGrouper's attention to Transformers, and
# `prefix_grouper_attn_func` names the attention that it calls inside, flash_attention_2 by default. It hands on a mask of padding with two
# dimensions, which FlashAttention makes causal. PyTorch's attention ("sdpa") takes it as the whole mask: with one prompt, every token of the
# prompt then sees those behind it. The completions raise, unless one prompt has one completion or as many completions as each of them has
# tokens: then they too see what they should predict, and other logits come out without an error or a warning.
#
# Seen: the largest difference of the completions' logits from a plain forward pass, and the same with a causal attention inside:
#       3 completions of 5 tokens: sdpa RuntimeError, causal same
#       4 completions of 4 tokens: sdpa other logits, causal same
#       1 completions of 5 tokens: sdpa other logits, causal same
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/ask.py" <<'PYTHON'
import warnings
import torch
from prefix_grouper import PrefixGrouper
from prefix_grouper.utils.register_transformers import register_attention
from transformers import AttentionInterface, Qwen2Config, Qwen2ForCausalLM

warnings.simplefilter("error")
PROMPT = 6

def causal(module, query, key, value, mask, scaling=None, **_):
    rows, keys = query.shape[2], key.shape[2]
    visible = torch.ones(rows, keys, dtype=torch.bool).tril(keys - rows)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2), None

register_attention()
AttentionInterface.register("causal", causal)
torch.manual_seed(0)
model = Qwen2ForCausalLM(Qwen2Config(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                                     num_key_value_heads=2, bos_token_id=None, eos_token_id=None)).eval()
for weight in model.parameters():
    if weight.ndim == 2:
        torch.nn.init.normal_(weight, std=0.3)
prompt = torch.randint(0, 64, (1, PROMPT))
for num, length in ((3, 5), (4, 4), (1, 5)):
    completions, seen = torch.randint(0, 64, (num, length)), []
    masks = torch.ones_like(prompt), torch.ones_like(completions)
    grouper = PrefixGrouper.from_ungrouped_masks(*masks, group_sizes=num)
    with torch.no_grad():
        model.set_attn_implementation("sdpa")
        right = model(torch.cat([prompt.expand(num, -1), completions], dim=1)).logits[:, PROMPT:]
        model.set_attn_implementation("prefix_grouper_attention")
        ids = grouper.concat_input(prompt, masks[0], completions, masks[1])
        positions = torch.cat([torch.arange(PROMPT), torch.arange(PROMPT, PROMPT + length).repeat(num)])[None]
        for inner in ("sdpa", "causal"):
            try:
                logits = model(ids, position_ids=positions, use_cache=False, prefix_grouper=grouper, prefix_grouper_attn_func=inner).logits
                is_same = torch.allclose(grouper.split_output(logits)[2], right, atol=1e-4)
                seen.append(f"{inner} {'same' if is_same else 'other logits'}")
            except Exception as error:
                seen.append(f"{inner} {type(error).__name__}")
    print(f"{num} completions of {length} tokens: {', '.join(seen)}")
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet prefix-grouper==0.0.1.post1 torch==2.13.0 transformers==5.23.0 numpy==2.4.6 2> /dev/null
seen=$("$folder/venv/bin/python" "$folder/ask.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "3 completions of 5 tokens: sdpa RuntimeError, causal same
4 completions of 4 tokens: sdpa other logits, causal same
1 completions of 5 tokens: sdpa other logits, causal same" ] || { echo "changed" >&2; exit 1; }
