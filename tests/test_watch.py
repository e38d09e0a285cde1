"""The page of a training that runs: what is kept, what is shown, and when watching ends."""

import json
import math
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from types import MappingProxyType
from typing import Any

import pytest

import osler
from osler.cli.main import main
from osler.config import build_config, load_config
from osler.data.readers import READERS
from osler.data.select import load_split
from osler.errors import ConfigError, DataError, Interrupted
from osler.reports.load_runs import load_runs
from osler.reports.make import write_report
from osler.reports.watch import watch_report
from osler.training.callbacks import naming_reporter
from osler.training.grpo import train_grpo
from osler.training.kept_completions import (
    FILE,
    MAX_KEPT,
    MAX_PER_STEP,
    EnumeratedRow,
    KeptCompletion,
    KeptCompletions,
    answer_probabilities,
    pick,
    read_kept,
)

CONFIG = load_config(None, ("--data.reader=phantom", "--data.train.limit=8", "--data.test.limit=8"))
SAMPLES = load_split(CONFIG.data, "train")


def written(step: int, place: int = 0) -> KeptCompletion:
    rewards = {"accuracy": step / 100, "format": None}
    return KeptCompletion(
        step=step, sample_id=SAMPLES[place].id, prompt="Which <b>?", completion=f"<answer>{step}</answer>", target="B", rewards=rewards
    )


