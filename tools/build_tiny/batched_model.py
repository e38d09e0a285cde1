"""Batched forward passes and greedy decoding for a Qwen2-VL whose images all have one size.

Transformers' own forward pass loops over the images. This one runs the same modules on all images at once and yields the same numbers.
Shapes: B sequences, L tokens, I images, N patches of an image, V visual tokens of an image, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tools.build_tiny.architecture import IMAGE_SIZE, MERGE_SIZE, PATCH_SIZE
from tools.build_tiny.rows import IGNORE_INDEX, TrainingRow

GRID: Final = IMAGE_SIZE // PATCH_SIZE  # patches along one side
TOKEN_GRID: Final = GRID // MERGE_SIZE  # visual tokens along one side
NUM_PATCHES: Final = GRID * GRID
NUM_VISUAL_TOKENS: Final = TOKEN_GRID * TOKEN_GRID

# Qwen2-VL's normalisation of red, green and blue.
_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_STD: Final = (0.26862954, 0.26130258, 0.27577711)


def cut_patches(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(112, 112, 3) pixels as (N, 588) patches in Qwen2-VL's order: the four patches of one visual token are neighbours."""
    blocks = image.reshape(TOKEN_GRID, MERGE_SIZE, PATCH_SIZE, TOKEN_GRID, MERGE_SIZE, PATCH_SIZE, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    return np.ascontiguousarray(blocks.reshape(NUM_PATCHES, 3 * PATCH_SIZE * PATCH_SIZE))


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardOutput:
    """The result of one forward pass over rows."""

    loss: Tensor  # mean cross-entropy of the labels
    letter_accuracy: float | None  # over the labels that are letters; None without such labels
    hidden_states: tuple[Tensor, ...]  # (B, L, D), before the first layer and after each


class BatchedModel:
    """Forward passes and generation for `model`, a Qwen2VLForConditionalGeneration."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.visual = model.model.visual
        self.language = model.model.language_model
        self.head = model.lm_head
        index = tokenizer.convert_tokens_to_ids
        self.image_token, self.eos_token, self.pad_token = index("<|image_pad|>"), index("<|im_end|>"), index("<|endoftext|>")
        self._letters = torch.tensor([index(letter) for letter in "ABCD"])
        self._mean = torch.tensor(_MEAN).repeat_interleave(PATCH_SIZE * PATCH_SIZE)
        self._std = torch.tensor(_STD).repeat_interleave(PATCH_SIZE * PATCH_SIZE)
        axes = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
        in_patch_order = [axis.reshape(TOKEN_GRID, MERGE_SIZE, TOKEN_GRID, MERGE_SIZE).permute(0, 2, 1, 3).reshape(-1) for axis in axes]
        with torch.no_grad():
            cos, sin = self.visual.rotary_pos_emb(torch.zeros(NUM_PATCHES, 1), torch.stack(in_patch_order, -1))
        self._cos, self._sin = cos[None, None].clone(), sin[None, None].clone()

    def encode_images(self, patches: Tensor) -> Tensor:
        """Visual tokens (I, V, D) of uint8 patches (I, N, 588)."""
        num = len(patches)
        # Qwen2-VL reads an image as two equal frames, so the two halves of its kernel can be added.
        kernel = self.visual.patch_embed.proj.weight.sum(2).flatten(1)
        hidden = F.linear((patches.float() / 255 - self._mean) / self._std, kernel)
        for block in self.visual.blocks:
            attention = block.attn
            qkv = attention.qkv(block.norm1(hidden)).view(num, NUM_PATCHES, 3, attention.num_heads, -1)
            query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            attended = F.scaled_dot_product_attention(self._rotate(query), self._rotate(key), value)
            hidden = hidden + attention.proj(attended.transpose(1, 2).reshape(num, NUM_PATCHES, -1))
            hidden = hidden + block.mlp(block.norm2(hidden))
        tokens: Tensor = self.visual.merger(hidden.reshape(num * NUM_PATCHES, -1)).view(num, NUM_VISUAL_TOKENS, -1)
        return tokens

    def _rotate(self, states: Tensor) -> Tensor:
        """Apply the rotary position embedding."""
        first, second = states.chunk(2, -1)
        rotated: Tensor = states * self._cos + torch.cat((-second, first), -1) * self._sin
        return rotated

    def embed(self, tokens: Tensor, visual: Tensor | None) -> Tensor:
        """Embeddings (B, L, D) of tokens (B, L); `visual` (B, V, D) replaces the embeddings of the image tokens."""
        embedded: Tensor = self.language.embed_tokens(tokens)
        if visual is None:
            return embedded
        merged: Tensor = embedded.masked_scatter((tokens == self.image_token)[..., None], visual.reshape(-1, visual.shape[-1]))
        return merged

    def forward(self, rows: Sequence[TrainingRow], visual: Tensor | None = None) -> ForwardOutput:
        """One pass over rows that all hold one image (`visual`, (B, V, D)) or none."""
        length = max(len(row.tokens) for row in rows)
        tokens = torch.full((len(rows), length), self.pad_token)
        labels = torch.full((len(rows), length), IGNORE_INDEX)
        for index, row in enumerate(rows):
            tokens[index, : len(row.tokens)] = torch.tensor(row.tokens)
            labels[index, : len(row.labels)] = torch.tensor(row.labels)
        positions = torch.from_numpy(np.stack([position_ids(row.tokens, self.image_token, length) for row in rows], 1))
        output = self.language(inputs_embeds=self.embed(tokens, visual), position_ids=positions, use_cache=False, output_hidden_states=True)
        mask = labels != IGNORE_INDEX
        logits, targets = self.head(output.last_hidden_state[mask]), labels[mask]
        is_letter = torch.isin(targets, self._letters)
        correct = (logits[is_letter].argmax(-1) == targets[is_letter]).float()
        return ForwardOutput(
            loss=F.cross_entropy(logits, targets),
            letter_accuracy=correct.mean().item() if len(correct) else None,
            hidden_states=output.hidden_states,
        )

    @torch.no_grad()
    def generate(self, prompts: Sequence[list[int]], patches: Tensor, *, max_new_tokens: int = 40) -> list[list[int]]:
        """The greedy completion of each prompt, up to and with its end token. `patches`: uint8 (B, N, 588), one image for each prompt."""
        length = max(map(len, prompts))
        tokens = torch.full((len(prompts), length), self.pad_token)  # padded on the left
        mask = torch.zeros(len(prompts), length, dtype=torch.long)
        positions = torch.zeros(3, len(prompts), length, dtype=torch.long)
        for index, prompt in enumerate(prompts):
            tokens[index, length - len(prompt) :] = torch.tensor(prompt)
            mask[index, length - len(prompt) :] = 1
            positions[:, index, length - len(prompt) :] = torch.from_numpy(position_ids(prompt, self.image_token, len(prompt)))
        embedded = self.embed(tokens, self.encode_images(patches))
        output = self.language(inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=True)
        next_position = positions[0, :, -1] + 1
        is_done = torch.zeros(len(prompts), dtype=torch.bool)
        chosen: list[Tensor] = []
        for step in range(max_new_tokens):
            token = self.head(output.last_hidden_state[:, -1]).argmax(-1)
            chosen.append(torch.where(is_done, self.pad_token, token))
            is_done |= token == self.eos_token
            if bool(is_done.all()) or step + 1 == max_new_tokens:
                break
            mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=torch.long)], 1)
            output = self.language(
                inputs_embeds=self.language.embed_tokens(chosen[-1][:, None]),
                attention_mask=mask,
                position_ids=(next_position + step)[None, :, None].expand(3, -1, 1),
                past_key_values=output.past_key_values,
                use_cache=True,
            )
        return [truncate_at(completion, self.eos_token) for completion in torch.stack(chosen, 1).tolist()]


def truncate_at(tokens: list[int], end: int) -> list[int]:
    """The tokens up to and with the first `end`."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def position_ids(tokens: Sequence[int], image_token: int, length: int) -> NDArray[np.int64]:
    """Qwen2-VL's position ids (3, length): time, row and column. An image advances the position by the side of its token grid."""
    positions = np.zeros((3, length), np.int64)
    position = index = 0
    while index < length:
        if index < len(tokens) and tokens[index] == image_token:
            rows, columns = np.divmod(np.arange(NUM_VISUAL_TOKENS), TOKEN_GRID)
            positions[:, index : index + NUM_VISUAL_TOKENS] = np.stack([np.zeros_like(rows), rows, columns]) + position
            position, index = position + TOKEN_GRID, index + NUM_VISUAL_TOKENS
        else:
            stop = index + 1
            while stop < length and not (stop < len(tokens) and tokens[stop] == image_token):
                stop += 1
            positions[:, index:stop] = np.arange(position, position + stop - index)
            position, index = position + stop - index, stop
    return positions
