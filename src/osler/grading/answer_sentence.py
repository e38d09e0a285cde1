"""The sentence around an open answer: "The organ in this image is probably the liver." -> "liver". Words are those of `split_words`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from osler.grading.quantities import quantity_index
from osler.grading.terms import fold_word
from osler.text import ARTICLES

LISTS: Final = frozenset({",", ";", "/", "+", "&", "and", "和", "与", "及", "\n"})
ALTERNATIVES: Final = frozenset({"or", "vs", "versus", "或"})
NEGATIONS: Final = frozenset(
    {"no", "not", "non", "without", "never", "neither", "nor", "cannot", "absent", "unlikely", "excluded", "absence"}
    | {"false", "wrong", "incorrect", "negative", "except", "denied"}
    | set("无没未非不")
)
_SENTENCE_ENDS: Final = frozenset({".", "!", "?"})
_ABBREVIATIONS: Final = frozenset({"vs", "approx", "dr", "etc"})
_REASONS: Final = frozenset({"because", "since"})

_HEDGES: Final = frozenset(
    {"probably", "likely", "possibly", "maybe", "perhaps", "presumably", "apparently", "suspected", "definitely", "clearly"}
    | {"just", "located", "situated", "please"}
)
_ROUGHLY: Final = frozenset({"approximately", "roughly", "about", "around", "circa"})
_LEADING: Final = _HEDGES | ARTICLES | {"to", "in", "on", "at", "within", "of", "its", "their", "some", "be", "been", "like", "as", ":"}
_VERBS: Final = frozenset(
    {"is", "are", "was", "were", "be", "shows", "show", "showing", "depicts", "demonstrates", "reveals", "see", "seems", "appears", "think"}
    | {"indicates", "suggests", "represents", "lies", "displays", "contains", "looks", "believe", "say", "has", "s", "called", ":"}
    | {"located", "situated", "like", "found", "using", "via"}
)
_PARTICIPLES: Final = frozenset({"taken", "acquired", "obtained", "captured", "made", "performed"})
"""With "with" or "by" behind them they go before an answer: "acquired with MRI"."""
_FRAME: Final = (
    _VERBS
    | _PARTICIPLES
    | frozenset(
        {"it", "this", "that", "these", "those", "they", "there", "i", "we", "you", "here", "the", "a", "an", "of", "in", "on", "to", "for"}
        | {"organ", "image", "picture", "answer", "modality", "scan", "plane", "colour", "abnormality", "lesion", "disease", "finding"}
        | {"diagnosis", "number", "count", "side", "part", "region", "area", "location", "position", "shape", "structure", "system", "view"}
        | {
            "patient",
            "slice",
            "photo",
            "type",
            "kind",
            "name",
            "largest",
            "biggest",
            "main",
            "primary",
            "imaging",
            "technique",
            "weighting",
        }
        | {
            "function",
            "treatment",
            "cause",
            "symptom",
            "shown",
            "seen",
            "visible",
            "displayed",
            "affected",
            "depicted",
            "can",
            "would",
            "my",
        }
        | {"body", "clearly", "most", "likely", "probably", "abnormal", "object", "thing", "result", "correct", "final", "question"}
        | {"based", "according"}
    )
)
"""Words of the sentence around an answer, before its verb, in the singular."""
_ATTRIBUTES: Final = frozenset(
    {"organ", "colour", "shape", "modality", "plane", "function", "number", "type", "name", "location", "answer", "diagnosis", "treatment"}
)
"""Nouns whose value is the answer, so what stands between them and the verb only says which: "the colour of the lung is"."""
_MAX_SUBJECT: Final = 12
_TAIL: Final = frozenset(
    {
        "visible",
        "shown",
        "present",
        "seen",
        "in",
        "on",
        "this",
        "the",
        "image",
        "picture",
        "scan",
        "here",
        "displayed",
        "depicted",
        "affected",
    }
    | {"clearly", "view", "slice", "photo", "can", "be", "is", "are", "what", "it", "that", "there", "of", "study"}
)
_VIEWS: Final = frozenset({"image", "picture", "scan", "slice", "photo", "view", "radiograph"})

_CHINESE_VERBS: Final = frozenset("是为示见于在有了:")
_CHINESE_FRAME: Final = frozenset(
    "这该图像片中的器官位置显示可能应我认为它病变答案颜色形状模态成平面主要看起来疑似考虑部扫描方式数量在是见于大概也许里有了最大:"
)
_CHINESE_HEDGES: Final = (("可", "能"), ("应", "该"), ("大", "概"), ("也", "许"), ("疑", "似"), ("似", "乎"), ("位", "于"), ("考", "虑"))
_CHINESE_SUBJECT: Final = re.compile(
    r"^[^不没无未非,，。]{0,20}?(?:颜色|形状|功能|作用|器官|模态|平面|位置|数量|疾病|方式)(?:可能)?[是为:：]"
)


def drop_chinese_subject(text: str) -> str:
    """The text behind a subject whose value it is: "肺的颜色是黑色" -> "黑色"."""
    return _CHINESE_SUBJECT.sub("", text)


def first_sentence(words: Sequence[str]) -> tuple[list[str], bool]:
    """The words up to the first end of a sentence or a reason, and whether a further sentence follows."""
    begin = next((at for at, word in enumerate(words) if word[0].isalnum() or quantity_index(word) is not None), 0)
    for at in range(begin, len(words)):
        if words[at] in _SENTENCE_ENDS:
            has_more = any(word[0].isalnum() for word in words[at + 1 :])
            if has_more and words[at] == "." and words[at - 1] in _ABBREVIATIONS:
                continue
            return list(words[begin:at]), has_more
        if words[at] in _REASONS and at > begin:
            return list(words[begin:at]), False
    return list(words[begin:]), False


def strip_sentence(words: list[str]) -> list[str]:
    """The words without the sentence around the answer; all words where nothing else remains."""
    comma = words.index(",") if "," in words else 0
    if 0 < comma < len(words) - 1 and all(word in _FRAME for word in words[:comma]):  # "Based on the image, .."
        words = words[comma + 1 :]
    if (begin := _behind_subject(words)) is not None:
        return words[begin:]
    is_chinese = any("\u3040" <= word[0] <= "\u9fff" for word in words[:2])
    end = _chinese_frame_end(words) if is_chinese else _frame_end(words)
    if 0 < end < len(words) and any(word not in _TAIL for word in words[end:]):
        return words[end:]
    verb = next((at for at, word in enumerate(words) if at and word in ("is", "are", "can")), len(words))
    return words[:verb] if all(word in _TAIL for word in words[verb:]) else words


def _frame_end(words: Sequence[str]) -> int:
    """The position behind the last verb of the words before an answer; 0 without one."""
    end = 0
    for at, word in enumerate(words):
        is_link = at > 0 and words[at - 1] in _PARTICIPLES and word in ("with", "by")
        if not is_link and fold_word(word) not in _FRAME and word not in _FRAME:
            break
        if is_link or word in _VERBS:
            end = at + 1
    return end


def _chinese_frame_end(words: Sequence[str]) -> int:
    end = 0
    for at, word in enumerate(words):
        if word not in _CHINESE_FRAME:
            break
        if word in _CHINESE_VERBS or (word in "的中" and at > 0 and words[at - 1] in "图像片中"):  # "图像中的"
            end = at + 1
    return end


def _behind_subject(words: Sequence[str]) -> int | None:
    """Where the answer begins behind a subject whose value it is: 6 in "the colour of the lung is black"; None for other sentences."""
    folded = [fold_word(word) for word in words[:4]]
    head = next((at for at, word in enumerate(folded) if word in _ATTRIBUTES), None)
    if head is None or any(word not in _FRAME for word in folded[:head]):
        return None
    for at in range(head + 1, min(len(words) - 1, _MAX_SUBJECT)):
        if words[at] in NEGATIONS or words[at] in LISTS or words[at] in ("other", "than", "unlike"):
            return None
        if words[at] in ("is", "are") and not all(word in _TAIL for word in words[at + 1 :]):
            return at + 1
    return None


def strip_part(words: list[str]) -> list[str]:
    """The words of one part of a list without hedges, articles and prepositions before it, and without "in this image" behind it."""
    begin, end = 0, len(words)
    while begin < end and (words[begin] in _LEADING or _is_hedge(words, begin)):
        begin += 1
    while tuple(words[begin : begin + 2]) in _CHINESE_HEDGES:
        begin += 2
        begin += words[begin : begin + 1] == ["是"]
    while end > begin and words[end - 1] in _HEDGES:
        end -= 1
    if end - begin > 2 and words[end - 1] in _VIEWS:
        at = end - 2
        while at > begin and words[at] in ("the", "this", "an", "a", "s", "patient"):
            at -= 1
        if words[at] in ("in", "on", "of"):
            end = at
    return words[begin:end] or words


def _is_hedge(words: Sequence[str], at: int) -> bool:
    """Whether a word weakens only what follows it here: "most" of "most likely", "about" of "about 2 cm"."""
    following = words[at + 1] if at + 1 < len(words) else ""
    return (words[at] == "most" and following in _HEDGES) or (words[at] in _ROUGHLY and quantity_index(following) is not None)
