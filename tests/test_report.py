from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osler.cli.tables import print_accuracies
from osler.errors import DataError, OslerError
from osler.evaluation.records import append_records, question_of
from osler.metrics import Estimate, p_value, points
from osler.reports.examples import MAX_IMAGE_BYTES, FindImage, encode_image, pick_examples, recipe_images
from osler.reports.figures import training_figures
from osler.reports.heat import shade
from osler.reports.load_runs import Evaluation, collect_evaluations, environment_rows, label_title, load_runs
from osler.reports.make import sort_sources, write_report
from osler.reports.tables import accuracy_table, change_rows
from osler.types import Record

HOSTILE = "<script>alert('x')</script> & \"quoted\" {{ 7 * 7 }} $x_1$"
VOID = {"meta", "img", "br"}


def record(
    number: int,
    outcome: str = "correct",
    *,
    modality: str | None = "mri",
    strategy: str = "think",
    text: str = "fine",
    policy: str = "tiny",
) -> Record:
    return Record(
        sample_id=f"phantom/test/{modality}/{number}",
        dataset="phantom",
        modality=modality,
        question_type=("disease_diagnosis", "lesion_grading")[number % 2],
        subject_id=None,
        image_uris=(f"{modality}-{number}-1.png", f"{modality}-{number}-2.png"),
        strategy=strategy,
        policy=policy,
        prompt=f"What is shown? {text}\nA) cyst\nB) tumour\nThink, then answer.",
        completion=f"<think>{text}</think><answer>A</answer>",
        num_tokens=10,
        finish_reason="stop",
        choices=("cyst", "tumour"),
        target="A",
        answer={"correct": "A", "incorrect": "B"}.get(outcome),
        reasoning=text,
        is_well_formed=True,
        outcome=outcome,
        rule="answer_tag.letter",
    )


def answers(correct: int, total: int, **changes: str) -> list[Record]:
    wrong = ("incorrect", "no_answer", "ambiguous")
    return [
        record(i, "correct" if i < correct else wrong[i % 3], modality=modality, **changes)
        for modality in ("mri", "ct")
        for i in range(total)
    ]


STEPS = [
    {"step": 1, "reward": 0.5, "rewards/accuracy/mean": 0.2, "rewards/accuracy/std": 0.1, "completions/mean_length": 40.0},
    {"step": 2, "reward": 0.9, "rewards/accuracy/mean": 0.5, "loss": 0.01, "kl": None},
    {"step": 3, "reward": 1.4, "rewards/accuracy/mean": 0.8, "completions/mean_length": 30.0, "reward_std": float("nan")},
]
CELLS = {"mri": {"disease_diagnosis": 12, "lesion_grading": 1300}}


def write_run(folder: Path, evaluations: Mapping[str, Sequence[Record]], steps: Sequence[Mapping[str, object]] = ()) -> Path:
    folder.mkdir(parents=True)
    data = {"reader": "phantom", "options": {"num_questions": 2}}
    (folder / "config.json").write_text(json.dumps({"name": HOSTILE, "data": data}), encoding="utf-8")
    environment = {"command": ["osler", HOSTILE], "packages": {"torch": "2.13"}, "seed": 0}
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps({"train": {"count": 1312, "cells": CELLS}}), encoding="utf-8")
    if steps:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps), encoding="utf-8")
    for label, records in evaluations.items():
        append_records(folder / "records" / f"{label}.jsonl", records)
    return folder


def grey_image(_: Record) -> Image.Image:
    return Image.fromarray(np.full((40, 60), 90, np.uint8))


def report_of(
    folder: Path,
    evaluations: Mapping[str, Sequence[Record]],
    steps: Sequence[Mapping[str, object]] = (),
    find_image: FindImage = grey_image,
) -> str:
    """The checked page of one run, written below `folder`."""
    run = write_run(folder / "demo", evaluations, steps)
    write_report([run], folder / "report.html", find_image=find_image)
    html = (folder / "report.html").read_text(encoding="utf-8")
    check(html)
    return html


