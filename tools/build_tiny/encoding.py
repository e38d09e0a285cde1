"""From questions to token sequences, in exactly the words in which training and evaluation ask."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from osler.prompts import render, target_completion
from osler.types import LETTERS, Sample
from tools.build_tiny.fast import IGNORED, NUM_VISUAL_TOKENS, Query, Row
from tools.build_tiny.scaffold import MAX_CHOICES, find_options
from tools.build_tiny.tokenizer import SYSTEM_MESSAGE


@dataclass(frozen=True, slots=True)
class Encoder:
    """Turns text into tokens, a line at a time and each line once."""

    tokenizer: Any
    _lines: dict[str, list[int]] = field(default_factory=dict)

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`. No pre-token spans a line end, so lines can be encoded apart."""
        tokens: list[int] = []
        for line in text.splitlines(keepends=True):
            if line not in self._lines:
                self._lines[line] = self.tokenizer(line, add_special_tokens=False)["input_ids"]
            tokens += self._lines[line]
        return tokens

    def token(self, text: str) -> int:
        """The one token that `text` is."""
        tokens = self.encode(text)
        assert len(tokens) == 1, f"{text!r} is {len(tokens)} tokens"
        return tokens[0]

    def wrap(self, text: str, *, has_picture: bool) -> list[int]:
        """A chat prompt with `text` as the user's turn, behind one picture or none."""
        vision = "<|vision_start|>" + "<|image_pad|>" * NUM_VISUAL_TOKENS + "<|vision_end|>" if has_picture else ""
        head = f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n<|im_start|>user\n{vision}"
        return self.encode(head) + self.encode(text) + self.encode("<|im_end|>\n<|im_start|>assistant\n")

    def prompt(self, sample: Sample, strategy: str, *, phase: Any = "train", has_picture: bool = True) -> list[int]:
        """The prompt of a sample."""
        return self.wrap(render(sample, strategy, phase=phase).text, has_picture=has_picture)

    def options(self, tokens: list[int]) -> tuple[int, ...]:
        """The positions of the options' words in a prompt."""
        brackets = {self.encode("A) cyst\n")[1], self.encode("A)cyst\n")[1]}
        return find_options(tokens, [self.token(letter) for letter in LETTERS[:MAX_CHOICES]], brackets)

    def question_row(self, sample: Sample, strategy: str, picture: int, *, phase: Any = "train") -> Row:
        """The prompt and the target completion."""
        prompt = self.prompt(sample, strategy, phase=phase)
        text = target_completion(sample, strategy)
        lead = self.encode(text[: text.index("<answer>") + len("<answer>")]) if "<answer>" in text else []
        completion = [*self.encode(text), self.encode("<|im_end|>")[0]]
        query = Query(at=len(prompt) + len(lead) - 1, option=LETTERS.index(sample.target), word=self.token(sample.target_text))
        return Row(
            tokens=prompt + completion,
            labels=[IGNORED] * (len(prompt) - 1) + completion + [IGNORED],
            picture=picture,
            options=self.options(prompt),
            queries=(query,),
        )
