"""Texts that end a completion: what comes before them may be shown, they may not, nor what may still become one of them."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Passes on the text of one completion, piece by piece, up to the first stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stop for stop in stops if stop)
        self.is_stopped = False
        self._held = ""  # the end of the text so far, where it is the beginning of a stop text

    def feed(self, piece: str) -> str:
        """The text that may be shown after one more `piece`: "" while all of it may belong to a stop text."""
        if not self.stops:
            return piece
        text = self._held + piece
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return text[: min(found)]
        keep = max(_overlap(text, stop) for stop in self.stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, at the end of a completion that no stop text ended."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` with which `stop` begins."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
