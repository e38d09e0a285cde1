"""A fast path through a Qwen2-VL whose pictures all have one size: the same modules, the same numbers, no per-picture loop.

Shapes: B sequences, L tokens, I pictures, N patches of a picture, V visual tokens of a picture, D width.
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

from tools.build_tiny.architecture import IMAGE_SIZE, MERGE, PATCH

GRID: Final = IMAGE_SIZE // PATCH  # patches along one side
TOKEN_GRID: Final = GRID // MERGE
NUM_PATCHES: Final = GRID * GRID
NUM_VISUAL_TOKENS: Final = TOKEN_GRID * TOKEN_GRID
IGNORED: Final = -100

_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_STD: Final = (0.26862954, 0.26130258, 0.27577711)


def cut_patches(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(112, 112, 3) pixels as (N, 3 * 14 * 14) patches in Qwen2-VL's order: the four patches of one visual token are neighbours."""
    blocks = picture.reshape(TOKEN_GRID, MERGE, PATCH, TOKEN_GRID, MERGE, PATCH, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    return np.ascontiguousarray(blocks.reshape(NUM_PATCHES, 3 * PATCH * PATCH))


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A position from which the letter of an option is to be said."""

    at: int
    option: int  # index into the row's options
    word: int  # that option's token


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training sequence. `labels[t]` is the token to predict from position t, or IGNORED."""

    tokens: list[int]
    labels: list[int]
    picture: int | None = None  # index into a pool
    options: tuple[int, ...] = ()  # the positions of the options' words, in the order of their letters
    queries: tuple[Query, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one forward pass over rows yields."""

    text: Tensor  # mean cross-entropy of the labels
    letters: float | None  # share of right letters among the labels that are letters
    states: tuple[Tensor, ...]  # (B, L, D) before the first layer and after each


class FastPath:
    """Forward passes and generation for `model`, a Qwen2VLForConditionalGeneration."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.visual = model.model.visual
        self.language = model.model.language_model
        self.head = model.lm_head
        index = tokenizer.convert_tokens_to_ids
        self.image_token, self.end, self.pad = index("<|image_pad|>"), index("<|im_end|>"), index("<|endoftext|>")
        self._letters = torch.tensor([index(letter) for letter in "ABCD"])
        self._mean = torch.tensor(_MEAN).repeat_interleave(PATCH * PATCH)
        self._std = torch.tensor(_STD).repeat_interleave(PATCH * PATCH)
        rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
        merged = [axis.reshape(TOKEN_GRID, MERGE, TOKEN_GRID, MERGE).permute(0, 2, 1, 3).reshape(-1) for axis in (rows, columns)]
        with torch.no_grad():
            cos, sin = self.visual.rotary_pos_emb(torch.zeros(NUM_PATCHES, 1), torch.stack(merged, -1))
        self._cos, self._sin = cos[None, None].clone(), sin[None, None].clone()

    def see(self, patches: Tensor) -> Tensor:
        """Visual tokens (I, V, D) of uint8 patches (I, N, 588)."""
        num = len(patches)
        # Qwen2-VL shows a still picture as two equal frames, so the two halves of its kernel can be added.
        kernel = self.visual.patch_embed.proj.weight.sum(2).flatten(1)
        hidden = F.linear((patches.float() / 255 - self._mean) / self._std, kernel)
        for block in self.visual.blocks:
            attention = block.attn
            qkv = attention.qkv(block.norm1(hidden)).view(num, NUM_PATCHES, 3, attention.num_heads, -1)
            query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            mixed = F.scaled_dot_product_attention(self._rotate(query), self._rotate(key), value)
            hidden = hidden + attention.proj(mixed.transpose(1, 2).reshape(num, NUM_PATCHES, -1))
            hidden = hidden + block.mlp(block.norm2(hidden))
        tokens: Tensor = self.visual.merger(hidden.reshape(num * NUM_PATCHES, -1)).view(num, NUM_VISUAL_TOKENS, -1)
        return tokens

    def _rotate(self, states: Tensor) -> Tensor:
        first, second = states.chunk(2, -1)
        rotated: Tensor = states * self._cos + torch.cat((-second, first), -1) * self._sin
        return rotated

    def embed(self, tokens: Tensor, visual: Tensor | None) -> Tensor:
        """Embeddings (B, L, D) of tokens (B, L); `visual` (B, V, D) takes the places of the image tokens."""
        embedded: Tensor = self.language.embed_tokens(tokens)
        if visual is None:
            return embedded
        mixed: Tensor = embedded.masked_scatter((tokens == self.image_token)[..., None], visual.reshape(-1, visual.shape[-1]))
        return mixed

    def run(self, rows: Sequence[Row], visual: Tensor | None = None) -> Pass:
        """One pass over rows that all carry one picture (`visual`, (B, V, D)) or none."""
        length = max(len(row.tokens) for row in rows)
        tokens = torch.full((len(rows), length), self.pad)
        labels = torch.full((len(rows), length), IGNORED)
        for index, row in enumerate(rows):
            tokens[index, : len(row.tokens)] = torch.tensor(row.tokens)
            labels[index, : len(row.labels)] = torch.tensor(row.labels)
        positions = torch.from_numpy(np.stack([locate(row.tokens, self.image_token, length) for row in rows], 1))
        output = self.language(inputs_embeds=self.embed(tokens, visual), position_ids=positions, use_cache=False, output_hidden_states=True)
        mask = labels != IGNORED
        logits, wanted = self.head(output.last_hidden_state[mask]), labels[mask]
        is_letter = torch.isin(wanted, self._letters)
        right = (logits[is_letter].argmax(-1) == wanted[is_letter]).float()
        return Pass(text=F.cross_entropy(logits, wanted), letters=right.mean().item() if len(right) else None, states=output.hidden_states)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[list[int]], patches: Tensor, *, max_new: int = 24, copies: int = 1, temperature: float = 0.0
    ) -> list[list[int]]:
        """`copies` completions of each prompt, in order, without the end token's padding; temperature 0 is greedy.

        Patches: uint8 (B, N, 588), one picture for each prompt.
        """
        length = max(map(len, prompts))
        tokens = torch.full((len(prompts), length), self.pad)
        mask = torch.zeros(len(prompts), length, dtype=torch.long)
        positions = torch.zeros(3, len(prompts), length, dtype=torch.long)
        for index, prompt in enumerate(prompts):
            tokens[index, length - len(prompt) :] = torch.tensor(prompt)
            mask[index, length - len(prompt) :] = 1
            positions[:, index, length - len(prompt) :] = torch.from_numpy(locate(prompt, self.image_token, len(prompt)))
        output = self.language(
            inputs_embeds=self.embed(tokens, self.see(patches)), attention_mask=mask, position_ids=positions, use_cache=True
        )
        cache, logits = output.past_key_values, self.head(output.last_hidden_state[:, -1])
        following = positions[0, :, -1] + 1
        if copies > 1:
            cache.batch_repeat_interleave(copies)
            mask, following, logits = (tensor.repeat_interleave(copies, 0) for tensor in (mask, following, logits))
        return self._continue(cache, mask, following, logits, max_new, temperature)

    def _continue(self, cache: Any, mask: Tensor, following: Tensor, logits: Tensor, max_new: int, temperature: float) -> list[list[int]]:
        done = torch.zeros(len(logits), dtype=torch.bool)
        chosen: list[Tensor] = []
        for step in range(max_new):
            token = logits.argmax(-1) if temperature == 0 else torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0]
            chosen.append(torch.where(done, self.pad, token))
            done |= token == self.end
            if bool(done.all()) or step + 1 == max_new:
                break
            mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=torch.long)], 1)
            output = self.language(
                inputs_embeds=self.language.embed_tokens(chosen[-1][:, None]),
                attention_mask=mask,
                position_ids=(following + step)[None, :, None].expand(3, -1, 1),
                past_key_values=cache,
                use_cache=True,
            )
            logits = self.head(output.last_hidden_state[:, -1])
        return [cut_at(completion, self.end) for completion in torch.stack(chosen, 1).tolist()]


def cut_at(tokens: list[int], end: int) -> list[int]:
    """The tokens up to and with the first `end`."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def locate(tokens: Sequence[int], image_token: int, length: int) -> NDArray[np.int64]:
    """Qwen2-VL's positions (3, length): time, row and column. A picture of V tokens advances the count by the side of its grid."""
    positions = np.zeros((3, length), np.int64)
    count = index = 0
    while index < length:
        if index < len(tokens) and tokens[index] == image_token:
            rows, columns = np.divmod(np.arange(NUM_VISUAL_TOKENS), TOKEN_GRID)
            positions[:, index : index + NUM_VISUAL_TOKENS] = np.stack([np.zeros_like(rows), rows, columns]) + count
            count, index = count + TOKEN_GRID, index + NUM_VISUAL_TOKENS
        else:
            stop = index + 1
            while stop < length and not (stop < len(tokens) and tokens[stop] == image_token):
                stop += 1
            positions[:, index:stop] = np.arange(count, count + stop - index)
            count, index = count + stop - index, stop
    return positions
