"""A call in another process returns and raises what the call does here."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from osler.elsewhere import calling, calling_here, count_cores
from osler.errors import DataError
from osler.text import fold_option


def test_the_other_process_answers() -> None:
    with calling(os.getpid) as get_other:
        assert get_other() != os.getpid()
    with calling_here(os.getpid) as get_own:
        assert get_own() == os.getpid()


@pytest.mark.parametrize("python", [None, "/bin/false", "/bin/true", "/none/python"])
def test_a_call_is_made_here_where_the_other_process_fails(monkeypatch: pytest.MonkeyPatch, python: str | None) -> None:
    monkeypatch.setattr(sys, "executable", python or sys.executable)
    with calling(fold_option, "The  Liver.") as fold:
        assert fold() == fold_option("The  Liver.")


def test_an_error_is_raised_here(tmp_path: Path) -> None:
    from osler.data.readers.read_files import read_bytes

    with calling(read_bytes, tmp_path / "none") as read, pytest.raises(DataError, match="does not exist"):
        read()


def test_what_is_printed_does_not_get_into_the_answer() -> None:
    with calling(print, "a line") as say:
        assert say() is None


def test_nothing_is_imported_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "subprocess.py").write_text("open('imported', 'w').close()")
    monkeypatch.chdir(tmp_path)
    with calling(os.getpid) as get_other:
        assert get_other() != os.getpid()
    assert not (tmp_path / "imported").exists()


CORES: list[tuple[Any, int]] = [(None, 1), ("1", 1), ("2", 2), ("many", 1), ("0", 1)]


@pytest.mark.parametrize(("local", "divisor"), CORES)
def test_the_processes_of_a_training_share_the_cores(monkeypatch: pytest.MonkeyPatch, local: str | None, divisor: int) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone = count_cores()
    if local is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    assert count_cores() == alone // divisor
