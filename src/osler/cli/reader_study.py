"""`osler serve --study`: the questions of a recipe or of a file, shown to people."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.cli.tables import print_accuracies, print_readers
from osler.errors import ConfigError

if TYPE_CHECKING:
    from osler.config import Config
    from osler.serving.readers.session import Sessions
    from osler.serving.readers.study import Study
    from osler.serving.settings import ServerSettings

DEFAULT_READERS: Final = 3
TABLES: Final = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Endings of files that the reader `jsonl` reads; QUESTIONS with another ending is a recipe."""


class _Questions(argparse.Action):
    """Keeps QUESTIONS, as the recipe too where it is one: the command line looks there for the reader of the data."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        _option: str | None = None,
    ) -> None:
        """Set `study`, and `recipe` unless QUESTIONS is a file of rows."""
        namespace.study = str(values)
        namespace.recipe = None if _is_table(namespace.study) else namespace.study


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a reader study to `osler serve`. `options.study` is None without `--study`."""
    group = parser.add_argument_group(
        "reader study",
        "Show the same questions to people, blinded to the right answers, each in an order of their own. Their answers\n"
        "become records beside those of policies: RUN/records/reader_1.jsonl. No policy is loaded. See docs/reader_study.md.",
    )
    group.add_argument(
        "--study", action=_Questions, default=None, metavar="QUESTIONS", help="a recipe, as for `osler eval`, or a file of rows"
    )
    group.add_argument("--readers", type=int, default=None, metavar="N", help=f"number of people (default: {DEFAULT_READERS})")
    group.add_argument(
        "--repeated", type=float, default=0.1, metavar="SHARE", help="of the questions are asked twice, 0 to 0.5 (default: %(default)s)"
    )
    group.add_argument(
        "--without-image",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="of the questions are first asked without their images, 0 to 1 (default: %(default)s)",
    )
    group.add_argument(
        "--with-model",
        default=None,
        metavar="RECORDS",
        help="a last part shows every question again with the answers in this file of records, or label of the run",
    )
    group.add_argument(
        "--washout-days",
        type=float,
        default=0.0,
        metavar="DAYS",
        help="between a reader's last unaided answer and the part with the model (default: %(default)s)",
    )
    group.add_argument("--out", type=Path, default=None, help="run folder of the study (default: runs/<name of the recipe>-study)")
    group.add_argument("--seed", type=int, default=None, help="random seed of the orders (default: the recipe's)")
    group.add_argument("--fresh", action="store_true", help="set an existing study aside; by default it continues")


def run_study(options: argparse.Namespace, settings: ServerSettings, listener: socket.socket) -> Mapping[str, Any]:
    """Serve the study of `options.study` until a signal comes, then print the tables of the run; the result has the progress.

    It reads the options of `add_study_options` and `overrides`. Raises OslerError for user errors.
    """
    from osler.serving.readers.plan import StudySettings
    from osler.serving.readers.session import Sessions
    from osler.serving.readers.study import holding, prepare_study

    config = _load_config(options.study, options.overrides)
    design = StudySettings(
        num_readers=options.readers or DEFAULT_READERS,
        repeated=options.repeated,
        without_image=options.without_image,
        washout_days=options.washout_days,
        seed=config.seed,
    )
    out = options.out or Path("runs") / f"{config.name}-study"
    study = prepare_study(config, out, design, with_model=options.with_model, fresh=options.fresh)
    with holding(study):
        sessions = Sessions(study)
        try:
            _serve(study, sessions, settings, listener)
        finally:
            sessions.finish()
    print_study(study, sessions)
    progress = {f"reader {number}": {"answered": done, "of": total} for number, (done, total) in sessions.progress().items()}
    return {"run": study.run.root, "questions": len(study.samples), "readers": progress}


def _is_table(questions: str) -> bool:
    return Path(questions).suffix.lower() in TABLES


def _load_config(questions: str, overrides: Sequence[str]) -> Config:
    """The recipe, or the defaults with the file as its data. Raises ConfigError."""
    from osler.config import load_config

    if not _is_table(questions):
        return load_config(questions, overrides)
    path = Path(questions)
    if not path.is_file():
        raise ConfigError(f"--study {questions}: there is no such file")
    return load_config(None, ["--data.reader=jsonl", f"--data.root={path}", f"--name={path.stem}", *overrides])


def _serve(study: Study, sessions: Sessions, settings: ServerSettings, listener: socket.socket) -> None:
    """Serve the readers' pages until a signal comes."""
    from osler.serving.app import create_app
    from osler.serving.readers.routes import study_part
    from osler.serving.server import Server

    app = create_app(settings, None, [study_part(sessions)])
    # Without an access log: it would hold the addresses, and they are the keys of the readers.
    Server(app, on_start=lambda: _print_addresses(study, sessions, settings)).run(sockets=[listener])


def _print_addresses(study: Study, sessions: Sessions, settings: ServerSettings) -> None:
    print(f"study: {len(study.samples)} questions, {study.folder}")
    for number, (done, total) in sessions.progress().items():
        print(f"reader {number}: {settings.url}/study/{study.tokens[number - 1]}  ({done} of {total} answered)")
    print("Give each reader only their own address: who has it answers as that reader. Ctrl+C stops; the same command continues.")
    if not settings.is_local:
        print("Addresses and answers go through the network without encryption: put a server with TLS in front.")
    print("Not for clinical use. A study with people needs the approval of your ethics board.", flush=True)


def print_study(study: Study, sessions: Sessions) -> None:
    """Print how far the readers are, and once all have answered everything the tables of all records in the run."""
    progress = sessions.progress()
    for number, (done, total) in progress.items():
        print(f"reader {number}: {done} of {total} answered")
    if any(done < total for done, total in progress.values()):
        print(f"Accuracies are printed once all readers are done; `osler report {study.run.root}` shows what there is.")
        return
    from osler.reports.load_runs import collect_evaluations, load_runs
    from osler.reports.readers import build_readers

    runs = load_runs([study.run.root])
    rows = [row for row in collect_evaluations(runs) if row.records]
    blind = {row.title: row.blind for row in rows}
    print_accuracies([(row.title, row.records) for row in rows], blind=blind)
    print_readers(build_readers(runs, rows))
