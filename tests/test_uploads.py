"""Uploads: files of every kind, as the server shows them and as a prompt takes them; bad files, bounds, and what is left behind."""

import asyncio
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from small_uploads import SECRET, dicom, jpeg, nifti, png, radiograph, received, series, transparent
from starlette.testclient import TestClient

from osler.config import StudyConfig
from osler.errors import ConfigError, DataError
from osler.evaluation.looks import alter
from osler.images.study import Study, pick_series
from osler.serving.answer_types import Look
from osler.serving.app import Part, create_app
from osler.serving.errors import ApiError
from osler.serving.generation import QueueFull
from osler.serving.received_files import clean_name
from osler.serving.settings import ServerSettings
from osler.serving.study_settings import StudySettings
from osler.serving.upload_routes import make_uploads
from osler.serving.uploads import UploadLimits, Uploads

pytestmark = pytest.mark.integration

Files = Callable[[Path], Mapping[str, bytes]]


@pytest.fixture
def uploads() -> Iterator[Uploads]:
    made = Uploads()
    yield made
    made.close()


@pytest.fixture
def client(uploads: Uploads) -> Iterator[TestClient]:
    app = create_app(ServerSettings(), None, [Part(router=make_uploads(uploads), life=uploads.life())])
    with TestClient(app, base_url="http://localhost") as made:
        yield made


def send(client: TestClient, files: Mapping[str, bytes]) -> Any:
    return client.post("/v1/uploads", files=[("files", (name, content)) for name, content in files.items()])


