"""`osler eval`: answer the test questions of a recipe with a policy, grade every answer, and keep one record for each question.

Questions are answered in chunks of fixed composition, and the records of a chunk are written together. An evaluation that was killed
resumes at the last whole chunk and ends with the same file, byte for byte, as one that was not interrupted. An endpoint is asked question
by question (`one_by_one`).
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, overload

from osler.audits.credits import Credits, update_credits
from osler.config import Config
from osler.data.select import describe_samples, digest_content, load_split, named_datasets
from osler.errors import ConfigError, DataError, EngineError
from osler.evaluation.engines import ENGINES, Engine, eval_dtype, open_engine
from osler.evaluation.engines.answers import AnswersEach
from osler.evaluation.one_by_one import answer_each, kept_records
from osler.evaluation.records import append_records, resume_records
from osler.evaluation.usage import UsageSummary, read_usage, summarize_usage, usage_file
from osler.evaluation.votes import Votes, grade_completion, grade_group
from osler.files import digest_file, locking, read_json_object, write_json
from osler.prompts import render
from osler.run_folder import Run, forgetting_unused, open_run
from osler.types import Prompt, Record, Sample

if TYPE_CHECKING:
    from osler.policies.load import Policy

CHUNK_BATCHES: Final = 8
"""Batches in a chunk: enough to sort questions by length and to prepare the next batch early, few enough to lose little when killed."""

LOCK_SECONDS: Final = 10.0
"""How long an evaluation waits for another one of the same records to end, which may have been killed just now."""

_LABEL: Final = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTask:
    """Which questions which policy answers."""

    config: Config  # the recipe, with the policy to evaluate
    strategy: str
    samples: list[Sample]
    prompts: list[Prompt]
    terms: dict[str, Any]  # see `describe_terms`


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Questions that get the same answer in another arithmetic."""

    num_same: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """The graded answers of one policy to the test questions of a recipe."""

    run: Path  # the run folder
    path: Path  # the records file
    label: str
    records: tuple[Record, ...]
    blind: Credits  # what blind baselines score on the same questions
    in_domain: tuple[str, ...]  # the modalities of [data.train] that the policy was trained on; empty when all are used
    seconds: float  # spent on answering
    float32: Agreement | None = None  # with `[eval] check_float32`
    usage: UsageSummary | None = None  # of an endpoint: seconds, tokens and money


def evaluate(config: Config, out: Path, *, policy: str | None = None, label: str = "eval", fresh: bool = False) -> EvaluationResult:
    """Evaluate `policy` (default: the recipe's) on the test questions; write `records/<label>.jsonl` in the run folder `out`.

    The same call resumes an interrupted evaluation. `fresh` starts the label over, and sets a run folder without training aside.

    Raises OslerError for user errors, before anything is generated wherever they can be detected that early.
    """
    task = prepare(config, policy, label)
    run = Run(root=out)
    has_training = run.policy.exists() or run.checkpoints.exists()
    run = open_run(out, config, resume=has_training or not fresh)
    path = run.records / f"{label}.jsonl"
    start = time.monotonic()
    with forgetting_unused(run):
        records = fill_records(path, task.config, task.prompts, task.terms, lambda: open_engine(task.config), fresh=fresh)
    seconds = time.monotonic() - start
    write_json(run.manifest, {**read_json_object(run.manifest), "test": describe_samples(task.samples)})
    return EvaluationResult(
        run=run.root,
        path=path,
        label=label,
        records=tuple(records),
        blind=update_credits(path, config.data, task.samples, fresh=fresh),
        in_domain=trained_modalities(task),
        seconds=seconds,
        float32=check_float32(task.config, task.prompts, records),
        usage=summarize_usage(read_usage(usage_file(path))),
    )


def trained_modalities(task: EvaluationTask) -> tuple[str, ...]:
    """The modalities of `[data.train]` whose test questions are of datasets that the policy was trained on, as far as its run says so.

    MRI of another dataset is not in-domain. A policy that no run trained, or a run of an earlier version, has those of the recipe.
    """
    names = tuple(task.config.data.train.modalities)
    place = Path(task.config.policy.path)
    folder = next((one for one in (place, place.parent) if (one / "policy").is_dir()), None)
    datasets = named_datasets(read_json_object(folder / "manifest.json").get("train")) if folder is not None else None
    if datasets is None:
        return names
    others = {sample.modality for sample in task.samples if sample.dataset not in datasets}
    return tuple(name for name in names if name not in others)


def check_float32(config: Config, prompts: Sequence[Prompt], records: Sequence[Record]) -> Agreement | None:
    """How many of the first `[eval] check_float32` questions get the same answer in float32; None where that is not asked."""
    if not config.eval.check_float32:
        return None
    exact = config.model_copy(update={"eval": config.eval.model_copy(update={"dtype": "float32"})})
    chosen = prompts[: config.eval.check_float32]
    others = answer_prompts(open_engine(exact), chosen, max_completion_length=config.eval.max_completion_length)
    return Agreement(num_same=sum(one.answer == other.answer for one, other in zip(records, others, strict=False)), total=len(chosen))


