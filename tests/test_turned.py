"""Turned and mirrored copies are found, pictures that only resemble each other's mirror image are not."""

import io
import itertools
import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.Image import Transpose

from osler.data.phantom.images import PhantomImage
from osler.errors import ConfigError
from osler.images.fingerprints import GRID, NUM_TURNS, Fingerprint, hash_picture, take_fingerprints, turn
from osler.images.near import match_hashes
from osler.images.turned import find_turned_pairs
from osler.taxonomy import Modality


@dataclass(frozen=True, eq=False)  # PIL's pictures have no hash
class Picture:
    """A picture in memory."""

    uri: str
    picture: Image.Image

    def load(self) -> Image.Image:
        return self.picture


def noise(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Smooth random blobs, no two alike."""
    blobs = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    return Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC).convert("RGB")


def reencode(picture: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    picture.resize((picture.width // 2, picture.height // 2)).save(stream, "JPEG", quality=60)
    return Image.open(stream).convert("RGB")


def find(*pictures: Image.Image, distance: int = 4) -> list[tuple[str, str]]:
    pairs = find_turned_pairs(take_fingerprints([Picture(str(number), picture) for number, picture in enumerate(pictures)]), distance)
    return [(one.uri, other.uri) for one, other in pairs]


@pytest.mark.parametrize("distance", [2, 8])
@pytest.mark.parametrize("change", [lambda picture: picture, reencode], ids=["as it is", "encoded again"])
@pytest.mark.parametrize("method", Transpose, ids=lambda method: method.name)
def test_a_turned_copy_is_found(method: Transpose, change, distance: int) -> None:
    one, other = noise(0), noise(1)
    assert find(one, other, change(one.transpose(method)), distance=distance) == [("0", "2")]


def test_the_turns_are_those_of_pil() -> None:
    grey = np.asarray(noise(2, (GRID, GRID)).convert("L"))
    ours = {turn(grey, number).tobytes() for number in range(NUM_TURNS)}
    assert ours == {grey.tobytes(), *(Image.fromarray(grey).transpose(method).tobytes() for method in Transpose)}
    stacked = np.stack([grey, grey])
    assert all(np.array_equal(turn(stacked, number)[1], turn(grey, number)) for number in range(NUM_TURNS))


def mirrored_half(seed: int) -> Image.Image:
    """A picture that is its own mirror image."""
    picture = noise(seed, (64, 64))
    picture.paste(picture.crop((0, 0, 32, 64)).transpose(Transpose.FLIP_LEFT_RIGHT), (32, 0))
    return picture


PAIRS = [
    ("other pictures", [noise(seed) for seed in range(20)], []),
    ("the same picture", [noise(0), noise(0)], []),
    ("a near-duplicate", [noise(0), reencode(noise(0))], []),
    ("one colour", [Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "red")], []),
    ("symmetric, alone", [mirrored_half(3)], []),
    ("symmetric, twice", [mirrored_half(3), reencode(mirrored_half(3))], []),
    ("symmetric, upside down", [mirrored_half(3), mirrored_half(3).transpose(Transpose.FLIP_TOP_BOTTOM)], [("0", "1")]),
    ("a cropped copy", [noise(0), noise(0).crop((10, 10, 90, 60)).transpose(Transpose.ROTATE_90)], []),
    ("a copy of a copy", [noise(0), noise(0).transpose(Transpose.ROTATE_90), noise(0).transpose(Transpose.ROTATE_180)],
     [("0", "1"), ("0", "2"), ("1", "2")]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "pictures", "pairs"), PAIRS, ids=[row[0] for row in PAIRS])
def test_pairs(name: str, pictures: list[Image.Image], pairs: list[tuple[str, str]]) -> None:
    assert find(*pictures) == pairs


def test_equal_hashes_of_unlike_pictures_are_no_copies() -> None:
    """What the mirror images of two brains are: near in 64 bits, and different pictures."""
    one, other = (np.asarray(noise(seed, (GRID, GRID)).convert("L")) for seed in (0, 1))
    greys = {"a": one, "same": turn(one, 1), "unlike": turn(other, 1)}
    fingerprints = {
        Picture(name, noise(0)): Fingerprint(
            digest=name, perceptual_hash=2**64 - 1 if name == "a" else 0, turned_hashes=(0,) * 7, grey=grey.tobytes()
        )
        for name, grey in greys.items()
    }
    assert [(one.uri, other.uri) for one, other in find_turned_pairs(fingerprints, 4)] == [("a", "same")]


def test_images_without_hashes_are_left_out() -> None:
    assert find_turned_pairs({Picture("a", noise(0)): Fingerprint(digest="x", perceptual_hash=7)}, 4) == []
    assert find_turned_pairs({}, 4) == []


@pytest.mark.parametrize("distance", [-1, 17])
def test_distance_out_of_range(distance: int) -> None:
    with pytest.raises(ConfigError, match="use 0 to 16"):
        find_turned_pairs({}, distance)


@pytest.mark.integration
def test_few_drawings_resemble_the_mirror_image_of_another() -> None:
    images = [PhantomImage(modality=modality, split="train", seed=0, index=index) for modality in Modality for index in range(12)]
    assert len(find_turned_pairs(take_fingerprints(images), 4)) <= 1


def test_the_hash_is_that_of_the_picture() -> None:
    picture = Picture("a", noise(0))
    taken = take_fingerprints([picture])[picture]
    assert taken.perceptual_hash == hash_picture(picture.picture)
    expected = hash_picture(picture.picture.transpose(Transpose.FLIP_LEFT_RIGHT))
    assert expected is not None
    assert min((expected ^ turned).bit_count() for turned in taken.turned_hashes) <= 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 16))
def test_near_hashes_are_those_of_a_full_comparison(seed: int, max_distance: int) -> None:
    rng = random.Random(seed)
    hashes = [rng.getrandbits(64) for _ in range(30)]
    queries = [*hashes[:10]]
    for _ in range(40):
        changed = rng.choice(hashes)
        for bit in rng.sample(range(64), rng.randrange(20)):
            changed ^= 1 << bit
        queries.append(changed)
    blocks = match_hashes(np.array(queries, dtype=np.uint64), np.array(hashes, dtype=np.uint64), max_distance)
    found = [pair for ones, others in blocks for pair in zip(ones.tolist(), others.tolist(), strict=True)]
    everything = itertools.product(range(len(queries)), range(len(hashes)))
    assert len(found) == len(set(found))
    assert set(found) == {(one, other) for one, other in everything if (queries[one] ^ hashes[other]).bit_count() <= max_distance}


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_many_hashes_are_compared_in_parts(at_once: int) -> None:
    hashes = np.arange(20, dtype=np.uint64)
    blocks = match_hashes(hashes, hashes, 1, at_once)
    found = [pair for ones, others in blocks for pair in zip(ones.tolist(), others.tolist(), strict=True)]
    assert sorted(found) == [(one, other) for one in range(20) for other in range(20) if (one ^ other).bit_count() <= 1]