def image_of(content: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB"))


PATIENT = {"left": "R", "right": "L", "top": "A", "bottom": "P"}
PRESETS = ["lung", "mediastinum", "bone", "brain", "subdural", "stroke", "liver", "soft_tissue"]
KINDS: list[tuple[Files, list[dict[str, Any]]]] = [
    (lambda _: {"a.png": png()}, [{"kind": "picture", "num_slices": 1, "width": 6, "height": 4, "windows": [], "marks": None}]),
    (lambda _: {"a.jpg": jpeg()}, [{"kind": "picture", "width": 8}]),
    (lambda _: {"a": png()}, [{"kind": "picture", "name": "a"}]),  # the content says what it is
    (lambda path: {"a.dcm": dicom(path)}, [{"kind": "dicom", "modality": "CT", "windows": ["file", "auto", *PRESETS]}]),
    (
        lambda path: {"a.dcm": radiograph(path)},
        [
            {
                "kind": "dicom",
                "windows": ["file", "auto"],
                "laterality": "R",
                "marks": {"left": "R", "right": "L", "top": "H", "bottom": "F"},
            }
        ],
    ),
    (
        lambda path: {"v.nii.gz": nifti(path)},
        [{"kind": "volume", "num_slices": 4, "plane": "axial", "planes": ["axial", "coronal", "sagittal"], "marks": PATIENT, "spacing": 2}],
    ),
    (lambda path: {"v.nii": nifti(path, ".nii")}, [{"kind": "volume", "num_slices": 4, "window": "file"}]),
    (
        lambda path: series(path, WindowCenter=["40", "50"], WindowWidth=["400", "350"]),
        [
            {
                "name": "ct",
                "kind": "series",
                "num_slices": 4,
                "plane": "axial",
                "marks": PATIENT,
                "windows": ["file", "file:2", "auto", *PRESETS],
            }
        ],
    ),
    (lambda _: {f"stack/{n}.png": png(tone=n) for n in (10, 9, 1)}, [{"name": "stack", "kind": "series", "num_slices": 3, "plane": None}]),
    (lambda _: {"b.png": png(), "a.png": png()}, [{"name": "b.png", "selected": True}, {"name": "a.png", "selected": True}]),
    (
        lambda path: series(path, "ct", uid="1.1") | series(path / "other", "ct2", uid="1.2") | {"x.png": png()},
        [{"name": "x.png"}, {"name": "ct", "selected": True}, {"name": "ct2", "selected": True}],
    ),
    (lambda path: {"ct/.DS_Store": b"junk", "ct/a.png": png(), "__MACOSX/b.png": b"junk"}, [{"name": "a.png"}]),
]


@pytest.mark.parametrize(("make", "expected"), KINDS)
def test_every_kind_is_described(client: TestClient, tmp_path: Path, make: Files, expected: list[dict[str, Any]]) -> None:
    reply = send(client, make(tmp_path))
    assert reply.status_code == 200, reply.text
    images = reply.json()["images"]
    assert len(images) == len(expected)
    for image, fields in zip(images, expected, strict=True):
        assert {name: image[name] for name in fields} == fields
    assert SECRET not in reply.text
    assert client.get(f"/v1/uploads/{reply.json()['upload']}").json() == reply.json()


def test_several_series_of_a_folder_are_images_of_which_the_longest_is_chosen(client: TestClient, tmp_path: Path) -> None:
    files = series(tmp_path, "p", uid="1.1")
    files |= {f"p/b/{name.rpartition('/')[2]}": content for name, content in list(series(tmp_path / "2", "p", uid="1.2").items())[:2]}
    images = send(client, files).json()["images"]
    assert [(image["name"], image["num_slices"], image["selected"]) for image in images] == [
        ("p, series 1", 4, True),
        ("p, series 2", 2, False),
    ]
    assert "2 series: number 1 is shown, the longest" in images[0]["notes"][0]


def test_pictures_of_two_patients_are_never_chosen_together(client: TestClient, tmp_path: Path) -> None:
    files = {"a.dcm": radiograph(tmp_path), "b.dcm": dicom(tmp_path, Modality="CR", PatientID="SECRET-2", PatientName="SECRET^TWO")}
    reply = send(client, files)
    assert [image["selected"] for image in reply.json()["images"]] == [True, False]
    assert SECRET not in reply.text


@pytest.mark.parametrize("window", [None, "file", "auto", "bone", "50/300", "0..200"])
@pytest.mark.parametrize("plane", [None, "coronal"])
@pytest.mark.parametrize("make", [lambda path: series(path, WindowCenter="40", WindowWidth="400"), lambda path: {"v.nii.gz": nifti(path)}])
def test_a_slice_is_that_of_the_reader(client: TestClient, tmp_path: Path, make: Files, window: str | None, plane: Any) -> None:
    reply = send(client, make(tmp_path)).json()
    name = "ct" if (tmp_path / "ct").exists() else "volume.nii.gz"
    slices = pick_series(Study(root=tmp_path, path=name, plane=plane), None if window == "file" else window).series.slices
    asked = {key: value for key, value in (("window", window), ("plane", plane)) if value}
    for number in (0, len(slices) - 1):
        shown = client.get(f"/v1/uploads/{reply['upload']}/0/slices/{number}.png", params=asked)
        assert shown.headers["content-type"] == "image/png"
        assert shown.headers["cache-control"] == "no-store"
        np.testing.assert_array_equal(image_of(shown.content), np.asarray(slices[number].load()))
    about = client.get(f"/v1/uploads/{reply['upload']}/0", params=asked).json()
    assert (about["plane"], about["num_slices"]) == (plane or "axial", len(slices))


@pytest.mark.parametrize(
    ("window", "level"), [("file", "40/400"), ("bone", "400/1800"), ("50/300", "50/300"), ("0..200", "100/200"), ("lung+bone+brain", None)]
)
def test_a_slice_tells_its_level_and_place(client: TestClient, tmp_path: Path, window: str, level: str | None) -> None:
    upload = send(client, series(tmp_path, WindowCenter="40", WindowWidth="400")).json()["upload"]
    headers = client.get(f"/v1/uploads/{upload}/0/slices/2.png", params={"window": window}).headers
    assert headers.get("x-osler-level") == level
    assert headers["x-osler-position"] == "2.00"


SHOWN: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [0, 1, 2, 3]),
    ({"slices": 2}, [1, 3]),
    ({"indices": (3, 0)}, [0, 3]),
    ({"slice_numbers": (4, 1)}, [0, 3]),
    ({"slices": 2, "layout": "montage"}, [1, 3]),
    ({"slices": 2, "window": "lung"}, [1, 3]),
    ({"plane": "sagittal", "slices": 1}, [3]),
]


@pytest.mark.parametrize(("asked", "slices"), SHOWN)
def test_what_is_shown_is_what_a_prompt_takes(
    client: TestClient, uploads: Uploads, tmp_path: Path, asked: dict[str, Any], slices: list[int]
) -> None:
    upload = send(client, {"v.nii.gz": nifti(tmp_path)}).json()["upload"]
    query = {key: ",".join(map(str, value)) if isinstance(value, tuple) else value for key, value in asked.items()}
    reply = client.get(f"/v1/uploads/{upload}/0/shown", params=query).json()
    assert reply["slices"] == slices
    assert reply["slice_numbers"] == [index + 1 for index in slices]
    sources = uploads.sources(upload, StudySettings(**asked))
    assert len(sources) == len(reply["pictures"]) == (1 if "layout" in asked else len(slices))
    for number, (source, size) in enumerate(zip(sources, reply["pictures"], strict=True)):
        picture = image_of(client.get(f"/v1/uploads/{upload}/0/shown/{number}.png", params=query).content)
        np.testing.assert_array_equal(picture, np.asarray(source.load()))
        assert (size["width"], size["height"]) == picture.shape[1::-1]