def check(html: str) -> list[str]:
    """The tags of a page, whose elements nest, whose ids are unique, and that refers to nothing outside and has no script."""
    assert html.startswith("<!DOCTYPE html>")
    tags, open_tags, ids = [], [], []
    unstyled = re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL)
    for end, name, attributes, empty in re.findall(r"<(/?)([A-Za-z][\w:-]*)([^<>]*?)(/?)>", unstyled):
        if end:
            assert open_tags.pop() == name
            continue
        tags.append(name)
        ids += re.findall(r' id="([^"]*)"', attributes)
        assert all(target.startswith(("#", "data:image/")) for target in re.findall(r'(?:src|href)="([^"]*)"', attributes))
        if not empty and name not in VOID:
            open_tags.append(name)
    assert open_tags == []
    assert len(ids) == len(set(ids))
    assert "script" not in tags
    assert "url(" not in html.replace("url(#", "")
    return tags


@pytest.mark.integration
def test_a_whole_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo", {"zero_shot": answers(3, 9), "grpo": answers(8, 9, text=HOSTILE, policy=HOSTILE)}, STEPS)
    out = tmp_path / "deep" / "report.html"
    write_report([run], out, find_image=grey_image)
    html = out.read_text(encoding="utf-8")
    tags = check(html)
    visible = " ".join(re.sub(r"<[^>]+>", " ", html[html.index("<body>") :]).split())
    for text in ("Not for clinical use", "Zero-shot", "GRPO", "in-domain", "33.3 [12.1, 64.6]", "Guessing 50.0", "+55.6 [", "1,300"):
        assert text in visible
    assert "<strong>88.9</strong>" in html
    assert tags.count("svg") == 1 + 2 + 3 + 2  # forest plot, bars, curves of reward, its part and length, outcome bars
    assert html.count("data:image/png;base64,") == 1 + 4 + 2 * 1
    assert "49 $x_1$" not in html
    assert "default-src 'none'" in html


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo", {"sft": answers(3, 9), "grpo": answers(8, 9)}, STEPS)
    pages = []
    for name in ("a.html", "b.html"):
        write_report([run], tmp_path / name, find_image=grey_image)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("evaluations", "steps", "present", "absent"),
    [
        ({}, STEPS, "No records, so no accuracy: demo.", 'id="outcomes"'),
        ({"eval": answers(2, 4)}, [], "No training metrics, so no curves: demo.", 'id="training"'),
        ({"empty": []}, [], "No records, so no accuracy: demo.", 'id="examples"'),
        ({"eval": [record(0, modality=None)]}, [{"loss": 1.0}, {"loss": 0.5}], "Unlabelled", "No records"),
        ({"zero_shot": answers(2, 4), "grpo": answers(2, 5)}, [], "did not answer the same questions", 'id="training"'),
        ({f"row-{i}": answers(i % 4, 4) for i in range(14)}, [], "first 12 of 14", 'id="training"'),
    ],
)
def test_runs_that_lack_a_part(
    tmp_path: Path, evaluations: Mapping[str, Sequence[Record]], steps: Sequence[Mapping[str, object]], present: str, absent: str
) -> None:
    html = report_of(tmp_path, evaluations, steps, find_image=lambda _: None)
    assert present in html
    assert absent not in html


