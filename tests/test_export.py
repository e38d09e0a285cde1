"""Exports are read back with `datasets` and graded by their helper files, which must agree with `osler.grade`."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import osler
from osler.cli.main import main
from osler.data.export.formats import FORMATS, encode_image, export
from osler.data.phantom import build_samples
from osler.errors import OslerError
from osler.images.files import ImageFile
from osler.prompts import render
from osler.taxonomy import Modality
from osler.types import Sample

SAMPLES = {split: build_samples(modality=Modality.MRI, split=split, seed=0, num_questions=3) for split in ("train", "test")}


def load(path: Path, tmp_path: Path) -> datasets.Dataset:
    kind = "parquet" if path.suffix == ".parquet" else "json"
    return datasets.load_dataset(kind, data_files={"x": str(path)}, cache_dir=str(tmp_path / "cache"))["x"]


def run_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def open_picture(image: Any, folder: Path) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.open(folder / image)


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("images", ["embed", "copy", "reference"])
def test_rows_say_what_the_samples_say(tmp_path: Path, to: str, images: Any) -> None:
    if images not in FORMATS[to].suffix:
        with pytest.raises(OslerError, match=f"{to} takes images as"):
            export(SAMPLES, tmp_path, to=to, strategy="think", images=images)
        return
    written = export({split: SAMPLES[split] for split in FORMATS[to].splits}, tmp_path, to=to, strategy="think", images=images)
    assert written.num_images == len({image for split in FORMATS[to].splits for sample in SAMPLES[split] for image in sample.images})
    for file, number in written.files.items():
        rows = load(tmp_path / file, tmp_path)
        assert rows.num_rows == number == 3
        for row, sample in zip(rows, SAMPLES[Path(file).stem], strict=True):
            facts = row.get("extra_info", row)
            choices = json.loads(facts["choices"]) if to == "easyr1" else facts["choices"]
            assert (facts["id"], tuple(choices), facts["modality"]) == (sample.id, sample.choices, "mri")
            text = {
                "verl": lambda row: row["prompt"][0]["content"],
                "ms_swift": lambda row: row["messages"][0]["content"],
                "easyr1": lambda row: row["problem"],
                "lmms_eval": lambda row: "<image>" + row["prompt"],
            }[to](row)
            assert text == "<image>" + render(sample, "think").text
            target = {"verl": lambda row: row["reward_model"]["ground_truth"], "ms_swift": lambda row: row["solution"]}
            target |= {"easyr1": lambda row: row["answer"], "lmms_eval": lambda row: row["target"]}
            assert target[to](row) == sample.target
            picture = open_picture(row["images"][0], tmp_path)
            assert picture.convert("RGB").tobytes() == sample.images[0].load().tobytes()
    assert not list(tmp_path.glob(".*"))


COMPLETIONS = ["<think>Bright.</think><answer>{right}</answer>", "<answer>{wrong}</answer>", "", "I cannot say.", "{right}"]


@pytest.mark.parametrize("completion", COMPLETIONS)
def test_helpers_grade_as_osler_does(tmp_path: Path, completion: str) -> None:
    sample = SAMPLES["test"][0]
    text = completion.format(right=sample.target, wrong="A" if sample.target != "A" else "B")
    verdict = osler.grade(text, choices=sample.choices, target=sample.target, strategy="think")
    expected = (float(verdict.outcome == "correct"), float(verdict.is_well_formed))
    for to in ("verl", "lmms_eval"):
        export({"test": [sample]}, tmp_path / to, to=to, strategy="think", name="mine")
    row = load(tmp_path / "verl" / "test.parquet", tmp_path)[0]
    found = run_file(tmp_path / "verl" / "reward.py").compute_score(
        row["data_source"], text, row["reward_model"]["ground_truth"], row["extra_info"]
    )
    assert (found["accuracy"], found["format"], found["score"]) == (*expected, sum(expected))
    helpers = run_file(tmp_path / "lmms_eval" / "utils.py")
    doc = load(tmp_path / "lmms_eval" / "test.parquet", tmp_path)[0]
    assert [picture.mode for picture in helpers.doc_to_visual(doc)] == ["RGB"]
    metrics = helpers.process_results(doc, [text])
    assert (metrics["accuracy"], metrics["well_formed"]) == expected


def test_task_file_names_what_is_there(tmp_path: Path) -> None:
    export({"test": SAMPLES["test"]}, tmp_path, to="lmms_eval", strategy="no_think", name="mine")

    class Loader(yaml.SafeLoader):
        """YAML with lmms-eval's function tag."""

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    task = yaml.load((tmp_path / "mine.yaml").read_text(), Loader)
    assert task["task"] == "mine"
    assert (tmp_path / task["dataset_kwargs"]["data_files"]["test"]).is_file()
    helpers = run_file(tmp_path / "utils.py")
    for key in ("doc_to_visual", "doc_to_text", "process_results"):
        assert callable(getattr(helpers, task[key].removeprefix("utils.")))
    metrics = helpers.process_results(load(tmp_path / "test.parquet", tmp_path)[0], [""])
    assert {entry["metric"] for entry in task["metric_list"]} == set(metrics)


