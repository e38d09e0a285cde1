"""Matrices: the plan of every policy, the figures of every cell, and what is shown where something is missing."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from small_records import answers

from osler.cli import build_parser, main, split_overrides
from osler.config import load_config
from osler.errors import OslerError
from osler.matrix import MatrixOptions, find_given, plan_axis
from osler.metrics import accuracy, is_correct
from osler.metrics.matrices import Cell
from osler.published import NO_THINK_MINUS_THINK
from osler.records import read_records
from osler.reporting.matrices import AxisMatrices, Credits, axis_to_json, build_scores, compare_all
from osler.reporting.matrix_page import render_matrices, render_matrix_page, shade_difference
from osler.types import Record

RECIPE = "matrix_phantom"
DOMAINS = ("ct", "mri", "xray")


def make_plan(*, axis: str = "modality", overrides: Sequence[str] = (), **options: Any) -> Any:
    return plan_axis(RECIPE, Path("out"), axis, MatrixOptions(**options), overrides)  # type: ignore[arg-type]


PLANS: list[tuple[str, dict[str, Any], int, int]] = [
    # name, options, jobs, test questions
    ("one strategy", {"domains": ("ct", "mri"), "strategies": ("think",), "limit": 5}, 1 + 2 + 2 + 2, 10),
    ("the recipe's strategies", {"domains": ("ct", "mri"), "limit": 5}, 2 * (1 + 2 + 2) + 2, 10),
    ("some rows", {"domains": ("ct", "mri"), "limit": 5, "rows": ("grpo",)}, 4, 10),
    ("a dataset's own labels", {"domains": ("X-Ray", "MR"), "limit": 5, "rows": ("blind",)}, 2, 10),
    ("every modality", {"rows": ("blind",), "limit": 3}, 8, 24),
    ("every question type", {"axis": "question_type", "rows": ("blind",), "limit": 16}, 5, 80),
]


@pytest.mark.parametrize(("name", "options", "jobs", "questions"), PLANS, ids=[row[0] for row in PLANS])
def test_a_plan_has_a_job_for_every_policy(name: str, options: dict[str, Any], jobs: int, questions: int) -> None:
    plan = make_plan(**options)
    assert len(plan.entries) == jobs == len({entry.name for entry in plan.entries})
    assert len(plan.test) == questions
    assert all(len(samples) == options["limit"] for samples in plan.train.values())
    for domain, samples in plan.train.items():
        assert {getattr(sample, plan.axis) for sample in samples} == {domain}


@pytest.mark.parametrize("entry", make_plan(domains=("ct", "mri"), limit=5, overrides=("--seed=3",)).entries, ids=lambda entry: entry.name)
def test_every_command_says_what_it_trains_and_tests(entry: Any) -> None:
    for command in entry.commands:
        own, overrides = split_overrides(command)
        assert build_parser().parse_args([*own, *(["--seed", "0"] if "--seed" not in own else [])]).out == Path("out") / entry.name
        config = load_config(RECIPE, [part for part in overrides if not part.startswith("--seed")])
        assert config.data.test.modalities == ("ct", "mri")
        assert config.data.train.modalities == ((entry.domain,) if entry.domain else ())
        if entry.strategy:
            assert config.prompt.strategy == entry.strategy
        else:
            assert config.eval.engine == "option_prior"


def write_med_r1(root: Path, *, train: Sequence[str], test: Sequence[str]) -> list[str]:
    """Files of two questions without rationales for each domain, and the overrides that read them."""
    for split, names in (("train", train), ("test", test)):
        folder = root / "modality" / split
        folder.mkdir(parents=True)
        for name in names:
            rows = [{"image": f"{name}{i}.png", "problem": "Which? A)a, B)b", "solution": "<answer> A </answer>"} for i in range(2)]
            (folder / f"{name}_{split}.json").write_text(json.dumps(rows))
    return ["--data.reader=med_r1", f"--data.root={root}"]


def test_a_domain_without_training_questions_is_an_empty_row(tmp_path: Path) -> None:
    overrides = write_med_r1(tmp_path, train=["ct"], test=["ct", "mri"])
    plan = make_plan(overrides=overrides, strategies=("med_r1_no_think",), rows=("grpo", "blind"))
    assert plan.domains == ("ct", "mri")
    assert [entry.domain for entry in plan.entries] == ["ct", "ct"]
    assert "--data.axis=modality" in plan.entries[0].commands[0]
    assert "--data.train.name=ct" in plan.entries[0].commands[0]
    assert ["mri" in note and "row is empty" in note for note in plan.notes] == [True]


@pytest.mark.parametrize(
    ("strategy", "terms", "rows", "note"),
    [
        ("med_r1_think", [], ["grpo"], "No SFT for ct, med_r1_think, so its row is empty: "),
        ("med_r1_think", ["--sft_target=med_r1_sft"], ["sft", "grpo"], None),
        ("med_r1_no_think", [], ["sft", "grpo"], None),
    ],
)
def test_sft_is_planned_where_it_has_targets(strategy: str, terms: list[str], rows: list[str], note: str | None, tmp_path: Path) -> None:
    overrides = [*write_med_r1(tmp_path, train=["ct"], test=["ct"]), *terms]
    plan = make_plan(overrides=overrides, strategies=(strategy,), rows=("sft", "grpo"))
    assert [entry.row for entry in plan.entries] == rows
    assert len(plan.notes) == (note is not None)
    assert note is None or (plan.notes[0].startswith(note) and "no rationale" in plan.notes[0])


def test_a_plan_of_nothing_says_why(tmp_path: Path) -> None:
    overrides = write_med_r1(tmp_path, train=["ct"], test=["ct"])
    with pytest.raises(OslerError, match="no rationale"):
        make_plan(overrides=overrides, strategies=("med_r1_think",), rows=("sft",))


@pytest.mark.parametrize(
    ("train", "rows", "jobs"),
    [
        ([], ("grpo",), ["given-ct", "given-mri"]),
        (["ct"], ("sft", "blind"), ["given-ct", "given-mri", "blind-ct"]),
    ],
)
def test_given_policies_need_no_training_questions(train: list[str], rows: tuple[str, ...], jobs: list[str], tmp_path: Path) -> None:
    overrides = write_med_r1(tmp_path / "data", train=train, test=["ct", "mri"])
    for name in ("ct", "mri"):
        (tmp_path / "given" / name).mkdir(parents=True)
    plan = make_plan(overrides=overrides, strategies=("med_r1_no_think",), rows=rows, policies=tmp_path / "given")
    assert [f"{entry.row}-{entry.domain}" for entry in plan.entries] == jobs
    assert [entry.given for entry in plan.entries[:2]] == [tmp_path / "given" / "ct", tmp_path / "given" / "mri"]
    assert all("no blind baseline" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        (["ct"], "ct"),
        (["ct", "ct-no-think"], "ct-no-think"),
        (["grpo-ct-no-think", "ct-no-think"], "grpo-ct-no-think"),
        (["ct-think"], None),
        ([], None),
    ],
)
def test_given_policies_are_found_by_their_names(folders: list[str], found: str | None, tmp_path: Path) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
    assert find_given(tmp_path, "no_think", "ct") == (tmp_path / found if found else None)


def cells(
    shares: Mapping[bool, float], domains: Sequence[str] = DOMAINS, size: int = 40, empty: Sequence[str] = ()
) -> dict[Cell, list[Record]]:
    """So large a share right on and off the diagonal; domains of `empty` have no row."""
    return {
        (train, test): [] if train in empty else answers([i < shares[train == test] * size for i in range(size)], dataset=test)
        for train in domains
        for test in domains
    }


@functools.cache
def made_up(domains: tuple[str, ...] = DOMAINS, *, size: int = 40, empty: tuple[str, ...] = (), axis: str = "modality") -> AxisMatrices:
    fitted: Credits = {name: {"option_prior": {f"{test}/{i}": 0.25 for test in domains for i in range(size)}} for name in domains}
    same = cells({True: 0.3, False: 0.3}, domains, size)
    scores = [build_scores("zero_shot", strategy, same, fitted) for strategy in ("think", "no_think")]
    scores.append(build_scores("grpo", "think", cells({True: 0.6, False: 0.3}, domains, size), fitted))
    scores.append(build_scores("grpo", "no_think", cells({True: 0.9, False: 0.35}, domains, size, empty), fitted))
    scores.append(build_scores("blind", None, cells({True: 0.25, False: 0.25}, domains, size), fitted))
    counts = dict.fromkeys(domains, size)
    return AxisMatrices(
        axis=axis,  # type: ignore[arg-type]
        domains=tuple(domains),
        num_train=counts,
        num_test=counts,
        scores=tuple(scores),
        comparisons=compare_all(axis, scores),  # type: ignore[arg-type]
        notes=(),
    )


def test_the_json_holds_every_cell_as_shares() -> None:
    found = json.loads(json.dumps(axis_to_json(made_up())))
    grpo = found["matrices"]["grpo-no_think"]
    assert grpo["cells"]["ct"]["ct"]["value"] == 0.9
    assert grpo["cells"]["ct"]["mri"]["value"] == 0.35
    assert grpo["cells"]["ct"]["ct"]["image_gain"]["value"] == pytest.approx(0.65)
    assert grpo["means"]["diagonal"]["value"] == pytest.approx(0.9)
    assert grpo["means"]["off_diagonal"]["value"] == pytest.approx(0.35)
    assert grpo["means"]["all"]["value"] == pytest.approx((3 * 0.9 + 6 * 0.35) / 9)
    names = ["grpo-no_think minus grpo-think", "grpo-think minus zero_shot-think", "grpo-no_think minus zero_shot-no_think"]
    assert list(found["differences"]) == names
    change = found["differences"][names[0]]
    assert change["cells"]["mri"]["mri"]["value"] == pytest.approx(0.3)
    assert change["cells"]["mri"]["mri"]["is_significant"] is True
    assert change["cells"]["mri"]["ct"]["is_significant"] is False
    assert change["cells"]["mri"]["ct"]["published"] == 0.1694
    assert change["published_means"]["diagonal"] == pytest.approx((0.0124 + 0.0043 + 0.0124) / 3)


@pytest.mark.parametrize(
    ("think", "no_think", "shown"),
    [
        ({"ct": "ct-think", "mri": "mri-think"}, {"ct": "ct-no-think", "mri": "mri-no-think"}, {"ct", "mri"}),
        ({"ct": "ct", "mri": "mri-think"}, {"ct": "ct", "mri": "mri-no-think"}, {"mri"}),
        ({"ct": "ct", "mri": "mri"}, {"ct": "ct", "mri": "mri"}, None),
    ],
)
def test_one_policy_asked_both_ways_has_no_published_row(think: dict[str, str], no_think: dict[str, str], shown: set[str] | None) -> None:
    found = {"think": think, "no_think": no_think}
    records = cells({True: 0.6, False: 0.3}, ("ct", "mri"))
    scores = [build_scores("given", name, records, {}, {k: Path(v) for k, v in folders.items()}) for name, folders in found.items()]
    [comparison] = compare_all("modality", scores)
    assert comparison.title == "Given policies: No-Think minus Think"
    assert (comparison.published and {train for train, _ in comparison.published}) == shown


@pytest.mark.parametrize(
    ("name", "found", "dashes"),
    [
        ("a row is missing", made_up(empty=("mri",)), True),
        ("one sample", made_up(size=1), False),
        ("one domain", made_up(("ct",)), True),  # there is no off-diagonal
        ("domains that were not published", made_up(("ct", "none")), False),
    ],
)
def test_what_is_missing_is_a_dash_and_never_zero(name: str, found: AxisMatrices, dashes: bool, capsys: pytest.CaptureFixture[str]) -> None:
    render_matrices([found])
    page = render_matrix_page("<b>title</b>", [found])
    text = capsys.readouterr().out
    assert ("–" in text) is dashes or name == "domains that were not published"
    assert "nan" not in text
    assert "nan" not in page
    assert "None" not in page
    assert "&lt;b&gt;title" in page
    for part in found.scores:
        for cell, records in part.cells.items():
            assert (part.accuracy[cell].value is None) == (not records)
    if name == "a row is missing":
        missing = axis_to_json(found)["matrices"]["grpo-no_think"]
        assert missing["cells"]["mri"]["ct"]["value"] is None
        assert missing["means"]["all"]["value"] is None


def test_the_page_marks_what_is_not_significant() -> None:
    page = render_matrix_page("matrix", [made_up()])
    ours = page[page.index("GRPO: No-Think minus Think, points") : page.index("Published by Med-R1")]
    assert ours.count("not significant") == 6
    assert ours.count(' open"') == 6
    assert ours.count('class="own"') == 3
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("axis", "mean", "cell", "value"),
    [("modality", 2.57, ("mri", "ct"), 0.1694), ("question_type", 0.58, ("disease_diagnosis", "lesion_grading"), -0.1009)],
)
def test_the_published_matrices_have_their_published_means(axis: str, mean: float, cell: Cell, value: float) -> None:
    published = NO_THINK_MINUS_THINK[axis]
    assert 100 * sum(published.values()) / len(published) == pytest.approx(mean, abs=0.005)
    assert published[cell] == value
    assert len({train for train, _ in published}) ** 2 == len(published)


@pytest.mark.parametrize(
    ("value", "style"),
    [(None, "#f4f5f6"), (0.0, "rgb(255, 255, 255)"), (0.4, "rgb(8, 96, 148)"), (1.0, "rgb(8, 96, 148)"), (-0.4, "rgb(196, 78, 0)")],
)
def test_shade_of_a_difference(value: float | None, style: str) -> None:
    assert style in shade_difference(value)


def test_three_by_three_with_given_policies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command in its own process, as a user's; a script answers for the policies."""
    policies, out, script = tmp_path / "given", tmp_path / "out", tmp_path / "script.jsonl"
    for name in DOMAINS[:2]:
        (policies / name).mkdir(parents=True)
    asked = make_plan(domains=DOMAINS, limit=6, rows=("blind",)).test
    lines = [
        {"sample_id": sample.id, "completion": f"<answer>{'A' if i % 2 else sample.target}</answer>"} for i, sample in enumerate(asked)
    ]
    script.write_text("\n".join(json.dumps(line) for line in lines))
    command = ["matrix", RECIPE, "--domains", ",".join(DOMAINS), "--limit", "6", "--strategy", "no_think", "--policies", str(policies)]
    command += ["--out", str(out), "--eval.engine=scripted", f"--eval.script={script}", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)["axes"]["modality"]
    assert found == json.loads((out / "matrix.json").read_text())["axes"]["modality"]
    assert sorted(found["matrices"]) == ["blind", "given-no_think", "zero_shot-no_think"]
    records = read_records(out / "modality" / "given-ct-no-think" / "records" / "given-ct-no-think.jsonl")
    assert len(records) == 18
    for test in DOMAINS:
        cell = found["matrices"]["given-no_think"]["cells"]["ct"][test]
        expected = accuracy([record for record in records if record.modality == test], "subject")
        assert (cell["value"], cell["low"], cell["high"], cell["questions"]) == (expected.value, expected.low, expected.high, 6)
        assert found["matrices"]["given-no_think"]["cells"]["xray"][test]["value"] is None  # no run for it
    blind = read_records(out / "modality" / "blind-mri" / "records" / "blind-mri.jsonl")
    right = [is_correct(record) for record in blind if record.modality == "ct"]
    assert found["matrices"]["blind"]["cells"]["mri"]["ct"]["value"] == sum(right) / len(right)
    assert any("no run for xray" in note for note in found["notes"])
    assert "Given policies" in (out / "report.html").read_text()
    written = (out / "report.html").read_bytes()
    assert main(command) == 0  # nothing runs again
    assert "holds a finished matrix" in capsys.readouterr().err
    assert (out / "report.html").read_bytes() == written


