"""The training of `osler-tiny`, the policy packaged with Osler: a Qwen2-VL of 1.8 million parameters, from random weights, on phantoms."""
