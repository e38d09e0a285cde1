"""From answers to records, tables and reports; a study that continues after it was stopped or killed."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_records import answer
from small_studies_of_readers import SECRETS, config_of, knows, make_study, open_client, play, play_all, write_model, write_rows
from starlette.testclient import TestClient

from osler.cli.reader_study import add_study_options
from osler.data.select import load_split
from osler.errors import ConfigError, DataError, OslerError
from osler.evaluation.readings import Part, Reading, append_event, events_file, read_events, read_readings
from osler.evaluation.records import read_records
from osler.evaluation.votes import majority
from osler.reports.load_runs import collect_evaluations, label_title, load_runs
from osler.reports.make import write_report
from osler.reports.readers import build_readers
from osler.reports.tables import change_rows
from osler.serving.readers.plan import Plan, StudySettings, read_plan
from osler.serving.readers.session import Sessions
from osler.serving.readers.study import Study, holding, prepare_study

GOOD = {"position": 0, "answer": "A", "comment": "", "seconds": 2.0}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


@pytest.fixture
def client(study: Study) -> Iterator[TestClient]:
    with open_client(study) as client:
        yield client


# Records


def check_records(study: Study, names: set[str]) -> dict[str, list[Any]]:
    found = {path.stem: list(read_records(path)) for path in study.run.records.glob("reader*.jsonl")}
    assert set(found) == names
    return found


@pytest.mark.integration
def test_answers_become_records(tmp_path: Path) -> None:
    rows = write_rows(tmp_path)
    path = write_model(tmp_path, load_split(config_of(rows).data, "test"))
    study = make_study(tmp_path, rows, with_model=str(path))
    with open_client(study) as client:
        shown = [play(client, token, knows(study, 0.0, 0)) for token in study.tokens]
    assert shown[0][-1]["model"] == {"answer": "B", "text": "MRI", "reasoning": "It looks so."}
    assert all(case["model"] is None for case in shown[0] if case["part"] != "with_model")
    labels = {f"{who}{part}" for who in ("reader_1", "reader_2", "readers_majority") for part in ("", ".question_only", ".with_model")}
    found = check_records(study, labels)
    assert [len(found[name]) for name in ("reader_1", "reader_1.question_only", "reader_1.with_model")] == [12, 3, 12]
    record = found["reader_1"][0]
    assert (record.policy, record.strategy, record.outcome, record.completion) == (
        "reader 1",
        "reader",
        "correct",
        f"<answer>{record.target}</answer>",
    )
    assert record.is_well_formed
    assert found["reader_2.with_model"][0].policy == "reader 2 with tiny"
    blind = found["reader_1.question_only"][0]
    assert (blind.ablation, blind.image_uris) == ("question_only", ())
    assert blind.own_image_uris
    # Opening the study again makes the same records anew, in the order of the questions.
    Sessions(study)
    again = check_records(study, labels)
    assert {name: sorted(part, key=lambda one: one.sample_id) for name, part in again.items()} == {
        name: sorted(part, key=lambda one: one.sample_id) for name, part in found.items()
    }
    assert [one.sample_id for one in again["reader_2"]] == list(study.plan.sample_ids)


def test_a_comment_is_the_reasoning(client: TestClient, study: Study) -> None:
    token = study.tokens[0]
    client.post(f"/study/{token}/case", json={})
    client.post(f"/study/{token}/answers", json={**GOOD, "comment": "A ring."})
    (record,) = read_records(study.run.records / "reader_1.question_only.jsonl")
    assert (record.reasoning, record.completion) == ("A ring.", "<think>A ring.</think><answer>A</answer>")


@pytest.mark.parametrize(("text", "outcome"), [("liver", "correct"), ("the spleen", "incorrect"), ("I do not know", "incorrect")])
def test_open_questions(tmp_path: Path, text: str, outcome: str) -> None:
    rows = write_rows(tmp_path, 2, choices=[], answer="liver", question="Which organ is it?")
    study = make_study(tmp_path, rows, num_readers=1, repeated=0, without_image=0)
    play_all(study, lambda case: text)
    assert {record.outcome for record in read_records(study.run.records / "reader_1.jsonl")} == {outcome}


@pytest.mark.parametrize(
    ("letters", "winner", "outcome", "share"),
    [
        ("AAB", "A", "correct", 2 / 3),
        ("BBA", "B", "incorrect", 2 / 3),
        ("ABC", None, "ambiguous", 1 / 3),
        ("BA", None, "ambiguous", 1 / 2),
        ("AABBC", None, "ambiguous", 2 / 5),
        ("AABCD", "A", "correct", 2 / 5),
        ((None, None, "B"), "B", "incorrect", 1 / 3),
        ((None, None), None, "incorrect", 0.0),
    ],
)
def test_the_majority_never_guesses(letters: Any, winner: str | None, outcome: str, share: float) -> None:
    record = majority([answer(1, letter == "A", letter=letter) for letter in letters], "readers, majority")
    assert (record.answer, record.outcome, record.vote_share, record.policy) == (winner, outcome, pytest.approx(share), "readers, majority")


@pytest.mark.integration
def test_tables_and_reports_have_rows_of_readers(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, 16)
    path = write_model(tmp_path, load_split(config_of(rows).data, "test"))
    study = make_study(tmp_path, rows, with_model=str(path), num_readers=3)
    play_all(study, *(knows(study, 0.1 * number, number) for number in range(3)))
    runs = load_runs([study.run.root])
    evaluations = [row for row in collect_evaluations(runs) if row.records]
    readers = ["Reader 1", "Reader 2", "Reader 3", "Readers, majority"]
    assert [row.title for row in evaluations] == ["policy", *readers, *(f"{name} with model" for name in readers)]
    assert [row.is_reader for row in evaluations] == [False] + [True] * 8
    assert all(row.blind.keys() == evaluations[1].blind.keys() != set() for row in evaluations[1:])
    compared = {row.title: row.baseline for row in change_rows(evaluations)}
    assert compared == {**dict.fromkeys(readers, "policy"), **{f"{name} with model": name for name in readers}}
    part = build_readers(runs, evaluations)
    assert part is not None
    assert [row.title for row in part.agreements] == [
        "Reader 1 and Reader 2", "Reader 1 and Reader 3", "Reader 2 and Reader 3", "All readers", "All readers with model",
        "Reader 1, asked twice", "Reader 2, asked twice", "Reader 3, asked twice", "policy and Readers, majority",
    ]  # fmt: skip
    num_decided = sum(record.answer is not None for record in evaluations[4].records)
    assert num_decided > 10
    assert [row.agreement.num_questions for row in part.agreements] == [16] * 5 + [4] * 3 + [num_decided]
    assert part.agreements[5].agreement.observed.value == 1.0  # reader 1 makes no error
    assert [(row.title, row.part, row.num_cases) for row in part.times][:4] == [
        *((f"Reader {number}", "without image", 4) for number in (1, 2, 3)),
        ("All readers", "without image", 12),
    ]
    assert all(1.5 <= row.median <= 3.5 for row in part.times)
    page = tmp_path / "report.html"
    write_report([study.run.root], page)
    text = page.read_text()
    assert "All readers with model" in text
    assert "policy: accuracy" in text  # the headline is about the policy


@pytest.mark.parametrize(
    ("label", "title"),
    [
        ("reader_1", "Reader 1"),
        ("reader_12.with_model", "Reader 12 with model"),
        ("readers_majority", "Readers, majority"),
        ("reader_x", "reader_x"),
    ],
)
def test_titles(label: str, title: str) -> None:
    assert label_title(label) == title


# Preparing and continuing


def test_the_same_command_continues_and_another_is_refused(tmp_path: Path) -> None:
    rows = write_rows(tmp_path)
    study = make_study(tmp_path, rows)
    with open_client(study) as client:
        play(client, study.tokens[0], lambda case: "B", limit=7)
    again = make_study(tmp_path, rows)
    assert (again.plan, again.tokens) == (study.plan, study.tokens)
    assert Sessions(again).progress() == {1: (7, 18), 2: (0, 18)}
    for change in ({"num_readers": 3}, {"repeated": 0.5}, {"seed": 4}):
        with pytest.raises(ConfigError, match=r"has (num readers 2, not 3|repeated 0\.\d+, not 0\.5|seed \d, not 4): give .* --fresh"):
            make_study(tmp_path, rows, **change)
    write_rows(tmp_path, targets="BACD")
    with pytest.raises(ConfigError, match="right answers"):
        make_study(tmp_path, rows)


def test_fresh_sets_answers_aside_and_deletes_none(tmp_path: Path) -> None:
    rows = write_rows(tmp_path)
    study = make_study(tmp_path, rows)
    with open_client(study) as client:
        play(client, study.tokens[0], lambda case: "B", limit=7)
    with holding(study), pytest.raises(ConfigError, match="another server"):
        prepare_study(config_of(rows), tmp_path / "run", StudySettings(num_readers=1), fresh=True)
    fresh = prepare_study(config_of(rows), tmp_path / "run", StudySettings(num_readers=1), fresh=True)
    assert Sessions(fresh).progress() == {1: (0, 12 + 3 + 1)}
    kept = tmp_path / "run/reader_study.1"
    assert len([one for one in read_events(kept / "reader_1.jsonl") if isinstance(one, Reading)]) == 7
    assert len(read_records(kept / "records/reader_1.jsonl")) == 4
    assert not list(fresh.run.records.glob("reader_*.jsonl"))


@pytest.mark.parametrize(
    ("model", "message"),
    [("nothing", "give a file of records"), ("part.jsonl", "has no answer to"), ("other.jsonl", "other choices")],
)
def test_records_that_do_not_fit_are_refused(tmp_path: Path, model: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_rows(tmp_path)
    samples = load_split(config_of(rows).data, "test")
    write_model(tmp_path / "part", samples[:5]).rename(tmp_path / "part.jsonl")
    others = load_split(config_of(write_rows(tmp_path / "b", choices=["CT", "MRI", "X-ray", "PET"])).data, "test")
    write_model(tmp_path / "other", others).rename(tmp_path / "other.jsonl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OslerError, match=message):
        make_study(tmp_path, rows, with_model=model)
    assert not (tmp_path / "run").exists()


def test_an_image_that_cannot_be_shown_is_found_before_the_study(tmp_path: Path) -> None:
    rows = write_rows(tmp_path)
    picture = next((tmp_path / SECRETS[2]).glob("*_3.png"))
    picture.write_bytes(picture.read_bytes()[:60])
    with pytest.raises(DataError, match="private_case_3 cannot be shown"):
        make_study(tmp_path, rows)
    assert not (tmp_path / "run").exists()


def test_answers_that_are_not_in_the_plan_are_refused(study: Study) -> None:
    wrong = Reading(
        position=0, at="2026-01-01T00:00:00+00:00", part=Part.UNAIDED, sample_id="x", is_repeat=False, answer="A", comment="",
        seconds=1.0, wall_seconds=None, views=1,
    )  # fmt: skip
    append_event(events_file(study.run.root, 1), wrong)
    with pytest.raises(DataError, match="not at its place"):
        Sessions(study)


@pytest.mark.parametrize("damage", ["{}", '{"settings": 3}', "no json"])
def test_a_damaged_plan_is_one_line(tmp_path: Path, damage: str) -> None:
    (tmp_path / "plan.json").write_text(damage)
    with pytest.raises(DataError, match="--fresh") as caught:
        read_plan(tmp_path)
    assert "\n" not in str(caught.value)


def test_one_server_at_a_time(study: Study) -> None:
    with holding(study), pytest.raises(ConfigError, match="another server"), holding(study):
        pass


def test_plans_hold_no_right_answer(study: Study) -> None:
    assert isinstance(study.plan, Plan)
    assert "target" not in (study.folder / "plan.json").read_text()


SERVER = """
import argparse, socket, sys
from osler.cli.reader_study import add_study_options, run_study
from osler.serving.settings import ServerSettings
parser = argparse.ArgumentParser()
add_study_options(parser)
options = parser.parse_args(sys.argv[1:])
options.overrides = []
listener = socket.create_server(("127.0.0.1", 0))
print(run_study(options, ServerSettings(port=listener.getsockname()[1]), listener))
"""
"""What `osler serve --study` does with its arguments."""


@contextmanager
def serving(rows: Path, out: Path, stop: signal.Signals) -> Iterator[tuple[str, list[str]]]:
    """A server of a study in a process of its own, stopped by a signal at the end: the address of reader 1, and what it prints then."""
    arguments = ["--study", str(rows), "--out", str(out), "--readers", "2", "--repeated", "0.25"]
    process = subprocess.Popen([sys.executable, "-c", SERVER, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed: list[str] = []
    try:
        lines = []
        while not lines or not lines[-1].startswith("Not for clinical use"):
            lines.append(process.stdout.readline())
            assert lines[-1], "the server ended"
        yield lines[1].split()[2], printed
    finally:
        process.send_signal(stop)
        printed += process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()


@pytest.mark.integration
def test_a_killed_server_loses_no_confirmed_answer(tmp_path: Path) -> None:
    """SIGKILL right after a reply; the half of a line that a crash may leave is dropped. A gentle end says how far the readers are."""
    import httpx2

    rows, run = write_rows(tmp_path), tmp_path / "run"
    given: list[str] = []
    for stop in (signal.SIGKILL, signal.SIGINT):
        with serving(rows, run, stop) as (address, printed), httpx2.Client(trust_env=False) as client:
            assert client.get(f"{address}/state").json()["done"] == len(given)
            for _ in range(4):
                case = client.post(f"{address}/case", json={}).json()
                letter = "ABCD"[len(given) % 4]
                reply = client.post(f"{address}/answers", json={"position": case["position"], "answer": letter, "seconds": 1.0})
                assert reply.json()["done"] == len(given) + 1
                given.append(letter)
        if stop is signal.SIGKILL:
            with events_file(run, 1).open("a") as file:
                file.write('{"event": "answ')
    assert printed[:2] == ["reader 1: 8 of 18 answered", "reader 2: 0 of 18 answered"]
    assert [one.answer for one in read_readings(run)[1]] == given
    num_first = sum(not one.is_repeat and one.part is Part.UNAIDED for one in read_readings(run)[1])
    assert len(read_records(run / "records/reader_1.jsonl")) == num_first


@pytest.mark.parametrize(
    ("questions", "recipe"), [("demo", "demo"), ("my.toml", "my.toml"), ("rows.jsonl", None), ("rows.CSV", None), (None, None)]
)
def test_questions_are_a_recipe_or_a_file(questions: str | None, recipe: str | None) -> None:
    parser = argparse.ArgumentParser()
    add_study_options(parser)
    options = parser.parse_args([] if questions is None else ["--study", questions])
    assert (options.study, getattr(options, "recipe", None)) == (questions, recipe)


def test_a_case_that_is_opened_again_says_so(study: Study) -> None:
    token = study.tokens[0]
    for _ in range(2):
        with open_client(study) as client:
            client.post(f"/study/{token}/case", json={})
    time.sleep(0.02)
    with open_client(study) as client:
        client.post(f"/study/{token}/case", json={})
        client.post(f"/study/{token}/answers", json=GOOD)
    (reading,) = read_readings(study.run.root)[1]
    assert reading.views == 3
    assert reading.seconds == 2.0
    assert reading.wall_seconds is not None
    assert json.loads(events_file(study.run.root, 1).read_text().splitlines()[-1])["event"] == "answered"
