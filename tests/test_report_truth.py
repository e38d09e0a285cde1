"""What a report says about true reasonings: the marks of statements, the headline, the forest plot and the groups of examples."""

from __future__ import annotations

import html as markup
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from small_matrices import make_matrices
from small_matrices import report_of as report_of_matrix
from test_report import CELLS, check, evaluation, grey_image, record, report_of, write_run

from osler.facts import Fact, Facts, Kind, Statement, Truth
from osler.metrics import Estimate
from osler.reports.examples import pick_examples
from osler.reports.forest import MAX_ROWS, ForestRow, forest_figure
from osler.reports.glance import describe_choice, pick_typical
from osler.reports.headline import describe_lead, describe_training, explain_lead, find_lead, name_experiment
from osler.reports.load_runs import Evaluation, Run
from osler.reports.make import write_report
from osler.reports.marks import correct_reasoning, mark_reasoning
from osler.reports.matrices import MatrixRecords
from osler.reports.matrix_page import build_axis
from osler.reports.report import render_matrix_page
from osler.reports.truth import truth_rows, truth_table
from osler.types import Record

FACTS = Facts(
    facts=(
        Fact(kind=Kind.SIGN, value="a dark core"),
        Fact(kind=Kind.PRESENCE, value="fracture", holds=False),
        Fact(kind=Kind.SIDE, value="left", about="liver"),
        Fact(kind=Kind.SIDE, value="right", about="spleen"),
        Fact(kind=Kind.POSITION, value="lower right"),
        Fact(kind=Kind.POSITION, value="lower"),
    ),
    closed=(Kind.SIGN,),
)
TEXT = "A dark core, a <bright> ring, an old scar. Diagnosis: cyst"


def state(
    words: str, truth: Truth, kind: Kind = Kind.SIGN, *, text: str = TEXT, answer: bool = False, about: str | None = None
) -> Statement:
    begin = text.index(words)
    return Statement(kind=kind, value=words, about=about, begin=begin, end=begin + len(words), truth=truth, repeats_answer=answer)


TRUE = state("dark core", Truth.TRUE)
FALSE = state("a <bright> ring", Truth.FALSE)
OPEN = state("old scar", Truth.NOT_CHECKABLE)
ANSWER = state("cyst", Truth.TRUE, Kind.PRESENCE, answer=True)


def reasoned(number: int, outcome: str = "correct", statements: Sequence[Statement] = (), **changes: str) -> Record:
    row = record(number, outcome, text=TEXT, **changes)
    return replace(row, statements=tuple(statements), facts=FACTS, subject_id=f"patient {number}", image_uris=(f"{number}.png",))


def marked(text: str, *statements: Statement, max_shown: int = 700) -> list[tuple[str, str]]:
    parts = mark_reasoning(replace(reasoned(0, statements=statements), reasoning=text), max_shown)
    return [(part.text, part.mark) for part in parts]


WEIGHTED = "T2-weighted MRI of MRI"
MARKS = [
    ("", (), []),
    (TEXT, (), [(TEXT, "")]),
    (
        TEXT,
        (ANSWER, OPEN, FALSE, TRUE),
        [
            ("A ", ""),
            ("dark core", "true"),
            (", ", ""),
            ("a <bright> ring", "false"),
            (", an ", ""),
            ("old scar", "not_checkable"),
            (". Diagnosis: ", ""),
            ("cyst", "answer"),
        ],
    ),
    (  # a statement inside a false one is part of it
        WEIGHTED,
        (state("T2-weighted MRI", Truth.FALSE, text=WEIGHTED), state("MRI", Truth.TRUE, text=WEIGHTED)),
        [("T2-weighted MRI", "false"), (" of MRI", "")],
    ),
    (  # a false one inside a true one stands out
        WEIGHTED,
        (state("T2-weighted MRI", Truth.TRUE, text=WEIGHTED), state("weighted", Truth.FALSE, text=WEIGHTED)),
        [("T2-", "true"), ("weighted", "false"), (" MRI", "true"), (" of MRI", "")],
    ),
    (  # evidence is stronger than the conclusion
        WEIGHTED,
        (state("T2-weighted MRI", Truth.TRUE, text=WEIGHTED, answer=True), state("MRI", Truth.NOT_CHECKABLE, text=WEIGHTED)),
        [("T2-weighted ", "answer"), ("MRI", "not_checkable"), (" of MRI", "")],
    ),
    (  # two statements side by side keep a mark each
        WEIGHTED,
        (state("T2", Truth.TRUE, text=WEIGHTED), state("-weighted", Truth.TRUE, text=WEIGHTED)),
        [("T2", "true"), ("-weighted", "true"), (" MRI of MRI", "")],
    ),
]


