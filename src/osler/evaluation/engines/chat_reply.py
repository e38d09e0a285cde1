"""From the reply of an endpoint to a completion, as the same model would write it in this process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from osler.evaluation.engines.options import find_letter
from osler.evaluation.replies import Reply, TokenChoice
from osler.policies.letters import letter_of
from osler.types import Completion, FinishReason, Prompt

MAX_UNSEEN: Final = 0.001
"""The largest share of probability that letters may have which are not among the most likely tokens, for the others to count."""


def read_completion(prompt: Prompt, reply: Reply, *, option_probabilities: bool = False) -> Completion:
    """The completion of a reply.

    Reasoning in a field of its own is put back in front as <think>..</think>, where the model wrote it; it stays open where the reply was
    cut off within it. A refusal, by the model or by a filter, is an empty completion, in which nobody can read an answer. `token_ids` are
    not known; `num_generated` is the server's count.
    """
    is_refusal = refusal_of(reply) is not None
    probs = letter_probabilities(reply.tokens or (), prompt.prefix, len(prompt.sample.choices)) if option_probabilities else None
    return Completion(
        text=prompt.prefix + ("" if is_refusal else _whole_text(reply)),
        token_ids=(),
        finish_reason=FinishReason.LENGTH if reply.finish_reason == "length" else FinishReason.STOP,
        option_probabilities=None if is_refusal else probs,
        num_generated=reply.completion_tokens,
    )


def refusal_of(reply: Reply) -> str | None:
    """The words of a refusal; None for an answer."""
    if reply.refusal is not None:
        return reply.refusal
    return reply.text if reply.finish_reason == "content_filter" else None


def _whole_text(reply: Reply) -> str:
    if reply.reasoning is None:
        return reply.text
    is_cut = reply.finish_reason == "length" and not reply.text
    return f"<think>{reply.reasoning}" if is_cut else f"<think>{reply.reasoning}</think>{reply.text}"


def letter_probabilities(tokens: Sequence[TokenChoice], prefix: str, num_choices: int) -> tuple[float, ...] | None:
    """The probability of each choice at the token of the answer's letter, sum 1, from the most likely tokens of each place.

    None without log-probabilities, where the answer is no single letter, and where letters that are not among the most likely tokens could
    together have more than MAX_UNSEEN of the probability of the others.
    """
    pieces = [one.token for one in tokens]
    step = find_letter(pieces, [letter_of(piece) is not None for piece in pieces], prefix)
    if step is None or num_choices == 0:
        return None
    seen = dict(tokens[step].top)
    seen.setdefault(tokens[step].token, tokens[step].logprob)
    masses = [0.0] * num_choices
    for token, logprob in seen.items():
        letter = letter_of(token)
        if letter is not None and letter < num_choices:
            masses[letter] += math.exp(min(0.0, logprob))
    total = math.fsum(masses)
    most_of_unseen = math.exp(min((logprob for _, logprob in tokens[step].top), default=0.0))
    if total == 0.0 or masses.count(0.0) * most_of_unseen > MAX_UNSEEN * total:
        return None
    return tuple(round(mass / total, 6) for mass in masses)
