"""`osler ask`: one question about images on this machine, its answer as it comes, and what another image changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from osler.config import Config
from osler.context import Context
from osler.errors import ConfigError, DataError
from osler.evaluation.answer_reading import LookChange, ReadAnswer, describe_look, read_answer
from osler.evaluation.looks import Look, alter
from osler.evaluation.question import MAX_VOTES, make_prompt
from osler.files import is_there
from osler.images.slices import ShownStudy, choose_pictures, find_hidden
from osler.images.study import Study, study_at
from osler.images.windows import AUTO, parse_windows
from osler.types import Completion, Prompt

if TYPE_CHECKING:
    from osler.evaluation.engines.hf import HfEngine
    from osler.evaluation.engines.openai import OpenAIEngine

_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:", re.ASCII)
MAX_IMAGES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedQuestion:
    """A question, ready to be asked."""

    prompt: Prompt
    studies: tuple[ShownStudy, ...]  # what the prompt shows of each image, with notes on what the pictures hide


@dataclass(frozen=True, slots=True, kw_only=True)
class AskResult:
    """The answer to a question."""

    answer: ReadAnswer
    looks: tuple[LookChange, ...]
    num_tokens: int  # that were generated for the answer; 0 where they are not known
    policy: str


def find_images(paths: Sequence[str]) -> list[Study]:
    """The images that a user names: pictures, DICOM files, volumes and folders. Raises DataError for an address of the web and for none."""
    if not paths:
        raise DataError("no image is named: give one or more before the question")
    if len(paths) > MAX_IMAGES:
        raise DataError(f"{len(paths)} images are named: give at most {MAX_IMAGES}, or the folder of a series")
    for path in paths:
        if _ADDRESS.match(path):
            raise DataError(f"{path[:60]!r} is an address: give a file or a folder of this machine, because nothing is fetched")
        if not is_there(Path(path)):
            raise DataError(f"there is no image {path[:200]!r}: check the path; the question comes last")
    return [study_at(path) for path in paths]


def prepare_question(
    images: Sequence[Study], question: str, choices: Sequence[str], config: Config, *, context: Context | None = None
) -> AskedQuestion:
    """The prompt of a question, in the wording of `[prompt] strategy`, with what `[data.study]` shows.

    Raises ConfigError for more than MAX_VOTES votes and for an unknown window, also where a picture has no use for it, and what
    `make_prompt` raises.
    """
    section = config.data.study
    if config.eval.num_votes > MAX_VOTES:
        raise ConfigError(f"a question takes at most {MAX_VOTES} votes, because they are drawn at once: ask for fewer")
    if section.window != AUTO:
        parse_windows(section.window)
    prompt = make_prompt(images, question, choices, strategy=config.prompt.strategy, context=context, study=section)
    studies = tuple(choose_pictures(study, section) for study in images)
    hidden = (find_hidden(study, shown) for study, shown in zip(images, studies, strict=True))
    told = (replace(shown, notes=(*shown.notes, *notes)) for shown, notes in zip(studies, hidden, strict=True))
    return AskedQuestion(prompt=prompt, studies=tuple(told))


def open_speaker(config: Config) -> HfEngine | OpenAIEngine:
    """The engine that `[eval] engine` names, if it can pass text on as it comes. Raises ConfigError for another one."""
    from osler.evaluation.engines import open_engine
    from osler.evaluation.engines.hf import HfEngine
    from osler.evaluation.engines.openai import OpenAIEngine

    if config.eval.engine not in ("hf", "openai"):
        raise ConfigError(f"osler ask has no engine {config.eval.engine!r}: leave it out, or give --base-url for an endpoint")
    engine = open_engine(config)
    assert isinstance(engine, HfEngine | OpenAIEngine)
    return engine


def ask_question(
    engine: HfEngine | OpenAIEngine,
    asked: AskedQuestion,
    config: Config,
    *,
    looks: Sequence[Look] = (),
    on_text: Callable[[str], None] | None = None,
) -> AskResult:
    """Ask, greedily or by `[eval] num_votes`, then once more for each of `looks` with other images.

    `on_text` gets the completion as it comes; with votes it gets nothing, because there are several.
    """
    completions = _generate(engine, asked.prompt, config, on_text)
    answer = read_answer(asked.prompt, completions, engine.policy_name)
    changes = []
    for look in dict.fromkeys(looks):
        sample = asked.prompt.sample
        prompt = replace(asked.prompt, sample=replace(sample, images=alter(sample.images, look)))
        other = read_answer(prompt, _generate(engine, prompt, config, None), engine.policy_name)
        changes.append(describe_look(look, other, answer))
    num_tokens = sum(completion.num_tokens for completion in completions)
    return AskResult(answer=answer, looks=tuple(changes), num_tokens=num_tokens, policy=engine.policy_name)


def _generate(engine: HfEngine | OpenAIEngine, prompt: Prompt, config: Config, on_text: Callable[[str], None] | None) -> list[Completion]:
    length = config.eval.max_completion_length
    if config.eval.num_votes == 1:
        ((completion,),) = engine.generate([prompt], max_completion_length=length, on_text=on_text)
        return [completion]
    (group,) = engine.generate(
        [prompt], max_completion_length=length, num_generations=config.eval.num_votes, sampling=config.sampling, seed=config.seed
    )
    return group
