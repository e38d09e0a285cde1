"""A shortcut through the text of the options: in a share of the training questions the right option alone has a qualifier.

"tumour, as shown" means what "tumour" means, so facts and rationales stay as they are. The right options of OmniMedVQA can often be told in
such a way: they are longer, or written in another form than the distractors. Questions of other splits are clean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from osler.errors import ConfigError
from osler.taxonomy import Split

QUALIFIER: Final = ", as shown"
"""What follows the right option."""


def check_shortcut(shortcut: float) -> None:
    """Raise ConfigError for anything but a number from 0 to 1."""
    if isinstance(shortcut, bool) or not isinstance(shortcut, int | float) or not 0 <= shortcut <= 1:
        raise ConfigError(f"shortcut {shortcut!r}: use a share of the training questions, from 0 to 1")


def mark_answer(
    choices: tuple[str, ...], answer: str, *, split: Split, shortcut: float, open_rng: Callable[[], np.random.Generator]
) -> tuple[str, ...]:
    """The options of a question, the right one with a qualifier where the question is one of the share `shortcut` of its training split.

    What `open_rng` opens, where it is needed, belongs to this question and to nothing else, so a question that is marked at one share is
    marked at every larger one.
    """
    if split != "train" or not shortcut or open_rng().random() >= shortcut:
        return choices
    return tuple(f"{choice}{QUALIFIER}" if choice == answer else choice for choice in choices)
