"""`osler ask`."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.cli.common import add_verb, choose, say_loading, say_where_it_goes
from osler.cli.tables import printable
from osler.context import FIELDS, Context
from osler.errors import ConfigError, DataError, EngineError
from osler.files import is_there
from osler.serving.settings import DISCLAIMER

if TYPE_CHECKING:
    from osler.config import Config
    from osler.evaluation.answer_reading import ReadAnswer
    from osler.evaluation.asking import AskedQuestion, AskResult
    from osler.evaluation.looks import Look

BAR: Final = 24
"""Characters of a bar."""

CONTEXT: Final = "--context."
_SHOWN_SLICES: Final = 12


def add_ask(verbs: Any) -> None:
    """`osler ask`."""
    parser = add_verb(
        verbs,
        "ask",
        _run,
        "ask one question about images, and see how sure the answer is",
        "Ask a policy one question about images on this machine. Prints the completion as it comes, then the answer,\n"
        "the rule that read it, and the probability of each choice. An image is a picture, a DICOM file, a folder of\n"
        "a series, or a NIfTI or NRRD volume. --look asks again with other images: does the answer depend on them?\n"
        "Research tool, not for clinical use.",
        'osler ask scan.png "Which modality is this?" --choices CT,MRI,X-ray',
        'osler ask ct/ "Is there a pleural effusion?" --choices yes,no --window lung --slices 8 --look blank,mirrored',
        'osler ask scan.dcm "What is abnormal?" --policy runs/slake/grpo --context.age 63 --context.indication cough',
        'osler ask scan.png "Which organ?" --choices Liver,Spleen --base-url http://localhost:8000/v1 --policy MODEL',
    )
    parser.add_argument("words", nargs="+", metavar="IMAGE .. QUESTION", help="one or more files or folders, then the question")
    parser.add_argument(
        "--choices",
        action="append",
        default=[],
        metavar="A,B",
        help="the options, with commas between them; where an option holds a comma, repeat --choices for each (default: an open question)",
    )
    parser.add_argument(
        "--policy",
        default="osler-tiny",
        help="packaged policy, run folder, model folder or Hugging Face id; with --base-url the name there (default: %(default)s)",
    )
    parser.add_argument("--strategy", default=None, metavar="NAME", help="the wording of the prompt (default: think)")
    parser.add_argument("--slices", type=int, default=None, metavar="N", help="slices of a study that are shown (default: 8)")
    parser.add_argument(
        "--window", default=None, metavar="NAME", help="window of a CT or another study: lung, 40/400, auto (default: that of the files)"
    )
    parser.add_argument("--votes", type=int, default=None, metavar="N", help="draw N completions and count their answers (default: 1)")
    parser.add_argument(
        "--look", default="", metavar="NAMES", help="ask again with other images: blank, swapped, mirrored; or all (default: none)"
    )
    parser.add_argument(
        "--base-url", default=None, metavar="URL", help="ask the OpenAI-compatible endpoint there, such as http://localhost:8000/v1"
    )


def _run(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.evaluation.looks import Look
    from osler.evaluation.question import reword

    *paths, question = options.words
    if question.strip() and is_there(Path(question)):
        raise ConfigError(f"the last word is the question, and {question} is a file: put the question behind it, in quotation marks")
    context, overrides = split_context(options.overrides)
    config = make_config(options, overrides)
    looks = choose("--look", options.look, tuple(Look)) if options.look else ()
    try:
        result, asked = _ask(options, paths, question, config, context, looks)
    except DataError as error:
        raise DataError(reword(str(error))) from None
    except EngineError as error:
        raise type(error)(reword(str(error))) from None
    print_answer(result, has_spoken=config.eval.num_votes == 1)
    return answer_to_json(result, asked)


def _ask(
    options: argparse.Namespace, paths: Sequence[str], question: str, config: Config, context: Context | None, looks: Sequence[Look]
) -> tuple[AskResult, AskedQuestion]:
    from osler.evaluation.asking import ask_question, find_images, open_speaker, prepare_question

    asked = prepare_question(find_images(paths), question, split_choices(options.choices), config, context=context)
    _print_shown(asked, paths)
    say_where_it_goes(config)
    if config.eval.engine == "hf":
        say_loading(printable(config.policy.path))
    return ask_question(open_speaker(config), asked, config, looks=looks, on_text=say), asked


def make_config(options: argparse.Namespace, overrides: Sequence[str]) -> Config:
    """The recipe of a question: the defaults, the overrides, and the short options. Raises ConfigError."""
    from osler.config import load_config

    pairs = {
        "eval.option_probabilities": True,
        "eval.engine": "openai" if options.base_url is not None else None,
        "eval.base_url": options.base_url,
        "policy.path": options.policy,
        "prompt.strategy": options.strategy,
        "data.study.slices": options.slices,
        "data.study.window": options.window,
        "eval.num_votes": options.votes,
    }
    given = [f"--{key}={json.dumps(value)}" for key, value in pairs.items() if value is not None]
    return load_config(None, [*given, *overrides])


def split_context(overrides: Sequence[str]) -> tuple[Context | None, list[str]]:
    """The patient context of `--context.age 63` and the like, and the other overrides. Raises ConfigError for an unknown field."""
    from osler.config import nearest, parse_overrides

    own: list[str] = []
    others: list[str] = []
    chosen = others
    for argument in overrides:
        if argument.startswith("--"):
            chosen = own if argument.startswith(CONTEXT) else others
        chosen.append(argument)
    found: dict[str, Any] = {}
    for key, value in parse_overrides(own):
        name = key.partition(".")[2]
        if name not in FIELDS:
            raise ConfigError(f"unknown key --{key}{nearest(name, FIELDS)} (known here: {', '.join(FIELDS)})")
        found[name] = value if name == "age" or isinstance(value, str) else str(value)
    return Context(**found) if found else None, others


def split_choices(given: Sequence[str]) -> list[str]:
    """ "CT, MRI" -> ["CT", "MRI"]; several values are one choice each."""
    return list(given) if len(given) > 1 else [text.strip() for text in given[0].split(",")] if given else []


def say(text: str) -> None:
    """Print a piece of a completion; what could control a terminal becomes "?"."""
    print("\n".join(map(printable, text.split("\n"))), end="", flush=True)


def _print_shown(asked: AskedQuestion, paths: Sequence[str]) -> None:
    """Say which slices of studies are shown, on standard error."""
    for path, study in zip(paths, asked.studies, strict=True):
        if study.num_slices > 1:
            numbers = ", ".join(map(str, study.slice_numbers[:_SHOWN_SLICES]))
            more = ", .." * (len(study.indices) > _SHOWN_SLICES)
            plane = f", {study.plane}" if study.plane else ""
            print(f"{printable(path)}: shown are slices {numbers}{more} of {study.num_slices}{plane}", file=sys.stderr)
        for note in study.notes:
            print(f"{printable(path)}: {printable(note)}", file=sys.stderr)


def print_answer(result: AskResult, *, has_spoken: bool) -> None:
    """Print the answer, the rule that read it, a bar for each choice, and what other images change."""
    answer = result.answer
    if not has_spoken:
        say(answer.completion)
    print("\n")
    print(f"Answer: {_name(answer)}   (rule: {answer.rule}{'' if answer.is_well_formed else '; not in the format that was asked for'})")
    if answer.finish_reason == "length":
        print("The completion was cut off: --eval.max_completion_length=.. allows more tokens.")
    width = max((len(choice.text) for choice in answer.choices), default=0)
    for choice in answer.choices:
        share = choice.votes if answer.vote_share is not None else choice.probability
        if share is not None:
            print(f"  {choice.letter}  {printable(choice.text):<{width}}  {draw_bar(share)}  {share:6.1%}")
    print(f"Sure: {_describe_confidence(answer)}")
    if answer.vote_share and [choice.votes for choice in answer.choices].count(answer.vote_share) > 1:
        print("Other answers have as many votes: the one that came first counts.")
    for change in result.looks:
        print(printable(change.sentence))
    print(DISCLAIMER)


def draw_bar(share: float) -> str:
    """A bar of BAR characters for a share between 0 and 1."""
    can_draw = (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    full, empty = ("█", "·") if can_draw else ("#", ".")
    number = round(BAR * min(1.0, max(0.0, share)))
    return full * number + empty * (BAR - number)


def _name(answer: ReadAnswer) -> str:
    if answer.answer is None:
        return "none that can be read"
    return printable(f"{answer.answer}) {answer.answer_text}" if answer.choices else answer.answer)


def _describe_confidence(answer: ReadAnswer) -> str:
    if answer.confidence is None:
        return "not known" if answer.answer is not None else "no, there is no answer"
    if answer.vote_share is not None:
        return f"{answer.confidence:.1%}, the share of completions with this answer"
    return f"{answer.confidence:.1%}, the probability of this letter among the choices; not calibrated"


def answer_to_json(result: AskResult, asked: AskedQuestion) -> dict[str, Any]:
    """The answer as JSON, in the words of the server's /v1/answer."""
    from osler.evaluation.answer_reading import abstains

    only = asked.studies[0] if len(asked.studies) == 1 and asked.studies[0].num_slices > 1 else None
    return {
        **asdict(result.answer),
        "abstains": abstains(result.answer, None),
        "look": [asdict(change) for change in result.looks],
        "images": {
            "count": len(asked.prompt.sample.images),
            "slice_numbers": None if only is None else list(only.slice_numbers),
            "slices": None if only is None else list(only.indices),
        },
        "notes": list(dict.fromkeys(note for study in asked.studies for note in study.notes)),
        "prompt": asked.prompt.text,
        "prompt_hash": hashlib.sha256(asked.prompt.text.encode()).hexdigest(),
        "policy": {"name": result.policy},
        "usage": {"completion_tokens": result.num_tokens or None},
        "disclaimer": DISCLAIMER,
    }