@overload
def ask(policy: Policy, samples: Sample, strategy: str = "think", *, max_completion_length: int = 256) -> Record: ...
@overload
def ask(policy: Policy, samples: Sequence[Sample], strategy: str = "think", *, max_completion_length: int = 256) -> list[Record]: ...
def ask(
    policy: Policy, samples: Sample | Sequence[Sample], strategy: str = "think", *, max_completion_length: int = 256
) -> Record | list[Record]:
    """Answer one question, or several in batches, greedily, and grade: `ask(load_policy("osler-tiny"), sample).outcome` -> "correct".

    One sample gives a Record, a sequence of samples a list of Records in the same order.

    Raises ConfigError for an unknown strategy, and DataError for an image that cannot be read.
    """
    from osler.evaluation.engines.hf import HfEngine

    prompts = [render(sample, strategy) for sample in ([samples] if isinstance(samples, Sample) else samples)]
    groups = HfEngine(policy).generate(prompts, max_completion_length=max_completion_length)
    records = [grade_completion(prompt, completion, policy.name) for prompt, (completion,) in zip(prompts, groups, strict=True)]
    return records[0] if isinstance(samples, Sample) else records


def prepare(config: Config, policy: str | None, label: str) -> EvaluationTask:
    """The test questions of a recipe for `policy` (default: the recipe's).

    Raises ConfigError for a label that is no file name, an unknown engine, and `[eval] check_float32` without greedy answers of `hf`.
    """
    if not _LABEL.fullmatch(label):
        raise ConfigError(f"--label {label!r} cannot name a file: use letters, digits, '.', '_' and '-'")
    ENGINES.find(config.eval.engine)
    if config.eval.check_float32 and (config.eval.engine != "hf" or config.eval.num_votes > 1):
        raise ConfigError("[eval] check_float32 compares greedy answers of the engine hf: set it to 0, or change engine or num_votes")
    if policy is not None:
        config = config.model_copy(update={"policy": config.policy.model_copy(update={"path": policy})})
    strategy = config.prompt.eval_strategy or config.prompt.strategy
    samples = load_split(config.data, "test")
    prompts = [render(sample, strategy) for sample in samples]
    return EvaluationTask(config=config, strategy=strategy, samples=samples, prompts=prompts, terms=describe_terms(config, prompts))


def fill_records(
    path: Path,
    config: Config,
    prompts: Sequence[Prompt],
    terms: Mapping[str, Any],
    engine: Callable[[], Engine],
    *,
    fresh: bool = False,
    first: int = 0,
) -> list[Record]:
    """The records of one label: those in its file, and the missing ones from the engine, which is opened only when records are missing.

    `first` is the number of the first prompt among all questions, where these are a part of them (`shards`).

    Raises ConfigError when the file was made with other terms, or another process writes it, and what `answer_prompts` raises.
    """
    with holding(path):
        if not fresh and (key := changed_term(path, terms)) is not None:
            raise ConfigError(f"{path} was made with other {name_term(key)}: give another --label, or --fresh to start it over")
        kept = {} if fresh else kept_records(path, prompts)
        is_whole = list(kept) == list(range(len(prompts)))
        opened = None if is_whole else engine()  # before a file is written or removed: it may refuse its settings
        if fresh:
            path.unlink(missing_ok=True)
            usage_file(path).unlink(missing_ok=True)
        terms_file = path.with_suffix(".terms.json")
        if not (path.exists() and terms_file.exists()):
            write_json(terms_file, terms)
        if opened is None:
            return list(kept.values())
        votes = Votes(num=config.eval.num_votes, sampling=config.sampling, seed=config.seed) if config.eval.num_votes > 1 else None
        length = config.eval.max_completion_length
        if isinstance(opened, AnswersEach):
            return answer_each(opened, prompts, path=path, max_completion_length=length, votes=votes, first=first)
        chunk_size = CHUNK_BATCHES * config.eval.batch_size
        return answer_prompts(opened, prompts, max_completion_length=length, chunk_size=chunk_size, path=path, votes=votes, first=first)