MISTAKES = [
    (["--axis", "organ"], "--axis 'organ'"),
    (["--rows", "ppo"], "--rows 'ppo'"),
    (["--rows", ","], "--rows"),
    (["--domains", "pet"], "unknown modality 'pet'"),
    (["--strategy", "ponder"], "ponder"),
    (["--prompt.strategy=think"], "--strategy"),
    (["--prompt.eval_strategy=think"], "--strategy"),
    (["--limit", "0"], "--limit 0"),
    (["--policies", "no-such-folder"], "--policies no-such-folder"),
    (["--policies", "."], "holds no run"),
    (["--eval.engine=option_prior"], "blind row of its own"),
    (["--matrix.strategies=['ponder']"], "ponder"),
    (["--data.reader=pacs"], "pacs"),
    (["--data.reader=slake", "--data.root=no-such-folder"], "no-such-folder"),
    (["--data.test.limit_per_question_type=0"], "limit_per_question_type"),
    (["--data.manifest=m.json", "--data.reader=med_r1", "--data.train.name=ct"], "--data.train.options={}"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "")
def test_mistakes_are_one_line(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["matrix", RECIPE, "--dry-run", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("osler: ")]
    assert len(lines) == 1
    assert words in lines[0]


def test_a_failing_policy_says_which(tmp_path: Path) -> None:
    overrides = ["--policy.path=/no/such/folder"]
    from osler.matrix import run_matrix

    options = MatrixOptions(domains=("ct",), strategies=("no_think",), rows=("zero_shot",), limit=2)
    with pytest.raises(OslerError, match="/no/such/folder"):
        run_matrix(RECIPE, tmp_path / "out", options, overrides=overrides)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["matrix", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "examples:\n  osler matrix matrix_phantom" in text
    assert "--policies replaces sft and grpo" in " ".join(text.split())
