"""A private dataset: identifiers planted into files, names, ids and rows are found nowhere in what any command writes or prints."""

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin
from planted import MARK, Planter, leaks, leaks_below, plant_dicom
from small_studies import save_nifti, values

from osler.cli.main import main
from osler.config import build_config
from osler.data.privacy.keys import Key
from osler.data.privacy.private import PrivateImage, expand, make_private
from osler.data.readers import READERS, ReadReport, register_reader
from osler.data.select import load_split
from osler.errors import ConfigError, DataError
from osler.images.clip import count_frames
from osler.images.dicom import DicomFrame
from osler.images.embedded import ImageBytes
from osler.images.files import HasHeader, ImageFile
from osler.images.sizes import size_of
from osler.images.volumes import VolumeSlice
from osler.types import HasDigest, ImageSource, Sample

KEY = Key(secret=b"k" * 32)
RED = np.tile(np.array([200, 30, 30], np.uint8), (64, 64, 1))


def plant_pictures(folder: Path, planter: Planter) -> list[str]:
    """A picture of every format, with a text in every place that the format has for one; the names of the files."""
    folder.mkdir(parents=True)
    text, picture = planter.text, Image.fromarray(RED + np.arange(64, dtype=np.uint8)[:, None, None])
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", text())
    info.add_itxt(text(), text(), zip=True)
    exif = Image.Exif()
    exif[0x013B], exif[0x010E], exif[0x9286] = text(), text(), text().encode()  # artist, description, comment
    picture.save(folder / "Zqxvkj_a.png", pnginfo=info, exif=exif)
    picture.save(folder / "Zqxvkj_b.jpg", exif=exif, comment=text().encode())
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270], tags[315], tags[65000] = text(), text(), text()
    picture.save(folder / "Zqxvkj_c.tif", tiffinfo=tags)
    picture.save(folder / "Zqxvkj_d.gif", comment=text().encode())
    picture.save(folder / "Zqxvkj_e.webp", exif=exif, xmp=f"<x>{text()}</x>".encode())
    plant_dicom(folder / "Zqxvkj_f.dcm", planter, every=False)
    return sorted(path.name for path in folder.iterdir())


def plant_volumes(folder: Path, planter: Planter) -> None:
    """A NIfTI and an NRRD file with a text in every place that the format has for one."""
    text, values = planter.text, np.arange(40 * 40 * 4, dtype=np.int16).reshape(40, 40, 4)
    image = nibabel.Nifti1Image(values, np.eye(4))
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[name] = text().encode()
    for code in (0, 2, 4, 6):
        content = json.dumps({"a": text()}).encode() if code != 2 else text().encode()
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(code if code != 2 else 6, content))
    nibabel.save(image, folder / "Zqxvkj_v.nii.gz")
    header = {"space": "left-posterior-superior", "space directions": np.eye(3), "space origin": [0, 0, 0]}
    header |= {"content": text(), text(): text(), "sample units": text()}
    nrrd.write(str(folder / "Zqxvkj_w.nrrd"), values, header)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows for training and testing, with names in files, folders, ids, patients, fields and metadata; some rows are broken."""
    root, planter = tmp_path_factory.mktemp("in") / "Zqxvkj^Smith", Planter()
    names = plant_pictures(root / "Zqxvkj^John", planter)
    plant_volumes(root, planter)
    (root / "Zqxvkj^John" / "Zqxvkj_broken.png").write_bytes((root / "Zqxvkj^John" / "Zqxvkj_a.png").read_bytes()[:90])
    for split in ("train", "test"):
        rows = [
            {
                "id": f"Zqxvkj-{split}-{number}",
                "image": f"Zqxvkj^John/{name}",
                "question": f"Is sign {number} there?",
                "choices": ["yes", "no"],
                "answer": "AB"[number % 2],
                "subject_id": f"Zqxvkj-{number}",
                "modality": "ct",
                "metadata": {"note": planter.text()},
                planter.text(): "Zqxvkj",
            }
            for number, name in enumerate(names)
        ]
        broken = [
            {**rows[0], "id": "Zqxvkj-1", "answer": "Zqxvkj"},
            {**rows[0], "id": "Zqxvkj-2", "image": "../Zqxvkj.png"},
            {**rows[0], "id": rows[1]["id"]},
        ]
        lines = [json.dumps(row) for row in (*rows, *broken)] + ['{"Zqxvkj": ']
        (root / f"Zqxvkj_{split}.jsonl").write_text("\n".join(lines) + "\n")
    return root


Osler = Callable[..., str]


@pytest.fixture
def osler(
    ward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[Osler]:
    """Runs a verb on the private ward in an empty folder; what it printed and wrote holds no mark."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "recipe.toml").write_text('name = "ward"')

    def run(*arguments: str, code: int = 0, root: Path = ward) -> str:
        data = ["--data.private=true", f"--data.key_file={tmp_path / 'k.key'}", "--data.reader=jsonl", f"--data.root={root}"]
        assert main([*arguments, *data]) == code, capsys.readouterr().err
        told = capsys.readouterr()
        assert leaks((told.out + told.err + caplog.text).encode(), MARK) == [], told
        return told.out + told.err

    yield run
    assert leaks_below(tmp_path, MARK) == {}


