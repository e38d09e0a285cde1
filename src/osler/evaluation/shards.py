"""A part of an evaluation's questions: whole chunks, so that the records of all parts, joined, are those of one process, byte for byte.

That holds where the arithmetic does: on one kind of device, with one precision and one version of PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from osler.config import Config
from osler.errors import ConfigError, DataError
from osler.evaluation.engines import open_engine
from osler.evaluation.run import CHUNK_BATCHES, EvaluationTask, changed_term, fill_records, name_term, prepare, resume
from osler.files import write_json, write_whole
from osler.run_folder import Run

_SHARD: Final = re.compile(r"(\d{1,12}):(\d{1,12})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The questions from `start` up to `stop`, which is not one of them."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        """A folder of `shards_folder`: "0-256"."""
        return f"{self.start}-{self.stop}"

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"


def parse_shard(text: str) -> Shard:
    """The shard of "0:256". Raises ConfigError."""
    match = _SHARD.fullmatch(text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(f"--shard {text!r}: write START:STOP, as in 0:256")
    return Shard(start=int(match[1]), stop=int(match[2]))


def chunk_size_of(config: Config) -> int:
    """The questions that are answered together; shards begin at multiples of it."""
    return CHUNK_BATCHES * config.eval.batch_size


def plan_shards(num_questions: int, chunk_size: int, num_shards: int) -> tuple[Shard, ...]:
    """Up to `num_shards` shards of whole chunks, as equal as they can be; fewer where there are fewer chunks."""
    num_chunks = -(-num_questions // chunk_size)
    count = max(1, min(num_shards, num_chunks))
    edges = [min(num_questions, chunk_size * (number * num_chunks // count)) for number in range(count + 1)]
    return tuple(Shard(start=start, stop=stop) for start, stop in pairwise(edges))


def shards_folder(out: Path, label: str) -> Path:
    """Where the shards of a label are until they are joined; each has its records in `<name>/records/<name>.jsonl`."""
    return out / "shards" / label


def shard_file(out: Path, label: str, shard: Shard) -> Path:
    """The records file of a shard."""
    return shards_folder(out, label) / shard.name / "records" / f"{shard.name}.jsonl"


def evaluate_shard(config: Config, out: Path, shard: Shard, *, policy: str | None = None, label: str = "eval") -> Path:
    """Answer the questions of a shard and return its records file. The same call resumes.

    Raises ConfigError for a shard that does not begin with a chunk or lies beyond the questions, and what `evaluate` raises.
    """
    task = prepare(config, policy, label)
    chunk_size, total = chunk_size_of(task.config), len(task.prompts)
    if shard.start % chunk_size or shard.stop > total or (shard.stop % chunk_size and shard.stop != total):
        raise ConfigError(f"--shard {shard}: begin and end at multiples of {chunk_size}, or end at {total}, the number of questions")
    path = shard_file(out, label, shard)
    terms = _terms_of(task, shard)
    prompts = task.prompts[shard.start : shard.stop]
    fill_records(path, task.config, prompts, terms, lambda: open_engine(task.config), first=shard.start)
    return path


def check_terms(task: EvaluationTask, file: Path, shard: Shard) -> None:
    """Raise ConfigError for the records of a shard that were made with other terms, such as another policy in the same folder."""
    if (key := changed_term(file, _terms_of(task, shard))) is not None:
        raise ConfigError(f"{file} was made with other {name_term(key)}: give another --label, or --fresh to start it over")


def _terms_of(task: EvaluationTask, shard: Shard) -> dict[str, Any]:
    return {**task.terms, "shard": str(shard)}


def join_shards(task: EvaluationTask, out: Path, label: str, shards: Sequence[Shard]) -> Path:
    """Write the records of all shards, in order, as the records of `label`, with the terms of the whole. Returns the file.

    Raises DataError where a shard is not complete or belongs to other questions, and ConfigError where one was made with other terms.
    """
    parts = []
    for shard in shards:
        check_terms(task, file := shard_file(out, label, shard), shard)
        if len(resume(file, task.prompts[shard.start : shard.stop], chunk_size_of(task.config))) != shard.stop - shard.start:
            raise DataError(f"{file} is not complete: the same command answers the rest")
        parts.append(file.read_bytes())
    path = Run(root=out).records / f"{label}.jsonl"
    write_json(path.with_suffix(".terms.json"), task.terms)
    write_whole(path, b"".join(parts))
    return path
