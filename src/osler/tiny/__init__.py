"""`osler-tiny`: a Qwen2-VL of under two million parameters that ships with Osler, and the recipe that trains it on phantoms from nothing."""
