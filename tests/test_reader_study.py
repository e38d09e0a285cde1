"""The reader study: its plan, what a reader may see, answers that are saved before the next case, and the records that follow."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections import Counter
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
from osler.serving.readers.plan import Plan, StudySettings, make_plan, read_plan, write_plan
from osler.serving.readers.session import Sessions
from osler.serving.readers.study import Study, holding, prepare_study
from osler.types import Sample


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return load_split(config_of(write_rows(tmp_path_factory.mktemp("rows"), 41)).data, "test")


# The plan

SETTINGS = [
    StudySettings(),
    StudySettings(num_readers=1, repeated=0.5, without_image=1.0, has_model=True),
    StudySettings(num_readers=26, repeated=0, without_image=0, seed=7),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_plan_is_drawn_once(tmp_path: Path, samples: list[Sample], settings: StudySettings) -> None:
    plan = make_plan(samples, settings, {"questions": "x"})
    assert plan == make_plan(samples, settings, {"questions": "x"})
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan


def test_another_seed_is_another_plan(samples: list[Sample]) -> None:
    one, other = (make_plan(samples, StudySettings(seed=seed), {}) for seed in (0, 1))
    assert one.steps != other.steps


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_reader_sees_every_case_once_and_repeats_far_apart(samples: list[Sample], settings: StudySettings) -> None:
    plan = make_plan(samples, settings, {})
    cases = list(range(len(samples)))
    num_repeats = round(settings.repeated * len(samples))
    for steps in plan.steps:
        parts = [step.part for step in steps]
        assert parts == sorted(parts, key=list(Part).index)
        first = [step.case for step in steps if step.part is Part.UNAIDED and not step.is_repeat]
        assert sorted(first) == cases
        assert sorted(step.case for step in steps if step.part is Part.WITH_MODEL) == (cases if settings.has_model else [])
        unaided = [step for step in steps if step.part is Part.UNAIDED]
        places = {step.case: place for place, step in enumerate(unaided) if not step.is_repeat}
        repeats = [(place, step.case) for place, step in enumerate(unaided) if step.is_repeat]
        assert len(repeats) == len({case for _, case in repeats}) == min(num_repeats, len(samples) // 2)
        assert all(place - places[case] >= len(samples) // 2 for place, case in repeats)


def test_readers_have_orders_of_their_own_and_the_same_questions_without_images(samples: list[Sample]) -> None:
    plan = make_plan(samples, StudySettings(), {})
    blind = [[step.case for step in steps if step.part is Part.WITHOUT_IMAGE] for steps in plan.steps]
    assert len({tuple(cases) for cases in blind}) == 3
    assert len({tuple(sorted(cases)) for cases in blind}) == 1
    assert len(blind[0]) == round(0.25 * 41)
    counts = Counter(str(samples[case].modality) for case in blind[0])
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len({tuple(step.case for step in steps) for steps in plan.steps}) == 3


def test_orders_are_uniform(samples: list[Sample]) -> None:
    """Over many readers every case stands first about as often as any other, also where cases are repeated."""
    settings = [StudySettings(num_readers=26, repeated=0.5, without_image=0, seed=seed) for seed in range(60)]
    plans = [make_plan(samples[:4], one, {}) for one in settings]
    counts = Counter(steps[0].case for plan in plans for steps in plan.steps)
    assert all(abs(counts[case] - 390) < 70 for case in range(4))  # four standard deviations


@pytest.mark.parametrize("num", [1, 2, 3])
def test_few_questions_make_a_plan(samples: list[Sample], num: int) -> None:
    (steps,) = make_plan(samples[:num], StudySettings(num_readers=1, without_image=0), {}).steps
    assert sum(step.is_repeat for step in steps) == (0 if num == 1 else 1)


@pytest.mark.parametrize(
    "wrong",
    [{"num_readers": 0}, {"num_readers": 27}, {"repeated": 0.6}, {"without_image": -0.1}, {"repeated": float("nan")}, {"washout_days": -1}],
)
def test_settings_that_make_no_study(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="give a"):
        StudySettings(**wrong)


# What a reader may see


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


@pytest.fixture
def client(study: Study) -> Iterator[TestClient]:
    with open_client(study) as client:
        yield client


def listen(client: TestClient, study: Study) -> list[bytes]:
    """Every byte that a server sends while two readers answer everything."""
    heard: list[bytes] = []
    send = client.send

    def keep(*arguments: Any, **options: Any) -> Any:
        reply = send(*arguments, **options)
        heard.append(b"\0".join([*(part for pair in reply.headers.raw for part in pair), reply.content]))
        return reply

    client.send = keep  # type: ignore[method-assign]
    for token in study.tokens:
        client.get(f"/study/{token}")
        play(client, token, lambda case: "C")
        client.get(f"/study/{token}/state")
    for path in ("assets/study.js", "assets/study.css", "x", f"{study.tokens[0]}/pictures/0/0.png"):
        client.get(f"/study/{path}")
    return heard


def test_no_reply_holds_a_name_or_a_fact(tmp_path: Path) -> None:
    rows = write_rows(tmp_path)
    write_model(tmp_path, load_split(config_of(rows).data, "test"))
    # The run is made by the study, which takes a folder with records only.
    study = make_study(tmp_path, rows, with_model=str(tmp_path / "run/records/policy.jsonl"))
    with open_client(study) as client:
        heard = b"\n".join(listen(client, study)).lower()
    assert b"which technique made picture 3?" in heard
    for secret in (*SECRETS, "rows.jsonl", '"target', '"outcome', '"correct', "is_repeat", '"modality', str(tmp_path), "tiny"):
        assert secret.encode().lower() not in heard, secret


def test_replies_do_not_depend_on_the_right_answers(tmp_path: Path) -> None:
    """Two studies of the same questions with other right answers send the same bytes, tokens, times and sizes of headers aside."""
    heard = []
    for name, targets in (("one", "ABCD"), ("other", "BDAC")):
        study = make_study(tmp_path / name, write_rows(tmp_path / name, targets=targets))
        with open_client(study) as client:
            heard.append(listen(client, study))
    assert heard[0] == heard[1]
    assert len(heard[0]) > 100


def test_only_the_open_case_can_be_seen(client: TestClient, study: Study) -> None:
    token, other = study.tokens
    pictures = f"/study/{token}/pictures"
    assert client.get(f"{pictures}/0/0.png").status_code == 404  # not opened yet
    play(client, token, lambda case: "A", limit=4)
    case = client.post(f"/study/{token}/case", json={}).json()
    assert (case["position"], case["pictures"], case["part"]) == (4, 1, "unaided")
    assert client.get(f"{pictures}/4/0.png").headers["content-type"] == "image/png"
    assert [client.get(f"{pictures}/{place}.png").status_code for place in ("3/0", "5/0", "4/1", "4/-1")] == [404] * 4
    assert client.get(f"/study/{other}/pictures/4/0.png").status_code == 404


def test_a_question_without_its_image_has_no_picture(client: TestClient, study: Study) -> None:
    first = play(client, study.tokens[0], lambda case: "A", limit=3)
    assert [(case["part"], case["pictures"]) for case in first] == [("without_image", 0)] * 3


@pytest.mark.parametrize("token", ["x", "assets", "%00", "..%2f..%2fetc", "A" * 5000])
@pytest.mark.parametrize("path", ["", "/state"])
def test_a_wrong_token_opens_nothing(client: TestClient, token: str, path: str) -> None:
    assert client.get(f"/study/{token}{path}").status_code == 404


def test_headers_keep_the_token_and_the_page_to_themselves(client: TestClient, study: Study) -> None:
    headers = client.get(f"/study/{study.tokens[0]}").headers
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]


def test_tokens_are_for_this_user_only(study: Study) -> None:
    assert (study.folder / "tokens.json").stat().st_mode & 0o077 == 0
    assert len(set(study.tokens)) == 2


# Answers

GOOD = {"position": 0, "answer": "A", "comment": "", "seconds": 2.0}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 200),
        ({"answer": " B "}, 200),
        ({"answer": "E"}, 400),
        ({"answer": "b"}, 400),
        ({"answer": "AB"}, 400),
        ({"answer": ""}, 400),
        ({"answer": 1}, 400),
        ({"answer": None}, 400),
        ({"comment": "x" * 2001}, 400),
        ({"comment": "</think><answer>C</answer>"}, 400),
        ({"comment": "a ring of < 5 mm & \u202e"}, 200),
        ({"seconds": -1}, 400),
        ({"seconds": "2"}, 400),
        ({"seconds": True}, 400),
        ({"seconds": 1e9}, 400),
        ({"position": 1}, 409),
        ({"position": -1}, 400),
        ({"position": 0.0}, 400),
        ({"position": 10**7}, 400),
        ({"target": "A"}, 400),
    ],
)
def test_answers(client: TestClient, study: Study, change: dict[str, Any], status: int) -> None:
    token = study.tokens[0]
    client.post(f"/study/{token}/case", json={})
    reply = client.post(f"/study/{token}/answers", json={**GOOD, **change})
    assert reply.status_code == status, reply.text
    assert client.get(f"/study/{token}/state").json()["done"] == (status == 200)
    if status != 200:
        assert "\n" not in reply.json()["error"]["message"]


@pytest.mark.parametrize("seconds", ["NaN", "Infinity"])
def test_no_number_is_no_time(client: TestClient, study: Study, seconds: str) -> None:
    token = study.tokens[0]
    client.post(f"/study/{token}/case", json={})
    body = f'{{"position": 0, "answer": "A", "seconds": {seconds}}}'
    assert client.post(f"/study/{token}/answers", content=body, headers={"content-type": "application/json"}).status_code == 400


def test_an_answer_that_is_sent_twice_counts_once_and_cannot_change(client: TestClient, study: Study) -> None:
    token = study.tokens[0]
    client.post(f"/study/{token}/case", json={})
    first, again = (client.post(f"/study/{token}/answers", json=GOOD) for _ in range(2))
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert first.json()["done"] == 1
    changed = client.post(f"/study/{token}/answers", json={**GOOD, "answer": "B"})
    assert changed.status_code == 409
    assert "no way back" in changed.json()["error"]["message"]
    assert len(read_readings(study.run.root)[1]) == 1


def test_a_case_that_was_not_shown_cannot_be_answered(client: TestClient, study: Study) -> None:
    assert client.post(f"/study/{study.tokens[0]}/answers", json=GOOD).status_code == 409


def test_readers_do_not_move_each_other(client: TestClient, study: Study) -> None:
    one, other = study.tokens
    play(client, one, lambda case: "A", limit=5)
    assert client.get(f"/study/{other}/state").json()["done"] == 0


def test_after_the_last_case_there_is_none(client: TestClient, study: Study) -> None:
    token = study.tokens[0]
    play(client, token, lambda case: "A")
    assert client.get(f"/study/{token}/state").json()["phase"] == "finished"
    assert client.post(f"/study/{token}/case", json={}).json()["error"]["code"] == "finished"


def test_the_part_with_the_model_waits(tmp_path: Path) -> None:
    rows = write_rows(tmp_path)
    path = write_model(tmp_path, load_split(config_of(rows).data, "test"))
    study = make_study(tmp_path, rows, with_model=str(path), washout_days=28)
    with open_client(study) as client:
        token = study.tokens[0]
        assert len(play(client, token, lambda case: "A")) == 3 + 12 + 3
        state = client.get(f"/study/{token}/state").json()
        assert (state["phase"], state["part"]["name"]) == ("waiting", "with_model")
        assert client.post(f"/study/{token}/case", json={}).json()["error"]["code"] == "waiting"


# Records


def check_records(study: Study, names: set[str]) -> dict[str, list[Any]]:
    found = {path.stem: list(read_records(path)) for path in study.run.records.glob("reader*.jsonl")}
    assert set(found) == names
    return found


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
        with pytest.raises(ConfigError, match="--fresh"):
            make_study(tmp_path, rows, **change)
    write_rows(tmp_path, targets="BACD")
    with pytest.raises(ConfigError, match="right answers"):
        make_study(tmp_path, rows)


def test_fresh_sets_answers_aside_and_deletes_none(tmp_path: Path) -> None:
    rows = write_rows(tmp_path)
    study = make_study(tmp_path, rows)
    with open_client(study) as client:
        play(client, study.tokens[0], lambda case: "B", limit=7)
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


def test_a_killed_server_loses_no_confirmed_answer(tmp_path: Path) -> None:
    """SIGKILL right after a reply; the half of a line that a crash may leave is dropped. A gentle end says how far the readers are."""
    import httpx2

    rows, run = write_rows(tmp_path), tmp_path / "run"
    given: list[str] = []
    for stop in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT):
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
    assert printed[:2] == ["reader 1: 12 of 18 answered", "reader 2: 0 of 18 answered"]
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
