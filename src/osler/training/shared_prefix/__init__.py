"""GRPO whose groups share their image and prompt: exact, and several times faster.

`prefix` and `attention` are the packed forward pass; `rollout` and `decoder` write the completions, `update` scores them. `vision` keeps
what a frozen tower made of an image, `sampling` replaces groups that teach nothing, `groups` prepares each prompt once, and `trainer` puts
all of it in the place of TRL's own steps.
"""