@pytest.mark.parametrize(("text", "statements", "expected"), MARKS)
def test_marks(text: str, statements: Sequence[Statement], expected: list[tuple[str, str]]) -> None:
    assert marked(text, *statements) == expected
    assert "".join(part for part, _ in marked(text, *statements)) == text


def test_a_long_reasoning_is_cut() -> None:
    assert marked(TEXT, TRUE, FALSE, OPEN, max_shown=20) == [
        ("A ", ""),
        ("dark core", "true"),
        (", ", ""),
        ("a <brig", "false"),
        ("…", ""),
    ]


@pytest.mark.parametrize(
    ("statement", "known"),
    [
        (FALSE, (("a <bright> ring", "a dark core"),)),
        (state("scar", Truth.FALSE, Kind.PRESENCE), (("scar", "no fracture"),)),
        (state("core", Truth.FALSE, Kind.SIDE, about="liver"), (("core", "left"),)),
        (state("core", Truth.FALSE, Kind.POSITION), (("core", "lower right"),)),
        (state("core", Truth.FALSE, Kind.SIZE), ()),  # nothing is known of this kind
        (TRUE, ()),
        (replace(FALSE, repeats_answer=True), ()),
    ],
)
def test_what_is_known_instead(statement: Statement, known: tuple[tuple[str, str], ...]) -> None:
    assert correct_reasoning(reasoned(0, statements=[statement])) == known


def test_right_for_a_false_reason_is_a_group() -> None:
    rows = [reasoned(0, statements=[TRUE]), reasoned(1, statements=[TRUE, FALSE]), reasoned(2), reasoned(3, "incorrect", [FALSE])]
    picked = pick_examples(rows, per_group=4, seed=0)
    assert {name: sorted(row.sample_id[-1] for row in part) for name, part in picked.items()} == {
        "Right": ["0", "2"],
        "Right for a false reason": ["1"],
        "Wrong": ["3"],
    }


@pytest.mark.parametrize(
    ("rows", "number", "caption"),
    [
        ([reasoned(0, statements=[TRUE]), *(reasoned(i, statements=[FALSE]) for i in (1, 2, 3))], "123", "is false, as in 75 % of"),
        ([reasoned(0, statements=[TRUE]), reasoned(1, "incorrect", [FALSE])], "0", "is true, as in 100 % of"),
        ([reasoned(0, statements=[OPEN, ANSWER])], "0", "states nothing that can be checked, as in 100 % of"),
        ([record(0)], "0", "A random right answer."),
        ([record(0, "incorrect")], "0", "A random answer; none is right."),
    ],
)
def test_the_example_is_typical(rows: list[Record], number: str, caption: str) -> None:
    picked = pick_typical(rows, seed=0)
    assert picked.sample_id[-1] in number
    assert picked == pick_typical(rows[::-1], seed=0)
    assert caption in describe_choice(picked, rows)


