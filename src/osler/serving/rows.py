"""One completion of a running batch: its tokens so far, the text that may be shown, its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from osler.evaluation.engines.options import find_letter
from osler.policies.letters import option_probabilities
from osler.serving.detokenise import Detokeniser
from osler.serving.generation import Delta, Finished, GenerationRequest, TokenLogprob
from osler.serving.sampler import Draws, Scores
from osler.serving.stop_texts import StopFilter
from osler.types import Completion, FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What all completions share of a policy's tokenizer."""

    detokeniser: Detokeniser
    stop_ids: frozenset[int]
    letters: Mapping[int, int]  # token id -> letter, see `letters.find_letter_tokens`


class CompletionRow:
    """Takes the tokens of one completion and says what became of its text."""

    def __init__(self, request: GenerationRequest, index: int, draws: Draws, vocabulary: Vocabulary, position: int) -> None:
        self.request, self.index, self.draws, self.vocabulary = request, index, draws, vocabulary
        self.position = position  # M-RoPE position of its next token
        self.token_ids: list[int] = []
        self.is_done = False
        self._stream, self._filter = vocabulary.detokeniser.stream(), StopFilter(request.stop)
        self._pieces = [request.prefix] if request.prefix else []
        self._num_shown = 0  # pieces that a Delta has brought
        self._logprobs: list[float] = []  # of all tokens
        self._shown: list[TokenLogprob] = []  # of the tokens of its text
        self._waiting: list[tuple[int, TokenLogprob]] = []  # of tokens whose text is held back, with the place where it begins
        self._num_characters = 0  # of the text of all tokens, a stop text included
        self._letter_logits: dict[int, Tensor] = {}  # by the index of the token

    def take(self, token: int, scores: Scores | None, letter_logits: Tensor | None) -> list[Delta | Finished]:
        """The events of one more token."""
        is_stop = token in self.vocabulary.stop_ids
        if letter_logits is not None:
            self._letter_logits[len(self.token_ids)] = letter_logits
        self.token_ids.append(token)
        if scores is not None:
            self._logprobs.append(scores.logprob)
            if not is_stop:
                self._waiting.append((self._num_characters, self._describe(token, scores)))
        text = self._stream.push(token)
        self._num_characters += len(text)
        piece = self._filter.feed(text)
        if self._filter.is_stopped:
            return self._end(piece, FinishReason.STOP)
        if is_stop or len(self.token_ids) >= self.request.max_tokens:
            last = self._filter.feed(self._stream.finish())
            rest = last if self._filter.is_stopped else last + self._filter.flush()
            return self._end(piece + rest, FinishReason.STOP if is_stop or self._filter.is_stopped else FinishReason.LENGTH)
        self._add(piece)
        return self._events()

    def _end(self, piece: str, reason: FinishReason) -> list[Delta | Finished]:
        self.is_done = True
        self._add(piece)
        if self._filter.is_stopped:
            shown = sum(map(len, self._pieces)) - len(self.request.prefix)
            self._waiting = [(start, token) for start, token in self._waiting if start < shown]
        completion = Completion(
            text="".join(self._pieces),
            token_ids=tuple(self.token_ids),
            finish_reason=reason,
            logprobs=None if self.request.top_logprobs is None else tuple(self._logprobs),
            option_probabilities=self._option_probabilities(),
        )
        return [*self._events(), Finished(index=self.index, completion=completion, logprobs=tuple(self._shown))]

    def _add(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)

    def _events(self) -> list[Delta | Finished]:
        """The new pieces as one Delta."""
        new = self._pieces[self._num_shown :]
        if not new:
            return []
        self._num_shown = len(self._pieces)
        shown = tuple(token for _, token in self._waiting)
        self._shown += shown
        self._waiting = []
        return [Delta(index=self.index, text="".join(new), logprobs=shown)] if self.request.streams else []

    def _describe(self, token: int, scores: Scores) -> TokenLogprob:
        text_of = self.vocabulary.detokeniser.text_of
        top = tuple((text_of(other), other, logprob) for other, logprob in scores.top)
        return TokenLogprob(token=text_of(token), token_id=token, logprob=scores.logprob, top=top)

    def _option_probabilities(self) -> tuple[float, ...] | None:
        """As `osler eval` computes them."""
        letters = self.vocabulary.letters
        if not self._letter_logits:
            return None
        pieces = [self.vocabulary.detokeniser.text_of(token) for token in self.token_ids]
        step = find_letter(pieces, [token in letters for token in self.token_ids], self.request.prefix)
        if step is None or step not in self._letter_logits:
            return None
        probs = option_probabilities(self._letter_logits[step], letters, self.request.num_choices)
        return None if probs is None else tuple(round(prob, 6) for prob in probs.tolist())
