"""From the completions of a prompt to its record: the only completion is graded, and several completions vote on the answer."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from osler.config import SamplingConfig
from osler.evaluation.records import answer_text_of
from osler.grading import grade, judge
from osler.text import fold_answer
from osler.types import Completion, Outcome, Prompt, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """How to draw several completions for each question in place of one greedy completion (self-consistency, arXiv 2203.11171)."""

    num: int  # 8
    sampling: SamplingConfig
    seed: int

    def seed_of(self, start: int) -> int:
        """The seed of the chunk that starts at question `start`: different for each chunk, and the same when an evaluation resumes."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}/{start}".encode()).digest()[:4], "big")


def grade_group(prompt: Prompt, group: Sequence[Completion], policy_name: str) -> Record:
    """The record of the first completion that gives the most frequent answer; `vote_share` is that answer's share of all completions.

    Completions without an answer count in the share but cast no vote. A tie goes to the answer that came first. A group of one
    completion has no `vote_share`.
    """
    records = [grade_completion(prompt, completion, policy_name) for completion in group]
    if len(records) == 1:
        return records[0]
    answers = [fold_vote(record) for record in records]
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return replace(records[0], vote_share=0.0)
    (answer, count), *_ = counts.most_common(1)
    return replace(records[answers.index(answer)], vote_share=count / len(records))


def majority(records: Sequence[Record], policy_name: str) -> Record:
    """The record of several raters who answered one question, under the name of all of them; `vote_share` is the answer's share.

    As in `grade_group` an answer of which there are more than of any other wins. A tie is AMBIGUOUS: no rater comes first.
    """
    answers = [fold_vote(record) for record in records]
    counts = Counter(answer for answer in answers if answer is not None).most_common(2)
    several = replace(records[0], policy=policy_name, reasoning=None, statements=None)
    if not counts:
        return replace(several, vote_share=0.0)
    share = counts[0][1] / len(records)
    if len(counts) > 1 and counts[0][1] == counts[1][1]:
        outcome = Outcome.AMBIGUOUS.value
        return replace(several, completion="", answer=None, outcome=outcome, rule="majority.tie", vote_share=share)
    winner = records[answers.index(counts[0][0])]
    completion = f"<answer>{winner.answer}</answer>"
    return replace(
        several, completion=completion, answer=winner.answer, outcome=winner.outcome, rule=f"majority.{winner.rule}", vote_share=share
    )


def fold_vote(record: Record) -> str | tuple[str, ...] | None:
    """What is counted: the letter, or an open answer by the rule that grades it, so that "Spleen" and "the spleen." are one answer."""
    if record.answer is None or record.choices:
        return record.answer
    return fold_answer(record.answer)


def grade_completion(prompt: Prompt, completion: Completion, policy_name: str) -> Record:
    """The record of one completion."""
    sample = prompt.sample
    verdict = grade(completion.text, choices=sample.choices, target=sample.target, strategy=prompt.strategy)
    record = Record(
        sample_id=sample.id,
        dataset=sample.dataset,
        modality=sample.modality and sample.modality.value,
        question_type=sample.question_type and sample.question_type.value,
        subject_id=sample.subject_id,
        image_uris=tuple(image.uri for image in sample.images),
        strategy=prompt.strategy,
        policy=policy_name,
        prompt=prompt.text,
        completion=completion.text,
        num_tokens=len(completion.token_ids),
        finish_reason=str(completion.finish_reason),  # an engine from outside may write "stop"
        choices=sample.choices,
        target=sample.target,
        answer=verdict.answer,
        reasoning=verdict.reasoning,
        is_well_formed=verdict.is_well_formed,
        outcome=verdict.outcome.value,
        rule=verdict.rule,
        ablation=sample.metadata.get("ablation"),
        own_image_uris=sample.metadata.get("own_image_uris"),
        context_changes=sample.metadata.get("context_changes"),
        rotation=sample.metadata.get("rotation"),
        option_probabilities=completion.option_probabilities,
        facts=sample.facts,
    )
    if record.reasoning is None or sample.facts is None:
        return record
    statements = judge(
        record.reasoning,
        facts=sample.facts,
        terms=sample.terms,
        answer_text=answer_text_of(record),
        question_type=sample.question_type,
    )
    return replace(record, statements=statements)