@pytest.mark.integration
def test_several_runs_in_one_folder(tmp_path: Path) -> None:
    before = answers(2, 6)
    for name in ("grpo-no-think", "grpo-think"):
        write_run(tmp_path / "runs" / name, {"zero_shot": before, "grpo": answers(4 + (name == "grpo-think"), 6)}, STEPS)
    (tmp_path / "runs" / "notes").mkdir()
    runs = load_runs(sort_sources([tmp_path / "runs", tmp_path / "runs" / ".." / "runs" / "grpo-think"]).runs)
    assert [run.name for run in runs] == ["grpo-no-think", "grpo-think"]
    assert [row.title for row in collect_evaluations(runs)] == ["Zero-shot", "GRPO (grpo-no-think)", "GRPO (grpo-think)"]
    write_report([tmp_path / "runs"], tmp_path / "report.html", find_image=grey_image)
    check((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_rows_are_compared_with_their_own_start() -> None:
    rows = {
        "zero-shot-think": ("think", 2),
        "zero-shot-no-think": ("no_think", 3),
        "grpo-think": ("think", 5),
        "grpo-no-think": ("no_think", 5),
    }
    folder = [(label, answers(correct, 6, strategy=strategy)) for label, (strategy, correct) in rows.items()]
    table = change_rows([evaluation(label, records) for label, records in folder])
    assert [(row.title, row.baseline, row.change.gained) for row in table] == [
        ("GRPO, Think", "Zero-shot, Think", 6),
        ("GRPO, No-Think", "Zero-shot, No-Think", 4),
    ]


def evaluation(label: str, records: Sequence[Record]) -> Evaluation:
    return Evaluation(label=label, title=label_title(label), records=tuple(records))


def test_a_missing_column_leaves_no_average() -> None:
    table = accuracy_table([evaluation("sft", answers(2, 4)), evaluation("grpo", [record(0)])], in_domain={"mri"})
    assert table.columns == ("mri", "ct")
    assert [row.average.value for row in table.rows] == [0.5, None]
    assert (table.rows[1].cells[1].value, str(table.rows[1].cells[1])) == (None, "–")
    assert table.is_best(table.rows[1], 0)
    assert not table.is_best(table.rows[0], 0)
    assert (table.total(0), table.total(1)) == (None, 4)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "does not exist"),
        ({}, "holds no run"),
        ({"config.json": "{}"}, "holds no run"),
        ({"metrics.jsonl": "", "config.json": "{"}, "config.json cannot be read as JSON"),
        ({"metrics.jsonl": "", "config.json": b"\xff\xfe\x00"}, "config.json cannot be read as JSON"),
        ({"metrics.jsonl": "", "manifest.json": "[]"}, "manifest.json is not a JSON object"),
        ({"metrics.jsonl": 'x\n{"step": 1}\n'}, "entry 1 is not JSON"),
        ({"metrics.jsonl": "3\n"}, "entry 1 is not a JSON object"),
        ({"records/grpo.jsonl": "{}\n"}, "grpo.jsonl, line 1"),
    ],
)
def test_a_wrong_folder_is_one_line(tmp_path: Path, files: Mapping[str, str | bytes] | None, message: str) -> None:
    run = tmp_path / "run"
    for name, content in (files or {}).items():
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if files == {}:
        run.mkdir()
    with pytest.raises(OslerError, match=re.escape(message)) as caught:
        write_report([run], tmp_path / "report.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


# A path in a run folder, and what is said of it; None where it is what it says.
PARTS = [
    ("records/grpo.jsonl", "is a part of {run}: give that folder"),
    ("metrics.jsonl", "is a part of {run}: give that folder"),
    ("records", "is a part of {run}: give that folder"),
    ("policy", "is a part of {run}: give that folder"),
    ("audit.json", "holds no audit that this version of Osler wrote"),
]


@pytest.mark.parametrize(("name", "message"), PARTS)
def test_a_part_of_a_run_is_told_from_a_foreign_file(tmp_path: Path, name: str, message: str) -> None:
    run = write_run(tmp_path / "run", {"grpo": [record(0)]}, STEPS)
    (run / "policy").mkdir()
    (run / "policy" / "config.json").write_text("{}")
    (run / "audit.json").write_text("{}")
    with pytest.raises(DataError, match=re.escape(message.format(run=run))):
        write_report([run / name], tmp_path / "report.html")


def test_a_sample_twice_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"grpo": [record(0), record(0)]})
    with pytest.raises(DataError, match="more than once"):
        load_runs([run])


def test_an_unwritable_page_is_one_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"grpo": [record(0)]})
    (tmp_path / "taken").touch()
    with pytest.raises(DataError, match="cannot write"):
        write_report([run], tmp_path / "taken" / "report.html", find_image=grey_image)
    with pytest.raises(DataError, match="cannot write"):
        write_report([run], tmp_path, find_image=grey_image)