def test_transparency_is_flattened_as_for_the_model(client: TestClient, uploads: Uploads) -> None:
    upload = send(client, {"a.png": transparent()}).json()["upload"]
    (source,) = uploads.sources(upload, StudySettings())
    for path in ("slices/0.png", "shown/0.png"):
        picture = image_of(client.get(f"/v1/uploads/{upload}/0/{path}").content)
        np.testing.assert_array_equal(picture, np.asarray(source.load()))
        assert set(picture[:, 3:].ravel()) == {0}


def test_images_are_chosen_by_their_numbers(uploads: Uploads) -> None:
    upload = uploads.add(received({"a.png": png(tone=10), "b.png": png(tone=20), "c.png": png(tone=30)}))

    def tones(**settings: Any) -> list[int]:
        return [np.asarray(source.load())[0, 0, 0] for source in uploads.sources(upload.id, StudySettings(**settings))]

    assert tones() == [10, 20, 30]
    assert tones(images=(2, 0)) == [30, 10]
    for settings, kind in (
        (StudySettings(images=(3,)), ApiError),
        (StudySettings(images=()), DataError),
        (StudySettings(indices=(0,)), DataError),
    ):
        with pytest.raises(kind):
            uploads.sources(upload.id, settings)


BAD: list[tuple[Files, str]] = [
    (lambda _: {"a.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>'}, "'a.svg' is not an image that Osler reads"),
    (lambda _: {"a.html": b"<html><script>alert(1)</script></html>"}, "'a.html' is not an image"),
    (lambda _: {"a.png": b"<svg/>"}, "'a.png' is not an image"),
    (lambda _: {"x/y.png": png()[:40]}, "'x/y.png' has a damaged header"),
    (lambda _: {"bomb.png": bomb()}, "'bomb.png' has 30000 x 30000 pixels"),
    (lambda path: {"a.dcm": dicom(path)[:-10]}, "'a.dcm' has"),
    (lambda path: {"a.dcm": dicom(path)[:200]}, "'a.dcm' is a DICOM file without pixels"),
    (lambda path: {"v.nii.gz": nifti(path)[:60]}, "'v.nii.gz'"),
    (lambda path: {"v.nii": nifti(path, ".nii")[:-10]}, "'v.nii' is cut short"),
    (lambda _: {"v.nii": b"nothing"}, "'v.nii' is no NIfTI file"),
    (lambda _: {".hidden": png()}, "holds no file"),
    (lambda path: series(path) | {"ct/IM0001": series(path)["ct/IM0001"][:-10]}, "'ct/IM0001' has"),
]


def bomb() -> bytes:
    """A PNG whose header says 30000 x 30000 pixels."""
    content = bytearray(png())
    content[16:24] = (30000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(("make", "message"), BAD)
def test_a_bad_file_is_refused_in_one_line(client: TestClient, uploads: Uploads, tmp_path: Path, make: Files, message: str) -> None:
    reply = send(client, make(tmp_path))
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert message in error["message"]
    assert "\n" not in error["message"]
    assert SECRET not in reply.text
    assert "osler-uploads" not in reply.text
    assert "row" not in error["message"]
    assert uploads.folders == []


def test_other_files_are_left_out_in_words(client: TestClient, tmp_path: Path) -> None:
    reply = send(client, {"a.png": png(), "notes.txt": b"text"} | series(tmp_path) | {"ct/key.png": png()})
    assert [image["name"] for image in reply.json()["images"]] == ["a.png", "ct"]
    assert [note.partition(" is ")[0] for note in reply.json()["notes"]] == ["notes.txt", "ct/key.png"]


ROUTES = [
    ("{id}/1", 404), ("{id}/0/slices/4.png", 404), ("{id}/0/shown/8.png", 404), ("u_none", 404), ("u_none/0/slices/0.png", 404),
    ("{id}/0/slices/0.png?window=none", 400), ("{id}/0/slices/0.png?plane=oblique", 400), ("{id}/0/slices/-1.png", 400),
    ("{id}/0/shown?slices=0", 400), ("{id}/0/shown?slices=999", 400), ("{id}/0/shown?indices=9", 400), ("{id}/0/shown?indices=a", 400),
    ("{id}/0/slices/..%2f..%2fetc.png", 404),
]  # fmt: skip


@pytest.mark.parametrize(("path", "status"), ROUTES)
def test_a_wrong_question_about_an_upload_is_refused(client: TestClient, tmp_path: Path, path: str, status: int) -> None:
    upload = send(client, series(tmp_path)).json()["upload"]
    reply = client.get(f"/v1/uploads/{path.format(id=upload)}")
    assert reply.status_code == status
    assert reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("limits", "sent", "status"),
    [
        (UploadLimits(max_files=2), 3, 400),
        (UploadLimits(max_bytes=200), 3, 413),
    ],
)
def test_an_upload_is_bounded(limits: UploadLimits, sent: int, status: int) -> None:
    uploads = Uploads(limits=limits)
    with TestClient(
        create_app(ServerSettings(), None, [Part(router=make_uploads(uploads), life=uploads.life())]), base_url="http://localhost"
    ) as client:
        assert send(client, {f"{number}.png": png() for number in range(sent)}).status_code == status
        assert client.post("/v1/uploads", data={"files": "text"}).status_code in (400, 415)
        assert client.post("/v1/uploads", json={}).status_code == 415


def test_a_volume_that_unpacks_too_large_is_refused(tmp_path: Path) -> None:
    uploads = Uploads(limits=UploadLimits(max_volume_bytes=100))
    with pytest.raises(DataError, match=r"'v.nii.gz' unpacks to more than 0 MiB"):
        uploads.add(received({"v.nii.gz": nifti(tmp_path)}))
    uploads.close()


def test_the_oldest_goes_where_one_more_does_not_fit(uploads: Uploads) -> None:
    uploads.limits = UploadLimits(max_uploads=2)
    first, second = (uploads.add(received({"a.png": png()})) for _ in range(2))
    uploads.find(first.id)
    third = uploads.add(received({"a.png": png()}))
    for upload, is_here in ((first, True), (second, False), (third, True)):
        assert upload.folder.exists() is is_here
    with pytest.raises(ApiError, match="send the files again"):
        uploads.find(second.id)


def test_what_a_question_waits_for_stays(uploads: Uploads) -> None:
    uploads.limits = UploadLimits(max_uploads=2)
    first, second = (uploads.add(received({"a.png": png()})) for _ in range(2))
    leases = [first.lease(), second.lease()]
    with pytest.raises(QueueFull):
        uploads.add(received({"a.png": png()}))
    assert uploads.folders == sorted([first.folder, second.folder])
    del leases[1]
    third = uploads.add(received({"a.png": png()}))
    assert uploads.folders == sorted([first.folder, third.folder])


def test_an_idle_upload_is_removed() -> None:
    now = [0.0]
    uploads = Uploads(clock=lambda: now[0])
    upload = uploads.add(received({"a.png": png()}))
    for time, is_here in ((1700.0, True), (3400.0, True), (5300.0, False)):
        now[0] = time
        uploads.sweep()
        assert upload.folder.exists() is is_here
        if is_here:
            uploads.find(upload.id)
    uploads.close()


def test_everything_is_removed_at_the_end() -> None:
    async def live() -> Path:
        uploads = Uploads()
        async with uploads.life():
            folder = uploads.add(received({"a.png": png()})).folder
            assert (folder.parent.stat().st_mode & 0o777, folder.exists()) == (0o700, True)
            return folder.parent

    assert not asyncio.run(live()).exists()


def test_a_server_removes_what_killed_ones_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("osler-uploads-killed", "osler-uploads-without-lock", "others"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("lock" if name != "osler-uploads-without-lock" else "image")).touch()
    living, next_one = Uploads(), Uploads()
    for uploads in (living, next_one):
        uploads.add(received({"a.png": png()}))
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 4
    assert names >= {"osler-uploads-without-lock", "others"}
    assert all(len(uploads.folders) == 1 for uploads in (living, next_one))
    for uploads in (living, next_one):
        uploads.close()


def test_a_server_that_starts_removes_what_killed_ones_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anybody sends it a file, which may be days later or never."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / "osler-uploads-killed"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "image").write_bytes(b"of a patient")

    async def start() -> bool:
        async with Uploads().life():
            return folder.exists()

    assert not asyncio.run(start())


def test_a_removed_upload_is_gone(client: TestClient, uploads: Uploads) -> None:
    upload = send(client, {"a.png": png()}).json()["upload"]
    folder = uploads.find(upload).folder
    assert client.delete(f"/v1/uploads/{upload}").status_code == 204
    assert not folder.exists()
    assert client.delete(f"/v1/uploads/{upload}").status_code == 404


@pytest.mark.parametrize("name", ["picture", "series"])
def test_an_example_comes_with_its_question(client: TestClient, name: str) -> None:
    reply = client.post(f"/v1/uploads/example?name={name}")
    assert reply.status_code == 200, reply.text
    example = reply.json()
    assert example["question"]
    assert "ABCD".index(example["target"]) < len(example["choices"])
    assert example["images"][0]["num_slices"] == (1 if name == "picture" else 24)
    assert client.get(f"/v1/uploads/{example['upload']}/0/slices/0.png").status_code == 200


NAMES = [
    ("ct/IM1", "ct/IM1"), ("C:\\scans\\a.png", "C:/scans/a.png"), ("../../etc/passwd", "etc/passwd"), ("/etc/passwd", "etc/passwd"),
    ("a\0b\n.png", "ab.png"), ("", "file"), ("..", "file"), ("x" * 300, "x" * 80), ("<b>.png", "<b>.png"), ("./ct/a.png", "ct/a.png"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shown"), NAMES)
def test_names_are_text_to_show(uploads: Uploads, name: str, shown: str) -> None:
    assert clean_name(name) == shown
    upload = uploads.add(received({name: png()}))
    assert [path.suffix for path in upload.folder.rglob("*") if path.is_file()] == [".png" if name.endswith("png") else ""]


@pytest.mark.parametrize(("settings", "error"), [({"window": "nothing"}, ConfigError), ({"window": "file:BONE"}, ConfigError)])
def test_wrong_settings_are_refused(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        StudySettings(**settings).to_config(StudyConfig())


@pytest.mark.parametrize(
    "body", [{"indices": ["1"]}, {"indices": [True]}, {"slices": "5"}, {"slices": True}, {"x": 1}, {"indices": []}, {"slices": 1.5}]
)
def test_settings_are_strict(body: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        StudySettings.model_validate(body)


@pytest.mark.parametrize("look", list(Look))
def test_what_stands_in_place_of_an_image_is_shown(client: TestClient, uploads: Uploads, look: Look) -> None:
    example = client.post("/v1/uploads/example").json()["upload"]
    shown = client.get(f"/v1/uploads/{example}/0/shown/0.png", params={"look": look.value})
    (source,) = alter(uploads.sources(example, StudySettings()), look)
    np.testing.assert_array_equal(image_of(shown.content), np.asarray(source.load()))


def test_a_shown_picture_has_a_digest_that_changes_with_its_window(client: TestClient, tmp_path: Path) -> None:
    upload = send(client, {"v.nii.gz": nifti(tmp_path)}).json()["upload"]
    digests = [
        [picture["digest"] for picture in client.get(f"/v1/uploads/{upload}/0/shown", params={"window": window}).json()["pictures"]]
        for window in ("file", "file", "bone")
    ]
    assert digests[0] == digests[1]
    assert len({*digests[0], *digests[2]}) == 8


def test_an_upload_that_is_removed_while_it_is_read_is_gone_by_its_own_error(uploads: Uploads) -> None:
    upload = uploads.add(received({"a.png": png()}))
    uploads.remove(upload.id)
    with pytest.raises(ApiError, match="no longer here") as caught:
        upload.show(0, uploads.study)
    assert (caught.value.status_code, caught.value.code) == (404, "upload_gone")


def test_many_threads_send_and_remove(uploads: Uploads) -> None:
    uploads.limits = UploadLimits(max_uploads=3)

    def work(number: int) -> int:
        upload = uploads.add(received({"a.png": png(tone=number)}))
        with suppress(ApiError):  # it may be the oldest of four
            (source,) = uploads.sources(upload.id, StudySettings())
            with suppress(DataError):
                return int(np.asarray(source.load())[0, 0, 0]) - number
        return 0

    def remove(upload_id: str) -> int:
        with suppress(ApiError):
            uploads.remove(upload_id)
        return 0

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(40))) == {0}
        assert len(uploads.folders) == 3
        assert set(pool.map(remove, [one for one in [*uploads._uploads] for _ in range(8)])) == {0}
    assert not uploads.folders


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"slice_numbers": "0,1"}, "slice_numbers"),
        ({"slice_numbers": "9"}, "numbered 1 to 4"),
        ({"slice_numbers": "1", "indices": "0"}, "exclude each other"),
        ({"indices": ",".join(map(str, range(300)))}, "256"),
    ],
)
def test_slices_that_cannot_be_named_are_refused(client: TestClient, tmp_path: Path, query: dict[str, str], said: str) -> None:
    upload = send(client, {"v.nii.gz": nifti(tmp_path)}).json()["upload"]
    reply = client.get(f"/v1/uploads/{upload}/0/shown", params=query)
    assert reply.status_code == 400
    assert said in reply.json()["error"]["message"]