@pytest.mark.parametrize("images", ["copy", "embed"])
def test_easyr1_finds_what_its_settings_name(tmp_path: Path, images: Any) -> None:
    """Every key of easyr1.yaml names a column of the rows, and batches of questions with two and four choices can be concatenated."""
    two, four = SAMPLES["train"][0], SAMPLES["test"][0]
    two = replace(two, choices=two.choices[:2], target="A")
    export({"train": [two, two], "test": [four, two]}, tmp_path, to="easyr1", strategy="think", images=images)
    said = yaml.safe_load((tmp_path / "easyr1.yaml").read_text())["data"]
    batches = []
    for file in (said["train_files"], said["val_files"]):
        rows = list(load(tmp_path / file, tmp_path))
        for row in rows:
            (image,) = row.pop(said["image_key"])
            with open_picture(image, tmp_path / said["image_dir"]) as picture:
                assert picture.size == two.images[0].load().size
            assert row.pop(said["prompt_key"]).count("<image>") == 1
            assert row.pop(said["answer_key"]) in "ABCD"
        batches.append({key: np.array([row[key] for row in rows], dtype=object) for key in rows[0]})
    for key in batches[0]:
        assert np.concatenate([batch[key] for batch in batches], axis=0).shape == (4,)
    assert said["format_prompt"] is None


def test_files_are_referenced_where_every_tool_shows_them_alike(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "exports" / "one"
    root.mkdir()
    picture = Image.effect_noise((40, 30), 60)
    picture.save(root / "plain.png")
    picture.convert("RGB").save(root / "plain.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.convert("RGB").save(root / "turned.jpg", exif=turned)
    Image.new("I;16", (40, 30), 4000).save(root / "deep.png")
    picture.convert("LA").save(root / "clear.png")
    picture.save(root / "scan.tif")
    names = ["plain.png", "plain.jpg", "turned.jpg", "deep.png", "clear.png", "scan.tif"]
    samples = [
        Sample(
            id=f"t/{name}",
            dataset="t",
            images=(ImageFile(root=root, path=name),),
            question="?",
            choices=("CT", "MRI"),
            target="A",
            modality=None,
            question_type=None,
        )
        for name in names
    ]
    written = export({"train": samples}, out, to="ms_swift", strategy="no_think", images="reference")
    assert (written.num_references, written.num_images) == (2, 4)
    places = [json.loads(line)["images"][0] for line in (out / "train.jsonl").read_text().splitlines()]
    assert places[:2] == ["../../data/plain.png", "../../data/plain.jpg"]
    for sample, place in zip(samples, places, strict=True):
        assert Image.open(out / place).convert("RGB").tobytes() == sample.images[0].load().tobytes()
    assert encode_image(samples[0].images[0]) == ((root / "plain.png").read_bytes(), "png")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=st.text(min_size=1), choice=st.text(min_size=1))
def test_any_text_travels_or_is_refused(tmp_path: Path, question: str, choice: str) -> None:
    first = SAMPLES["train"][0]
    sample = Sample(
        id="t/0", dataset="t", images=(), question=question, choices=(choice, "CT"), target="A", modality=None, question_type=None
    )
    try:
        export({"train": [sample, first]}, tmp_path, to="easyr1", strategy="think")
    except OslerError:
        return  # an OslerError is one line
    row = json.loads((tmp_path / "train.jsonl").read_bytes().split(b"\n")[0])
    assert (row["question"], json.loads(row["choices"])) == (question, [choice, "CT"])


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("unknown format", {"to": "trl"}, "unknown format 'trl'"),
    ("a name with a path", {"to": "verl", "name": "../x"}, "cannot name a task"),
    ("unknown strategy", {"to": "verl", "strategy": "shout"}, "unknown strategy 'shout'"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD, ids=[row[0] for row in BAD])
def test_bad_exports(tmp_path: Path, name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OslerError, match=message):
        export(SAMPLES, tmp_path / "out", **{"strategy": "think", **options})


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path, to: str) -> None:
    first = SAMPLES["test"][0]
    broken = Sample(
        id="t/1",
        dataset="t",
        images=(ImageFile(root=tmp_path, path="absent.png"),),
        question="Is <video> shown?",
        choices=("yes", "no"),
        target="A",
        modality=None,
        question_type=None,
    )
    with pytest.raises(OslerError, match=r"t/1 holds <video> in its text"):
        export({"test": [first, broken]}, tmp_path / "out", to=to, strategy="think")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".") or path.suffix in (".jsonl", ".parquet")]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "--to", "verl", "--data.reader=phantom", "--data.train.limit=4", "--splits", "train", "--json"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["rows"] == {"train.parquet": 4}
    row = load(tmp_path / "out" / "train.parquet", tmp_path)[0]
    assert row["data_source"] == "osler/phantom"
    assert main([*words, "--out", "/dev/null/x"]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.integration
def test_helpers_need_no_torch() -> None:
    """The helper files can run where torch is not installed."""
    code = "import sys, osler; osler.grade('A', choices=('x', 'y'), target='A', strategy='zero_shot'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
