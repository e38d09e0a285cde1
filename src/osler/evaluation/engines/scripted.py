"""The scripted engine answers from a table or a function: the fake of the seam, and a way to grade completions made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from osler.config import SamplingConfig
from osler.errors import DataError, EngineError
from osler.types import Completion, FinishReason, Prompt


class ScriptedEngine:
    """Completions by sample id, or from a function of the prompt. They have no tokens, end with "stop" and are the same in a group.

    Where a prompt has a prefix, the script says what follows it.
    """

    def __init__(self, script: Mapping[str, str] | Callable[[Prompt], str], *, policy_name: str = "scripted") -> None:
        self.script = script
        self.policy_name = policy_name

    @classmethod
    def from_jsonl(cls, path: Path) -> ScriptedEngine:
        """Read a file with `sample_id` and `completion` on every line, such as the records of an evaluation. Raises DataError."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the script {path}: {error}") from None
        script: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            sample_id, completion = _parse(line, f"{path}, line {number}")
            if sample_id in script:
                raise DataError(f"{path}, line {number}: {sample_id} has a completion already; keep one")
            script[sample_id] = completion
        return cls(script, policy_name=path.stem)

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_completion_length: int,  # noqa: ARG002 - a script has no tokens to count
        num_generations: int = 1,
        sampling: SamplingConfig | None = None,  # noqa: ARG002 - nor anything to draw
        seed: int = 0,  # noqa: ARG002
    ) -> list[list[Completion]]:
        """See `Engine.generate`. Raises EngineError for a sample that the script does not hold."""
        texts = [prompt.prefix + self._look_up(prompt) for prompt in prompts]
        return [[Completion(text=text, token_ids=(), finish_reason=FinishReason.STOP)] * num_generations for text in texts]

    def _look_up(self, prompt: Prompt) -> str:
        if callable(self.script):
            return self.script(prompt)
        if (text := self.script.get(prompt.sample.id)) is None:
            raise EngineError(f"the script {self.policy_name} has no completion for {prompt.sample.id}: add a line for it")
        return text


def _parse(line: str, place: str) -> tuple[str, str]:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: not JSON: {error}") from None
    if not isinstance(row, dict):
        row = {}
    sample_id, completion = row.get("sample_id"), row.get("completion")
    if not isinstance(sample_id, str) or not isinstance(completion, str):
        raise DataError(f"{place}: needs the texts sample_id and completion")
    return sample_id, completion
