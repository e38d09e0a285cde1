"""Questions as token sequences, with the prompts and target completions that training and evaluation use."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from osler.prompts import render, target_completion
from osler.types import LETTERS, Sample
from tools.build_tiny.batched_model import NUM_VISUAL_TOKENS
from tools.build_tiny.rows import IGNORE_INDEX, MAX_CHOICES, Query, TrainingRow
from tools.build_tiny.tokenizer import SYSTEM_MESSAGE


@dataclass(frozen=True, slots=True)
class PromptEncoder:
    """Tokenizes text line by line and caches the tokens of each line."""

    tokenizer: Any
    _lines: dict[str, list[int]] = field(default_factory=dict)

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`. No pre-token crosses a line end, so the lines can be tokenized separately."""
        tokens: list[int] = []
        for line in text.splitlines(keepends=True):
            if line not in self._lines:
                self._lines[line] = self.tokenizer(line, add_special_tokens=False)["input_ids"]
            tokens += self._lines[line]
        return tokens

    def token_id(self, text: str) -> int:
        """The id of `text`, which must be a single token."""
        tokens = self.encode(text)
        assert len(tokens) == 1, f"{text!r} is {len(tokens)} tokens"
        return tokens[0]

    def chat_prompt(self, text: str, *, num_images: int) -> list[int]:
        """The tokens of a conversation with `text` as the user turn, after so many images."""
        vision = ("<|vision_start|>" + "<|image_pad|>" * NUM_VISUAL_TOKENS + "<|vision_end|>") * num_images
        head = f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n<|im_start|>user\n{vision}"
        return self.encode(head) + self.encode(text) + self.encode("<|im_end|>\n<|im_start|>assistant\n")

    def prompt(self, sample: Sample, strategy: str, *, phase: Any = "train", has_images: bool = True) -> list[int]:
        """The tokens of a sample's prompt."""
        num_images = len(sample.images) if has_images else 0
        return self.chat_prompt(render(sample, strategy, phase=phase).text, num_images=num_images)

    def option_positions(self, tokens: list[int]) -> tuple[int, ...]:
        """The positions of the option tokens in a prompt."""
        brackets = {self.encode("A) cyst\n")[1], self.encode("A)cyst\n")[1]}
        return find_options(tokens, [self.token_id(letter) for letter in LETTERS[:MAX_CHOICES]], brackets)

    def question_row(self, sample: Sample, strategy: str, *, phase: Any = "train") -> TrainingRow:
        """The prompt with its image tokens, then the target completion; only the completion has labels.

        Without a query where an option is more than one token, or where there are more than MAX_CHOICES.
        """
        prompt = self.prompt(sample, strategy, phase=phase)
        text = target_completion(sample, strategy)
        lead = self.encode(text[: text.index("<answer>") + len("<answer>")]) if "<answer>" in text else []
        completion = [*self.encode(text), self.encode("<|im_end|>")[0]]
        row = TrainingRow(tokens=prompt + completion, labels=[IGNORE_INDEX] * (len(prompt) - 1) + completion + [IGNORE_INDEX])
        options = [self.encode(choice) for choice in sample.choices]
        if len(options) > MAX_CHOICES or any(len(tokens) != 1 for tokens in options):
            return row
        option = LETTERS.index(sample.target)
        query = Query(position=len(prompt) + len(lead) - 1, option=option, option_token=options[option][0])
        return replace(row, option_positions=self.option_positions(prompt), queries=(query,))


def find_options(tokens: Sequence[int], letters: Sequence[int], brackets: Collection[int]) -> tuple[int, ...]:
    r"""The positions of x, y, .. in "A) x\nB) y\n..": two after each letter that a bracket follows, in order."""
    positions: list[int] = []
    for position in range(len(tokens) - 2):
        if len(positions) == len(letters):
            break
        if tokens[position] == letters[len(positions)] and tokens[position + 1] in brackets:
            positions.append(position + 2)
    return tuple(positions)
