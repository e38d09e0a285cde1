"""Uploading: what would be sent, who is asked, and what is never sent. The request itself needs the hub and is not tested."""

import inspect
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from osler.cli.main import main
from osler.errors import ConfigError, OslerError
from osler.publishing.author import Author
from osler.publishing.publish import publish_manifest
from osler.publishing.push import Upload, confirm, open_hub, plan_upload, push


class FolderHub:
    """A hub whose repositories are folders; takes what `huggingface_hub.HfApi` takes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.is_private: dict[str, bool] = {}

    def whoami(self) -> Mapping[str, Any]:
        return {"name": "example"}

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        self.is_private.setdefault(repo_id, private)

    def upload_folder(self, *, repo_id: str, folder_path: str, repo_type: str, allow_patterns: list[str], commit_message: str) -> None:
        for name in allow_patterns:
            target = self.root / repo_id / name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(Path(folder_path) / name, target)


class ClosedHub(FolderHub):
    """A hub that refuses."""

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        raise RuntimeError("403 Forbidden\nRequest ID 1")


class Terminal(io.StringIO):
    """Somebody who can be asked."""

    def isatty(self) -> bool:
        return True


NAMES = ("README.md", "config.json", "model.safetensors", "adapter/adapter_config.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A published folder, with files of its author beside those of Osler."""
    for name in (*NAMES, "records/eval.jsonl", "key", "scan.png"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text(name)
    return tmp_path / "out"


def plan(folder: Path, names: tuple[str, ...] = NAMES, hub_id: str = "example/tiny", **changes: Any) -> Upload:
    return plan_upload(folder, names, hub_id, **{"kind": "model", "is_public": False, **changes})


@pytest.mark.parametrize("is_public", [False, True])
def test_only_what_osler_wrote_is_uploaded(folder: Path, tmp_path: Path, is_public: bool) -> None:
    upload = plan(folder, is_public=is_public)
    hub = FolderHub(tmp_path / "hub")
    assert push(hub, upload, message="m") == "https://huggingface.co/example/tiny (as example)"
    sent = {str(path.relative_to(hub.root / "example/tiny")) for path in (hub.root / "example/tiny").rglob("*") if path.is_file()}
    assert sent == set(NAMES)
    assert hub.is_private == {"example/tiny": not is_public}
    assert upload.left_out == ("key", "records/eval.jsonl", "scan.png")
    assert "not uploaded, because osler publish did not write it: key, records/eval.jsonl, scan.png" in upload.describe()
    assert f"4 files, {sum(map(len, NAMES))} bytes, to the model repository example/tiny" in upload.describe()


NEVER = ["records/eval.jsonl", "eval.jsonl", "key", "key.json", "scan.png", "scan.dcm", "../README.md", "metrics.jsonl", "environment.json"]


@pytest.mark.parametrize("name", NEVER)
def test_some_files_are_never_uploaded(folder: Path, name: str) -> None:
    with pytest.raises(OslerError, match="is not a file that Osler uploads"):
        plan(folder, (*NAMES, name))


@pytest.mark.parametrize(("hub_id", "message"), [("tiny", "names no owner"), ("a/b/c", "no id of the hub"), ("a/..b", "no id of the hub")])
def test_an_id_that_the_hub_does_not_admit_is_refused(folder: Path, hub_id: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(folder, hub_id=hub_id)


@pytest.mark.parametrize(
    ("typed", "is_sure", "expected"), [("y\n", False, True), ("YES\n", False, True), ("\n", False, False), ("", True, True)]
)
def test_a_person_is_asked(typed: str, is_sure: bool, expected: bool) -> None:
    out = io.StringIO()
    assert confirm("upload?", Terminal(typed), out, is_sure=is_sure) is expected
    assert out.getvalue() == ("" if is_sure else "upload? [y/N] ")


def test_where_nobody_can_be_asked_nothing_is_uploaded() -> None:
    with pytest.raises(OslerError, match="add --yes"):
        confirm("upload?", io.StringIO("y\n"), io.StringIO(), is_sure=False)


def test_a_refusal_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OslerError, match="the hub did not take example/tiny: 403 Forbidden") as caught:
        push(ClosedHub(tmp_path), plan(folder), message="m")
    assert "Request" not in str(caught.value)


def test_without_an_account_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OslerError, match="HF_HUB_OFFLINE"):
        open_hub()


@pytest.mark.parametrize("name", ["whoami", "create_repo", "upload_folder"])
def test_the_library_takes_what_is_sent(name: str) -> None:
    from huggingface_hub import HfApi

    ours, theirs = (inspect.signature(getattr(one, name)).parameters for one in (FolderHub, HfApi))
    assert ours.keys() <= theirs.keys()


# The manifest of a split


def write_manifest(folder: Path, *reader: str) -> Path:
    assert main(["split", *reader, "--images", "none", "--out", str(folder / "split.json")]) == 0
    return folder / "split.json"


def test_a_public_manifest_is_published_with_its_digest(tmp_path: Path) -> None:
    from huggingface_hub import DatasetCard

    path = write_manifest(tmp_path, "--data.reader=phantom", "--data.options.num_questions=10", "--data.options.modalities=['mri']")
    author = Author.model_validate({"license": "apache-2.0"})
    assert publish_manifest(path, tmp_path / "out", author=author, is_dry=True).files == ("README.md", "manifest.json", "published.json")
    assert not (tmp_path / "out").exists()
    published = publish_manifest(path, tmp_path / "out", author=author)
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    values = json.loads(path.read_text())
    assert values["digest"] in card.text
    assert "Not for clinical use" in card.text
    assert card.data.license == "apache-2.0"
    assert (tmp_path / "out" / "manifest.json").read_bytes() == path.read_bytes()
    assert published.kind == "dataset"
    assert published.notes == ()
    plan_upload(published.folder, published.files, "example/split", kind=published.kind, is_public=False)


@pytest.mark.parametrize("is_private", [False, True])
def test_a_manifest_whose_ids_may_name_patients_stays_here(tmp_path: Path, is_private: bool) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [
        {
            "id": f"Smith/{number}",
            "images": [f"Smith-{number}.png"],
            "messages": [{"role": "user", "content": f"What is it, {number}?"}],
            "choices": ["CT", "MRI"],
            "target": "A",
            "modality": "ct",
            "question_type": "modality_recognition",
        }
        for number in range(20)
    ]
    (data / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    private = ["--data.private=true", f"--data.key_file={tmp_path / 'key'}"] if is_private else []
    path = write_manifest(tmp_path, "--data.reader=jsonl", f"--data.root={data / 'rows.jsonl'}", *private)
    published = publish_manifest(path, tmp_path / "out")
    assert published.files == ("README.md", "published.json")
    assert "could name patients" in published.card
    assert any("not published" in note for note in published.notes)
    assert "Smith" not in published.card + (tmp_path / "out" / "published.json").read_text()


def test_the_verb_publishes_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_manifest(tmp_path, "--data.reader=phantom", "--data.options.num_questions=10", "--data.options.modalities=['mri']")
    capsys.readouterr()
    assert main(["publish", str(path), "--out", str(tmp_path / "out"), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["kind"], values["uploaded"]) == ("dataset", None)
    assert main(["publish", str(path), "--out", str(tmp_path / "out"), "--with", str(tmp_path)]) == 2
    assert "is a manifest" in capsys.readouterr().err
