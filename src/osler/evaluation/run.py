"""`osler eval`: ask a policy the test questions of a recipe, grade every answer, keep one record for each.

Questions are asked in chunks of fixed composition and a chunk's records are written in one piece, so an evaluation that was killed goes on
at a chunk's border and ends with the same file, byte for byte, as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.audits.credits import Credits, keep_credits
from osler.config import Config, SamplingConfig
from osler.data.select import describe_samples, load_split
from osler.errors import ConfigError, DataError
from osler.evaluation.engines import Engine, open_engine
from osler.evaluation.records import append_records, resume_records
from osler.files import write_json
from osler.grading import grade
from osler.metrics import image_gain, summarize
from osler.prompts import render
from osler.reports.tables import render_table
from osler.run_folder import Run, open_run
from osler.types import Completion, Prompt, Record, Sample

if TYPE_CHECKING:
    from osler.policies.load import Policy

CHUNK_BATCHES: Final = 8
"""Batches in a chunk: enough to sort questions by length and to keep the next batch ready, few enough to lose little when killed."""

_LABEL: Final = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """What is asked of which policy."""

    config: Config  # the recipe with the policy that is asked
    strategy: str
    samples: list[Sample]
    prompts: list[Prompt]
    terms: dict[str, Any]  # see `describe_terms`


def run_evaluation(config: Config, out: Path, *, policy: str | None = None, label: str = "eval", fresh: bool = False) -> Mapping[str, Any]:
    """Evaluate `policy`, by default the recipe's, into `records/<label>.jsonl` of the run at `out`; print the table, return its figures.

    The same call goes on where an earlier one stopped. With `fresh` the label starts over, and so does a run that holds no training.

    Raises OslerError for whatever the user can mend, before anything is generated where that can be known.
    """
    inquiry = prepare(config, policy, label)
    run = _open(out, config, fresh=fresh)
    path = run.records / f"{label}.jsonl"
    start = time.monotonic()
    records = fill_records(path, inquiry.config, inquiry.prompts, inquiry.terms, lambda: open_engine(inquiry.config), fresh=fresh)
    write_json(run.manifest, {**_read_manifest(run), "test": describe_samples(inquiry.samples)})
    print(f"{label}: {len(records)} questions in {time.monotonic() - start:.1f} s, {path}", file=sys.stderr)  # noqa: T201
    blind = keep_credits(path, config.data, inquiry.samples, fresh=fresh)
    render_table([(label, records)], in_domain=config.data.train.modalities, blind=blind)
    return {"run": run.root, "records": path, "label": label, **describe_records(records), **describe_gain(records, blind)}


def prepare(config: Config, policy: str | None, label: str) -> Inquiry:
    """The test questions of a recipe for `policy`, by default the recipe's. Raises ConfigError for a label that cannot name a file."""
    check_label(label)
    asked = with_policy(config, policy)
    strategy = config.prompt.eval_strategy or config.prompt.strategy
    samples = load_split(config.data, "test")
    prompts = [render(sample, strategy) for sample in samples]
    return Inquiry(config=asked, strategy=strategy, samples=samples, prompts=prompts, terms=describe_terms(asked, prompts))


def check_label(label: str) -> None:
    """Raise ConfigError for a label that cannot name a file."""
    if not _LABEL.fullmatch(label):
        raise ConfigError(f"--label {label!r} cannot name a file: use letters, digits, '.', '_' and '-'")


def with_policy(config: Config, policy: str | None) -> Config:
    """The recipe with another policy, or as it is."""
    return config if policy is None else config.model_copy(update={"policy": config.policy.model_copy(update={"path": policy})})


