"""Digests against hashlib, and perceptual hashes under re-encoding."""

import hashlib
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import SolidImage

from osler.data.phantom.images import PhantomImage
from osler.images.files import ImageFile
from osler.images.fingerprints import (
    DEFAULT_DISTANCE,
    Fingerprint,
    digest_image,
    hash_picture,
    take_fingerprints,
)
from osler.taxonomy import Modality


def phantom(index: int, modality: Modality = Modality.MRI) -> PhantomImage:
    return PhantomImage(modality=modality, split="train", seed=0, index=index)


def test_digest_is_of_the_bytes(tmp_path: Path) -> None:
    phantom(0).load().save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.jpg").write_bytes(content)
    digests = [digest_image(ImageFile(root=tmp_path, path=name)) for name in ("a.png", "b.jpg", "absent.png")]
    assert digests == [hashlib.sha256(content).hexdigest()] * 2 + [None]


def test_sources_without_a_file_have_digests_too() -> None:
    found = [
        digest_image(source) for source in (phantom(0), phantom(1), phantom(0), SolidImage(grey=0, size=8), SolidImage(grey=0, size=9))
    ]
    assert None not in found
    assert found[0] == found[2]
    assert len(set(found)) == 4


def test_what_cannot_be_seen_has_no_hash(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    broken, absent, flat = (
        ImageFile(root=tmp_path, path="text.png"),
        ImageFile(root=tmp_path, path="absent.png"),
        SolidImage(grey=9, size=64),
    )
    taken = take_fingerprints([broken, absent, flat, flat])
    assert len(taken) == 3
    assert taken[absent] == Fingerprint(digest=None, perceptual_hash=None)
    assert taken[broken].digest is not None
    assert [taken[source].perceptual_hash for source in (broken, flat)] == [None, None]


CHANGES = {
    "jpeg": lambda picture: reencode(picture, 40),
    "half the size": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "twice the size": lambda picture: picture.resize((picture.width * 2, picture.height * 2)),
    "squashed": lambda picture: picture.resize((picture.width, picture.height * 3 // 4)),
    "brighter": lambda picture: picture.point(lambda value: min(255, round(255 * (value / 255) ** 0.9))),
    "small and jpeg": lambda picture: reencode(picture.resize((80, 80)), 60),
}


def reencode(picture: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


@pytest.mark.parametrize("change", CHANGES)
def test_hash_survives(change: str) -> None:
    pictures = [phantom(index, modality).load() for modality in Modality for index in range(3)]
    distances = [(hash_picture(picture) ^ hash_picture(CHANGES[change](picture))).bit_count() for picture in pictures]
    assert np.mean([distance <= DEFAULT_DISTANCE for distance in distances]) >= 0.9, distances


def test_different_pictures_are_far_apart() -> None:
    hashes = [hash_picture(phantom(2 * index, modality).load()) for modality in Modality for index in range(4)]
    distances = [(one ^ other).bit_count() for one, other in itertools.combinations(hashes, 2)]
    assert np.mean([distance > DEFAULT_DISTANCE for distance in distances]) > 0.99
