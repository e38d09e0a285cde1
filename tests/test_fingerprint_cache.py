"""Fingerprints from a cache equal fresh ones, a changed file is opened again, and a broken cache is made again."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from small_runs import SolidImage

from osler.data.phantom.images import PhantomImage
from osler.errors import ConfigError
from osler.images.files import ImageFile
from osler.images.fingerprint_cache import FILE, FileState, FingerprintCache, Kept
from osler.images.fingerprints import MAX_WORKERS, Fingerprint, Opening, take_fingerprints
from osler.images.turned import find_turned_pairs
from osler.taxonomy import Modality
from osler.types import ImageSource

NUM = 6


def picture(index: int) -> Image.Image:
    return PhantomImage(modality=Modality.MRI, split="train", seed=0, index=index).load()


def write_images(folder: Path) -> list[ImageSource]:
    """Pictures, a turned copy of the first, a flat one, a broken file, a missing one, and an image that is no file."""
    for index in range(NUM):
        picture(index).save(folder / f"{index}.png")
    picture(0).transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png")
    Image.new("L", (64, 64), 9).save(folder / "flat.png")
    (folder / "broken.png").write_text("no picture")
    names = [*(f"{index}.png" for index in range(NUM)), "turned.png", "flat.png", "broken.png", "missing.png"]
    return [*(ImageFile(root=folder, path=name) for name in names), SolidImage(grey=7, size=8)]


def hashes(taken: dict[ImageSource, Fingerprint]) -> list[tuple[object, ...]]:
    return [(source, one.digest, one.perceptual_hash, one.turned_hashes) for source, one in taken.items()]


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_neither_workers_nor_a_cache_change_fingerprints(tmp_path: Path, workers: int | None) -> None:
    images = write_images(tmp_path)
    fresh = take_fingerprints(images)
    cold, warm = (take_fingerprints(images, opening=Opening(workers=workers, cache=tmp_path / "cache")) for _ in range(2))
    assert hashes(cold) == hashes(warm) == hashes(fresh)
    assert take_fingerprints(images, opening=Opening(workers=workers)) == fresh
    assert not any(warm[image].grey for image in images[:NUM])
    pairs = [find_turned_pairs(taken, 4) for taken in (fresh, cold, warm)]
    assert pairs[0] == pairs[1] == pairs[2]
    assert (images[0], images[NUM]) in pairs[0]


def test_a_file_that_has_not_changed_is_not_opened_again(tmp_path: Path) -> None:
    images = write_images(tmp_path)
    opening = Opening(cache=tmp_path / "cache")
    before = take_fingerprints(images, opening=opening)
    status = (tmp_path / "0.png").stat()
    (tmp_path / "0.png").write_bytes(b"x" * status.st_size)
    os.utime(tmp_path / "0.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hashes(take_fingerprints(images, opening=opening)) == hashes(before)


CHANGES: list[Callable[[Path], object]] = [
    lambda path: picture(NUM).save(path),
    lambda path: os.utime(path, ns=(1, 1)),
    lambda path: path.unlink(),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_opened_again(tmp_path: Path, change: Callable[[Path], object]) -> None:
    images = write_images(tmp_path)
    opening = Opening(cache=tmp_path / "cache")
    take_fingerprints(images, opening=opening)
    change(tmp_path / "0.png")
    again = take_fingerprints(images, opening=opening)
    assert hashes(again) == hashes(take_fingerprints(images))
    assert bool(again[images[0]].grey) == (tmp_path / "0.png").exists()


def write(statement: str) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        base = sqlite3.connect(path)
        with base:
            base.execute(statement)
        base.close()

    return change


BREAKS: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(b"no database, but long enough to be taken for one" * 40),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:5000]),
    lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096)),
    write("UPDATE fingerprints SET digest = 'x'"),
    write("UPDATE fingerprints SET hashes = x'00'"),
    write("UPDATE fingerprints SET hashes = 3, digest = 4"),
    write("DROP TABLE fingerprints"),
    write("PRAGMA user_version = 1"),
]


@pytest.mark.parametrize("spoil", BREAKS)
def test_a_broken_cache_is_made_again(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    images = write_images(tmp_path)
    opening = Opening(cache=tmp_path / "cache")
    before = take_fingerprints(images, opening=opening)
    spoil(tmp_path / "cache" / FILE)
    assert hashes(take_fingerprints(images, opening=opening)) == hashes(before)
    assert not any(one.grey for one in list(take_fingerprints(images, opening=opening).values())[:NUM])


def test_a_cache_that_breaks_while_it_is_open_is_made_again(tmp_path: Path) -> None:
    image = write_images(tmp_path)[0]
    state, kept = FileState.of(image), Kept(digest="0" * 64, hashes=())
    assert state is not None
    with FingerprintCache(tmp_path / "cache") as cache:
        write("DROP TABLE fingerprints")(cache.path)
        assert list(cache.find([image])) == []
        cache.keep({image: kept}, {image: state})
        assert list(cache.find([image])) == [(image, kept)]


def test_a_cache_is_bounded_and_holds_no_names(tmp_path: Path) -> None:
    write_images(tmp_path)
    images = [ImageFile(root=tmp_path, path=f"{index}.png") for index in range(NUM)]
    states = {image: state for image in images if (state := FileState.of(image)) is not None}
    kept = Kept(digest="0" * 64, hashes=tuple(range(8)))
    with FingerprintCache(tmp_path / "cache", max_rows=2) as cache:
        for image in images:
            cache.keep({image: kept}, {image: states[image]})
        assert list(cache.find(images)) == [(image, kept) for image in images[-2:]]
    assert cache.path.stat().st_mode & 0o077 == 0
    assert b".png" not in cache.path.read_bytes()


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path: Path) -> None:
    image = write_images(tmp_path)[0]
    with FingerprintCache(tmp_path / "cache") as cache:
        cache.keep({image: Kept(digest="0" * 64, hashes=())}, {image: FileState(size=1, mtime_ns=1)})
        assert list(cache.find([image])) == []


def test_a_cache_that_cannot_be_written_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="name another folder with --cache"):
        take_fingerprints([], opening=Opening(cache=tmp_path / "file"))


@pytest.mark.parametrize("workers", [0, -1, MAX_WORKERS + 1])
def test_workers_out_of_range(workers: int) -> None:
    with pytest.raises(ConfigError, match="use 1 to 256"):
        Opening(workers=workers)
