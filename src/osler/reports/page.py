"""The part of a page about runs: tables, figures and notes from their records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from osler import metrics
from osler.metrics import Estimate, ImageGain, Summary, taxonomy_order
from osler.metrics.gain import MIN_CHANGED
from osler.reports.confidence import TARGET, ConfidenceRow, confidence_figures, confidence_rows
from osler.reports.examples import Examples
from osler.reports.figures import PALETTE, Figure, accuracy_figure, training_figures
from osler.reports.glance import Glance
from osler.reports.headline import describe_domain, name_experiment
from osler.reports.heat import HeatMap
from osler.reports.image_use import describe_uses, image_uses
from osler.reports.leniency import describe_leniency, describe_undecided, lenient_share, undecided_share
from osler.reports.load_runs import Evaluation, Run, manifest_cells
from osler.reports.looking import PLAIN_TITLE, LookRow, look_figure, look_notes, look_rows
from osler.reports.open_questions import OpenRow, open_rows
from osler.reports.readers import ReaderPart, build_readers
from osler.reports.reading import ReadingRow, opposite_fields, reading_notes, reading_rows
from osler.reports.tables import (
    FEW,
    AccuracyTable,
    ChangeRow,
    PolicyTable,
    accuracy_map,
    accuracy_table,
    change_rows,
    describe_baselines,
    describe_clusters,
    gain_table,
    group_title,
    has_few_clusters,
)
from osler.reports.trained import describe_others, shared_domain
from osler.reports.truth import TruthRow, truth_rows, truth_table
from osler.reports.written import WrittenCard
from osler.taxonomy import SPLITS

MAX_MATRICES: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class CountTable:
    """The number of questions in each split of a run, by modality or by question type."""

    name: str  # "modality"
    splits: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]
    totals: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The content of the templates about runs, in the order of the page."""

    title: str  # what the experiment is
    glance: Glance | None  # None where no policy answered
    runs: tuple[Run, ...]
    notes: tuple[str, ...]
    in_domain: frozenset[str]  # the modalities that all runs trained on, of their datasets; empty where runs differ
    by_modality: AccuracyTable
    by_question_type: AccuracyTable
    gains: PolicyTable[ImageGain] | None  # by modality; None without a blind baseline
    baselines: str  # what those of `gains` do without the image
    image_uses: tuple[str, ...]  # whether any probe of the page shows that the policies used the image
    changes: tuple[ChangeRow, ...]
    open_rows: tuple[OpenRow, ...]  # blind baselines, then policies; empty without open questions
    truths: tuple[TruthRow, ...]  # of policies whose reasonings can be checked
    truth_by_modality: PolicyTable[Estimate] | None
    truth_domain: str  # the questions of `truths`: "MRI", "all questions"
    matrices: tuple[HeatMap, ...]
    outcomes: tuple[tuple[str, Summary], ...]  # by the policy's title
    looks: tuple[LookRow, ...]  # altered questions, which no other table counts
    look_notes: tuple[str, ...]
    look_figure: Figure | None
    readings: tuple[ReadingRow, ...]  # questions with a changed patient context
    reading_changes: tuple[str, ...]  # what the contradictory contexts say the opposite of
    readers: ReaderPart | None  # how people agree and how long they took; None without a reader study
    confidence: tuple[ConfidenceRow, ...]
    confidence_figures: tuple[Figure, ...]
    accuracy_figures: tuple[Figure, ...]
    training_figures: tuple[Figure, ...]
    written: tuple[WrittenCard, ...]  # completions of the training, the latest first; of one run only
    examples: Examples
    counts: tuple[tuple[str, tuple[CountTable, ...]], ...]
    plain_title: str = PLAIN_TITLE
    min_changed: float = MIN_CHANGED  # share of changed answers from which an input is read
    target: float = TARGET  # accuracy that the abstention threshold aims at

    @property
    def has_drawn(self) -> bool:
        """Whether a completion of the training is shown that the policy drew."""
        return any(not card.kept.probabilities for card in self.written)

    @property
    def has_enumerated(self) -> bool:
        """Whether one is shown of a step that computed every answer."""
        return any(card.kept.probabilities for card in self.written)