def test_curves_under_all_their_names(tmp_path: Path) -> None:
    again = {"global_step": 3, "reward": 9, "completion_length": 7, "loss": "x", "rewards/format": True}
    run = write_run(tmp_path / "run", {}, [*STEPS, again])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    curves = load_runs([run])[0].curves
    assert {name: curve.values for name, curve in curves.items()} == {
        "reward": (0.5, 0.9, 9),
        "reward: accuracy": (0.2, 0.5, 0.8),
        "completion_length": (40.0, 7),
        "loss": (0.01,),
    }
    assert curves["completion_length"].steps == (1, 3)


@pytest.mark.parametrize(
    ("label", "title"),
    [
        ("zero_shot", "Zero-shot"),
        ("zero-shot-no-think", "Zero-shot, No-Think"),
        ("grpo", "GRPO"),
        ("grpo-600-think", "GRPO 600, Think"),
        ("sft_think_after", "SFT, Think-After"),
        ("grpo_seed_1", "GRPO seed 1"),
        ("think", "think"),
        ("my model", "my model"),
    ],
)
def test_titles_of_labels(label: str, title: str) -> None:
    assert label_title(label) == title


def test_examples_are_stratified_and_repeatable() -> None:
    records = answers(20, 40)
    picked = pick_examples(records, per_group=4, seed=3)
    assert {name: {row.outcome for row in part} for name, part in picked.items()} == {
        "Right": {"correct"},
        "Wrong": {"incorrect"},
        "No answer, or more than one": {"no_answer", "ambiguous"},
    }
    for part in picked.values():
        assert sorted(row.modality or "" for row in part) == ["ct", "ct", "mri", "mri"]
    assert picked == pick_examples(records[::-1], per_group=4, seed=3)
    assert picked != pick_examples(records, per_group=4, seed=4)


@pytest.mark.parametrize("size", [(1, 1), (40, 60), (1200, 30), (900, 900)])
def test_images_are_small(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    uri = encode_image(Image.fromarray(noise))
    assert uri is not None
    assert uri.startswith("data:image/")
    assert len(uri) <= MAX_IMAGE_BYTES * 4 / 3 + 30


def test_pictures_come_through_the_reader() -> None:
    from osler.data.readers import read

    sample = read("phantom", split="test", num_questions=2)[0]
    shown = record(0)
    known = replace(shown, sample_id=sample.id)
    find = recipe_images({"data": {"reader": "phantom", "options": {"num_questions": 2}}})
    picture = find(known)
    assert picture is not None
    assert picture.tobytes() == sample.images[0].load().tobytes()
    assert find(shown) is None


@pytest.mark.parametrize("config", [{}, {"data": {"reader": "none"}}, {"data": {"reader": "slake", "root": "/nowhere"}}, {"data": 3}])
def test_no_picture_where_the_data_are_not_at_hand(config: Mapping[str, object]) -> None:
    assert recipe_images(config)(record(0)) is None


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("Which?\nA) cyst\nB) tumour\nThink.", "Which?"),
        ("Which? A)cyst, B)tumour Your task", "Which?"),
        ("\n    Which? \nA) cyst\nB) tumour", "Which?"),
        ("Something else", "Something else"),
    ],
)
def test_the_question_of_a_prompt(prompt: str, question: str) -> None:
    assert question_of(replace(record(0), prompt=prompt)) == question


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (points(Estimate(value=0.231, low=0.18, high=0.281)), "+23.1 [18.0, 28.1]"),
        (points(Estimate(value=-0.05, low=-0.1, high=0.004)), "−5.0 [−10.0, 0.4]"),
        (points(Estimate(value=None, low=None, high=None)), "–"),
        (p_value(None), "–"),
        (p_value(0.00004), "< 0.001"),
        (p_value(0.0312), "0.031"),
        (shade(0.0), "background-color: rgb(255, 255, 255); color: #000000"),
        (shade(1.0), "background-color: rgb(54, 130, 196); color: #000000"),
        (environment_rows({"a": {"b": 1}, "c": ["x", "y"]}), [("a.b", "1"), ("c", "x y")]),
    ],
)
def test_how_things_print(found: object, expected: object) -> None:
    assert found == expected


