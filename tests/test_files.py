import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from osler.errors import DataError
from osler.files import create_whole, digest_file, locking, read_json_lines, read_text, replacing, write_json, write_json_lines


def test_files_appear_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "value.json"
    write_json(path, {"a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "é"\n}\n'
    with pytest.raises(FileExistsError):
        create_whole(path, "x")
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert [file.name for file in path.parent.iterdir()] == ["value.json"]


@pytest.mark.parametrize(("content", "found"), [(b"abc", "abc"), ("ä".encode(), "ä"), (b"\xff", ""), (b"", "")])
def test_a_small_file_is_read_text(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read_text(tmp_path / "file", 3, "write it again") == found


@pytest.mark.parametrize(
    ("name", "message"), [("large", r"larger than 3 bytes: write it again"), ("gone", r"cannot be read \(No such file")]
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "large").write_bytes(b"abcd")
    with pytest.raises(DataError, match=message) as caught:
        read_text(tmp_path / name, 3, "write it again")
    assert "\n" not in str(caught.value)


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with replacing(tmp_path / "policy") as draft:
        draft.mkdir()
        (draft / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "other") as draft:
        (draft / "absent" / "file").touch()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["policy", "policy/config.json"]


LINES: list[tuple[str, list[dict[str, int]] | str]] = [
    ("", []),
    ('{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
    ('{"a": 1}\n\n{"a": 2}', [{"a": 1}, {"a": 2}]),
    ('{"a": 1}\n{"a', [{"a": 1}]),
    ('{"a\n{"a": 1}\n', "entry 1 is not JSON"),
    ("[1]\n", "entry 1 is not a JSON object"),
]


@pytest.mark.parametrize(("content", "found"), LINES, ids=lambda value: str(value))
def test_json_lines(tmp_path: Path, content: str, found: list[dict[str, int]] | str) -> None:
    path = tmp_path / "lines.jsonl"
    assert read_json_lines(path) == []
    path.write_text(content)
    if isinstance(found, str):
        with pytest.raises(DataError, match=found):
            read_json_lines(path)
        return
    assert read_json_lines(path) == found
    write_json_lines(path, found)
    assert [json.loads(line) for line in path.read_text().splitlines()] == found


def test_a_digest_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert digest_file(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_lock_that_is_not_kept_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    """Threads take it in turn, also while others have opened the file that the holder removes."""
    at_work: list[int] = []
    most = []

    def work(number: int) -> None:
        with locking(tmp_path / "lock", 30, is_kept=False) as is_ours:
            assert is_ours
            at_work.append(number)
            most.append(len(at_work))
            time.sleep(0.001)
            at_work.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    assert most == [1] * 24
    assert not (tmp_path / "lock").exists()