def run_of(
    name: str, cells: Mapping[str, Mapping[str, int]] | None = None, *, recipe: str | None = None, evaluations: Sequence[Evaluation] = ()
) -> Run:
    manifest = {} if cells is None else {"train": {"cells": cells}}
    config = {} if recipe is None else {"name": recipe}
    return Run(name=name, config=config, environment={}, manifest=manifest, curves={}, evaluations=tuple(evaluations))


def rows_of(label: str, right: int, total: int, statements: Sequence[Statement], false_from: int = 10**9, **changes: str) -> Evaluation:
    """Records of which the first `right` are right; from `false_from` on the reasonings are false."""
    records = [
        reasoned(i, "correct" if i < right else "incorrect", [FALSE] if i >= false_from else statements, **changes) for i in range(total)
    ]
    return replace(evaluation(label, records), run="a")


MRI = {"mri": {"x": 3000, "y": 200}}
HEADLINES = [
    (
        [rows_of("zero_shot-think", 40, 80, [TRUE], 40), rows_of("grpo-think", 70, 80, [TRUE], 8)],
        MRI,
        (
            "GRPO (Think) on 3,200 MRI questions: accuracy 50.0 → 87.5 % on MRI, +37.5 [26.1, 47.7] points.",
            "10 % of its reasonings are true (50 % before): right for a false reason in 89 % of its right answers.",
        ),
        (
            "The accuracy is higher than before: the interval does not contain 0.",
            "The share of true reasonings is lower than before (−40.0",
        ),
    ),
    (  # no better, and no reasoning
        [
            replace(evaluation("zero_shot", [replace(record(i), reasoning=None) for i in range(9)]), run="a"),
            replace(evaluation("sft", [replace(record(i), reasoning=None) for i in range(9)]), run="a"),
        ],
        MRI,
        ("SFT on 3,200 MRI questions: accuracy 100.0 → 100.0 % on MRI, +0.0",),
        ("The interval of the change of the accuracy contains 0: it may be luck.",),
    ),
    (  # only zero-shot; the policy was not trained on the questions of the manifest
        [rows_of("zero_shot", 3, 4, [OPEN])],
        MRI,
        (
            "Zero-shot: accuracy 75.0 % [30.1, 95.4] (n = 4) on MRI; guessing would get 50.0 %.",
            "Nothing that its reasonings state could be checked.",
        ),
        (),
    ),
    (  # one run of an unknown policy, with reasonings about images of which nothing is known
        [replace(evaluation("eval", [record(i, modality="ct") for i in range(4)]), title="my $x$", run="a")],
        None,
        (
            "my $x$: accuracy 100.0 % [51.0, 100.0] (n = 4) on CT; guessing would get 50.0 %.",
            "Whether its reasonings are true is not known",
        ),
        (),
    ),
    (  # tested on none of the training modalities: all questions count; compared with the first row
        [rows_of("first", 4, 8, [TRUE], modality="ct"), rows_of("second", 8, 8, [TRUE], modality="ct")],
        MRI,
        (
            "second: accuracy 100.0 % on CT, against 50.0 % of first: +50.0",
            "100 % of its reasonings are true (first: 100 %): right for a false reason in 0 %",
        ),
        ("The accuracy is higher", "The interval of the change of the share of true reasonings"),
    ),
    (  # of several trained policies, the one by GRPO with the most training whose reasonings can be checked
        [
            replace(evaluation("grpo-no-think", [record(0, strategy="no_think")]), run="a"),
            rows_of("sft-think", 1, 1, [TRUE]),
            rows_of("grpo-answer-alone-think", 1, 1, [FALSE]),
            rows_of("grpo-think", 1, 1, [TRUE]),
        ],
        MRI,
        ("GRPO (Think) on 3,200 MRI questions", "100 % of its reasonings are true"),
        ("The interval of the change of the accuracy contains 0",),
    ),
]


