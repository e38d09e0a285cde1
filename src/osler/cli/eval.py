"""`osler eval`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from osler.cli.common import add_recipe, add_run_options, add_verb, choose, print_dry_run, run_folder, say_where_it_goes
from osler.cli.launching import add_launcher, launching_of
from osler.cli.tables import print_accuracies, print_table, printable
from osler.errors import ConfigError

if TYPE_CHECKING:
    from osler.config import Config
    from osler.evaluation.reliance import Reliance
    from osler.evaluation.run import EvaluationResult
    from osler.evaluation.usage import UsageSummary
    from osler.experiments.probes import ProbeResult, ProbeResults


def add_eval(verbs: Any) -> None:
    """`osler eval`."""
    parser = add_verb(
        verbs,
        "eval",
        _run,
        "test a policy on the questions of any dataset",
        "Answer the test questions of a recipe with greedy decoding and grade every answer. Prints accuracies\n"
        "with 95 % intervals and writes RUN/records/LABEL.jsonl. An interrupted run is resumed.",
        "osler eval demo --policy runs/demo/grpo-think",
        "osler eval slake --data.root DIR --policy osler-tiny --label zero_shot",
        "osler eval demo --ablation all                 does the policy use the image? copies with other images or contexts",
        "osler eval demo --ablation blank,swap_within",
        "osler eval demo --circular                     does the order of the options matter? every rotation of the options",
        "osler eval slake --data.root DIR --shards 8 --launcher ray --job-gpus 1",
        "osler eval demo --reasoning all                does the answer depend on the reasoning in LABEL.jsonl?",
        "osler eval slake --data.root DIR --base-url http://localhost:8000/v1 --policy Qwen/Qwen2-VL-72B-Instruct",
    )
    add_recipe(parser)
    parser.add_argument(
        "--policy",
        default=None,
        help="packaged policy, run folder, model folder or Hugging Face id; with --base-url the name under which the endpoint serves it "
        "(default: the recipe's)",
    )
    parser.add_argument("--limit", type=int, default=None, metavar="N", help="ask N test questions; short for --data.test.limit")
    parser.add_argument("--engine", default=None, metavar="NAME", help="hf, openai, vllm or another engine; short for --eval.engine")
    parser.add_argument(
        "--base-url", default=None, metavar="URL", help="ask the OpenAI-compatible endpoint there, such as http://localhost:8000/v1"
    )
    parser.add_argument("--label", default="eval", help="name of the records file, and of the row in reports (default: %(default)s)")
    probes = parser.add_argument_group(
        "altered questions", "Each alteration writes RUN/records/LABEL.<name>.jsonl and is compared with LABEL.jsonl, if that exists."
    )
    probes.add_argument(
        "--ablation",
        default="",
        metavar="NAMES",
        help="alter the images: blank, noise, swap_within, swap_across, question_only; alter the patient context: no_context, "
        "context_shuffled, context_contradictory; or all",
    )
    probes.add_argument("--circular", action="store_true", help="ask every rotation of the options, and count questions right in all")
    probes.add_argument("--reasoning", default="", metavar="NAMES", help="continue from altered reasoning: cut, shuffled, replaced; or all")
    add_run_options(parser)
    parser.add_argument(
        "--shards", type=int, default=None, metavar="N", help="answer in N jobs at once, on this machine or by --launcher; equal records"
    )
    parser.add_argument("--shard", default=None, help=argparse.SUPPRESS)  # one of these jobs
    add_launcher(parser)


def short_options(options: argparse.Namespace) -> list[str]:
    """The overrides that short options stand for. An address alone names the engine `openai`."""
    engine = "openai" if options.engine is None and options.base_url is not None else options.engine
    pairs = {"data.test.limit": options.limit, "eval.engine": engine, "eval.base_url": options.base_url}
    return [f"--{key}={json.dumps(value)}" for key, value in pairs.items() if value is not None]


def _run(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.config import load_config

    options.overrides = [*options.overrides, *short_options(options)]
    config = load_config(options.recipe, options.overrides)
    if options.dry_run:
        return print_dry_run(config, options.verb)
    if options.shard is not None:
        return _run_shard(options, config)
    say_where_it_goes(config, options.policy)
    if options.ablation or options.circular or options.reasoning:
        if options.shards is not None:
            raise ConfigError("--shards answers the questions as they are: leave it out, or leave the alterations out")
        return run_altered(options, config)
    result = _evaluate(options, config)
    print_evaluation(result)
    return evaluation_to_json(result)


def _evaluate(options: argparse.Namespace, config: Config) -> EvaluationResult:
    """The plain questions, in this process or in shards."""
    out, own = run_folder(options, config), {"policy": options.policy, "label": options.label, "fresh": options.fresh}
    launching = launching_of(options)
    if options.shards is not None:
        from osler.experiments.sharded import evaluate_in_shards

        return evaluate_in_shards(options.recipe, options.overrides, config, out, options.shards, launching=launching, **own)
    if launching.name != "local":
        raise ConfigError(f"--launcher {launching.name} runs the jobs of --shards: say how many")
    from osler.evaluation.run import evaluate

    return evaluate(config, out, **own)


def _run_shard(options: argparse.Namespace, config: Config) -> Mapping[str, Any]:
    from osler.evaluation.shards import evaluate_shard, parse_shard

    shard = parse_shard(options.shard)
    path = evaluate_shard(config, run_folder(options, config), shard, policy=options.policy, label=options.label)
    print(f"questions {shard} of {options.label}: {path}")
    return {"records": path}


def print_evaluation(result: EvaluationResult) -> None:
    """Print the accuracies, and on standard error where the records are."""
    print(f"{result.label}: {len(result.records)} questions in {result.seconds:.1f} s, {result.path}", file=sys.stderr)
    from osler.audits.credits import read_answers

    answers = {result.label: read_answers(result.path)}
    rows, blind = [(result.label, result.records)], {result.label: result.blind}
    print_accuracies(rows, in_domain=result.in_domain, blind=blind, blind_answers=answers)
    if result.usage is not None:
        print_usage(result.usage)
    if (same := result.float32) is not None:
        print(f"{same.total - same.num_same} of {same.total} answers differ from those in float32")


def print_usage(usage: UsageSummary) -> None:
    """Print what the answers of an endpoint took, on standard error."""
    took = f"median {usage.median_seconds:.2f} s, 95 % within {usage.slow_seconds:.2f} s"
    counts = [f"{usage.num_repeated:,} repeated"] * bool(usage.num_repeated) + [f"{usage.num_refused:,} refused"] * bool(usage.num_refused)
    if usage.prompt_tokens is not None and usage.completion_tokens is not None:
        counts.append(f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens")
    if usage.cost is not None:
        counts.append(f"cost {usage.cost:,.4f}")
    print("; ".join([f"{usage.num_requests:,} requests: {took}", *counts]), file=sys.stderr)
    if usage.num_uncounted:
        print(f"{usage.num_uncounted:,} requests without a number of tokens are not in these sums", file=sys.stderr)
    if len(usage.fingerprints) > 1:
        found = ", ".join(f"{printable(name)} {count:,}" for name, count in usage.fingerprints.items())
        print(f"note: the endpoint reports {len(usage.fingerprints)} configurations of the model ({found})", file=sys.stderr)


def evaluation_to_json(result: EvaluationResult) -> dict[str, Any]:
    """The figures of an evaluation: shares between 0 and 1, None where there is nothing to measure."""
    from osler.evaluation.truth import truth_to_json
    from osler.metrics import image_gain, summarize
    from osler.reports.leniency import lenient_share

    summary = summarize(result.records, "subject")
    gain = image_gain(result.records, result.blind)
    return {
        "run": result.run,
        "records": result.path,
        "label": result.label,
        "questions": len(result.records),
        "accuracy": summary.accuracy.value,
        "interval": [summary.accuracy.low, summary.accuracy.high],
        "chance": summary.chance,
        "no_answer": summary.no_answer,
        "lenient": lenient_share(result.records),
        "open": _open_to_json(result),
        "well_formed": summary.well_formed,
        "mean_tokens": summary.mean_tokens,
        "image_gain": {"value": gain.gain.value, "interval": [gain.gain.low, gain.gain.high], "over": gain.baseline},
        "truth": truth_to_json(result.records),
        "usage": None if result.usage is None else result.usage.to_json(),
        "float32": None if result.float32 is None else {"same": result.float32.num_same, "questions": result.float32.total},
    }


def _open_to_json(result: EvaluationResult) -> dict[str, Any] | None:
    """The figures of the open questions; None where there are none."""
    from osler.audits.credits import read_answers
    from osler.reports.leniency import open_blind
    from osler.reports.load_runs import Evaluation
    from osler.reports.open_questions import open_rows

    own = Evaluation(label=result.label, title=result.label, records=result.records, blind_answers=read_answers(result.path))
    if not (rows := open_rows([own])):
        return None
    *blind, policy = rows
    return {
        "questions": policy.right.total,
        "accuracy": policy.right.to_json(),
        **policy.to_json(),
        "blind": open_blind(result.records, result.blind),
        "baselines": {row.title: row.to_json() for row in blind},
    }


def run_altered(options: argparse.Namespace, config: Config) -> Mapping[str, Any]:
    """`osler eval` with altered questions."""
    from osler.evaluation.ablations import Ablation
    from osler.evaluation.context_changes import ContextChange
    from osler.evaluation.interventions import Intervention
    from osler.experiments.probes import run_probes

    def report(result: ProbeResult) -> None:
        name = f"{options.label}.{result.probe.name}"
        print(f"{name}: {len(result.records)} questions in {result.seconds:.1f} s, {result.path}", file=sys.stderr)

    chosen = choose("--ablation", options.ablation, (*Ablation, *ContextChange)) if options.ablation else ()
    results = run_probes(
        config,
        run_folder(options, config),
        policy=options.policy,
        label=options.label,
        fresh=options.fresh,
        ablations=[name for name in chosen if isinstance(name, Ablation)],
        context_changes=[name for name in chosen if isinstance(name, ContextChange)],
        is_circular=options.circular,
        interventions=choose("--reasoning", options.reasoning, tuple(Intervention)) if options.reasoning else (),
        on_result=report,
    )
    print_probes(results)
    return probes_to_json(results)


def print_probes(results: ProbeResults) -> None:
    """Print what the alterations changed, in per cent with 95 % intervals."""
    if results.probes:
        _print_alterations(results)
    if results.not_asked:
        print(f"not asked, because {next(iter(results.not_asked.values()))}: {', '.join(results.not_asked)}")
    if (reliance := results.reliance) is not None and reliance.plain:
        print(f"{results.label} {reliance.verdict}, on {len(reliance.plain)} questions with a patient context")
    if (circular := results.circular) is not None:
        from osler.metrics import percent

        rows = [
            ["options as they are", str(circular.plain), ""],
            ["mean of all rotations", str(circular.mean), ""],
            ["right in every rotation", str(circular.consistent), percent(circular.chance)],
        ]
        print_table((f"{circular.num_questions} questions", "Accuracy", "Guessing"), rows)
    if results.rules:
        print_table(
            ("Reasoning states", "Answers read", "Agreement"),
            [[rule.rule, f"{rule.agreement.total} of {rule.num_reasonings}", str(rule.agreement)] for rule in results.rules],
        )


def _print_alterations(results: ProbeResults) -> None:
    """One row for each alteration, then the questions that were left out."""
    from osler.evaluation.ablations import Ablation
    from osler.evaluation.compare import UNIT
    from osler.metrics import accuracy, p_value, points

    alterations = [result.alteration for result in results.probes]
    heads = ["", "Questions", "Accuracy", "Change", "p", "Same answer", "Follows reasoning"]
    rows = [["plain", str(len(results.plain)), str(accuracy(results.plain, UNIT)), *[""] * 4]] if results.plain else []
    for one in alterations:
        change = ["", ""] if one.change is None else [points(one.change.difference), p_value(one.change.p_value)]
        shares = ["" if share is None else str(share) for share in (one.same_answer, one.follows)]
        rows.append([one.name, str(one.num_questions), str(one.accuracy), *change, *shares])
    width = len(heads) if any(one.follows is not None for one in alterations) else len(heads) - 1
    print_table(heads[:width], [row[:width] for row in rows])
    for probe in (result.probe for result in results.probes):
        for reason, number in probe.left_out.items():
            print(f"{probe.name}: {number} questions left out, {reason}")
        if probe.num_same_target:
            given = "an image" if probe.name in tuple(Ablation) else "a context"
            print(f"{probe.name}: {probe.num_same_target} questions have {given} that may have the same answer; there was no other")


def probes_to_json(results: ProbeResults) -> dict[str, Any]:
    """The figures of all probes: shares between 0 and 1, None where there is nothing to measure."""
    from osler.evaluation.compare import UNIT
    from osler.metrics import accuracy

    plain, circular = results.plain, results.circular
    shares = {} if circular is None else {"plain": circular.plain, "mean": circular.mean, "consistent": circular.consistent}
    return {
        "run": results.run,
        "label": results.label,
        "plain": {"questions": len(plain), **accuracy(plain, UNIT).to_json()} if plain else None,
        "probes": {result.probe.name: _probe_to_json(result) for result in results.probes},
        "circular": None
        if circular is None
        else {"questions": circular.num_questions, **{name: share.to_json() for name, share in shares.items()}, "chance": circular.chance},
        "context": _reliance_to_json(results.reliance),
        "consistency": {
            rule.rule: {
                "reasonings": rule.num_reasonings,
                "stated": rule.agreement.total,
                "agreement": rule.agreement.to_json(),
                "contradictions": list(rule.contradictions),
            }
            for rule in results.rules
        },
    }


def _reliance_to_json(reliance: Reliance | None) -> dict[str, Any] | None:
    if reliance is None or not reliance.plain:
        return None
    return {
        "questions": len(reliance.plain),
        "follows_context": reliance.follows_context,
        "follows_image": reliance.follows_image,
        "verdict": reliance.verdict,
    }


def _probe_to_json(result: ProbeResult) -> dict[str, Any]:
    alteration, change = result.alteration, result.alteration.change
    return {
        "questions": alteration.num_questions,
        "left_out": dict(result.probe.left_out),
        "same_target": result.probe.num_same_target,
        **alteration.accuracy.to_json(),
        "change": None if change is None else {**change.difference.to_json(), "questions": change.num_samples, "p_value": change.p_value},
        "same_answer": None if alteration.same_answer is None else alteration.same_answer.to_json(),
        "follows_reasoning": None if alteration.follows is None else alteration.follows.to_json(),
    }
