"""What an experiment found, in words: fixed sentences filled in from the runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from osler import metrics
from osler.evaluation.compare import UNIT
from osler.evaluation.truth import measure_truth, truth_difference
from osler.metrics import Estimate, PairedDifference, few_clusters, percent, points, taxonomy_order
from osler.metrics.truth import ReasoningTruth
from osler.reports.load_runs import STAGES, Evaluation, Run, manifest_cells
from osler.reports.tables import change_rows, group_title, same_questions
from osler.reports.trained import Trained
from osler.reports.truth import select
from osler.types import Record

MAX_LISTED: Final = 3
"""How many modalities or names a sentence lists; more are counted."""

METHODS: Final = ("sft", "grpo")
"""The stages of trained policies."""

ARROW: Final = "\N{RIGHTWARDS ARROW}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """The policy that the headline is about, on the questions like those it was trained on, or on all."""

    row: Evaluation  # with those questions only
    before: Evaluation | None  # the policy that it is compared with
    change: PairedDifference | None
    domain: frozenset[str]  # the modalities of the questions; empty for all questions
    training: str  # "3,200 MRI questions"; "" where nothing is known about it
    truth: ReasoningTruth | None
    truth_before: ReasoningTruth | None


def find_lead(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> Lead | None:
    """The policy that the headline is about; None where no policy answered.

    A trained one where there is one, and of several the first that is best in this order: its reasonings can be checked, it was trained by
    GRPO, on the most questions, under the shortest label ("grpo-think" before "grpo-answer-alone-think").
    """
    by_name = {run.name: run for run in runs}
    answered = without_readers([row for row in evaluations if row.records and not row.is_blind])
    if not answered:
        return None
    changes = {change.title: change.baseline for change in change_rows(answered)}
    trained = [row for row in answered if row.title in changes or row.stage in METHODS]

    def rank(row: Evaluation) -> tuple[bool, bool, int, int]:
        has_truth = measure_truth(row.records) is not None
        return (has_truth, row.stage == "grpo", _num_train(by_name.get(row.run)), -len(row.label))

    row = max(trained or answered, key=rank)
    run = by_name.get(row.run)
    domain = frozenset(manifest_cells(run.manifest, "train")) if run else frozenset()
    trainings = Trained(runs)
    asked = [record for record in select(row.records, domain) if run is not None and trainings.has(run, record, row.run)]
    if not domain or not asked:
        domain, asked = frozenset(), list(row.records)
    row = replace(row, records=tuple(asked))
    before = next((other for other in answered if other.title == changes.get(row.title)), None)
    if before is not None:
        before = replace(before, records=same_questions(before, row))
    change = metrics.paired_difference(before.records, row.records, UNIT) if before is not None else None
    is_compared = change is not None and change.num_samples > 0
    return Lead(
        row=row,
        before=before if is_compared else None,
        change=change if is_compared else None,
        domain=domain,
        training=describe_training(run) if run is not None and (row.stage in METHODS or run.curves) else "",
        truth=measure_truth(row.records),
        truth_before=measure_truth(before.records) if before is not None and is_compared else None,
    )


def without_readers(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The rows of policies; the rows of readers where there are no others."""
    return [row for row in evaluations if not row.is_reader] or list(evaluations)


def _num_train(run: Run | None) -> int:
    cells = manifest_cells(run.manifest, "train") if run else {}
    return sum(count for counts in cells.values() for count in counts.values() if isinstance(count, int))


def describe_training(run: Run) -> str:
    """ "3,200 MRI questions", "900 questions of 8 modalities"; "" without a manifest."""
    names = manifest_cells(run.manifest, "train")
    if not names:
        return ""
    if len(names) > MAX_LISTED:
        return f"{_num_train(run):,} questions of {len(names)} modalities"
    return f"{_num_train(run):,} {describe_domain(names)} questions"


def describe_domain(names: Collection[str | None]) -> str:
    """ "MRI", "MRI, CT and X-ray", "8 modalities"; "all questions" for none."""
    if not names:
        return "all questions"
    titles = [group_title(name) for name in sorted(names, key=taxonomy_order)]
    return f"{len(titles)} modalities" if len(titles) > MAX_LISTED else join(titles)


def join(texts: Sequence[str]) -> str:
    """ "MRI", "MRI, CT and X-ray"; "" for none."""
    return " and ".join(part for part in (", ".join(texts[:-1]), texts[-1]) if part)


def describe_lead(lead: Lead) -> tuple[str, ...]:
    """The sentences of the headline: accuracy, then truth where there is a reasoning."""
    head, _, strategy = lead.row.title.rpartition(", ")
    name = f"{head} ({strategy})" if head else lead.row.title
    trained = f" on {lead.training}" if lead.training else ""
    return (f"{name}{trained}: {_accuracy_words(lead)}", *_truth_words(lead))


