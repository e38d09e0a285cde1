"""The page of a training that runs: what is kept, what is shown, and when watching ends."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from osler.cli.main import main
from osler.config import load_config
from osler.data.select import load_split
from osler.errors import ConfigError, DataError
from osler.reports.load_runs import load_runs
from osler.reports.make import write_report
from osler.reports.watch import watch_report
from osler.training.kept_completions import FILE, MAX_KEPT, MAX_PER_STEP, KeptCompletion, KeptCompletions, pick, read_kept

CONFIG = load_config(None, ("--data.reader=phantom", "--data.train.limit=8", "--data.test.limit=8"))
SAMPLES = load_split(CONFIG.data, "train")


def written(step: int, place: int = 0) -> KeptCompletion:
    rewards = {"accuracy": step / 100, "format": None}
    return KeptCompletion(
        step=step, sample_id=SAMPLES[place].id, prompt="Which <b>?", completion=f"<answer>{step}</answer>", target="B", rewards=rewards
    )


def write_run(folder: Path, steps: int = 3) -> Path:
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
        kept.keep(step, [written(step, place) for place in range(2)])
    return folder


def test_the_page_of_a_training_that_runs_has_curves_and_completions_with_images(tmp_path: Path) -> None:
    write_report([write_run(tmp_path / "run")], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count('<img src="data:image/png') == 6
    assert page.index("step 2<") < page.index("step 1<") < page.index("step 0<")
    assert "&lt;answer&gt;2&lt;/answer&gt;" in page
    assert "Which &lt;b&gt;?" in page
    assert all(title in page for title in ("Entropy of the next token", "Expected reward", "Reward over", "accuracy 0.02"))
    assert 'http-equiv="refresh"' not in page


def test_a_page_of_several_runs_has_no_completions(tmp_path: Path) -> None:
    write_report([write_run(tmp_path / "a"), write_run(tmp_path / "b")], tmp_path / "page.html")
    assert "Completions during training" not in (tmp_path / "page.html").read_text()


def finish(folder: Path) -> None:
    (folder / "policy").mkdir()


def interrupt(_: Path) -> None:
    raise KeyboardInterrupt


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


def test_a_finished_run_is_written_once(tmp_path: Path) -> None:
    finish(run := write_run(tmp_path / "run"))
    assert main(["report", str(run), "--watch", "--out", str(tmp_path / "page.html")]) == 0
    assert 'http-equiv="refresh"' not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("every", [0, 1, 3601])
def test_the_interval_is_bounded(tmp_path: Path, every: int) -> None:
    with pytest.raises(ConfigError, match="use 2 to 3600 seconds"):
        watch_report([write_run(tmp_path / "run")], tmp_path / "page.html", every=every)


def test_only_runs_are_watched(tmp_path: Path) -> None:
    (tmp_path / "matrix.json").write_text("{}")
    with pytest.raises(ConfigError, match="--watch takes folders of runs"):
        watch_report([tmp_path], tmp_path / "page.html", every=5)


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


PICKED = [([], []), (["a", "a", "b", "b"], [0, 2]), (list("abcdef"), list(range(MAX_PER_STEP))), (["a"] * 8, [0])]


@pytest.mark.parametrize(("sample_ids", "places"), PICKED)
def test_completions_of_different_questions_are_picked(sample_ids: list[str], places: list[int]) -> None:
    assert pick(sample_ids) == places


FOREIGN = [
    '{"step": 1}',
    '{"a": 1}',
    json.dumps({"step": "x", "rewards": {}, **dict.fromkeys(("sample_id", "prompt", "completion", "target"), "")}),
]


@pytest.mark.parametrize("line", FOREIGN)
def test_a_foreign_file_is_named(tmp_path: Path, line: str) -> None:
    run = write_run(tmp_path / "run")
    (run / FILE).write_text(line + "\n")
    with pytest.raises(DataError, match=r"completions.jsonl holds a line that is no completion"):
        load_runs([run])
