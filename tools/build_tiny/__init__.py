"""`osler-tiny`: a Qwen2-VL of under two million parameters packaged here, and the recipe that trains it on phantoms from nothing."""
