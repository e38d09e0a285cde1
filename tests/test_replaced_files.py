"""What a user names for a page, an audit or a manifest replaces an earlier file of its kind, and no other file."""

import json
from pathlib import Path

import pytest

from osler.cli.main import main
from osler.errors import DataError
from osler.files import HTML, check_replaceable


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A dataset of eight questions without images."""
    question = {"image": "a.png", "question": "Which?", "choices": ["CT", "MRI"], "answer": "A"}
    lines = [json.dumps({**question, "id": number, "split": "train" if number < 6 else "test"}) for number in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "rows.jsonl"


WRITERS = [
    (("audit", "--images=paths"), "--out", "page"),
    (("audit", "--images=paths"), "--save", "audit"),
    (("split", "--images=none", "--fresh"), "--out", "manifest"),
]


@pytest.mark.parametrize(("command", "option", "kind"), WRITERS, ids=[f"{row[0][0]}{row[1]}" for row in WRITERS])
def test_a_dataset_is_not_replaced(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], option: str, kind: str
) -> None:
    before = rows.read_bytes()
    line = [*command, "--data.reader=jsonl", f"--data.root={rows}"]
    assert main([*line, option, str(rows)]) == 2
    assert f"rows.jsonl exists and is no {kind} of Osler: name another file, or remove it" in capsys.readouterr().err
    assert rows.read_bytes() == before
    for _ in range(2):  # an earlier one is replaced
        assert main([*line, option, str(tmp_path / "new")]) == 0


def test_a_page_and_an_audit_do_not_replace_each_other(rows: Path, tmp_path: Path) -> None:
    line = ["audit", "--images=paths", "--data.reader=jsonl", f"--data.root={rows}"]
    assert main([*line, "--out", str(tmp_path / "x"), "--save", str(tmp_path / "x")]) == 2
    assert main([*line, "--save", str(tmp_path / "y.json")]) == 0
    saved = (tmp_path / "y.json").read_bytes()
    assert main(["report", str(tmp_path / "y.json"), "--out", str(tmp_path / "y.json")]) == 2
    assert (tmp_path / "y.json").read_bytes() == saved
    view = ["data", "view", "--data.reader=jsonl", f"--data.root={rows}", "--out"]
    assert main([*view, str(tmp_path / "y.json")]) == 2


@pytest.mark.parametrize(
    ("content", "is_replaced"),
    [
        *((b"", True), (b"<!DOCTYPE html><p>", True), (b"<!doctype HTML>", True)),
        *((b" <!doctype html>", False), (b"\xff" * 15, False), (b"<", False)),
    ],
)
def test_only_a_page_is_replaced_by_a_page(tmp_path: Path, content: bytes, is_replaced: bool) -> None:
    (tmp_path / "page.html").write_bytes(content)
    check_replaceable(tmp_path / "absent.html", HTML, "page")
    if is_replaced:
        check_replaceable(tmp_path / "page.html", HTML, "page")
        return
    with pytest.raises(DataError, match="is no page"):
        check_replaceable(tmp_path / "page.html", HTML, "page")