def write_run(folder: Path, steps: int = 3, probabilities: Mapping[str, float] = MappingProxyType({})) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "environment.json").write_text("{}")
    (folder / "config.json").write_text(CONFIG.to_json())
    lines = [
        {"step": step, "time_s": step, "reward": step / 10, "entropy": 0.5, "partial/reward": 0.25, "loss": 0.1}
        for step in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "rew')
    kept = KeptCompletions(path=folder / FILE, every=1)
    for step in range(steps):
        kept.keep(step, [replace(written(step, place), probabilities=dict(probabilities)) for place in range(2)])
    return folder


@pytest.mark.integration
def test_the_page_of_a_training_that_runs_has_curves_and_completions_with_images(tmp_path: Path) -> None:
    write_report([write_run(tmp_path / "run")], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count('<img src="data:image/png') == 6
    assert page.index("step 2<") < page.index("step 1<") < page.index("step 0<")
    assert "&lt;answer&gt;2&lt;/answer&gt;" in page
    assert "Which &lt;b&gt;?" in page
    assert all(title in page for title in ("Entropy of the next token", "Expected reward", "Reward over", "accuracy 0.02"))
    assert 'http-equiv="refresh"' not in page


SHOWN: list[tuple[dict[str, float], str, str]] = [
    ({}, "drawn at random", "probabilit"),
    ({"A": 0.75, "B": 0.2}, "A 75.0 %, B 20.0 %", "drawn at random"),
]


@pytest.mark.integration
@pytest.mark.parametrize(("probabilities", "said", "unsaid"), SHOWN)
def test_the_page_says_whether_the_policy_drew_what_it_shows(
    tmp_path: Path, probabilities: dict[str, float], said: str, unsaid: str
) -> None:
    write_report([write_run(tmp_path / "run", probabilities=probabilities)], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    section = page[page.index("Completions during training") :]
    section = section[: section.index("</section>")]
    assert said in section
    assert unsaid not in section


@pytest.mark.integration
def test_the_page_of_an_unfinished_training_does_not_say_how_it_ended(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_report([run], tmp_path / "page.html")
    finish(run)
    write_report([run], tmp_path / "trained.html")
    for page, is_trained in ((tmp_path / "page.html", False), (tmp_path / "trained.html", True)):
        assert ("training stopped early" in page.read_text()) is is_trained
        assert ("Its curves end at step 3." in page.read_text()) is not is_trained


@pytest.mark.integration
def test_a_page_of_several_runs_has_no_completions(tmp_path: Path) -> None:
    write_report([write_run(tmp_path / "a"), write_run(tmp_path / "b")], tmp_path / "page.html")
    assert "Completions during training" not in (tmp_path / "page.html").read_text()


def finish(folder: Path) -> None:
    (folder / "policy").mkdir()


def interrupt(_: Path) -> None:
    raise KeyboardInterrupt


@pytest.mark.integration
@pytest.mark.parametrize("end", [finish, interrupt])
def test_watching_ends_with_the_training_or_ctrl_c(tmp_path: Path, end: Callable[[Path], None]) -> None:
    run, out = write_run(tmp_path / "run", steps=1), tmp_path / "page.html"
    pages: list[str] = []

    def wait(seconds: float) -> None:
        assert seconds == 7
        pages.append(out.read_text())
        if len(pages) == 2:
            end(run)
        write_run(run, steps=3)

    watch_report([run], out, every=7, wait=wait)
    assert len(pages) == 2
    assert all('<meta http-equiv="refresh" content="7">' in page for page in pages)
    assert "step 2<" not in pages[0]
    assert "step 2<" in pages[1]
    last = out.read_text()
    assert 'http-equiv="refresh"' not in last
    assert "step 2<" in last
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.integration
def test_a_finished_run_is_written_once(tmp_path: Path) -> None:
    finish(run := write_run(tmp_path / "run"))
    assert main(["report", str(run), "--watch", "--out", str(tmp_path / "page.html")]) == 0
    assert 'http-equiv="refresh"' not in (tmp_path / "page.html").read_text()


def make_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / ".environment.json.1234").write_text("{")


def begin(folder: Path) -> None:
    (folder / "environment.json").write_text("{}")


def make_log(folder: Path) -> None:
    (folder / "log.txt").write_text("loading")


@pytest.mark.integration
def test_a_run_that_has_not_begun_is_waited_for(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "page.html"
    happens: list[Callable[[Path], object]] = [lambda _: None, make_folder, make_log, begin, rmtree, write_run, finish]
    told: list[str] = []

    def wait(_: float) -> None:
        happens.pop(0)(run)
        assert out.exists() == (len(happens) < 3)  # the page of a run that begins, which has no metrics yet

    watch_report([run], out, every=7, wait=wait, tell=told.append)
    assert happens == []
    assert [line.split(":")[0] for line in told] == [f"waiting for {run}", "watching", f"waiting for {run}"]


def stop_at_once(_: Path) -> None:
    raise KeyboardInterrupt


# What happens at each wait, what Ctrl-C says then, and whether there is a page.
STOPS: list[tuple[list[Callable[[Path], object]], str, bool]] = [
    ([stop_at_once], r"^stopped waiting for \S+run, where no training has begun; no page was written$", False),
    ([make_folder, stop_at_once], "no page was written$", False),
    ([write_run, rmtree, stop_at_once], r"^stopped waiting for \S+run: it was taken away.*page.html shows the last that was there$", True),
]


@pytest.mark.parametrize(("happens", "says", "has_page"), STOPS)
def test_who_stops_waiting_is_told_what_there_is(
    tmp_path: Path, happens: list[Callable[[Path], object]], says: str, has_page: bool
) -> None:
    left = list(happens)
    with pytest.raises(Interrupted, match=says) as caught:
        watch_report([tmp_path / "run"], tmp_path / "page.html", every=7, wait=lambda _: left.pop(0)(tmp_path / "run"))
    assert "continues" not in str(caught.value)
    assert caught.value.exit_code == 130
    assert (tmp_path / "page.html").exists() == has_page


def test_ctrl_c_while_a_watch_waits_promises_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "osler", "report", str(tmp_path / "run"), "--watch", "--out", str(tmp_path / "page.html")]
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell makes what it runs in the background ignore Ctrl-C
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heeding) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("waiting for ")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, list(tmp_path.iterdir())) == (130, [])
    assert said == f"osler: stopped waiting for {tmp_path / 'run'}, where no training has begun; no page was written\n"


def stop_reading(root: Path, *, split: str | None = None) -> list[Any]:
    raise KeyboardInterrupt


def test_ctrl_c_while_a_page_is_made_leaves_the_old_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "stops" not in READERS:
        osler.register_reader("stops")(stop_reading)
    run, page = write_run(tmp_path / "run"), tmp_path / "page.html"
    write_report([run], page)
    before = page.read_text()
    (run / "config.json").write_text(json.dumps({"data": {"reader": "stops", "root": str(tmp_path)}}))
    assert main(["report", str(run), "--out", str(page)]) == 130
    assert capsys.readouterr().err == f"osler: interrupted before {page} was written; the same command begins with it anew\n"
    assert page.read_text() == before


ABSENT = [("no/run", "does not exist, nor does the folder"), ("others", "holds no run and no matrix"), ("file/run", "nor does the folder")]


@pytest.mark.parametrize(("name", "says"), ABSENT)
def test_what_cannot_become_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, says: str) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "notes.md").write_text("")
    (tmp_path / "file").write_text("")
    assert main(["report", str(tmp_path / name), "--watch", "--out", str(tmp_path / "page.html")]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("every", [0, 1, 3601])
def test_the_interval_is_bounded(tmp_path: Path, every: int) -> None:
    with pytest.raises(ConfigError, match="use 2 to 3600 seconds"):
        watch_report([write_run(tmp_path / "run")], tmp_path / "page.html", every=every)


def test_only_runs_are_watched(tmp_path: Path) -> None:
    (tmp_path / "matrix.json").write_text("{}")
    with pytest.raises(ConfigError, match="--watch takes folders of runs"):
        watch_report([tmp_path], tmp_path / "page.html", every=5, tell=pytest.fail)


def test_completions_are_bounded_and_a_resumed_run_replaces_its_later_ones(tmp_path: Path) -> None:
    kept = KeptCompletions(path=tmp_path / FILE, every=10)
    assert kept.is_due(0)
    for step in range(0, 10 * MAX_KEPT, 10):
        kept.keep(step, [written(step), written(step, 1)])
    assert not kept.is_due(step + 9)
    assert kept.is_due(step + 10)
    assert [one.step for one in read_kept(kept.path)] == [step for step in range(10 * MAX_KEPT // 2, 10 * MAX_KEPT, 10) for _ in range(2)]
    KeptCompletions(path=kept.path, every=10).keep(1500, [written(1500)])
    assert [one.step for one in read_kept(kept.path)][-2:] == [1490, 1500]
    assert not KeptCompletions(path=kept.path, every=0).is_due(0)


PICKED = [([], []), (["a", "a", "b", "b"], [0, 2]), (list("abcdef"), list(range(MAX_PER_STEP))), (["a"] * 8, [0]), (list("aba"), [0, 1])]


@pytest.mark.parametrize(("sample_ids", "places"), PICKED)
def test_completions_of_different_questions_are_picked(sample_ids: list[str], places: list[int]) -> None:
    assert pick(sample_ids) == places


ROWS = [EnumeratedRow(letter=letter, weight=weight) for letter, weight in (("A", 0.1), ("B", 0.3), ("B", 0.3), ("C", 0.25), (None, 0.0))]


def test_of_enumerated_answers_one_is_drawn_by_its_probability() -> None:
    ids = ["a"] * len(ROWS) + ["b"] * len(ROWS)
    drawn = Counter(place for seed in range(400) for place in pick(ids, ROWS * 2, str(seed)))
    assert drawn.total() == 800
    assert not {4, 9} & {*drawn}  # rows that stand for nothing
    for row in (0, 1, 2, 3):
        for place in (row, row + 5):
            share = ROWS[row].weight / 0.95
            assert abs(drawn[place] - 400 * share) < 4 * math.sqrt(400 * share * (1 - share))
    assert pick(ids, ROWS * 2, "7/3") == pick(ids, ROWS * 2, "7/3")
    assert answer_probabilities(ROWS) == pytest.approx({"A": 0.1, "B": 0.6, "C": 0.25})
    assert answer_probabilities([]) == {}


@pytest.mark.integration
def test_an_enumerated_training_keeps_answers_by_their_probabilities(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "data": {"reader": "phantom", "train": {"modalities": ["mri"], "limit": 24}},
        "prompt": {"strategy": "no_think"},
        "policy": {"path": "osler-tiny", "device": "cpu"},
        "grpo": {"num_generations": 4, "per_device_train_batch_size": 32, "max_steps": 3, "save_strategy": "no", "disable_tqdm": True},
        "trainer": {"expectation": "enumerated", "min_enumerated_mass": 0, "keep_completions_every": 1},
    }
    run = train_grpo(build_config(values), tmp_path / "run")
    kept = read_kept(run.completions)
    assert [one.step for one in kept] == [1] * 4 + [2] * 4 + [3] * 4
    for one in kept:
        (letter,) = (name for name in one.probabilities if f"<answer>{name}</answer>" == one.completion.strip())
        assert one.probabilities[letter] > 0.001
        assert 0.5 < sum(one.probabilities.values()) < 1.001
    assert len({one.completion for one in kept}) > 1  # the first of the rows is A for every question


@pytest.mark.parametrize("weight", [0.0, math.nan, math.inf])
def test_a_policy_without_probabilities_still_has_its_completions_kept(weight: float) -> None:
    assert pick(["a", "a"], [EnumeratedRow(letter="A", weight=weight)] * 2, "0") == [0]


FAULTS = [(ValueError("no login\nsee the manual"), "no login"), (ConnectionError(), "ConnectionError")]


@pytest.mark.parametrize(("fault", "why"), FAULTS)
def test_a_reporter_that_does_not_start_is_named(fault: Exception, why: str) -> None:
    def setup(*_: object, **__: object) -> None:
        raise fault

    with pytest.raises(ConfigError, match=rf"report_to: wandb does not start \({why}\): set it up, or leave it out$"):
        naming_reporter("wandb", setup)(None, model=None)


FOREIGN = [
    '{"step": 1}',
    '{"a": 1}',
    json.dumps({**asdict(written(1)), "probabilities": {"A": "x"}}),
    json.dumps({"step": "x", "rewards": {}, **dict.fromkeys(("sample_id", "prompt", "completion", "target"), "")}),
]


@pytest.mark.parametrize("line", FOREIGN)
def test_a_foreign_file_is_named(tmp_path: Path, line: str) -> None:
    run = write_run(tmp_path / "run")
    (run / FILE).write_text(line + "\n")
    with pytest.raises(DataError, match=r"completions.jsonl holds a line that is no completion"):
        load_runs([run])