@pytest.mark.parametrize(("rows", "cells", "sentences", "notes"), HEADLINES)
def test_the_headline(
    rows: list[Evaluation], cells: Mapping[str, Mapping[str, int]] | None, sentences: tuple[str, ...], notes: tuple[str, ...]
) -> None:
    lead = find_lead([run_of("a", cells)], rows)
    assert lead is not None
    for found, expected in ((describe_lead(lead), sentences), (explain_lead(lead), notes)):
        assert len(found) == len(expected)
        for text, start in zip(found, expected, strict=True):
            assert text.startswith(start)


def test_no_answers_no_headline() -> None:
    assert find_lead([run_of("a")], [evaluation("grpo", [])]) is None


EIGHT = {name: {"x": 10} for name in ("ct", "mri", "xray", "oct")}


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        (None, ""),
        (MRI, "3,200 MRI questions"),
        ({**MRI, "ct": {"x": 1}}, "3,201 CT and MRI questions"),
        (EIGHT, "40 questions of 4 modalities"),
    ],
)
def test_what_a_run_was_trained_on(cells: Mapping[str, Mapping[str, int]] | None, text: str) -> None:
    assert describe_training(run_of("a", cells)) == text


@pytest.mark.parametrize(
    ("runs", "labels", "title"),
    [
        (
            [run_of("a", MRI, recipe="demo"), run_of("b", MRI, recipe="demo")],
            ("zero_shot", "sft", "grpo"),
            "demo: SFT and GRPO on MRI, tested on MRI",
        ),
        ([run_of("a", MRI)], ("zero_shot",), "a: zero-shot, tested on MRI"),
        ([run_of("a"), run_of("b")], ("eval",), "a and b: tested on MRI"),
        ([run_of(str(i)) for i in range(7)], (), "0 and 6 more"),
    ],
)
def test_the_title_names_the_experiment(runs: list[Run], labels: tuple[str, ...], title: str) -> None:
    assert name_experiment(runs, [evaluation(label, [record(0)]) for label in labels]) == title


@pytest.mark.integration
def test_the_forest_plot() -> None:
    some = Estimate(value=0.5, low=0.4, high=0.6)
    rows = [ForestRow(title=f"$p_{i}$ <b>", group="think", accuracy=some, truth=some if i else None) for i in range(MAX_ROWS + 1)]
    figure = forest_figure(rows, questions="MRI", guess=0.25)
    assert figure is not None
    assert figure.title == "Accuracy and true reasonings, MRI"
    assert "$p_1$ <b>: accuracy 50.0 [40.0, 60.0], true reasonings 50.0 [40.0, 60.0]; " in figure.description
    assert f"$p_{MAX_ROWS}$" not in figure.description
    assert figure.svg.count("&lt;b&gt;") >= MAX_ROWS
    accuracy_only = forest_figure(rows[:1], questions="MRI", guess=None)
    assert accuracy_only is not None
    assert accuracy_only.title == "Accuracy, MRI"
    assert forest_figure([], questions="MRI", guess=None) is None


def test_rows_of_one_strategy_stand_together() -> None:
    some = Estimate(value=0.5, low=0.4, high=0.6)
    rows = [ForestRow(title=title, group=title[0], accuracy=some, truth=None) for title in ("b1", "a1", "b2", "a2")]
    figure = forest_figure(rows, questions="MRI", guess=None)
    assert figure is not None
    assert re.findall(r"(\w\d): accuracy", figure.description) == ["b1", "b2", "a1", "a2"]


def test_truth_tables() -> None:
    rows = [rows_of("zero_shot", 2, 4, [TRUE]), rows_of("grpo", 4, 4, [TRUE], 1), evaluation("sft", [record(0, strategy="no_think")])]
    table = truth_table(rows, in_domain={"mri"})
    assert table is not None
    assert [(row.title, row.average.value) for row in table.rows] == [("Zero-shot", 1.0), ("GRPO", 0.25)]
    assert [(row.title, row.truth.distinct, row.truth.right_for_false_reason.value) for row in truth_rows(rows, {"mri"})] == [
        ("Zero-shot", 1, 0.0),
        ("GRPO", 1, 0.75),
    ]
    assert truth_rows(rows, {"ct"}) == ()
    assert truth_table([evaluation("sft", [record(0)])]) is None


