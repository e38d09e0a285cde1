"""The answer to an open-ended question, and when two texts are the same answer: equality after folding, never overlap."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

from osler.grading.words import ARTICLES, MAX_LENGTH, fold_text

MAX_STATEMENT: Final = 200
"""Characters of an untagged single line that still count as an answer and not as a discussion."""

_CUE: Final = re.compile(
    r"(?:\b(?:answer|réponse|antwort|respuesta|risposta|ответ)[*_\"']{0,3} ?(?:(?:is|est|ist|es|è)\b|:)"
    r"|答案 ?[是为::]|\\boxed\{)[: *_\"]{0,4}(?=([^\n]{1,400}))",  # looked at, not taken: a second claim may follow
    re.IGNORECASE,
)
_SENTENCE_END: Final = re.compile(r"[.!?;](?:\s|$)|。")
_SYNONYMS: Final = MappingProxyType(
    {
        **dict.fromkeys(("y", "yeah", "yep", "true", "是", "是的"), "yes"),
        **dict.fromkeys(("n", "nope", "false", "否", "不是"), "no"),
    }
)


def read_open_answer(text: str, *, is_tagged: bool) -> tuple[str | None, str]:
    """(the answer's text or None, how it was read): "text", "claim"; "empty", "several", "not_committed".

    What follows "the answer is" is the answer, up to the end of its sentence. Without such a claim a tagged text, or a single short line,
    is the answer as a whole; longer prose commits to nothing.
    """
    text = text[-MAX_LENGTH:].strip()
    if not fold_text(text):
        return None, "empty"
    claims = [_SENTENCE_END.split(match[1], maxsplit=1)[0].strip(' *_"}$') for match in _CUE.finditer(text)]
    claims = [claim for claim in claims if fold_text(claim)]
    if len({_fold_answer(claim) for claim in claims}) > 1:
        return None, "several"
    if claims:
        return claims[0], "claim"
    if is_tagged or ("\n" not in text and len(text) <= MAX_STATEMENT):
        return text, "text"
    return None, "not_committed"


def is_same_text(answer: str, target: str) -> bool:
    """Whether two answers are equal apart from case, end marks, blanks, articles, hyphens and whole-text synonyms of yes and no."""
    folded = _fold_answer(answer)
    return bool(folded) and folded == _fold_answer(target)


def _fold_answer(text: str) -> tuple[str, ...]:
    words = [word for word in fold_text(text) if word != "the"]
    while len(words) > 1 and words[0] in ARTICLES:  # an inner "a" is a name: "vitamin A deficiency"
        words.pop(0)
    whole = _SYNONYMS.get("".join(words))
    return (whole,) if whole else tuple(words)
