"""The rules by which two texts count as equal, each on the same texts."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest

from osler.text import (
    drop_invisible,
    fold_answer,
    fold_label,
    fold_option,
    fold_phrase,
    fold_words,
    ignore_case_and_end,
    split_words,
)

RULES = (ignore_case_and_end, fold_words, fold_option, fold_label, fold_phrase, fold_answer)
# One column for each rule.
ROWS = [
    (
        "The X-ray  (Frontal).",
        "the x-ray (frontal)",
        "the x ray frontal",
        "the xray frontal",
        "thexrayfrontal",
        ("the", "x", "ray", "(", "frontal", ")"),
        ("x", "ray", "(", "frontal", ")"),
    ),
    ("  CT  scan", "ct scan", "ct scan", "ct scan", "ctscan", ("ct", "scan"), ("ct", "scan")),
    ("x_ray", "x_ray", "x ray", "xray", "xray", ("x", "ray"), ("x", "ray")),
    ("T1+", "t1+", "t1", "t1", "t1", ("t1", "+"), ("t1", "+")),
    ("True.", "true", "true", "true", "true", ("true",), ("yes",)),
    ("a Vitamin A", "a vitamin a", "a vitamin a", "a vitamin a", "avitamina", ("a", "vitamin", "a"), ("vitamin", "a")),
    ("肝脏。", "肝脏。", "肝脏", "肝脏", "", ("肝", "脏"), ("肝", "脏")),
    ("?", "?", "", "", "", ("?",), ("?",)),
]


@pytest.mark.parametrize(
    ("rule", "text", "expected"), [(rule, text, expected) for text, *row in ROWS for rule, expected in zip(RULES, row, strict=True)]
)
def test_rule(rule: Callable[[str], Hashable], text: str, expected: Hashable) -> None:
    assert rule(text) == expected


@pytest.mark.parametrize(
    ("text", "visible"), [("＜ans\u200bwer＞", "<answer>"), ("Ｂ", "Ｂ"), ("\ufeff\u00ad\U000e0021", ""), ("plain", "plain")]
)
def test_drop_invisible(text: str, visible: str) -> None:
    assert drop_invisible(text) == visible


def test_split_words_keeps_the_lists_parallel() -> None:
    words = split_words("B) X-ray isn't\n\n**1.5** \\text{T2*}")
    assert words.folded == ["b", ")", "x", "ray", "is", "not", "\n", "1", "∙", "5", "{", "t2", "*", "}"]
    assert words.raw == ["B", ")", "X", "ray", "is", "not", "\n", "1", ".", "5", "{", "T2", "*", "}"]
    assert words.is_joined == [word == "X" for word in words.raw]
