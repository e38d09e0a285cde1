"""The answer to an open-ended question, and whether it equals the target: equal after folding, never by overlap."""

from __future__ import annotations

import re
from typing import Final

from osler.text import MAX_LENGTH, fold_answer, fold_phrase

MAX_STATEMENT: Final = 200
"""Characters of the longest single line without tags that counts as an answer."""

_CUE: Final = re.compile(
    r"(?:\b(?:answer|réponse|antwort|respuesta|risposta|ответ)[*_\"']{0,3} ?(?:(?:is|est|ist|es|è)\b|:)"
    r"|答案 ?[是为:：]|\\boxed\{)[: *_\"]{0,4}(?=([^\n]{1,400}))",  # a lookahead, since a second claim may follow
    re.IGNORECASE,
)
_SENTENCE_END: Final = re.compile(r"(?<!\bvs)[.!?;](?:\s|$)|。")


def read_open_answer(text: str, *, is_tagged: bool) -> tuple[str | None, str]:
    """The text of the answer with "claim" or "text", or None with "empty", "several" or "not_committed".

    A claim is what follows "the answer is", up to the end of the sentence. Without a claim, the whole text is the answer if it was inside
    <answer> tags (`is_tagged`) or is one short line; longer prose gives no answer. Claims that differ give "several".
    """
    text = text[-MAX_LENGTH:].strip()
    if not fold_phrase(text):
        return None, "empty"
    claims = [_SENTENCE_END.split(match[1], maxsplit=1)[0].strip(' *_"}$') for match in _CUE.finditer(text)]
    claims = [claim for claim in claims if fold_phrase(claim)]
    if len({fold_answer(claim) for claim in claims}) > 1:
        return None, "several"
    if claims:
        return claims[0], "claim"
    if is_tagged or ("\n" not in text and len(text) <= MAX_STATEMENT):
        return text, "text"
    return None, "not_committed"


def is_same_text(answer: str, target: str) -> bool:
    """Whether two answers are equal by `fold_answer`. An answer that folds to nothing, such as "the", equals no target."""
    folded = fold_answer(answer)
    return bool(folded) and folded == fold_answer(target)