@contextmanager
def holding(path: Path, wait: float = LOCK_SECONDS) -> Iterator[None]:
    """Keep a second evaluation from the same records. Raises ConfigError where another one is still at work after `wait` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locking(path.with_name(f".{path.name}.lock"), wait, is_kept=False) as is_ours:
        if not is_ours:
            raise ConfigError(f"another evaluation writes {path}: wait for it, stop it, or give another --label")
        yield


def answer_prompts(
    engine: Engine,
    prompts: Sequence[Prompt],
    *,
    max_completion_length: int,
    chunk_size: int = 256,
    path: Path | None = None,
    votes: Votes | None = None,
    first: int = 0,
) -> list[Record]:
    """Answer every prompt, greedily or by `votes`, and grade it; one record for each prompt, in order.

    `first` is the number of the first prompt among all questions, on which votes depend. With `path` the records are appended to that file
    chunk by chunk, and prompts that the file already answers are skipped.

    Raises DataError when the file belongs to other questions, and what the engine raises.
    """
    from tqdm import tqdm

    records = [] if path is None else resume(path, prompts, chunk_size)
    with tqdm(total=len(prompts), initial=len(records), desc="eval", unit="question", dynamic_ncols=True, disable=None) as bar:
        for start in range(len(records), len(prompts), chunk_size):
            chunk = prompts[start : start + chunk_size]
            drawn: dict[str, Any] = {}
            if votes is not None:
                drawn = {"num_generations": votes.num, "sampling": votes.sampling, "seed": votes.seed_of(first + start)}
            groups = engine.generate(chunk, max_completion_length=max_completion_length, **drawn)
            if [len(group) for group in groups] != [drawn.get("num_generations", 1)] * len(chunk):
                raise EngineError(f"the engine of {engine.policy_name} must return num_generations completions for every prompt")
            graded = [grade_group(prompt, group, engine.policy_name) for prompt, group in zip(chunk, groups, strict=True)]
            if path is not None:
                append_records(path, graded)
            records += graded
            bar.update(len(graded))
    return records


def resume(path: Path, prompts: Sequence[Prompt], chunk_size: int) -> list[Record]:
    """The records of the whole chunks in a file; records of an unfinished chunk are cut off. Raises DataError for other questions."""
    records = list(resume_records(path))
    for record, prompt in zip(records, prompts, strict=False):
        if record.sample_id != prompt.sample.id or record.strategy != prompt.strategy:
            raise DataError(f"{path} holds {record.sample_id} where {prompt.sample.id} is asked: give another --label, or --fresh")
    if len(records) > len(prompts):
        raise DataError(f"{path} holds {len(records)} records for {len(prompts)} questions: give another --label, or --fresh")
    num_loose = len(records) % chunk_size if len(records) < len(prompts) else 0
    if num_loose:
        records = records[:-num_loose]
        lines = path.read_bytes().splitlines(keepends=True)
        os.truncate(path, sum(len(line) for line in lines[: len(records)]))
    return records


def describe_terms(config: Config, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """The settings that all records of one label share; kept beside them, and compared when an evaluation resumes."""
    terms: dict[str, Any] = {
        "engine": config.eval.engine,
        "questions": digest_prompts(prompts),
        "content": digest_content([prompt.sample for prompt in prompts]),
        "max_completion_length": config.eval.max_completion_length,
    }
    # Settings that are off are left out, so that records made before these settings existed can be resumed.
    if config.eval.option_probabilities:
        terms["option_probabilities"] = True
    if config.eval.num_votes > 1:
        drawn = config.sampling.model_dump(mode="json", exclude={"max_completion_length"})
        terms |= {"num_votes": config.eval.num_votes, "sampling": drawn, "seed": config.seed}
    if config.eval.engine in ("hf", "vllm"):
        from osler.policies.sources import fingerprint

        kept = {"dtype", "min_pixels", "max_pixels"} | ({"attn_implementation"} if config.eval.engine == "hf" else set())
        loading = config.policy.model_dump(mode="json", include=kept)
        terms |= {"policy": fingerprint(config.policy.path), "batch_size": config.eval.batch_size, **loading}
        if (dtype := eval_dtype(config)) != config.policy.dtype:
            terms["arithmetic"] = dtype
    elif config.eval.engine == "option_prior":
        terms["train_content"] = digest_content(load_split(config.data, "train"))
    elif config.eval.engine == "openai":
        asked = config.eval.model_dump(mode="json", include={"dialect", "extra_body", "reported_model", "max_image_side"})
        terms |= {"policy": config.policy.path, **asked}  # not the address: the same model may be served elsewhere
    elif config.eval.engine != "scripted":
        terms["policy"] = config.policy.path
    elif config.eval.engine == "scripted" and config.eval.script is not None and Path(config.eval.script).is_file():
        terms["script"] = digest_file(Path(config.eval.script))
    return terms


def name_term(key: str) -> str:
    """What a term is called in a message."""
    return {"content": "answers or images of the questions", "train_content": "training questions"}.get(key, key)


def digest_prompts(prompts: Sequence[Prompt]) -> str:
    """The SHA-256 of the prompts in their order, in hexadecimal."""
    return hashlib.sha256("\0".join(_identify(prompt) for prompt in prompts).encode()).hexdigest()


def _identify(prompt: Prompt) -> str:
    """Sample, text and prefix of a prompt, and its images where an ablation replaced them."""
    parts = [prompt.sample.id, prompt.text]
    if prompt.prefix:
        parts.append(prompt.prefix)
    if (ablation := prompt.sample.metadata.get("ablation")) is not None:
        parts += [str(ablation), *(image.uri for image in prompt.sample.images)]
    return "\0".join(parts)


def changed_term(path: Path, terms: Mapping[str, Any], *, ignored: str = "") -> str | None:
    """The first of `terms` that differs from those beside a records file; None when all agree, and for records without terms.

    Records of a version that did not keep the content of the questions are not held to it.
    """
    before = read_json_object(path.with_suffix(".terms.json")) if path.exists() else {}
    kept = {ignored} | ({"content", "train_content"} - before.keys())
    changed = (key for key in {**terms, **before} if key not in kept and before.get(key) != terms.get(key))
    return next(changed, None) if before else None
