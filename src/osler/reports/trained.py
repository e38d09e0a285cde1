"""Which questions are like those that a policy was trained on: of a modality and of a dataset of its training. MRI of another is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from osler.data.readers import GENERAL_READERS
from osler.data.select import named_datasets
from osler.reports.load_runs import Evaluation, Run, manifest_cells
from osler.reports.tables import group_title
from osler.types import Record

TRAIN: Final = "train"


class Trained:
    """The trainings of some runs, for the evaluations of a page."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = {run.name: run for run in runs}
        self._trained = [run for run in runs if manifest_cells(run.manifest, TRAIN)]

    def has(self, run: Run, record: Record, asked_in: str) -> bool:
        """Whether a question is of a dataset that `run` was trained on; `asked_in` names the run whose evaluation asked it.

        A run whose manifest does not name its datasets asks questions of its own `[data]` only, so that those of its evaluations count.
        Names that anybody's data have, such as "jsonl", are those of one dataset only where the folder is the same.
        """
        named = named_datasets(run.manifest.get(TRAIN))
        if named is None:
            own = {other.dataset for row in run.evaluations for other in row.records} | {str(_data(run).get("reader"))}
            is_known = asked_in == run.name or record.dataset in own
        else:
            is_known = record.dataset in named
        asked = self._runs.get(asked_in)
        if not is_known or asked is None or asked is run or record.dataset not in GENERAL_READERS:
            return is_known
        return (_data(run).get("reader"), _data(run).get("root")) == (_data(asked).get("reader"), _data(asked).get("root"))

    def of(self, row: Evaluation) -> list[Run]:
        """The trainings that the questions of an evaluation are compared with: that of its run, else all."""
        own = [run for run in self._trained if run.name == row.run]
        return own or self._trained

    def modalities(self) -> frozenset[str]:
        """Those of all trainings; empty where trainings differ."""
        domains = {frozenset(manifest_cells(run.manifest, TRAIN)) for run in self._trained}
        return domains.pop() if len(domains) == 1 else frozenset()

    def others(self, row: Evaluation) -> dict[str, frozenset[str]]:
        """Modalities of the trainings -> the datasets of questions of an evaluation that were in no training of theirs."""
        found: dict[str, set[str]] = {}
        pairs = {(record.modality, record.dataset): record for record in row.records}
        for (modality, dataset), record in pairs.items():
            if modality is not None and any(
                modality in manifest_cells(run.manifest, TRAIN) and not self.has(run, record, row.run) for run in self.of(row)
            ):
                found.setdefault(modality, set()).add(dataset)
        return {name: frozenset(datasets) for name, datasets in found.items()}


def shared_domain(runs: Sequence[Run], evaluations: Sequence[Evaluation] = ()) -> frozenset[str]:
    """The modalities that all runs with a manifest trained on, without those of which an evaluation asked questions of another dataset."""
    trained = Trained(runs)
    return trained.modalities() - {name for row in evaluations for name in trained.others(row)}


def describe_others(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """A line for each evaluation on a modality of the training, of another dataset, which is not in-domain."""
    trained = Trained(runs)
    for row in evaluations:
        if row.is_blind:
            continue
        for modality, datasets in trained.others(row).items():
            title = group_title(modality)
            yield f"{row.title}: its {title} questions are of {', '.join(sorted(datasets))}, which was not trained on: not in-domain."


def _data(run: Run) -> dict[str, Any]:
    data = run.config.get("data")
    return data if isinstance(data, dict) else {}
