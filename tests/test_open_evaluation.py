"""An evaluation of open questions from the data to the figures, with prepared completions."""

import json
from pathlib import Path

import pytest
from PIL import Image

from osler.cli.eval import evaluation_to_json, print_evaluation
from osler.config import build_config
from osler.evaluation.run import evaluate

BLIND = ("Option prior", "Question prior", "Nearest question")
TRAIN = ["Liver", "Liver", "Spleen"]
TEST = [
    # target, completion
    ("Liver", "<answer>It is probably the liver.</answer>"),
    ("Left lung", "<answer>right lung</answer>"),
    ("Pleural effusion", "<answer>small pleural effusion</answer>"),
    ("2 cm", "<answer>20 mm</answer>"),
]


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_open_questions_have_figures_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        Image.new("RGB", (32, 32), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    rows = [("train", TRAIN), ("test", [target for target, _ in TEST])]
    for split, targets in rows:
        write(
            tmp_path / f"{split}.jsonl",
            [
                {"id": f"toy/{split}{number}", "dataset": "toy", "images": [f"{number}.png"], "question": "What is it?", "target": target}
                for number, target in enumerate(targets)
            ],
        )
    script = [{"sample_id": f"toy/test{number}", "completion": text} for number, (_, text) in enumerate(TEST)]
    write(tmp_path / "script.jsonl", script)
    config = build_config(
        {
            "data": {"reader": "jsonl", "root": str(tmp_path)},
            "prompt": {"strategy": "no_think"},
            "eval": {"engine": "scripted", "script": str(tmp_path / "script.jsonl")},
        }
    )
    result = evaluate(config, tmp_path / "run")
    print_evaluation(result)
    figures = evaluation_to_json(result)
    assert [record.rule.rpartition(".")[2] for record in result.records] == ["rephrased", "side", "undecided", "number"]
    assert (figures["open"]["questions"], figures["open"]["accuracy"]["value"], figures["open"]["undecided"]) == (4, 0.5, 0.25)
    assert figures["open"]["blind"] == 0.25  # "Liver" for every question
    assert figures["image_gain"]["value"] == 0.25
    assert {title: row["right"]["value"] for title, row in figures["open"]["baselines"].items()} == dict.fromkeys(BLIND, 0.25)
    assert (figures["open"]["wrong"], figures["open"]["unread"]) == (0.25, 0.0)
    assert figures["open"]["rouge_l"]["value"] <= figures["open"]["token_f1"]["value"] < 0.5
    assert json.dumps(figures["open"])
    assert "Undecided open answers, which count as not correct: eval 25.0 %" in capsys.readouterr().out
