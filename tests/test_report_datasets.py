"""Runs and evaluations of several datasets on one page: what is compared, what is called in-domain, and what intervals rest on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_records import answers
from test_watch import CONFIG

from osler.data.select import describe_samples, load_split
from osler.evaluation.records import append_records
from osler.reports.headline import describe_lead, find_lead
from osler.reports.load_runs import Evaluation, Run, collect_evaluations, label_title, load_runs
from osler.reports.make import write_report
from osler.reports.tables import change_rows, describe_clusters, gain_table, same_questions
from osler.reports.trained import describe_others, shared_domain
from osler.types import Record


def row(label: str, records: Sequence[Record], run: str = "", split: str | None = None) -> Evaluation:
    return Evaluation(label=label, title=label_title(label), records=tuple(records), run=run, split=split)


RIGHT, WRONG = [1.0] * 6, [0.0] * 6
SHARED = [0, 0, 0, 1, 1, 1]
ONE, TWO = "6 questions about 2 separate images or patients", "6 questions, each about an image and a patient of its own"

CLUSTERS: list[tuple[list[Evaluation], str | None]] = [
    ([], None),
    ([row("grpo", [])], None),
    ([row("grpo", answers(RIGHT))], None),
    ([row("grpo", answers(RIGHT, SHARED))], ONE),
    ([row("zero_shot", answers(WRONG, SHARED)), row("grpo", answers(RIGHT, SHARED))], ONE),
    ([row("zero_shot", answers(WRONG)), row("grpo", answers(RIGHT, SHARED))], f"{TWO} (Zero-shot); {ONE} (GRPO)"),
    (
        [row("zero_shot", answers(RIGHT, SHARED)), row("sft", answers(RIGHT[:4], [0, 0, 1, 1])), row("grpo", answers(RIGHT, SHARED))],
        f"{ONE} (Zero-shot, GRPO); 4 questions about 2 separate images or patients (SFT)",
    ),
]


@pytest.mark.parametrize(("rows", "said"), CLUSTERS)
def test_every_evaluation_has_its_own_images_and_patients(rows: list[Evaluation], said: str | None) -> None:
    assert describe_clusters(rows) == said


PLAIN = answers(RIGHT, dataset="a")
YES_NO = [replace(record, choices=("yes", "no")) for record in answers(RIGHT, dataset="a")]
TURNED = [replace(record, choices=record.choices[1:] + record.choices[:1], target="D") for record in PLAIN]

# Two evaluations, and how many questions they share.
PAIRS: list[tuple[str, Evaluation, Evaluation, int]] = [
    ("same", row("zero_shot", PLAIN), row("grpo", PLAIN), 6),
    ("options in another order", row("zero_shot", PLAIN), row("grpo", TURNED), 6),
    ("other dataset", row("zero_shot", PLAIN), row("grpo", [replace(one, dataset="b") for one in PLAIN]), 0),
    ("other ids", row("zero_shot", PLAIN), row("grpo", answers(RIGHT, dataset="b")), 0),
    ("equal numbers of other questions", row("zero_shot", PLAIN), row("grpo", YES_NO), 0),
    ("other right answer", row("zero_shot", PLAIN), row("grpo", [replace(one, target="B") for one in PLAIN]), 0),
    ("some", row("zero_shot", PLAIN), row("grpo", [*PLAIN[:2], *YES_NO[2:]]), 2),
    ("other split", row("zero_shot", PLAIN, split="validation"), row("grpo", PLAIN, split="test"), 0),
    ("one split not known", row("zero_shot", PLAIN, split="validation"), row("grpo", PLAIN), 6),
    ("same split", row("zero_shot", PLAIN, split="test"), row("grpo", PLAIN, split="test"), 6),
]


@pytest.mark.parametrize(("before", "after", "number"), [pytest.param(*case[1:], id=case[0]) for case in PAIRS])
def test_only_answers_to_the_same_questions_are_compared(before: Evaluation, after: Evaluation, number: int) -> None:
    assert len(same_questions(before, after)) == number
    assert [one.change.num_samples for one in change_rows([before, after])] == ([number] if number else [])
    blind = replace(before, title="Blind", records=tuple(replace(one, policy="option prior") for one in before.records))
    table = gain_table([blind, after])
    assert table is not None
    assert (table.rows[0].cells[0].baseline == "Blind") == (number == 6)


def test_a_policy_is_compared_with_the_untrained_policy_that_answered_its_questions() -> None:
    rows = [
        replace(row("zero_shot", answers(WRONG, dataset="a")), title="Zero-shot (a)"),
        replace(row("zero_shot", answers(RIGHT, dataset="b")), title="Zero-shot (b)"),
        row("grpo", answers(RIGHT, dataset="b")),
    ]
    (change,) = change_rows(rows)
    assert (change.baseline, change.change.gained) == ("Zero-shot (b)", 0)


def run_of(name: str, rows: Sequence[Evaluation], train: Mapping[str, Any] | None, **data: Any) -> Run:
    manifest = {} if train is None else {"train": {"cells": {"mri": {"none": 6}}, **train}}
    config = {"data": {"reader": "a", **data}}
    evaluations = tuple(replace(one, run=name) for one in rows)
    return Run(name=name, config=config, environment={}, manifest=manifest, curves={}, evaluations=evaluations)


OWN = row("zero_shot", answers(WRONG, dataset="a"))
FOREIGN = row("grpo", answers(RIGHT, dataset="b"))
NAMED = {"datasets": ["a"]}
JSONL = row("grpo", answers(RIGHT, dataset="jsonl"))
CT = row("grpo", answers(RIGHT, dataset="b", modality="ct"))

# The runs, whether MRI is in-domain, and whether a note says why not.
DOMAINS: list[tuple[str, list[Run], bool, bool]] = [
    ("own", [run_of("one", [OWN], NAMED)], True, False),
    ("own, by an earlier version", [run_of("one", [OWN], {})], True, False),
    ("own under other names, by an earlier version", [run_of("one", [FOREIGN], {})], True, False),
    ("another in its own folder", [run_of("one", [OWN, FOREIGN], NAMED)], False, True),
    ("another in another run", [run_of("one", [OWN], NAMED), run_of("two", [FOREIGN], None, reader="b")], False, True),
    ("another, by an earlier version", [run_of("one", [OWN], {}), run_of("two", [FOREIGN], None, reader="b")], False, True),
    ("another of another modality", [run_of("one", [OWN], NAMED), run_of("two", [CT], None, reader="b")], True, False),
    ("each its own", [run_of("one", [OWN], NAMED), run_of("two", [FOREIGN], {"datasets": ["b"]}, reader="b")], True, False),
    (
        "two folders of JSON lines",
        [run_of("one", [], {"datasets": ["jsonl"]}, reader="jsonl", root="x"), run_of("two", [JSONL], None, reader="jsonl", root="y")],
        False,
        True,
    ),
    (
        "one folder of JSON lines",
        [run_of("one", [], {"datasets": ["jsonl"]}, reader="jsonl", root="x"), run_of("two", [JSONL], None, reader="jsonl", root="x")],
        True,
        False,
    ),
    ("no training", [run_of("one", [OWN], None)], False, False),
]


@pytest.mark.parametrize(("runs", "is_in_domain", "is_told"), [pytest.param(*case[1:], id=case[0]) for case in DOMAINS])
def test_in_domain_is_a_modality_of_a_dataset(runs: list[Run], is_in_domain: bool, is_told: bool) -> None:
    rows = collect_evaluations(runs)
    assert shared_domain(runs, rows) == (frozenset({"mri"}) if is_in_domain else frozenset())
    assert any("not in-domain" in line for line in describe_others(runs, rows)) == is_told


@pytest.mark.parametrize(("dataset", "domain"), [("a", {"mri"}), ("b", set())])
def test_the_headline_is_about_the_dataset_of_the_training(dataset: str, domain: set[str]) -> None:
    records = answers(RIGHT, dataset=dataset) + answers(WRONG, dataset=dataset, modality="ct")[:0]
    lead = find_lead([run_of("one", [row("grpo", records)], NAMED)], [row("grpo", records, run="one")])
    assert lead is not None
    assert lead.domain == domain
    assert describe_lead(lead)


def test_the_page_and_the_manifest_name_the_dataset(tmp_path: Path) -> None:
    assert describe_samples(load_split(CONFIG.data, "train"))["datasets"] == ["phantom"]
    folders = []
    for name, train, dataset in (("trained", {"cells": {"mri": {"none": 6}}, "datasets": ["a"]}, "a"), ("elsewhere", None, "b")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps({} if train is None else {"train": train}))
        append_records(folder / "records" / "grpo.jsonl", answers(RIGHT, dataset=dataset))
        folders.append(folder)
    pages = []
    for number, chosen in enumerate((folders[:1], folders)):
        write_report(chosen, tmp_path / f"{number}.html", find_image=lambda _: None)
        pages.append((tmp_path / f"{number}.html").read_text())
    mark = '<span class="sub">in-domain</span>'
    assert mark in pages[0]
    assert mark not in pages[1]
    assert "GRPO (elsewhere): its MRI questions are of b, which was not trained on: not in-domain." in pages[1]
    assert [run.name for run in load_runs(folders)] == ["trained", "elsewhere"]
