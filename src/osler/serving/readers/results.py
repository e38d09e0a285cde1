"""From answers to records: what a reader writes becomes a completion, which the one grader grades as it grades a policy's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from osler.errors import DataError
from osler.evaluation.readings import Part, Reading, answers_of, events_file, read_events
from osler.evaluation.records import record_to_json
from osler.evaluation.votes import grade_completion, majority
from osler.files import write_whole
from osler.grading.parse import parse
from osler.serving.readers.study import Study
from osler.types import Completion, FinishReason, Prompt, Record


def write_completion(answer: str, comment: str = "") -> str:
    """What a policy would have written: "<answer>B</answer>", with a comment in front as its reasoning."""
    return f"<think>{comment}</think><answer>{answer}</answer>" if comment else f"<answer>{answer}</answer>"


def grade_answer(prompt: Prompt, answer: str, comment: str, policy_name: str) -> Record:
    """The record of an answer. Raises DataError for an answer or a comment that reads as something else, such as one with tags."""
    alone, whole = (
        grade_completion(prompt, Completion(text=text, token_ids=(), finish_reason=FinishReason.STOP), policy_name)
        for text in (write_completion(answer), write_completion(answer, comment))
    )
    has_own_tags = bool(comment) and not parse(whole.completion, strategy="think").is_well_formed
    if has_own_tags or whole.answer != alone.answer or (prompt.sample.choices and whole.answer != answer):
        raise DataError("the answer or the comment has a tag such as <answer> in it: leave it out")
    return replace(whole, is_well_formed=True)  # the form wrote the tags


def reading_record(study: Study, reader: int, reading: Reading) -> Record:
    """The record of an answer that was saved."""
    prompt = study.prompts[reading.part][reading.sample_id]
    return grade_answer(prompt, reading.answer, reading.comment, study.policy_name(reader, reading.part))


def majority_record(study: Study, part: Part, records: Sequence[Record]) -> Record:
    """The record of the majority of all readers on one question."""
    return majority(records, study.policy_name(None, part))


def load_readings(study: Study) -> dict[int, tuple[Reading, ...]]:
    """The answers of every reader, in their order. Raises DataError for answers that are not those of the plan."""
    readings = {}
    for reader, steps in enumerate(study.plan.steps, start=1):
        answered = answers_of(read_events(path := events_file(study.run.root, reader)))
        for place, reading in enumerate(answered):
            is_known = place < len(steps) and reading.position == place
            if not is_known or reading.sample_id != study.plan.sample_ids[steps[place].case] or reading.part != steps[place].part:
                raise DataError(f"{path} holds an answer that is not at its place in the plan: restore both files")
        readings[reader] = answered
    return readings


def rebuild_records(study: Study, readings: Mapping[int, Sequence[Reading]]) -> None:
    """Write the records of all readers and of their majority anew, in the order of the questions. A part without an answer has no file."""
    for part in Part:
        answered = {
            reader: {one.sample_id: reading_record(study, reader, one) for one in given if one.part is part and not one.is_repeat}
            for reader, given in readings.items()
        }
        for reader, by_sample in answered.items():
            _write(study, reader, part, by_sample)
        shared = [name for name in study.plan.sample_ids if all(name in by_sample for by_sample in answered.values())]
        if len(answered) > 1:
            together = {name: majority_record(study, part, [by_sample[name] for by_sample in answered.values()]) for name in shared}
            _write(study, None, part, together)


def _write(study: Study, reader: int | None, part: Part, by_sample: Mapping[str, Record]) -> None:
    path = study.records_file(reader, part)
    if not by_sample:
        path.unlink(missing_ok=True)
        return
    write_whole(path, "".join(f"{record_to_json(by_sample[name])}\n" for name in study.plan.sample_ids if name in by_sample))
