"""Splits on disk: what `osler split` writes, what a recipe makes of it, and every way in which data can have changed since."""

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from osler.cli.main import main
from osler.cli.split import describe_split
from osler.config import DataConfig, build_config
from osler.data.readers import read
from osler.data.select import load_split
from osler.data.splits.make import SplitOptions, SplitReport, split_dataset
from osler.data.splits.manifest import Entry, Manifest, load_manifest
from osler.errors import OslerError
from osler.types import Sample

KINDS = [("mri", "disease_diagnosis"), ("ct", "lesion_grading"), ("mri", "lesion_grading"), ("ct", "modality_recognition")]


def row(index: int, **changes: Any) -> dict[str, Any]:
    modality, question_type = KINDS[index % 4]
    values = {
        "id": f"own/{index}",
        "images": [f"{index // 3}.png"],
        "messages": [{"role": "user", "content": "What is it?"}],
        "choices": ["CT", "MRI"],
        "target": "AB"[index // 2 % 2],
        "modality": modality,
        "question_type": question_type,
    }
    return {**values, **changes}


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 questions on 20 pictures: number 1 is a copy of 0, number 3 a small JPEG-like copy of 2; 4 and 5 are of one subject."""
    rng = np.random.default_rng(0)
    for index in range(20):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 6), dtype=np.uint8))
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / f"{index}.png")
    shutil.copy(tmp_path / "0.png", tmp_path / "1.png")
    Image.open(tmp_path / "2.png").resize((48, 48)).save(tmp_path / "3.png")
    write_rows(tmp_path, [row(index, **({"subject_id": "p"} if index // 3 in (4, 5) else {})) for index in range(60)])
    return tmp_path


def split(folder: Path, *options: str) -> int:
    return main(["split", "--data.reader=jsonl", f"--data.root={folder / 'rows.jsonl'}", "--out", str(folder / "split.json"), *options])


def data(folder: Path, **changes: Any) -> DataConfig:
    values = {"reader": "jsonl", "root": str(folder / "rows.jsonl"), "manifest": str(folder / "split.json"), **changes}
    return build_config({"data": values}).data


def test_manifest_keeps_apart_what_belongs_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert split(folder, "--json", "--test", "0.3") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["groups"], result["largest_group"], result["images"], result["images_at_hand"]) == (17, 6, 20, 20)
    manifest = load_manifest(folder / "split.json")
    assert result["digest"] == manifest.digest() == json.loads((folder / "split.json").read_text())["digest"]
    side = {entry.id: entry.split for entry in manifest.samples}
    for together in ((0, 1, 2, 3, 4, 5), (6, 7, 8, 9, 10, 11), (12, 13, 14, 15, 16, 17)):
        assert len({side[f"own/{index}"] for index in together}) == 1
    assert str(folder) not in (folder / "split.json").read_text()


def test_recipe_uses_the_manifest(folder: Path) -> None:
    split(folder, "--test", "0.3")
    train, test = load_split(data(folder), "train"), load_split(data(folder), "test")
    assert {sample.id for sample in train} | {sample.id for sample in test} == {f"own/{index}" for index in range(60)}
    assert not {sample.id for sample in train} & {sample.id for sample in test}
    narrow = data(folder, train={"modalities": ["ct"], "limit": 5}, test={"question_types": ["lesion_grading"]})
    assert {sample.modality for sample in load_split(narrow, "train")} == {"ct"}
    assert len(load_split(narrow, "train")) == 5
    assert {sample.question_type for sample in load_split(narrow, "test")} == {"lesion_grading"}
    assert {sample.id for sample in load_split(narrow, "test")} < {sample.id for sample in test}


def test_same_split_gives_the_same_bytes(folder: Path) -> None:
    split(folder)
    first = (folder / "split.json").read_bytes()
    assert split(folder) == 0
    assert (folder / "split.json").read_bytes() == first
    assert split(folder, "--seed", "1") == 2
    assert split(folder, "--seed", "1", "--fresh") == 0
    assert (folder / "split.json").read_bytes() != first


def edit(**changes: Any) -> Callable[[Path], None]:
    """Change one row of the data."""

    def apply(folder: Path) -> None:
        write_rows(
            folder, [row(index, **({"subject_id": "p"} if index // 3 in (4, 5) else {})) for index in range(59)] + [row(59, **changes)]
        )

    return apply


def lose(folder: Path) -> None:
    write_rows(folder, [row(index) for index in range(59)])


def add(folder: Path) -> None:
    with (folder / "rows.jsonl").open("a") as stream:
        stream.write("\n" + json.dumps(row(60, images=["0.png"])))


def edit_manifest(key: str, value: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        values = json.loads((folder / "split.json").read_text())
        (folder / "split.json").write_text(json.dumps({**values, key: value}))

    return apply


def leave(folder: Path) -> None:
    pass


def repaint(folder: Path) -> None:
    for index in range(20):
        Image.new("L", (64, 64), index).save(folder / f"{index}.png")


CHANGED: list[tuple[str, Callable[[Path], None], dict[str, Any], str]] = [
    ("question", edit(messages=[{"role": "user", "content": "What is this?"}]), {}, r"own/59 is not what it was .* restore the data"),
    ("target", edit(target="A"), {}, "own/59 is not what it was"),
    ("choices", edit(choices=["CT", "PET"]), {}, "own/59 is not what it was"),
    ("label", edit(modality="oct"), {}, "own/59 is not what it was"),
    ("other image", edit(images=["0.png"]), {}, "own/59 is not what it was"),
    ("unknown image", edit(images=["99.png"]), {}, r"own/59 has the image '99.png', which is not in"),
    ("missing", lose, {}, r"own/59 is in .* but not in the data \(1 are missing\)"),
    ("additional", add, {}, "own/60 is not in"),
    ("repainted", repaint, {}, r"own/\d+: the image '\d+.png' has changed since"),
    ("image gone", lambda folder: [path.unlink() for path in folder.glob("*.png")], {}, "is not at hand since"),
    ("edited manifest", edit_manifest("seed", 5), {}, "was changed after it was made"),
    ("newer manifest", edit_manifest("version", 9), {}, "version 9, this is for 1"),
    ("damaged manifest", edit_manifest("samples", [{"id": 1}]), {}, r"damaged manifest \(samples"),
    ("not a manifest", edit_manifest("format", "other"), {}, "is no manifest"),
    ("no file", lambda folder: (folder / "split.json").unlink(), {}, "does not exist: make it with osler split"),
    ("no JSON", lambda folder: (folder / "split.json").write_text("{"), {}, "not JSON"),
    ("a folder", leave, {"manifest": "."}, "cannot be read"),
    ("other reader", leave, {"reader": "phantom"}, "a manifest of reader 'jsonl', .data. has 'phantom'"),
    ("unknown split", leave, {"train": {"split": "validation"}}, "has no split 'validation': it has train, test"),
    ("empty cell", leave, {"train": {"modalities": ["oct"]}}, "selects nothing"),
]


@pytest.mark.parametrize(("name", "change", "options", "message"), CHANGED, ids=[row[0] for row in CHANGED])
def test_changed_data_stop_in_one_line(
    folder: Path, name: str, change: Callable[[Path], None], options: dict[str, Any], message: str
) -> None:
    split(folder)
    change(folder)
    with pytest.raises(OslerError, match=message) as caught:
        load_split(data(folder, **options), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--test", "0"), "add up to 1"),
        (("--test", "0.7", "--validation", "0.4"), "add up to 1"),
        (("--test", "nan"), "add up to 1"),
        (("--distance", "17"), "use 0 to 16"),
        (("--protocol", "medvlm_r1"), "the protocol takes 600 mri questions"),
        (("--data.colour=red",), "unknown option 'colour'"),
    ],
)
def test_bad_splits(folder: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str) -> None:
    assert split(folder, *options) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("osler:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (folder / "split.json").exists()


def test_phantoms_are_a_fixed_set(tmp_path: Path) -> None:
    out = tmp_path / "phantom.json"
    options = ["--data.reader=phantom", "--data.num_questions=8", '--data.modalities=["mri","ct"]']
    assert main(["split", *options, "--out", str(out)]) == 0
    recipe = build_config({"data": {"reader": "phantom", "manifest": str(out), "train": {"limit": 10}}})
    assert len(load_split(recipe.data, "train")) == 10


def test_narrower_reader_options_choose_within_the_manifest(tmp_path: Path) -> None:
    """A recipe of one modality file works with the manifest of all of them."""
    root = Path(__file__).parent / "fixtures" / "med_r1"
    if not root.is_dir():
        pytest.skip("the fixture of this layout has another name")
    out = tmp_path / "m.json"
    assert main(["split", "--data.reader=med_r1", f"--data.root={root}", "--test", "0.5", "--out", str(out)]) == 0
    both: list[Sample] = []
    for which in ("train", "test"):
        config = build_config({"data": {"reader": "med_r1", "root": str(root), "manifest": str(out), which: {"name": "ct"}}})
        try:
            both += load_split(config.data, which)  # type: ignore[arg-type]
        except OslerError as error:
            assert "selects nothing" in str(error)  # noqa: PT017 - so few rows may all be on one side
    assert {sample.id for sample in both} == {sample.id for sample in read("med_r1", root, name="ct", split="all")}


CHAINS: list[tuple[str, int, int, str | None]] = [
    # name, questions in the largest group, the same without perceptual hashes, warning
    ("as it is", 40, 20, None),
    ("a tenth", 100, 1, None),
    ("a chain", 300, 10, "warning: 30% of the questions hang together"),
    ("one patient has so many", 300, 280, None),
]


@pytest.mark.parametrize(("name", "largest", "plain", "warning"), CHAINS, ids=[row[0] for row in CHAINS])
def test_a_chain_of_near_duplicates_is_told(name: str, largest: int, plain: int, warning: str | None) -> None:
    manifest = Manifest(
        reader="own",
        options={},
        data_seed=0,
        protocol="fractions",
        seed=0,
        max_distance=12,
        fractions={"train": 0.8, "test": 0.2},
        num_groups=1,
        counts={"train": {}},
        images={},
        samples=tuple(Entry(id=f"own/{i}", split="train", group=0 if i < 1000 else None, sha256="") for i in range(1100)),
    )
    report = SplitReport(manifest=manifest, num_images=0, num_known_images=0, largest_group=largest, largest_plain_group=plain)
    last = describe_split(report).splitlines()[-1]
    assert last.startswith("warning") is (warning is not None)
    assert warning is None or (last.startswith(warning) and last.endswith("give a --distance below 12"))


def test_turned_copies_stay_together(tmp_path: Path) -> None:
    def draw(seed: int) -> Image.Image:
        blobs = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8))
        return blobs.resize((64, 64), Image.Resampling.BICUBIC)

    rows = []
    for number in range(6):
        picture = draw(number)
        other = picture.transpose(Image.Transpose.ROTATE_90) if number < 2 else draw(10 + number)
        for name, shown in ((f"{number}-one", picture), (f"{number}-other", other)):
            shown.save(tmp_path / f"{name}.png")
            rows.append({"id": name, "image": f"{name}.png", "question": "What?", "choices": ["a", "b"], "answer": "a"})
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = DataConfig(reader="jsonl", root=str(tmp_path / "all.jsonl"))
    for has_images, num_groups, line in ((True, 10, "4 images are turned or mirrored copies of others"), (False, 12, "")):
        report = split_dataset(data, SplitOptions(fractions={"train": 0.5, "test": 0.5}, has_images=has_images))
        assert report.manifest.num_groups == num_groups
        assert line in describe_split(report)
        assert ("cropped copies are not looked for" in describe_split(report)) == has_images


@pytest.mark.parametrize(("distance", "is_warned"), [(4, False), (16, True)])
def test_pictures_that_only_resemble_each_other_are_told(distance: int, is_warned: bool) -> None:
    """Forty drawings of one organ: at the default none is tied to most others, at the largest distance half of them are."""
    data = DataConfig(reader="phantom", options={"modalities": ["oct"], "num_questions": 60, "size": 56})
    report = split_dataset(data, SplitOptions(fractions={"train": 0.8, "test": 0.2}, max_distance=distance))
    assert ("warning: " in describe_split(report)) is is_warned
    assert report.largest_plain_group <= report.largest_group


def real(name: str) -> Path:
    folder = os.environ.get("OSLER_TEST_DATA")
    if not folder:
        pytest.skip("OSLER_TEST_DATA does not name the folder of the datasets")
    return Path(folder) / name


@pytest.mark.integration
@pytest.mark.parametrize(
    ("reader", "options"),
    [
        ("slake", {}),
        pytest.param("slake", {"language": "all"}, marks=pytest.mark.slow),  # the same images, with twice as many questions
        ("vqa_rad", {}),
    ],
)
def test_real_images_do_not_leak(tmp_path: Path, reader: str, options: dict[str, str]) -> None:
    """File bytes compared as they are, pictures by correlation of small copies: nothing of the splitter's own."""
    root, out = real(reader), tmp_path / "m.json"
    words = [f"--data.{key}={value}" for key, value in options.items()]
    assert main(["split", f"--data.reader={reader}", f"--data.root={root}", *words, "--out", str(out)]) == 0
    sides: dict[str, list[Sample]] = defaultdict(list)
    split_of = {entry["id"]: entry["split"] for entry in json.loads(out.read_text())["samples"]}
    for sample in read(reader, root, split="all", **options):
        sides[split_of[sample.id]].append(sample)
    assert len(sides["test"]) / sum(map(len, sides.values())) == pytest.approx(0.2, abs=0.02)
    paths = {side: sorted({source.root / source.path for s in found for source in s.images}) for side, found in sides.items()}  # type: ignore[attr-defined]
    contents = {side: {path.read_bytes() for path in found} for side, found in paths.items()}
    assert not contents["train"] & contents["test"]
    subjects = {side: {sample.subject_id for sample in found if sample.subject_id} for side, found in sides.items()}
    assert not subjects["train"] & subjects["test"]
    small = {side: np.stack([shrink(path) for path in found]) for side, found in paths.items()}
    assert (small["train"] @ small["test"].T).max() < 0.9999
    assert Counter(sample.modality for sample in sides["test"]).keys() == Counter(sample.modality for sample in sides["train"]).keys()


def shrink(path: Path) -> np.ndarray:
    """A picture as a unit vector of 24 x 24 grey values around their mean."""
    values = np.asarray(Image.open(path).convert("L").resize((24, 24), Image.Resampling.BOX), dtype=float).ravel()
    values -= values.mean()
    return values / np.linalg.norm(values)


@pytest.mark.integration
def test_real_case_names_do_not_leak(tmp_path: Path) -> None:
    """Patients of two sources whose names say them, read by expressions of this test's own."""
    import re

    root, out = real("omnimedvqa_splits"), tmp_path / "m.json"
    assert main(["split", "--data.reader=med_r1", f"--data.root={root}", "--data.name=xray", "--images", "none", "--out", str(out)]) == 0
    split_of = {entry["id"]: entry["split"] for entry in json.loads(out.read_text())["samples"]}
    sides: dict[str, set[str]] = defaultdict(set)
    for sample in read("med_r1", root, name="xray", split="all"):
        uri = sample.images[0].uri
        sides[split_of[sample.id]] |= {uri, *re.findall(r"patient\d{5}|MIDRC-RICORD-1C-\w+?-\d{6}", uri)}
    assert not sides["train"] & sides["test"]
    assert sum(name.startswith("patient") for name in sides["test"]) > 10