def test_the_search_finds_what_is_planted(ward: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without privacy the same commands do write the names."""
    data = ["--data.reader=jsonl", f"--data.root={ward}"]
    assert main(["data", "view", "--out", str(tmp_path / "view.html"), *data]) == 0
    assert main(["data", "convert", "--out", str(tmp_path / "rows.jsonl"), *data]) == 0
    assert main(["export", "--to", "verl", "--out", str(tmp_path / "verl"), *data]) == 0
    assert leaks(caplog.text.encode(), MARK) == [MARK]
    assert {"view.html", "rows.jsonl", "verl/train.parquet"} <= leaks_below(tmp_path, MARK).keys()


def test_check_names_nothing(osler: Osler) -> None:
    told = osler("data", "check", "--images", "decode", "--out", "out/all.jsonl")
    assert "12 samples" in told
    assert "8 rows refused" in told
    assert "all sound" in told
    assert osler("data", "check", "--json", "--strict", code=1)


@pytest.mark.parametrize("split", ["train", "test"])
def test_view_and_convert_name_nothing(osler: Osler, split: str) -> None:
    osler("data", "view", "--split", split, "--out", "out/view.html")
    assert Path("out/view.html").read_text().count("data:image/jpeg") == 6
    osler("data", "convert", "--split", split, "--out", "out/rows.jsonl")
    rows = [json.loads(line) for line in Path("out/rows.jsonl").read_text().splitlines()]
    assert {row["dataset"] for row in rows} == {rows[0]["dataset"]}
    assert all((Path("out") / row["images"][0]).is_file() for row in rows)


@pytest.mark.parametrize(
    ("to", "images"), [("verl", "embed"), ("verl", "reference"), ("ms_swift", "copy"), ("easyr1", "reference"), ("lmms_eval", "embed")]
)
def test_exports_name_nothing(osler: Osler, to: str, images: str) -> None:
    told = osler("export", "--to", to, "--images", images, "--out", f"out/{to}")
    assert "0 left where they are" in told


def test_audit_and_split_name_nothing(osler: Osler) -> None:
    osler("audit", "--images", "pixels", "--out", "out/audit.html", "--save", "out/audit.json")
    assert json.loads(Path("out/audit.json").read_text())["images"]
    osler("split", "--out", "out/split.json", "--test", "0.4")


def test_a_run_names_nothing(osler: Osler, ward: Path, tmp_path: Path) -> None:
    config = build_config({"data": private(ward, tmp_path)})
    script = "\n".join(
        json.dumps({"sample_id": sample.id, "completion": "<answer>A</answer>"}) for sample in load_split(config.data, "test")
    )
    Path("script.jsonl").write_text(script)
    osler("eval", "recipe.toml", "--eval.engine=scripted", "--eval.script=script.jsonl", "--out", "out/run")
    osler("eval", "recipe.toml", "--eval.engine=scripted", "--eval.script=script.jsonl", "--out", "out/run")  # resumes
    osler("eval", "recipe.toml", "--eval.engine=option_prior", "--label", "prior", "--out", "out/run")
    records = [json.loads(line) for line in next(Path("out/run/records").glob("*.jsonl")).read_text().splitlines()]
    assert len(records) == 6
    assert all(record["image_uris"][0].startswith("private/") for record in records)
    assert len({record["subject_id"] for record in records}) == 6
    assert main(["report", "out/run"]) == 0
    told = osler("eval", "recipe.toml", "--eval.engine=scripted", "--eval.script=script.jsonl", "--dry-run")
    assert '"root": "private"' in told


@pytest.mark.slow
def test_a_training_names_nothing(osler: Osler) -> None:
    """Checkpoints, caches, metrics and the printed completions of a training, and the errors of one that fails."""
    device = ["--policy.device=cpu", "--policy.freeze_vision=true", "--prompt.strategy=no_think"]
    steps = ["--sft.max_steps=2", "--sft.per_device_train_batch_size=2"]
    osler("sft", "recipe.toml", *device, *steps, "--out", "out/sft")
    steps = ["--grpo.max_steps=1", "--grpo.num_generations=2", "--grpo.per_device_train_batch_size=2"]
    steps += ["--sampling.max_completion_length=8", "--trainer.vision_cache=out/cache", "--trainer.print_completions_every=1"]
    osler("train", "recipe.toml", *device, *steps, "--out", "out/grpo")
    assert list(Path("out/cache").rglob("*"))
    assert list(Path("out/grpo/policy").glob("*.safetensors"))
    assert "tokens" in osler("train", "recipe.toml", *device, *steps, "--trainer.max_prompt_length=3", "--out", "out/short", code=2)
    osler("eval", "recipe.toml", *device, *steps, "--policy", "out/grpo", "--out", "out/grpo")
    assert list(Path("out/grpo/records").glob("*.jsonl"))


def private(root: Path, folder: Path, **data: object) -> dict[str, object]:
    return {"reader": "jsonl", "root": str(root), "private": True, "key_file": str(folder / "k.key"), **data}


@pytest.mark.parametrize("name", ["Zqxvkj_absent", "Zqxvkj_twice.csv", "Zqxvkj_table.zip"])
def test_errors_name_nothing(osler: Osler, tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.mktemp("broken") / name
    if "." in name:
        root.write_text("Zqxvkj,Zqxvkj\n1,2\n")
    for verb in ("check", "view", "convert"):
        assert "osler:" in osler("data", verb, *(["--out", "out/x"] if verb != "check" else []), code=2, root=root)


def test_the_key_stays_outside(ward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").write_text('name = "ward"')
    data = ["--data.private=true", "--data.reader=jsonl", f"--data.root={ward}", "--eval.engine=option_prior"]
    for key, message in [
        ([], "needs a key"),
        (["--data.key_file=run/k.key"], "lies inside the run"),
        ([f"--data.key_file={ward}/k"], "lies inside"),
    ]:
        assert main(["eval", "recipe.toml", "--out", "run", *data, *key]) == 2
        assert message in capsys.readouterr().err
    assert not (ward / "k").exists()


def volume_sources(root: Path) -> list[ImageSource]:
    slices = [VolumeSlice(root=root, path=name, axis=2, index=1) for name in ("Zqxvkj_v.nii.gz", "Zqxvkj_w.nrrd")]
    return [*slices, DicomFrame(root=root, path="Zqxvkj^John/Zqxvkj_f.dcm", window="lung")]


def test_volumes_name_nothing(osler: Osler, ward: Path, tmp_path: Path) -> None:
    if "planted_volumes" not in READERS:

        @register_reader("planted_volumes")
        def read(root: Path, *, split: str | None = None) -> list[Sample]:
            return [sample(source, f"Zqxvkj-{number}") for number, source in enumerate(volume_sources(root))]

    for verb in ("view", "convert"):
        osler("data", verb, "--out", f"out/{verb}", "--data.reader=planted_volumes")
    assert main(["data", "check", "--images", "decode", "--data.reader=planted_volumes", f"--data.root={ward}"]) == 0
    samples = load_split(build_config({"data": private(ward, tmp_path, reader="planted_volumes")}).data, "test")
    assert len({source.digest() for one in samples for source in one.images}) == 3


def sample(source: ImageSource, name: str = "Zqxvkj", **fields: object) -> Sample:
    parts = {"question": "?", "choices": ("a", "b"), "target": "A", "modality": None, "question_type": None} | fields
    return Sample(id=name, dataset="Zqxvkj", images=(source,), **parts)  # type: ignore[arg-type]


BROKEN = [
    (lambda root: ImageFile(root=root, path="Zqxvkj/absent.png"), "does not exist"),
    (lambda root: ImageFile(root=root, path="Zqxvkj^John"), "is not a file"),
    (lambda root: ImageFile(root=root, path="Zqxvkj^John/Zqxvkj_broken.png"), "is damaged|cannot be read"),
    (lambda root: ImageFile(root=root, path="Zqxvkj_train.jsonl"), "of a kind that Osler does not read"),
    (lambda root: DicomFrame(root=root, path="Zqxvkj^John/Zqxvkj_f.dcm", frame=7), "no such frame"),
    (lambda root: DicomFrame(root=root, path="Zqxvkj^John/Zqxvkj_a.png"), "of a kind that Osler does not read"),
    (lambda root: VolumeSlice(root=root, path="Zqxvkj_v.nii.gz", axis=2, index=77), "no such frame or slice"),
    (
        lambda root: VolumeSlice(root=root, path="Zqxvkj^John/Zqxvkj_a.png", axis=2, index=0),
        "of a kind that Osler does not read|cannot be read",
    ),
    (lambda root: ImageBytes(uri="Zqxvkj", content=b"Zqxvkj"), "of a kind that Osler does not read"),
]


@pytest.mark.parametrize(("make", "reason"), BROKEN)
def test_errors_of_a_private_image(ward: Path, make: Callable[[Path], ImageSource], reason: str) -> None:
    image = PrivateImage.of(make(ward), KEY)
    with pytest.raises(DataError, match=reason) as raised:
        image.load()
    assert leaks(f"{raised.value} {raised.value.__cause__}".encode(), MARK) == []
    assert leaks(repr(image).encode(), MARK, KEY.secret.hex()) == []
    assert raised.value.__suppress_context__


def test_a_private_image_is_the_picture_and_nothing_else(ward: Path) -> None:
    for path in sorted((ward / "Zqxvkj^John").glob("Zqxvkj_[a-f].*")):
        source = ImageFile(root=ward, path=f"Zqxvkj^John/{path.name}")
        image, again = PrivateImage.of(source, KEY), PrivateImage.of(source, KEY)
        shown = image.load()
        assert np.array_equal(np.asarray(shown), np.asarray(source.load()))
        assert (shown.mode, shown.info, bool(shown.getexif()), getattr(shown, "filename", "")) == ("RGB", {}, False, "")
        assert image == again == pickle.loads(pickle.dumps(image))
        assert hash(image) == hash(again)
        assert isinstance(image, HasHeader)
        assert isinstance(image, HasDigest)
        assert image.digest() == again.digest() != source.digest()
        assert image.uri != PrivateImage.of(source, Key(secret=b"o" * 32)).uri


def test_samples_that_belong_together_stay_together(ward: Path) -> None:
    """One patient has one name, also where only the path says who it is."""
    source = ImageFile(root=ward, path="Zqxvkj^John/Zqxvkj_a.png")
    mura = [ImageFile(root=ward, path=f"Images/Mura/x/patient{number}/study1/image1.png") for number in (1, 1, 2)]
    given = [sample(source, "Zqxvkj-1", subject_id="Zqxvkj"), sample(source, "Zqxvkj-2", subject_id="Zqxvkj")]
    given += [sample(one, f"Zqxvkj-m{number}") for number, one in enumerate(mura)]
    report = make_private(
        ReadReport(samples=tuple(given), notes={"field 'Zqxvkj' not read": 2, 'field "Zqxvkj" not read': 1}), KEY, "jsonl"
    )
    subjects = [one.subject_id for one in report.samples]
    assert subjects[0] == subjects[1]
    assert subjects[2] == subjects[3] != subjects[4]
    assert len({one.id for one in report.samples}) == 5
    assert report.notes == {"field ... not read": 3}
    assert leaks(repr(report).encode(), MARK) == []


def test_the_parts_of_a_private_image_are_private(ward: Path) -> None:
    whole = ImageFile(root=ward, path="Zqxvkj^John/Zqxvkj_f.dcm")
    parts = expand(PrivateImage.of(whole, KEY), lambda source: [DicomFrame(root=source.root, path=source.path)])  # type: ignore[attr-defined]
    assert [part.uri.startswith("private/") for part in parts] == [True]
    assert expand(whole, lambda source: [source]) == (whole,)
    with pytest.raises(DataError) as raised:
        expand(PrivateImage.of(whole, KEY), lambda source: [source.absent()] if source.load() is None else _refuse(source))  # type: ignore[attr-defined]
    assert MARK not in str(raised.value)


def _refuse(source: ImageSource) -> list[ImageSource]:
    raise DataError(f"{source.uri} is wrong")


def test_a_private_recipe_needs_a_key() -> None:
    with pytest.raises(ConfigError, match="needs a key"):
        load_split(build_config({"data": {"reader": "jsonl", "root": "x", "private": True}}).data, "test")


def test_datasets_stores_the_pixels_and_no_path(ward: Path, tmp_path: Path) -> None:
    """Pillow remembers the file of a picture, and `datasets` then stores this path: an edit is lost. A private picture is a new one."""
    import datasets

    source = ImageFile(root=ward, path="Zqxvkj^John/Zqxvkj_a.png")
    shown = PrivateImage.of(source, KEY).load()
    shown.paste((0, 0, 0), (0, 0, 20, 20))
    rows = datasets.Dataset.from_list([{"image": shown}], features=datasets.Features({"image": datasets.Image()}))
    rows.to_parquet(tmp_path / "a.parquet")
    rows.save_to_disk(tmp_path / "saved")
    mapped = rows.map(lambda row: {"image": row["image"]}, keep_in_memory=True, load_from_cache_file=False)
    parquet = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    for stored in (rows, mapped, parquet, datasets.load_from_disk(str(tmp_path / "saved"))):
        assert np.array_equal(np.asarray(stored[0]["image"]), np.asarray(shown))
        assert stored.cast_column("image", datasets.Image(decode=False))[0]["image"]["path"] is None
    assert leaks_below(tmp_path, MARK) == {}


@pytest.mark.parametrize("layout", ["images", "montage", "video"])
def test_the_slices_of_a_study_have_keyed_names(tmp_path: Path, layout: str) -> None:
    save_nifti(tmp_path / "data" / "SECRET NAME" / "v.nii.gz", values())
    row = {"id": "SECRET NAME", "images": ["SECRET NAME/v.nii.gz"], "question": "Side?", "choices": ["left", "right"], "answer": "A"}
    (tmp_path / "data" / "rows.jsonl").write_text(json.dumps(row) + "\n")
    names = {"reader": "jsonl", "root": str(tmp_path / "data" / "rows.jsonl"), "study": {"slices": 3, "layout": layout}}
    plain, hidden = (
        build_config({"data": {**names, **more}}).data for more in ({}, {"private": True, "key_file": str(tmp_path / "keys" / "key")})
    )
    ((shown,), (private,)) = load_split(plain, "train"), load_split(hidden, "train")
    assert [image.load().tobytes() for image in private.images] == [image.load().tobytes() for image in shown.images]
    assert [count_frames(image.load()) for image in private.images] == [count_frames(image.load()) for image in shown.images]
    assert [size_of(image) for image in private.images] == [size_of(image) for image in shown.images]
    assert all(image.uri.removeprefix("clip:").startswith("private/") and "SECRET" not in image.uri for image in private.images)
    (tmp_path / "data" / "SECRET NAME" / "v.nii.gz").write_bytes(b"broken, and longer than nothing")
    with pytest.raises(DataError) as raised:
        load_split(hidden, "train")
    assert "SECRET" not in str(raised.value)
