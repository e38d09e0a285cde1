"""The image gain of a training: pooled over the last questions, with an interval, and drawn so that eight questions look like eight."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from osler.metrics.clusters import clustered_difference, clustered_mean
from osler.reports.load_runs import load_runs
from osler.reports.make import write_report
from osler.training.image_gain import Compared, estimate_gain, pool_gains
from osler.training.rollout_figures import HELD_OUT, Answered, describe_blank


def ask(step: int, outcomes: str, different: int | None = HELD_OUT) -> dict[str, Any]:
    """A line of metrics. Each letter is a question: b right both ways, p with its image, g with a grey one, n neither, u unread."""
    right = Answered(text="A", answer="A", is_correct=True, target="A")
    wrong = Answered(text="B", answer="B", is_correct=False, target="A")
    unread = Answered(text="", answer=None, is_correct=False, target="A")
    pairs = {"b": (right, right), "p": (right, wrong), "g": (wrong, right), "n": (wrong, wrong), "u": (unread, wrong)}
    return {"step": step, "time_s": step, "reward": 0.5, **describe_blank([pairs[one] for one in outcomes], different)}


def newcombe(outcomes: str) -> Any:
    plain, blank = ([float(one in right) for one in outcomes] for right in ("bp", "bg"))
    return clustered_difference(clustered_mean(plain, range(len(plain))), clustered_mean(blank, range(len(blank))))


LINES = ["ppppnnnn", "pbbbnnnn", "bgnnnnnn", "uuuupppp", "bbbbbbbb", "pppppppp", "gggggggg", "pppnnnnn"]


def test_the_last_questions_are_pooled() -> None:
    gains = pool_gains([ask(5 * number + 1, line) for number, line in enumerate(LINES)])
    assert [one.step for one in gains] == [1, 6, 11, 16, 21, 26, 31, 36]
    assert [one.num_questions for one in gains] == [8, 8, 8, 4, 8, 8, 8, 8]
    assert [one.num_pooled for one in gains] == [8, 16, 24, 28, 36, 44, 44, 44]
    for number, one in enumerate(gains, start=1):
        read = "".join(LINES[max(0, number - 6) : number]).replace("u", "")
        assert one.gain == newcombe(read)


WINDOWS: list[tuple[list[dict[str, Any]], list[int]]] = [
    ([], []),
    ([{"step": 1, "reward": 1.0}], []),
    ([ask(step, "pn" * 4, 8) for step in (1, 2, 3)], [8, 8, 8]),  # the same eight again
    ([ask(step, "pn" * 4, 20) for step in (1, 2, 3)], [8, 16, 16]),
    ([ask(step, "pn" * 4, None) for step in range(1, 9)], [8, 16, 24, 32, 40, 48, 48, 48]),
    ([ask(1, "p" * 60, None), ask(2, "pn")], [60, 2]),
    ([{key: value for key, value in ask(1, "pn").items() if "both" not in key}], []),
    ([{**ask(1, "pn"), "blank_image/questions": value} for value in (math.nan, math.inf, -3, 0, 1e12, "8", None)], []),
    ([{**ask(1, "pn"), "blank_image/accuracy_both": value} for value in (math.nan, 1.0, -1, 2)], []),
    ([{**ask(1, "pb"), "blank_image/accuracy_blank": 1.0, "blank_image/accuracy_both": 1.0}], [2]),
    ([{**ask(1, "pb"), "blank_image/accuracy_blank": 1.0, "blank_image/accuracy_both": 0.0}], []),
    ([{**ask(1, "pn"), "step": None}], []),
]


@pytest.mark.parametrize(("lines", "sizes"), WINDOWS)
def test_no_question_is_pooled_twice_and_foreign_lines_are_left_out(lines: list[dict[str, Any]], sizes: list[int]) -> None:
    assert [one.num_pooled for one in pool_gains(lines)] == sizes


def test_the_interval_of_eight_questions_is_wide() -> None:
    gain = estimate_gain([Compared(num_questions=8, plain=5, blank=4, both=4)])
    assert gain.value == pytest.approx(0.125)
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low < 0 < gain.high
    assert gain.high - gain.low > 0.3


def write_run(folder: Path, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


OLD = {"blank_image/questions": 8.0, "blank_image/accuracy": 0.5, "blank_image/accuracy_blank": 0.25, "blank_image/gain": 0.25}
PAGES: list[tuple[list[dict[str, Any]], tuple[str, ...]]] = [
    (
        [ask(step, "ppbn" * 2) for step in range(1, 9)],
        ("A faint point has 8 questions", "together, 48 at most", "percentage points in the last 48"),
    ),
    ([ask(1, "ppbn" * 2), ask(2, "ppbu" * 2)], ("A faint point has 6 to 8 questions", "together, 14 at most")),
    ([{"step": step, **OLD} for step in (1, 2)], ("there is no interval",)),
]


@pytest.mark.parametrize(("lines", "said"), PAGES)
def test_the_figure_says_how_many_questions_it_rests_on(tmp_path: Path, lines: list[dict[str, Any]], said: tuple[str, ...]) -> None:
    run = write_run(tmp_path / "run", lines)
    write_report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("Image gain: accuracy less that with a blank image</h3>") == 1
    assert [text for text in said if text not in page] == []


def test_several_runs_share_a_figure(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, [ask(step, "ppbn" * 2) for step in (1, 2)]) for name in "abcd"]
    write_report(runs, tmp_path / "page.html")
    assert "d +50.0 [" in (tmp_path / "page.html").read_text()
    assert all(len(run.gains) == 2 for run in load_runs(runs))