def build_page(
    runs: Sequence[Run], evaluations: Sequence[Evaluation], examples: Examples, glance: Glance | None, written: Sequence[WrittenCard] = ()
) -> Page:
    """The tables, figures and notes of runs. `evaluations` are the rows of the tables, `glance` is the first screen."""
    in_domain = shared_domain(runs, evaluations)
    plain = [row for row in evaluations if row.records or not row.altered]
    by_modality = accuracy_table(plain, in_domain=in_domain)
    by_question_type = accuracy_table(plain, "question_type")
    answered = [row for row in evaluations if row.records]
    has_types = len(by_question_type.columns) > 1
    drawn = [(by_modality, "modality")] if answered else []
    drawn += [(by_question_type, "question type")] if has_types else []
    matrices = [accuracy_map(row, in_domain=in_domain) for row in answered[:MAX_MATRICES]] if has_types else []
    confidence = confidence_rows(answered)
    looks = look_rows(evaluations)
    gains = gain_table(answered, in_domain=in_domain)
    readings = reading_rows(evaluations)
    few = (FEW,) if has_few_clusters(by_modality) else ()
    return Page(
        title=name_experiment(runs, evaluations),
        glance=glance,
        runs=tuple(runs),
        notes=(*reading_notes(readings, evaluations), *collect_notes(runs, answered), *few, *_leniency(answered)),
        in_domain=in_domain,
        by_modality=by_modality,
        by_question_type=by_question_type,
        gains=gains,
        baselines=describe_baselines(gains) if gains is not None else "",
        image_uses=describe_uses(image_uses(evaluations, gains, looks, runs)),
        changes=change_rows(answered),
        open_rows=open_rows(answered),
        truths=truth_rows(answered, in_domain),
        truth_by_modality=truth_table(answered, in_domain=in_domain),
        truth_domain=describe_domain(in_domain),
        matrices=tuple(matrices),
        outcomes=tuple((row.title, metrics.summarize(row.records)) for row in answered),
        looks=looks,
        look_notes=look_notes(looks),
        look_figure=look_figure(looks),
        readings=readings,
        reading_changes=opposite_fields(readings),
        readers=build_readers(runs, answered),
        confidence=confidence,
        confidence_figures=tuple(confidence_figures(confidence)),
        accuracy_figures=tuple(accuracy_figure(table, name) for table, name in drawn),
        training_figures=tuple(training_figures(runs)),
        written=tuple(written),
        examples=examples,
        counts=tuple((run.name, tables) for run in runs if (tables := count_tables(run.manifest))),
    )


def _leniency(answered: Sequence[Evaluation]) -> Iterator[str]:
    if sighted := [row for row in answered if not row.is_blind]:
        yield describe_leniency({row.title: lenient_share(row.records) for row in sighted})
        if (undecided := describe_undecided({row.title: undecided_share(row.records) for row in sighted})) is not None:
            yield undecided


def unfinished_evaluations(run: Run) -> Iterator[str]:
    """A line for each evaluation that answered fewer questions than the run's manifest has."""
    part = run.manifest.get("test")
    total = part.get("num_samples") if isinstance(part, dict) else None
    for row in run.evaluations:
        number = len({record.sample_id for record in row.records})
        if isinstance(total, int) and 0 < number < total:
            yield f"{row.title} of {run.name} answered {number:,} of {total:,} questions: the same `osler eval` command answers the others."


def collect_notes(runs: Sequence[Run], answered: Sequence[Evaluation]) -> list[str]:
    """What a reader must know before comparing: missing parts, rows with different questions, figures that do not show all runs."""
    notes = []
    if untrained := [run.name for run in runs if not run.curves]:
        notes.append(f"No training metrics, so no curves: {', '.join(untrained)}.")
    if unevaluated := [run.name for run in runs if not any(row.records for row in run.evaluations)]:
        notes.append(f"No records, so no accuracy: {', '.join(unevaluated)}.")
    notes += [note for run in runs for note in unfinished_evaluations(run)]
    notes += describe_others(runs, answered)
    if (clusters := describe_clusters(answered)) is not None:
        notes.append(f"The intervals count images and patients, not questions: here {clusters}.")
    questions = {frozenset(record.sample_id for record in row.records) for row in answered}
    if len(questions) > 1:
        notes.append(
            "The policies did not answer the same questions: compare them in the table of changes, which uses shared questions only."
        )
    if sum(bool(run.curves) for run in runs) > len(PALETTE):
        notes.append(f"Curves are drawn for the first {len(PALETTE)} runs that have any.")
    if len(answered) > MAX_MATRICES:
        notes.append(f"Heat maps are shown for the first {MAX_MATRICES} of {len(answered)} policies.")
    return notes


def count_tables(manifest: Mapping[str, Any]) -> tuple[CountTable, ...]:
    """The counts of a manifest by modality and by question type; () without counts."""
    splits = sorted(manifest, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))
    counts: dict[str, dict[str, Counter[str]]] = {"modality": {}, "question type": {}}
    for split in splits:
        for modality, cells in manifest_cells(manifest, split).items():
            for question_type, count in cells.items():
                if isinstance(count, int):
                    counts["modality"].setdefault(split, Counter())[modality] += count
                    counts["question type"].setdefault(split, Counter())[question_type] += count
    return tuple(_count_table(name, by_split) for name, by_split in counts.items() if by_split)


def _count_table(name: str, counts: Mapping[str, Counter[str]]) -> CountTable:
    groups = sorted({group for by_group in counts.values() for group in by_group}, key=taxonomy_order)
    return CountTable(
        name=name,
        splits=tuple(counts),
        rows=tuple((group_title(group), tuple(by_group[group] for by_group in counts.values())) for group in groups),
        totals=tuple(by_group.total() for by_group in counts.values()),
    )
