"""`osler judge`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osler.cli.common import add_verb
from osler.cli.tables import print_table, printable

if TYPE_CHECKING:
    from osler.evaluation.endpoint import Endpoint
    from osler.evaluation.judge.run import JudgeResult
    from osler.evaluation.judge.summary import JudgeSummary


def add_judge(verbs: Any) -> None:
    """`osler judge`."""
    parser = add_verb(
        verbs,
        "judge",
        _run,
        "ask a language model about the open answers that no rule decides",
        "Send the open answers of a records file that the rules leave undecided to a model behind an\n"
        "OpenAI-compatible endpoint, one request each: question, reference and answer, no image. It says right,\n"
        "wrong or undecided. Rulings are written one by one to a folder judge beside the records and never asked\n"
        "twice; the records and the verdicts of the rules stay as they are, and reports show both. Requests that\n"
        "fail are counted by kind, never as wrong, and give the exit code 1; the same command asks them again.\n"
        "The texts leave this machine: name an endpoint that may have them.",
        "osler judge runs/slake_open/records/grpo.jsonl --base-url http://localhost:8000/v1 --model Qwen/Qwen3-8B",
        "osler judge RECORDS --base-url https://HOST/v1 --model NAME --api-key-file key.txt --check-decided 100",
        "osler judge RECORDS --base-url http://localhost:8000/v1 --model NAME --dry-run",
    )
    parser.add_argument("records", type=Path, metavar="RECORDS", help="a file of `osler eval`: RUN/records/LABEL.jsonl")
    parser.add_argument("--base-url", required=True, metavar="URL", help="the endpoint, such as http://localhost:8000/v1")
    parser.add_argument("--model", required=True, metavar="NAME", help="the name under which the endpoint serves the judge")
    parser.add_argument("--api-key-file", type=Path, default=None, metavar="FILE", help="a file with the key on one line (default: no key)")
    parser.add_argument(
        "--check-decided",
        type=int,
        default=0,
        metavar="N",
        help="also ask about N random answers that the rules decide, to measure how often judge and rules agree (default: %(default)s)",
    )
    parser.add_argument("--concurrency", type=int, default=4, metavar="N", help="requests at a time (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="for one request (default: %(default)s)")
    parser.add_argument(
        "--max-tokens", type=int, default=512, metavar="N", help="of a reply; a judge that reasons needs more (default: %(default)s)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print how many answers would be sent, the prompt and one request, then stop"
    )


def _run(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.evaluation.endpoint import Endpoint, completions_url, read_key
    from osler.evaluation.judge.endpoint import check_judge
    from osler.evaluation.judge.run import judge_records

    endpoint = Endpoint(
        url=completions_url(options.base_url),
        model=options.model,
        key=None if options.api_key_file is None else read_key(options.api_key_file),
        timeout=options.timeout,
    )
    check_judge(endpoint, options.max_tokens)
    if endpoint.sends_key_openly:
        print("note: the key goes through the network without encryption, because --base-url begins with http:")
    if options.dry_run:
        return _print_plan(options, endpoint)
    result = judge_records(
        options.records,
        endpoint,
        check_decided=options.check_decided,
        concurrency=options.concurrency,
        max_tokens=options.max_tokens,
    )
    print_judging(result)
    return judging_to_json(result)


def _print_plan(options: argparse.Namespace, endpoint: Endpoint) -> Mapping[str, Any]:
    """Print what would be sent, and return it; nothing is sent."""
    from osler.evaluation.endpoint import describe_counts
    from osler.evaluation.judge.prompt import PROMPT_SHA256, SYSTEM, render_case
    from osler.evaluation.judge.run import plan_judging

    plan = plan_judging(options.records, endpoint.model, check_decided=options.check_decided)
    asked = plan.to_ask(endpoint.model)
    print(f"{len(plan.records):,} open questions; {len(plan.cases):,} answers for the judge, {len(asked):,} requests still to make")
    print(f"not sent: {describe_counts(plan.unfit)}")
    print(f"prompt {PROMPT_SHA256}:\n{SYSTEM}")
    for _, case in list(asked.values())[:1]:
        print(printable(render_case(case, endpoint.model)[-1]["content"]))
    return {"prompt": PROMPT_SHA256, "answers": len(plan.cases), "requests": len(asked), "not_sent": dict(plan.unfit)}


def print_judging(result: JudgeResult) -> None:
    """Print the rulings beside the rules, and what was not ruled on."""
    from osler.evaluation.endpoint import describe_counts

    summary = result.summary
    print_judges([(result.path.stem, summary)])
    print(f"prompt {summary.judge.prompt[:12]}, rulings: {result.path}")
    print(f"asked now: {result.num_asked:,} rulings; failed, never counted as wrong: {describe_counts(result.failures)}")
    print(f"not sent: {describe_counts(result.unfit)}")
    if result.num_left:
        print(f"{result.num_left:,} were not asked, because too many requests failed in a row: the same command goes on")


def print_judges(rows: list[tuple[str, JudgeSummary]]) -> None:
    """Print one row for each judge and title: what it says of undecided answers, and how often it agrees with the rules."""
    from osler.evaluation.judge.summary import NO_RULING

    heads = ["", "Judge", "Questions", "Right by rules", "Rules and judge", "Undecided by rules"]
    body = []
    for title, summary in rows:
        counts = [str(summary.undecided[name]) for name in ("right", "wrong", "undecided", NO_RULING)]
        agreement = f"{summary.agreement} of {summary.agreement.total}"
        shares = [f"{summary.num_questions:,}", str(summary.rules), str(summary.both), str(sum(summary.undecided.values()))]
        body.append([title, summary.judge.model, *shares, *counts, agreement])
    print_table(
        [*heads, "of these right", "wrong", "undecided", "no ruling", "Agreement"], body, title="Undecided open answers, by the judge"
    )
    print("Agreement: of a sample of answers that the rules decide, those that the judge calls the same; those it leaves undecided aside.")


def judging_to_json(result: JudgeResult) -> dict[str, Any]:
    """The rulings beside the rules, and what was not ruled on; exit code 1 where requests failed, so that a script can repeat the call."""
    return {
        **result.summary.to_json(),
        "rulings": result.path,
        "asked": result.num_asked,
        "failures": dict(result.failures),
        "not_sent": dict(result.unfit),
        "left": result.num_left,
        "exit_code": int(bool(result.failures or result.num_left)),
    }