def _accuracy_words(lead: Lead) -> str:
    where = describe_domain(lead.domain) if lead.domain else _tested(lead.row.records)
    if lead.before is None or lead.change is None:
        guess = metrics.chance(lead.row.records)
        guessing = "" if guess is None else f"; guessing would get {percent(guess)} %"
        accuracy = metrics.accuracy(lead.row.records, UNIT)
        limits = f"[{percent(accuracy.low)}, {percent(accuracy.high)}]{few_clusters(accuracy)}"
        return f"accuracy {percent(accuracy.value)} % {limits} on {where}{guessing}."
    before, after = _shared_accuracies(lead.before.records, lead.row.records)
    change = f"{points(lead.change.difference)} points"
    if lead.before.is_zero_shot:
        return f"accuracy {before} {ARROW} {after} % on {where}, {change}."
    return f"accuracy {after} % on {where}, against {before} % of {lead.before.title}: {change}."


def _tested(records: Sequence[Record]) -> str:
    names = {record.modality for record in records}
    return "all questions" if None in names else describe_domain(names)


def _shared_accuracies(before: Sequence[Record], after: Sequence[Record]) -> tuple[str, str]:
    """Both accuracies on the questions that both sides answered, in per cent."""
    shared = {record.sample_id for record in before} & {record.sample_id for record in after}
    sides = [[record for record in side if record.sample_id in shared] for side in (before, after)]
    first, second = (percent(metrics.accuracy(side).value) for side in sides)
    return first, second


def _truth_words(lead: Lead) -> tuple[str, ...]:
    if not any(record.reasoning for record in lead.row.records):
        return ()
    if lead.truth is not None and not lead.truth.num_checked:
        return ("Nothing that its reasonings state could be checked.",)
    if lead.truth is None:
        return ("Whether its reasonings are true is not known: the records hold no facts about the images.",)
    was = ""
    if lead.truth_before is not None and lead.before is not None:
        share = _whole(lead.truth_before.true_reasonings)
        was = f" ({share} before)" if lead.before.is_zero_shot else f" ({lead.before.title}: {share})"
    text = f"{_whole(lead.truth.true_reasonings)} of its reasonings are true{was}"
    if lead.truth.right_for_false_reason.value is not None:
        text += f": right for a false reason in {_whole(lead.truth.right_for_false_reason)} of its right answers"
    return (f"{text}.",)


def _whole(share: Estimate) -> str:
    return "none" if share.value is None else f"{100 * share.value:.0f} %"


def explain_lead(lead: Lead) -> tuple[str, ...]:
    """What the headline means: whether the changes may be luck."""
    sentences = []
    than = "before" if lead.before is None or lead.before.is_zero_shot else f"that of {lead.before.title}"
    if lead.change is not None:
        sentences.append(_verdict("accuracy", lead.change.difference, than))
    compared = truth_difference(lead.before.records, lead.row.records) if lead.before is not None else None
    if compared is not None:
        sentences.append(_verdict("share of true reasonings", compared.true_reasonings.difference, than, shows_points=True))
    return tuple(sentences)


def _verdict(what: str, difference: Estimate, than: str, *, shows_points: bool = False) -> str:
    low, high = difference.low, difference.high
    change = f" ({points(difference)} points)" if shows_points else ""
    if low is None or high is None:
        return f"The change of the {what} has no interval."
    if low <= 0 <= high:
        return f"The interval of the change of the {what}{change} contains 0: it may be luck."
    return f"The {what} is {'higher' if low > 0 else 'lower'} than {than}{change}: the interval does not contain 0."


def name_experiment(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> str:
    """The title of a page: "demo: SFT and GRPO on MRI, tested on MRI, CT and X-ray".

    The names of the recipes, or those of the folders; how and on what the policies were trained; the modalities of the test questions.
    """
    names = list(dict.fromkeys(str(run.config.get("name") or run.name) for run in runs))
    title = join(names) if len(names) <= MAX_LISTED else f"{names[0]} and {len(names) - 1} more"
    answered = without_readers([row for row in evaluations if row.records and not row.is_blind])
    if not answered:
        return title
    stages = {row.stage for row in answered}
    trained = [STAGES[stage] for stage in METHODS if stage in stages]
    domain = frozenset().union(*(manifest_cells(run.manifest, "train") for run in runs)) if trained else frozenset()
    if trained:
        how = join(trained) + (f" on {describe_domain(domain)}" if domain else "")
    else:
        how = STAGES["zero_shot"].lower() if stages == {"zero_shot"} else ""
    tested = f"tested on {_tested([record for row in answered for record in row.records])}"
    return f"{title}: {how}, {tested}" if how else f"{title}: {tested}"
