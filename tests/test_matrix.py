"""Matrices: what stops one before anything runs, the figures of every cell, and what is shown where something is missing."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from small_matrices import axis_json, cells, make_matrices, report_of
from small_plans import RECIPE, make_plan, write_med_r1

from osler.cli.main import main
from osler.cli.matrix import print_matrices
from osler.config import load_config
from osler.errors import OslerError
from osler.evaluation.engines.scripted import ScriptedEngine
from osler.evaluation.records import append_records, read_records
from osler.evaluation.run import answer_prompts
from osler.experiments.matrix import check_policies, collect
from osler.experiments.plan import MatrixOptions, plan_axis
from osler.metrics import accuracy, is_correct
from osler.metrics.matrices import Cell
from osler.policies.sources import fingerprint
from osler.prompts import render
from osler.reports.heat import shade_difference
from osler.reports.matrices import AxisMatrices, MatrixRecords, compare_all, difference_title
from osler.reports.published import NO_THINK_MINUS_THINK
from osler.reports.report import render_matrix_page

DOMAINS = ("ct", "mri", "xray")


Damage = Callable[[Path, Path], object]

SWAPS: list[tuple[str, Damage, str | None]] = [
    ("nothing changed", lambda _policy, _out: None, None),
    ("other weights", lambda policy, _: (policy / "model.safetensors").write_bytes(b"others"), "ct is not the policy that .*given-ct"),
    (
        "another config",
        lambda policy, _: (policy / "config.json").write_text('{"model_type": "qwen2_vl", "x": 1}'),
        "ct is not the policy",
    ),
    ("no records", lambda policy, out: out.rename(policy / "model.safetensors"), None),
    ("another engine's records", lambda _, out: out.with_suffix(".terms.json").write_text('{"engine": "scripted"}'), None),
    ("a damaged note", lambda _, out: out.with_suffix(".terms.json").write_text("{"), "does not say what was tested: delete"),
    ("a note that is a list", lambda _, out: out.with_suffix(".terms.json").write_text("[]"), "does not say what was tested: delete"),
]


@pytest.mark.parametrize(("name", "damage", "message"), SWAPS, ids=[row[0] for row in SWAPS])
def test_a_matrix_goes_on_with_the_policies_it_began_with(name: str, damage: Damage, message: str | None, tmp_path: Path) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    (given / "ct").mkdir(parents=True)
    (given / "ct" / "config.json").write_text('{"model_type": "qwen2_vl"}')
    (given / "ct" / "model.safetensors").write_bytes(b"weights")
    options = MatrixOptions(domains=("ct",), limit=2, strategies=("no_think",), policies=given, rows=("blind",))
    jobs = plan_axis(RECIPE, out, "modality", options, ()).jobs
    records = jobs[0].records_file(out)
    records.parent.mkdir(parents=True)
    records.write_text("")
    records.with_suffix(".terms.json").write_text(json.dumps({"policy": fingerprint(given / "ct")}))
    damage(given / "ct", records)
    with nullcontext() if message is None else pytest.raises(OslerError, match=message) as caught:
        check_policies(load_config(RECIPE), jobs, out)
    assert caught is None or "\n" not in str(caught.value)


@pytest.mark.parametrize("row", ["grpo", "sft"])
def test_weights_that_would_stand_still_are_told_before_anything_is_trained(
    row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["matrix", RECIPE, "--domains", "ct", "--rows", f"{row},blind", "--out", str(tmp_path / "out"), "--policy.dtype=bfloat16"]
    assert main(words) == 2
    assert f"they would stand still: train float32 weights with bfloat16 arithmetic, --policy.dtype=float32 --{row}.bf16=true" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("options", [["--dry-run"], []], ids=["dry", "real"])
def test_too_few_training_questions_are_told_before_anything_is_trained(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["matrix", RECIPE, "--domains", "ct,mri", "--limit", "31", "--rows", "grpo,blind", "--out", str(tmp_path / "out")]
    assert main([*words, *options]) == 2
    assert capsys.readouterr().err == (
        "osler: GRPO cannot train on ct, mri: [data.train] gives 31 questions and one rollout takes 32: "
        "select more, or give [grpo] a smaller batch\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "terms"),
    [("grpo", ["--limit", "32"]), ("grpo", ["--limit", "2", "--grpo.per_device_train_batch_size=16"]), ("blind", ["--limit", "1"])],
)
def test_enough_training_questions_are_planned(rows: str, terms: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix", RECIPE, "--domains", "ct", "--strategy", "think", "--dry-run", "--rows", rows, *terms]) == 0
    assert f"osler {'train' if rows == 'grpo' else 'eval'} {RECIPE}" in capsys.readouterr().out


def answer_all(plan: Any, out: Path) -> None:
    """The records that the evaluations of a plan would leave: A to every question."""
    for job in plan.jobs:
        prompts = [render(sample, job.strategy or "no_think") for sample in plan.test]
        append_records(
            job.records_file(out), answer_prompts(ScriptedEngine(lambda _: "<answer>A</answer>"), prompts, max_completion_length=4)
        )


def test_a_mixture_is_left_out_of_sft(tmp_path: Path) -> None:
    options = MatrixOptions(axes=("modality",), rows=("sft", "grpo"), domains=("mri",), strategies=("no_think",))
    plan = plan_axis("matrix_phantom", tmp_path, "modality", options, ["--data.mixture=balanced", "--data.curriculum=variance"])
    ordered = {
        job.row: [load_config(command[1], command[4:]).data for command in job.commands if command[0] != "eval"] for job in plan.jobs
    }
    assert [(data.mixture, data.curriculum) for data in ordered["sft"]] == [("proportional", "none")]
    assert [(data.mixture, data.curriculum) for data in ordered["grpo"]] == [("balanced", "variance")]


def test_empty_rows_and_columns_are_dashes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A domain without a policy, another without test questions, and one question in every other cell."""
    overrides = write_med_r1(tmp_path / "data", train=["ct", "mri", "oct"], test=["ct", "mri"])
    for name in ("ct", "oct"):
        (tmp_path / "given" / name).mkdir(parents=True)
    options: dict[str, Any] = {
        "domains": ("ct", "mri", "oct"),
        "strategies": ("med_r1_no_think",),
        "policies": tmp_path / "given",
        "limit": 1,
    }
    plan = make_plan(overrides=overrides, rows=("zero_shot",), **options)
    answer_all(plan, tmp_path / "out")
    found = collect(plan, tmp_path / "out")
    matrices = axis_json(found)["matrices"]
    shown = {
        (name, train, test): (cell["value"], cell["image_gain"]["value"])
        for name, matrix in matrices.items()
        for train, row in matrix["cells"].items()
        for test, cell in row.items()
    }
    for (name, train, test), (value, gain) in shown.items():
        is_empty = test == "oct" or (train == "mri" and name.startswith("given"))
        assert (value, gain is None) == ((None, True) if is_empty else (1.0, False)), (name, train, test)
    assert len(shown) == 18
    assert all(mean["value"] is None for mean in matrices["given-med_r1_no_think"]["means"].values())
    print_matrices([found])
    text = capsys.readouterr().out
    assert "No test questions for oct: its column is empty." in text
    assert "holds no run for mri, med_r1_no_think: its row is empty." in text
    assert " 0.0" not in text


BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("gone", lambda path: path.unlink(), "is gone: delete .*, and the same command makes it again"),
    ("empty", lambda path: path.write_text(""), "does not answer the 2 test questions"),
    (
        "half",
        lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1])),
        "does not answer the 2 test questions",
    ),
    ("twice", lambda path: path.write_bytes(path.read_bytes() * 2), "does not answer the 2 test questions"),
]


@pytest.mark.parametrize(("name", "damage", "message"), BROKEN, ids=[row[0] for row in BROKEN])
def test_records_that_are_not_whole_are_one_line(name: str, damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    plan = make_plan(domains=("ct", "mri"), limit=1, rows=("blind",))
    answer_all(plan, tmp_path)
    damage(plan.jobs[1].records_file(tmp_path))
    with pytest.raises(OslerError, match=message) as caught:
        collect(plan, tmp_path)
    assert str(tmp_path / plan.jobs[1].name) in str(caught.value)


@functools.cache
def made_up(domains: tuple[str, ...] = DOMAINS, *, size: int = 40, empty: tuple[str, ...] = (), axis: str = "modality") -> AxisMatrices:
    same = cells(0.3, 0.3, domains, size)
    return make_matrices(
        MatrixRecords(row="zero_shot", strategy="think", cells=same),
        MatrixRecords(row="zero_shot", strategy="no_think", cells=same),
        MatrixRecords(row="grpo", strategy="think", cells=cells(0.6, 0.3, domains, size)),
        MatrixRecords(row="grpo", strategy="no_think", cells=cells(0.9, 0.35, domains, size, empty)),
        MatrixRecords(row="blind", strategy=None, cells=cells(0.25, 0.25, domains, size)),
        axis=axis,
    )


def test_the_json_holds_every_cell_as_shares() -> None:
    found = json.loads(json.dumps(axis_json(made_up())))
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
    records = cells(0.6, 0.3, ("ct", "mri"), 40)
    parts = [
        MatrixRecords(row="given", strategy=name, cells=records, given={k: Path(v) for k, v in folders.items()})
        for name, folders in found.items()
    ]
    [comparison] = compare_all("modality", parts).values()
    assert (comparison.after, comparison.before) == ("given-no_think", "given-think")
    assert difference_title(parts[1], parts[0]) == "Given policies: No-Think minus Think"
    published = {train for train, row in comparison.cells.items() for cell in row.values() if cell.published is not None}
    assert (published or None, comparison.published_means is None) == (shown, shown is None)


@pytest.mark.parametrize(
    ("name", "changes", "dashes"),
    [
        ("a row is missing", {"empty": ("mri",)}, True),
        ("one sample", {"size": 1}, False),
        ("one domain", {"domains": ("ct",)}, True),  # there is no off-diagonal
        ("domains that were not published", {"domains": ("ct", "none")}, True),  # there are no published figures
    ],
)
def test_what_is_missing_is_a_dash_and_never_zero(
    name: str, changes: dict[str, Any], dashes: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    found = made_up(**changes)
    print_matrices([found])
    page = render_matrix_page(report_of(found, "<b>title</b>"))
    text = capsys.readouterr().out
    assert ("–" in text) is dashes
    assert "nan" not in text
    assert "nan" not in page
    assert "None" not in page
    assert "&lt;b&gt;title" in page
    for part in found.matrices.values():
        for cell in (cell for row in part.cells.values() for cell in row.values()):
            assert (cell.value is None) == (cell.num_questions == 0)
    if name == "a row is missing":
        missing = axis_json(found)["matrices"]["grpo-no_think"]
        assert missing["cells"]["mri"]["ct"]["value"] is None
        assert missing["means"]["all"]["value"] is None
        change = axis_json(found)["differences"]["grpo-no_think minus grpo-think"]["cells"]
        assert (change["mri"]["ct"]["published"], change["ct"]["ct"]["published"]) == (None, 0.0124)


def test_the_page_marks_what_is_not_significant() -> None:
    page = render_matrix_page(report_of(made_up()))
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
    [
        (None, "rgb(244, 245, 246)"),
        (0.0, "rgb(255, 255, 255)"),
        (0.4, "rgb(54, 130, 196)"),
        (1.0, "rgb(54, 130, 196)"),
        (-0.4, "rgb(222, 110, 40)"),
    ],
)
def test_shade_of_a_difference(value: float | None, style: str) -> None:
    assert style in shade_difference(value)


@pytest.mark.slow
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
    (policies / "ct" / "model.safetensors").write_text("")  # a script answers, whatever lies here
    assert main(command) == 0  # nothing runs again
    assert "holds a finished matrix" in capsys.readouterr().err
    assert (out / "report.html").read_bytes() == written


MISTAKES = [
    (["--axis", "organ"], "--axis does not know 'organ'"),
    (["--rows", "ppo"], "--rows does not know 'ppo'"),
    (["--rows", ","], "--rows"),
    (["--domains", "pet"], "unknown modality 'pet'"),
    (["--strategy", "ponder"], "ponder"),
    (["--prompt.strategy=think"], "--strategy"),
    (["--prompt.eval_strategy=think"], "--strategy"),
    (["--limit", "0"], "--limit 0"),
    (["--policies", "no-such-folder"], "--policies no-such-folder"),
    pytest.param(["--policies", "."], "holds no run", marks=pytest.mark.integration),  # draws every question of the matrix
    (["--policies", ".", "--domains", "ct"], "holds no run for any of ct"),
    pytest.param(["--policy.path=/no/such/folder"], "no policy at /no/such/folder", marks=pytest.mark.integration),
    (["--eval.engine=option_prior"], "blind row of its own"),
    (["--matrix.strategies=['ponder']"], "ponder"),
    (["--strategy", "think", "--matrix.strategies=['ponder']"], "ponder"),
    (["--strategy", "no_think,think", "--trainer.expectation=enumerated"], 'expectation = "partial"'),
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
    from osler.experiments.matrix import run_matrix

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
