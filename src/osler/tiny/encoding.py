"""From questions to token sequences, in exactly the words in which training and evaluation ask."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from osler.phantom import Findings
from osler.prompts import find_strategy, render, target_completion
from osler.tiny.fast import IGNORED, NUM_VISUAL_TOKENS, Row
from osler.tiny.tokenizer import SYSTEM_MESSAGE
from osler.types import Sample

CAPTION_REQUEST: Final = "Describe the image."


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

    def question_row(self, sample: Sample, strategy: str, picture: int, *, phase: Any = "train") -> Row:
        """The prompt and the target completion; where the answer comes first, its word is expected of the middle layer."""
        prompt = self.prompt(sample, strategy, phase=phase)
        completion = [*self.encode(target_completion(sample, strategy)), self.encode("<|im_end|>")[0]]
        answers_first = not target_completion(sample, strategy).startswith("<think>")
        starts_with_tag = find_strategy(strategy).format.value != "free"
        return Row(
            tokens=prompt + completion,
            labels=[IGNORED] * (len(prompt) - 1) + completion + [IGNORED],
            picture=picture,
            word_at=(len(prompt) if starts_with_tag else len(prompt) - 1) if answers_first else None,
            word=self.token(sample.target_text),
        )

    def caption_row(self, findings: Findings, picture: int) -> Row:
        """A request to describe the picture, and all that it shows."""
        prompt = self.wrap(CAPTION_REQUEST, has_picture=True)
        completion = [*self.encode(describe(findings)), self.encode("<|im_end|>")[0]]
        return Row(tokens=prompt + completion, labels=[IGNORED] * (len(prompt) - 1) + completion + [IGNORED], picture=picture)


def describe(findings: Findings) -> str:
    """All that a picture shows, e.g. "T2-weighted, axial brain, tumour, mild, upper left"."""
    shown = (findings.technique, findings.anatomy, findings.disease, findings.grade, findings.other)
    return ", ".join(name for name in shown if name)
