"""The text of a completion while its tokens come in: whole characters, the same text as decoding all tokens at the end."""

from __future__ import annotations

import codecs
from typing import Any, Final, Protocol

BROKEN: Final = "\N{REPLACEMENT CHARACTER}"


class TextStream(Protocol):
    """The text of one completion."""

    def push(self, token_id: int) -> str:
        """The text that one more token completes: "" for a part of a character and for a special token."""

    def finish(self) -> str:
        """What is left at the end: the replacement character for a character that was not completed."""


class Detokeniser:
    """Decodes the tokens of a tokenizer one by one, as its `decode` with `skip_special_tokens` decodes them together.

    The tokens of a byte-level vocabulary, such as Qwen's, stand for bytes; those of another one are decoded together again for each token.
    """

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import ByteLevel

        self.tokenizer = tokenizer
        self.special_ids = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
        is_plain = not getattr(tokenizer, "clean_up_tokenization_spaces", False)
        self._values = _byte_values() if is_plain and isinstance(tokenizer.backend_tokenizer.decoder, ByteLevel) else None
        self._bytes: dict[int, bytes] = {}
        self._texts: dict[int, str] = {}

    def stream(self) -> TextStream:
        """The stream of a new completion."""
        return _WholeText(self) if self._values is None else _ByteText(self)

    def text_of(self, token_id: int) -> str:
        """The text of one token alone, special or not."""
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self.tokenizer.decode([token_id])
        return text

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes of a token of a byte-level vocabulary; none for a special token and for an id without a token."""
        found = self._bytes.get(token_id)
        if found is None:
            found = self._bytes[token_id] = self._read_bytes(token_id)
        return found

    def _read_bytes(self, token_id: int) -> bytes:
        token = None if token_id in self.special_ids else self.tokenizer.convert_ids_to_tokens(token_id)
        if token is None or self._values is None:
            return b""
        values = [self._values.get(sign) for sign in token]
        known = [value for value in values if value is not None]
        return bytes(known) if len(known) == len(values) else token.encode()  # an added token is plain text


class _ByteText:
    """The bytes of tokens as UTF-8."""

    __slots__ = ("_decode", "_detokeniser")

    def __init__(self, detokeniser: Detokeniser) -> None:
        self._detokeniser = detokeniser
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def push(self, token_id: int) -> str:
        return self._decode(self._detokeniser.bytes_of(token_id))

    def finish(self) -> str:
        return self._decode(b"", True)


class _WholeText:
    """All tokens decoded together, again and again."""

    def __init__(self, detokeniser: Detokeniser) -> None:
        self._detokeniser = detokeniser
        self._ids: list[int] = []
        self._shown = ""

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        text = self._decode()
        if text.endswith(BROKEN) or not text.startswith(self._shown):
            return ""
        return self._show(text)

    def finish(self) -> str:
        return self._show(self._decode())

    def _decode(self) -> str:
        text: str = self._detokeniser.tokenizer.decode(self._ids, skip_special_tokens=True)
        return text

    def _show(self, text: str) -> str:
        new, self._shown = text[len(self._shown) :], text
        return new


def _byte_values() -> dict[str, int]:
    """The byte for which each sign of a byte-level vocabulary stands: printable bytes for themselves, the others from U+0100 on (GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(256 + place): value for place, value in enumerate(others)}
