"""Evaluation with an engine that answers each question on its own: a record is written as soon as its question is answered.

While it runs the records are in the order in which answers come. When every question is answered they are put into the order of the
questions, so that the file is equal, byte for byte, to one that was written without interruption or by another engine with these answers.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from osler.errors import DataError
from osler.evaluation.engines.answers import AnswersEach
from osler.evaluation.records import append_records, record_to_json, resume_records
from osler.evaluation.usage import append_usage, usage_file
from osler.evaluation.votes import Votes, grade_group
from osler.files import write_whole
from osler.types import Prompt, Record

_Identity = tuple[str, str, str, object, object]


def answer_each(
    engine: AnswersEach, prompts: Sequence[Prompt], *, path: Path, max_completion_length: int, votes: Votes | None = None, first: int = 0
) -> list[Record]:
    """Answer the prompts that the file does not answer yet, greedily or by `votes`; one record for each prompt, in order.

    `first` is the number of the first prompt among all questions, on which votes depend.

    Raises what the engine raises, MissingAnswers among it, after the answers that came are written; and DataError for a file of other
    questions.
    """
    from tqdm import tqdm

    records = kept_records(path, prompts)
    drawn: dict[str, Any] = {} if votes is None else {"num_generations": votes.num, "sampling": votes.sampling, "seed": votes.seed}
    missing = {first + position: prompt for position, prompt in enumerate(prompts) if position not in records}
    with tqdm(total=len(prompts), initial=len(records), desc="eval", unit="question", dynamic_ncols=True, disable=None) as bar:
        for answered in engine.generate_each(missing, max_completion_length=max_completion_length, **drawn):
            position = answered.position - first
            record = grade_group(prompts[position], answered.completions, engine.policy_name)
            if answered.usage:
                append_usage(usage_file(path), answered.usage)
            append_records(path, [record])
            records[position] = record
            bar.update()
    ordered = [records[position] for position in range(len(prompts))]
    content = "".join(f"{record_to_json(record)}\n" for record in ordered)
    if not path.exists() or path.read_bytes() != content.encode():
        write_whole(path, content)
    return ordered


def kept_records(path: Path, prompts: Sequence[Prompt]) -> dict[int, Record]:
    """The position of a prompt -> its record in the file, in any order; {} without a file.

    Raises DataError for a record of another question, and for two records of one.
    """
    places: defaultdict[_Identity, deque[int]] = defaultdict(deque)
    for position, prompt in enumerate(prompts):
        places[_identify_prompt(prompt)].append(position)
    found = {}
    for record in resume_records(path):
        own = places[_identify_record(record)]
        if not own:
            raise DataError(f"{path} holds {record.sample_id}, which is not asked, or not so often: give another --label, or --fresh")
        found[own.popleft()] = record
    return found


def _identify_prompt(prompt: Prompt) -> _Identity:
    sample = prompt.sample
    return (sample.id, prompt.strategy, prompt.text, sample.metadata.get("rotation"), sample.metadata.get("ablation"))


def _identify_record(record: Record) -> _Identity:
    return (record.sample_id, record.strategy, record.prompt, record.rotation, record.ablation)