@pytest.mark.integration
@pytest.mark.parametrize(("missing", "is_named"), [(1, True), (0, False)])
def test_an_evaluation_that_was_cut_is_named(tmp_path: Path, missing: int, is_named: bool) -> None:
    records = answers(2, 4)
    run = write_run(tmp_path / "demo", {"eval": records})
    total = len({record.sample_id for record in records}) + missing
    (run / "manifest.json").write_text(json.dumps({"test": {"num_samples": total}}))
    write_report([run], tmp_path / "page.html", find_image=grey_image)
    assert ("the same `osler eval` command answers the others" in (tmp_path / "page.html").read_text()) == is_named


def test_the_terminal_table_is_plain_text_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    print_accuracies([("Zero-shot [1]", answers(3, 9)), ("GRPO", answers(8, 9)), ("none", [])], in_domain=["mri"])
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert re.sub(r"[ |]+", " ", lines[0]).strip() == "MRI (in-domain) CT Average"
    assert "\x1b" not in text
    assert re.sub(r"[ |]+", " ", lines[2]).strip() == "Zero-shot [1] 33.3 [12.1, 64.6] (n = 9) 33.3 [12.1, 64.6] (n = 9) 33.3 [16.3, 56.3]"
    assert re.sub(r"[ |]+", " ", lines[4]).strip() == "none – – –"
    assert "Guessing" in lines[-3]
    assert lines[-2].startswith("n: separate images or patients")
    assert lines[-1] == "Answers read from sentences, which no reward pays for: none."


def test_a_checkpoint_is_not_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {}, STEPS)
    (run / "policy").mkdir()
    (run / "policy" / "config.json").write_text("{}")
    assert sort_sources([run]).runs == (run,)


@pytest.mark.integration
def test_starting_is_fast() -> None:
    """Reading records and computing rates loads neither torch, nor scipy, nor matplotlib."""
    heavy = {"torch", "scipy", "statsmodels", "matplotlib", "jinja2", "rich"}
    code = f"import sys, osler.metrics, osler.evaluation.records, osler.reports.make; print(*sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.integration
@pytest.mark.parametrize(
    ("times", "is_drawn"),
    [([1.5, 3.0, 4.5], True), ([None, 3.0, 4.5], True), ([1.5, 3.0, 2.0], False), ([None, None, None], False)],
    ids=["all", "some", "began_again", "none"],
)
def test_the_reward_is_drawn_over_seconds_too(tmp_path: Path, times: list[float | None], is_drawn: bool) -> None:
    steps = [{**step, **({} if time is None else {"time_s": time})} for step, time in zip(STEPS, times, strict=True)]
    runs = load_runs([write_run(tmp_path / name, {}, steps) for name in ("sampled", "exact")])
    titles = [figure.title for figure in training_figures(runs)]
    assert ("Reward over time" in titles) == is_drawn


def test_what_a_training_found_is_shown_once(tmp_path: Path) -> None:
    found = {"cause": "cut_completions", "says": f"90% are cut {HOSTILE}", "remedy": "--sampling.max_completion_length=512"}
    hostile = [{"cause": HOSTILE, "says": "unheard-of"}, 3, {"cause": ["cut_completions"]}]
    steps = [
        *STEPS,
        {"step": 4, "reward": 1, "warnings": [found, *hostile]},
        {"step": 5, "reward": 1, "warnings": [found]},
        {"step": 6, "warnings": 7},
    ]
    run = write_run(tmp_path / "run", {}, steps)
    (loaded,) = load_runs([run])
    assert [(one.step, one.remedy) for one in loaded.warnings] == [("4", found["remedy"])]
    write_report([run], tmp_path / "report.html", find_image=grey_image)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count(found["remedy"]) == 1
    assert HOSTILE not in page
    assert "unheard-of" not in page
