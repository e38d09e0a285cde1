"""An evaluation in parts: the joined records are those of one process, byte for byte."""

from dataclasses import replace
from pathlib import Path

import pytest

from osler.cli.main import main
from osler.config import load_config
from osler.errors import ConfigError, DataError
from osler.evaluation.run import evaluate, prepare
from osler.evaluation.shards import Shard, evaluate_shard, join_shards, parse_shard, plan_shards, shard_file

SMALL = (
    "--data.test.limit=40",
    "--eval.batch_size=2",  # chunks of 16 questions
    "--eval.max_completion_length=12",
    "--policy.device=cpu",
)
VOTES = ("--eval.num_votes=2", "--eval.option_probabilities=true")


@pytest.mark.parametrize(
    ("num_questions", "num_shards", "expected"),
    [
        (40, 1, ["0:40"]),
        (40, 2, ["0:16", "16:40"]),
        (40, 3, ["0:16", "16:32", "32:40"]),
        (40, 9, ["0:16", "16:32", "32:40"]),
        (16, 4, ["0:16"]),
        (160, 3, ["0:48", "48:96", "96:160"]),
        (1, 5, ["0:1"]),
    ],
)
def test_shards_are_whole_chunks(num_questions: int, num_shards: int, expected: list[str]) -> None:
    assert [str(shard) for shard in plan_shards(num_questions, 16, num_shards)] == expected


@pytest.mark.parametrize("text", ["", "16", "0:0", "16:0", "-16:0", "0:16:32", "a:b", "0:1e3"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(ConfigError, match="write START:STOP"):
        parse_shard(text)


@pytest.mark.integration
@pytest.mark.parametrize("votes", [(), VOTES], ids=["greedy", "votes"])
def test_joined_records_are_those_of_one_process(tmp_path: Path, votes: tuple[str, ...]) -> None:
    config = load_config("demo", [*SMALL, "--data.test.limit=24", *votes])
    whole = evaluate(config, tmp_path / "whole").path
    task, shards = prepare(config, None, "eval"), plan_shards(24, 16, 2)
    evaluate_shard(config, tmp_path / "parts", shards[1])
    with pytest.raises(DataError, match="is not complete"):
        join_shards(task, tmp_path / "parts", "eval", shards)
    first = evaluate_shard(config, tmp_path / "parts", shards[0])
    kept = first.read_bytes()
    first.write_bytes(kept[:-100])  # killed in the middle of a line
    assert evaluate_shard(config, tmp_path / "parts", shards[0]).read_bytes() == kept
    changed = replace(task, terms={**task.terms, "policy": "trained again"})
    with pytest.raises(ConfigError, match="other policy"):
        join_shards(changed, tmp_path / "parts", "eval", shards)
    joined = join_shards(task, tmp_path / "parts", "eval", shards)
    for suffix in (".jsonl", ".terms.json"):
        assert joined.with_suffix(suffix).read_bytes() == whole.with_suffix(suffix).read_bytes()


@pytest.mark.parametrize("shard", [Shard(start=8, stop=24), Shard(start=0, stop=20), Shard(start=32, stop=48)])
def test_a_shard_of_no_whole_chunks_is_refused(tmp_path: Path, shard: Shard) -> None:
    config = load_config("demo", ["--data.test.limit=40", "--eval.batch_size=2"])
    with pytest.raises(ConfigError, match="begin and end at multiples of 16, or end at 40"):
        evaluate_shard(config, tmp_path, shard)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shards", "0"], "--shards 0: use 1 or more"),
        (["--shards", "2", "--ablation", "blank"], "--shards answers the questions as they are"),
        (["--shards", "2", "--eval.engine=openai", "--eval.base_url=http://127.0.0.1:1/v1"], "leave --shards out"),
        (["--launcher", "ray"], "--launcher ray runs the jobs of --shards"),
        (["--shard", "3"], "write START:STOP"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "demo", "--out", str(tmp_path / "run"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_shards_on_the_command_line(tmp_path: Path) -> None:
    assert main(["eval", "demo", "--out", str(tmp_path / "whole"), *SMALL]) == 0
    assert main(["eval", "demo", "--out", str(tmp_path / "parts"), "--shards", "2", *SMALL]) == 0
    assert (tmp_path / "whole/records/eval.jsonl").read_bytes() == (tmp_path / "parts/records/eval.jsonl").read_bytes()
    assert not shard_file(tmp_path / "parts", "eval", Shard(start=0, stop=16)).exists()
