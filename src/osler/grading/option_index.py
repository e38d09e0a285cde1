"""The option texts of a question, indexed so that they are found among the words of a completion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from osler.text import ARTICLES, fold_phrase


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionIndex:
    """A question's option texts by their first word. An option is an index into the choices."""

    num_choices: int
    by_text: dict[tuple[str, ...], frozenset[int]]
    by_first_word: dict[str, list[tuple[tuple[str, ...], frozenset[int]]]]  # longest text first; two options may share a text

    def match(self, folded: list[str], position: int) -> tuple[frozenset[int], int] | None:
        """The longest option text that begins at a position of the folded words: (its options, position after it); None without one."""
        if position >= len(folded):
            return None
        for text, options in self.by_first_word.get(folded[position], ()):
            if tuple(folded[position : position + len(text)]) == text:
                return options, position + len(text)
        return None


@lru_cache(maxsize=4096)
def index_options(choices: tuple[str, ...]) -> OptionIndex:
    """Index the option texts, each also without its leading article unless another option has that text.

    A text that is a letter of this question ("A" among blood groups) is left out: prompts ask for a letter, so such an answer is the
    letter.
    """
    options_of: dict[tuple[str, ...], set[int]] = {}
    for option, choice in enumerate(choices):
        options_of.setdefault(fold_phrase(choice), set()).add(option)
    without_article: dict[tuple[str, ...], set[int]] = {}
    for text, options in options_of.items():
        if len(text) > 1 and text[0] in ARTICLES and text[1:] not in options_of:
            without_article.setdefault(text[1:], set()).update(options)
    by_first_word: dict[str, list[tuple[tuple[str, ...], frozenset[int]]]] = {}
    for text, options in (options_of | without_article).items():
        if text and not _is_letter(text, choices):
            by_first_word.setdefault(text[0], []).append((text, frozenset(options)))
    for texts in by_first_word.values():
        texts.sort(key=lambda entry: -len(entry[0]))
    by_text = {
        text: frozenset(options) for text, options in (options_of | without_article).items() if text and not _is_letter(text, choices)
    }
    return OptionIndex(num_choices=len(choices), by_text=by_text, by_first_word=by_first_word)


def _is_letter(text: tuple[str, ...], choices: tuple[str, ...]) -> bool:
    return len(text) == 1 and letter_index(text[0]) in range(len(choices))


def letter_index(word: str) -> int | None:
    """The option of a folded letter, 0 for "a" to 25 for "z"; None for any other word."""
    return ord(word) - 97 if len(word) == 1 and "a" <= word <= "z" else None
