"""The scripted engine returns prepared completions: for tests, and to grade completions that another program generated."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from osler.config import SamplingConfig
from osler.errors import DataError, EngineError
from osler.types import Completion, FinishReason, Prompt


class ScriptedEngine:
    """Completions from a mapping of sample ids, or from a function of the prompt.

    They have no token ids and finish with "stop"; all completions of a group are equal. A prompt's prefix is put before the scripted text.
    """

    def __init__(self, script: Mapping[str, str] | Callable[[Prompt], str], *, policy_name: str = "scripted") -> None:
        self.script = script
        self.policy_name = policy_name

    @classmethod
    def from_jsonl(cls, path: Path) -> ScriptedEngine:
        """Read a file with `sample_id` and `completion` on every line, such as a records file. Raises DataError."""
        try:
            lines = path.read_text(encoding="utf-8").split("\n")  # not `splitlines`, which also cuts at U+2028 within a completion
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the script {path}: {error}") from None
        script: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row: Any = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not JSON: {error}") from None
            sample_id, completion = (row.get("sample_id"), row.get("completion")) if isinstance(row, dict) else (None, None)
            if not isinstance(sample_id, str) or not isinstance(completion, str):
                raise DataError(f"{path}, line {number}: needs the texts sample_id and completion")
            if sample_id in script:
                raise DataError(f"{path}, line {number}: {sample_id} has a completion already; keep one")
            script[sample_id] = completion
        return cls(script, policy_name=path.stem)

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_completion_length: int,  # noqa: ARG002 - scripted text has no tokens
        num_generations: int = 1,
        sampling: SamplingConfig | None = None,  # noqa: ARG002
        seed: int = 0,  # noqa: ARG002
    ) -> list[list[Completion]]:
        """See `Engine.generate`. Raises EngineError for a sample without a scripted completion."""
        texts = [prompt.prefix + self._look_up(prompt) for prompt in prompts]
        return [[Completion(text=text, token_ids=(), finish_reason=FinishReason.STOP)] * num_generations for text in texts]

    def _look_up(self, prompt: Prompt) -> str:
        if callable(self.script):
            return self.script(prompt)
        if (text := self.script.get(prompt.sample.id)) is None:
            raise EngineError(f"the script {self.policy_name} has no completion for {prompt.sample.id}: add a line for it")
        return text