def fill_records(
    path: Path, config: Config, prompts: Sequence[Prompt], terms: Mapping[str, Any], engine: Callable[[], Engine], *, fresh: bool = False
) -> list[Record]:
    """The records of one label: those that its file holds, and the rest from the engine, which is opened only where some are missing.

    Raises ConfigError when the file was made on other terms, and what `evaluate` raises.
    """
    if fresh:
        path.unlink(missing_ok=True)
    _require_same_terms(path, terms)
    chunk_size = CHUNK_BATCHES * config.eval.batch_size
    records = resume(path, prompts, chunk_size)
    if len(records) == len(prompts):
        return records
    votes = Votes(num=config.eval.num_votes, sampling=config.sampling, seed=config.seed) if config.eval.num_votes > 1 else None
    limit = config.eval.max_completion_length
    return evaluate(engine(), prompts, max_completion_length=limit, chunk_size=chunk_size, path=path, votes=votes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """Several completions for each question instead of a greedy one; the most frequent answer is the policy's."""

    num: int  # 8
    sampling: SamplingConfig
    seed: int

    def seed_of(self, start: int) -> int:
        """The seed of the chunk that begins at a question: another one for each, and the same when a run goes on."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}/{start}".encode()).digest()[:4], "big")


def evaluate(
    engine: Engine,
    prompts: Sequence[Prompt],
    *,
    max_completion_length: int,
    chunk_size: int = 256,
    path: Path | None = None,
    votes: Votes | None = None,
) -> list[Record]:
    """Answer every prompt, greedily or by `votes`, and grade it; one record for each, in order.

    With `path` the records are appended chunk by chunk, and those that the file holds already are not asked again.

    Raises DataError when the file belongs to other questions, and what the engine raises.
    """
    from tqdm import tqdm

    records = [] if path is None else resume(path, prompts, chunk_size)
    with tqdm(total=len(prompts), initial=len(records), desc="eval", unit="question", dynamic_ncols=True, disable=None) as bar:
        for start in range(len(records), len(prompts), chunk_size):
            chunk = prompts[start : start + chunk_size]
            drawn: dict[str, Any] = {}
            if votes is not None:
                drawn = {"num_generations": votes.num, "sampling": votes.sampling, "seed": votes.seed_of(start)}
            groups = engine.generate(chunk, max_completion_length=max_completion_length, **drawn)
            made = [grade_group(prompt, group, engine.policy_name) for prompt, group in zip(chunk, groups, strict=True)]
            if path is not None:
                append_records(path, made)
            records += made
            bar.update(len(made))
    return records


def resume(path: Path, prompts: Sequence[Prompt], chunk_size: int) -> list[Record]:
    """The records of whole chunks; what a killed process left of a chunk is cut off the file. Raises DataError for other questions."""
    records = resume_records(path)
    for record, prompt in zip(records, prompts, strict=False):
        if record.sample_id != prompt.sample.id or record.strategy != prompt.strategy:
            raise DataError(f"{path} holds {record.sample_id} where {prompt.sample.id} is asked: give another --label, or --fresh")
    if len(records) > len(prompts):
        raise DataError(f"{path} holds {len(records)} records for {len(prompts)} questions: give another --label, or --fresh")
    if len(records) == len(prompts):
        return list(records)
    whole = len(records) - len(records) % chunk_size
    if whole < len(records):
        lines = path.read_bytes().splitlines(keepends=True)
        os.truncate(path, sum(len(line) for line in lines[:whole]))
    return list(records[:whole])


def ask(policy: Policy, sample: Sample, strategy: str = "think", *, max_completion_length: int = 256) -> Record:
    """Ask one question greedily and grade the answer, e.g. `ask(load_policy("osler-tiny"), sample).outcome` -> "correct".

    Raises ConfigError for an unknown strategy, and DataError for an image that cannot be read.
    """
    from osler.evaluation.engines.hf import HfEngine

    prompt = render(sample, strategy)
    ((completion,),) = HfEngine(policy).generate([prompt], max_completion_length=max_completion_length)
    return grade_completion(prompt, completion, policy.name)


def grade_group(prompt: Prompt, group: Sequence[Completion], policy_name: str) -> Record:
    """The record of a prompt's completions: of the only one, or of the first that gives the most frequent answer, with its share of all.

    Completions without an answer vote for none and count in the share; equally frequent answers go to the one that came first.
    """
    records = [grade_completion(prompt, completion, policy_name) for completion in group]
    if len(records) == 1:
        return records[0]
    times = Counter(record.answer for record in records if record.answer is not None)
    if not times:
        return replace(records[0], vote_share=0.0)
    (answer, count), *_ = times.most_common(1)
    return replace(next(record for record in records if record.answer == answer), vote_share=count / len(records))


def grade_completion(prompt: Prompt, completion: Completion, policy_name: str) -> Record:
    """The record of one completion."""
    sample = prompt.sample
    verdict = grade(completion.text, choices=sample.choices, target=sample.target, strategy=prompt.strategy)
    return Record(
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
        finish_reason=completion.finish_reason.value,
        choices=sample.choices,
        target=sample.target,
        answer=verdict.answer,
        reasoning=verdict.reasoning,
        is_well_formed=verdict.is_well_formed,
        outcome=verdict.outcome.value,
        rule=verdict.rule,
        ablation=sample.metadata.get("ablation"),
        own_image_uris=sample.metadata.get("own_image_uris"),
        rotation=sample.metadata.get("rotation"),
        option_probabilities=completion.option_probabilities,
    )


def describe_gain(records: Sequence[Record], blind: Credits) -> dict[str, Any]:
    """The image gain over all questions as JSON; None where no blind answer was at hand."""
    found = image_gain(records, blind)
    return {"image_gain": {"value": found.gain.value, "interval": [found.gain.low, found.gain.high], "over": found.baseline}}


def describe_records(records: Sequence[Record]) -> dict[str, Any]:
    """The figures of an evaluation as JSON; shares of one, None where there is nothing to measure."""
    summary = summarize(records, "subject")
    return {
        "questions": len(records),
        "accuracy": summary.accuracy.value,
        "interval": [summary.accuracy.low, summary.accuracy.high],
        "chance": summary.chance,
        "no_answer": summary.no_answer,
        "well_formed": summary.well_formed,
        "mean_tokens": summary.mean_tokens,
    }


def describe_terms(config: Config, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What the records of one label have in common, kept beside them: whoever goes on must say the same."""
    terms: dict[str, Any] = {
        "engine": config.eval.engine,
        "questions": digest_prompts(prompts),
        "max_completion_length": config.eval.max_completion_length,
    }
    # Settings that are off leave no trace, so that records made before there were such settings can be gone on with.
    if config.eval.option_probabilities:
        terms["option_probabilities"] = True
    if config.eval.num_votes > 1:
        drawn = config.sampling.model_dump(mode="json", exclude={"max_completion_length"})
        terms |= {"num_votes": config.eval.num_votes, "sampling": drawn, "seed": config.seed}
    if config.eval.engine == "scripted" and config.eval.script is not None and Path(config.eval.script).is_file():
        terms["script"] = hashlib.sha256(Path(config.eval.script).read_bytes()).hexdigest()
    if config.eval.engine != "hf":
        return terms
    from osler.policies.load import fingerprint

    loading = config.policy.model_dump(mode="json", include={"dtype", "attn_implementation", "min_pixels", "max_pixels"})
    return {**terms, "policy": fingerprint(config.policy.path), "batch_size": config.eval.batch_size, **loading}


def digest_prompts(prompts: Sequence[Prompt]) -> str:
    """A hash of what is asked, in its order."""
    return hashlib.sha256("\0".join(_identify(prompt) for prompt in prompts).encode()).hexdigest()


def _identify(prompt: Prompt) -> str:
    """What makes a question this one; images count where they were put in the place of its own."""
    parts = [prompt.sample.id, prompt.text]
    if prompt.prefix:
        parts.append(prompt.prefix)
    if (ablation := prompt.sample.metadata.get("ablation")) is not None:
        parts += [str(ablation), *(image.uri for image in prompt.sample.images)]
    return "\0".join(parts)


def _open(out: Path, config: Config, *, fresh: bool) -> Run:
    run = Run(root=out)
    holds_training = run.policy.exists() or run.checkpoints.exists()
    return open_run(out, config, resume=holds_training or not fresh)


def _require_same_terms(path: Path, terms: Mapping[str, Any]) -> None:
    """Write the terms beside the records, or raise ConfigError when those that are there differ."""
    beside = path.with_suffix(".terms.json")
    if path.exists() and beside.exists():
        before = json.loads(beside.read_text(encoding="utf-8"))
        for key in {**terms, **before}:
            if before.get(key) != terms.get(key):
                raise ConfigError(f"{path} was made with other {key}: give another --label, or --fresh to start it over")
    else:
        write_json(beside, terms)


def _read_manifest(run: Run) -> dict[str, Any]:
    values = json.loads(run.manifest.read_text(encoding="utf-8")) if run.manifest.is_file() else {}
    return values if isinstance(values, dict) else {}