@pytest.mark.integration
def test_the_page_shows_truth(tmp_path: Path) -> None:
    before = [reasoned(i, "correct" if i < 5 else "incorrect", [TRUE, ANSWER]) for i in range(9)]
    after = [reasoned(i, "correct" if i < 8 else "incorrect", [TRUE, FALSE, OPEN, ANSWER]) for i in range(9)]
    html = report_of(tmp_path, {"zero_shot": before, "grpo": after})
    glance = html[html.index('<section id="glance"') : html.index("</section>")]
    words = " ".join(markup.unescape(re.sub(r"<[^>]+>", "", glance)).split())
    assert "0 % of its reasonings are true (100 % before): right for a false reason in 100 % of its right answers." in words
    assert "A dark core✓ (true), a <bright> ring✗ (false), an old scar○ (not checkable). Diagnosis: cyst (the answer)" in words
    assert "“a <bright> ring” is false. Known: a dark core." in words
    assert "reasoning false" in words
    assert html.index('id="glance"') < html.index('id="summary"') < html.index('id="truth"') < html.index('id="outcomes"')
    assert "<h4>Right for a false reason</h4>" in html
    assert "GRPO: 9 of 9 are" in html


def test_a_page_without_reasonings_has_no_truth(tmp_path: Path) -> None:
    plain = [replace(record(i, strategy="no_think"), reasoning=None) for i in range(4)]
    html = report_of(tmp_path, {"grpo": plain})
    assert 'id="truth"' not in html
    assert "true of the image" not in html
    assert 'id="glance"' in html


def test_a_page_without_answers_has_no_first_screen(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"empty": []}, [{"step": 1, "reward": 0.5}])
    (run / "manifest.json").write_text(json.dumps({"train": {"cells": CELLS}}))
    write_report([run], tmp_path / "page.html", find_image=grey_image)
    html = (tmp_path / "page.html").read_text()
    check(html)
    assert 'id="glance"' not in html


def test_a_matrix_shows_truth_beside_accuracy() -> None:
    def of(statements: Sequence[Statement], strategy: str = "think") -> dict[tuple[str, str], Sequence[Record]]:
        """Reasonings with these statements on the diagonal, and false ones off it."""
        return {
            (train, test): [
                reasoned(number, statements=statements if train == test else [FALSE], modality=test, strategy=strategy) for number in (1, 2)
            ]
            for train in ("ct", "mri")
            for test in ("ct", "mri")
        }

    silent = {cell: [replace(row, reasoning=None, statements=None) for row in part] for cell, part in of((), "no_think").items()}
    found = make_matrices(
        MatrixRecords(row="zero_shot", strategy="think", cells=of([FALSE])),
        MatrixRecords(row="grpo", strategy="think", cells=of([TRUE])),
        MatrixRecords(row="grpo", strategy="no_think", cells=silent),
    )
    axis = build_axis(found)
    assert [heat.title for heat in axis.truths] == ["GRPO, Think: true reasonings, %"]
    assert [heat.title for heat in axis.other_truths] == ["Zero-shot, Think: true reasonings, %"]
    assert [[tile.text for tile in tiles] for _, tiles in axis.truths[0].rows] == [["100.0", "0.0"], ["0.0", "100.0"]]
    assert "right for a false reason 100.0 [" in axis.truths[0].rows[0][1][1].hint
    html = render_matrix_page(report_of_matrix(found))
    check(html)
    assert html.count("Right for a false reason, % of right answers") == 1
    assert html.index("<h4>Image gain</h4>") < html.index("<h4>True reasonings</h4>") < html.index("<h4>Differences</h4>")
