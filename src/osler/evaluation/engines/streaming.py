"""The text of one completion while the engine `hf` generates it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

_UNFINISHED: Final = "\ufffd"  # what a tokenizer makes of a part of a character


class TextStream:
    """A streamer for `generate`: passes text on in whole characters, until a stop token; joined it is the text of the completion."""

    def __init__(self, tokenizer: Any, stops: Collection[int], on_text: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._on_text = on_text
        self._token_ids: list[int] | None = None  # None until `generate` has passed the prompt
        self._said = ""
        self._has_stopped = False

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, which comes first, then the tokens of each step."""
        if self._token_ids is None:
            self._token_ids = []
            return
        for token_id in value.flatten().tolist():
            self._has_stopped = self._has_stopped or token_id in self._stops
            if not self._has_stopped:
                self._token_ids.append(token_id)
        self._say(is_last=False)

    def end(self) -> None:
        """Pass on what is left."""
        self._say(is_last=True)

    def _say(self, *, is_last: bool) -> None:
        text: str = self._tokenizer.decode(self._token_ids or [], skip_special_tokens=True)
        if not is_last:
            text = text.rstrip(_UNFINISHED)
        if len(text) > len(self._said) and text.startswith(self._said):
            self._on_text(text[len(self._said) :])
            self._said = text
