"""Every kind of image file loads as the right picture, or raises a one-line error that names it."""

import io
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osler.errors import DataError
from osler.images.files import FORMATS, MAX_BYTES, ImageFile, verify

RED, GREEN, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 0), (255, 255, 255)


def half_and_half(mode="RGB", size=(8, 4), left=RED, right=GREEN):
    picture = Image.new("RGB", size, left)
    picture.paste(right, (size[0] // 2, 0, *size))
    return picture.convert(mode)


def encode(picture, name, **options):
    stream = io.BytesIO()
    picture.save(stream, name, **options)
    return stream.getvalue()


def with_orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 10) + b"IDAT"


def grey(values, dtype):
    return Image.fromarray(np.array(values, dtype=dtype))


deep = grey([[1000, 3000]], np.uint16)


def corners(picture):
    """The first and the last pixel."""
    return picture.getpixel((0, 0)), picture.getpixel((picture.width - 1, picture.height - 1))


transparent = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
transparent.putpixel((3, 3), (255, 0, 0, 255))
palette = half_and_half().convert("P", palette=Image.Palette.ADAPTIVE)
grey_alpha = Image.new("LA", (2, 2), (255, 0))


@pytest.mark.parametrize(
    ("data", "size", "first", "last"),
    [
        pytest.param(encode(half_and_half(), "PNG"), (8, 4), RED, GREEN, id="png"),
        pytest.param(encode(half_and_half(), "BMP"), (8, 4), RED, GREEN, id="bmp"),
        pytest.param(encode(half_and_half(), "TIFF"), (8, 4), RED, GREEN, id="tiff"),
        pytest.param(encode(half_and_half(), "TIFF", big_tiff=True), (8, 4), RED, GREEN, id="big tiff"),
        pytest.param(encode(half_and_half(), "WEBP", lossless=True), (8, 4), RED, GREEN, id="webp"),
        pytest.param(encode(palette, "PNG"), (8, 4), RED, GREEN, id="palette"),
        pytest.param(encode(palette, "GIF", save_all=True, append_images=[palette.transpose(0)]), (8, 4), RED, GREEN, id="first frame"),
        pytest.param(encode(half_and_half(), "TIFF", save_all=True, append_images=[palette]), (8, 4), RED, GREEN, id="first page"),
        pytest.param(encode(half_and_half("1", left=BLACK, right=WHITE), "PNG"), (8, 4), BLACK, WHITE, id="one bit"),
        pytest.param(encode(half_and_half("CMYK"), "TIFF"), (8, 4), RED, GREEN, id="cmyk"),
        pytest.param(encode(half_and_half("CMYK", (64, 32)), "JPEG", quality=100), (64, 32), RED, GREEN, id="cmyk jpeg"),
        pytest.param(encode(transparent, "PNG"), (4, 4), BLACK, RED, id="alpha on black"),
        pytest.param(encode(grey_alpha, "PNG"), (2, 2), BLACK, BLACK, id="grey alpha on black"),
        pytest.param(encode(Image.new("L", (2, 2), 9), "PNG", transparency=9), (2, 2), BLACK, BLACK, id="transparent grey"),
        pytest.param(encode(deep, "PNG"), (2, 1), BLACK, WHITE, id="16 bit png"),
        pytest.param(encode(deep, "TIFF"), (2, 1), BLACK, WHITE, id="16 bit tiff"),
        pytest.param(encode(deep, "TIFF", tiffinfo={262: 0}), (2, 1), WHITE, BLACK, id="16 bit tiff, white is zero"),
        pytest.param(encode(grey([[-5, 70000]], np.int32), "TIFF"), (2, 1), BLACK, WHITE, id="32 bit tiff"),
        pytest.param(encode(grey([[-0.5, np.nan, 0.5]], np.float32), "TIFF"), (3, 1), BLACK, WHITE, id="float tiff"),
        pytest.param(encode(grey([[7, 7]], np.uint16), "PNG"), (2, 1), BLACK, BLACK, id="16 bit constant"),
        pytest.param(encode(half_and_half(), "PNG", exif=with_orientation(1)), (8, 4), RED, GREEN, id="upright"),
        pytest.param(encode(half_and_half(), "PNG", exif=with_orientation(3)), (8, 4), GREEN, RED, id="upside down"),
        pytest.param(encode(half_and_half(), "PNG", exif=with_orientation(6)), (4, 8), RED, GREEN, id="turned right"),
        pytest.param(encode(half_and_half(), "PNG", exif=with_orientation(8)), (4, 8), GREEN, RED, id="turned left"),
        pytest.param(encode(half_and_half(), "PNG", exif=with_orientation(99)), (8, 4), RED, GREEN, id="no such orientation"),
        pytest.param(encode(half_and_half(), "PNG", exif=b"Exif\0\0garbage"), (8, 4), RED, GREEN, id="broken exif"),
    ],
)
def test_load_gives_the_right_picture(tmp_path, data, size, first, last):
    (tmp_path / "named.anything").write_bytes(data)
    picture = ImageFile(root=tmp_path, path="named.anything").load()
    assert (picture.mode, picture.size) == ("RGB", size)
    np.testing.assert_allclose(corners(picture), (first, last), atol=6)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "JPEG"])
def test_a_cut_file_is_one_line(tmp_path, name):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, name)
    for length in (4, 20, len(data) // 2):
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(DataError, match=r"'cut'.*: (fetch|convert)") as caught:
            ImageFile(root=tmp_path, path="cut").load()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "is empty: fetch it again", id="empty"),
        pytest.param(b"<html>not found</html>", "is not an image", id="a web page"),
        pytest.param(b"RIFF\0\0\0\0WAVEfmt ", "is not an image", id="a sound"),
        pytest.param(encode(half_and_half(size=(64, 64)), "JPEG")[:400], "damaged", id="cut jpeg"),
        pytest.param(encode(half_and_half(), "PNG")[:-30] + b"x" * 30, "damaged", id="broken checksum"),
        pytest.param(png_header(30_000, 30_000), "30000 x 30000 pixels, more than 64,000,000", id="30,000 x 30,000"),
        pytest.param(png_header(2**31 - 1, 2**31 - 1), "pixels, more than", id="bomb"),
        pytest.param(png_header(0, 5), "damaged header", id="no pixels"),
        pytest.param(encode(Image.new("L", (201, 1)), "PNG"), "too narrow", id="a line"),
        pytest.param(encode(grey([[np.nan]], np.float32), "TIFF"), "no pixel is a number", id="only nan"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, data, message):
    (tmp_path / "bad.png").write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        ImageFile(root=tmp_path, path="bad.png").load()
    assert str(caught.value).startswith("image 'bad.png' ")


def test_a_huge_file_is_not_opened(tmp_path):
    with (tmp_path / "huge.png").open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    assert "more than" in str(verify(ImageFile(root=tmp_path, path="huge.png")))


@pytest.mark.parametrize(
    "path", ["", " ", "/etc/passwd", "../a.png", "a/../../b.png", "..", "C:\\a.png", "\\\\host\\a.png", "a\\..\\b.png", "a\0.png"]
)
def test_a_path_that_leaves_the_root_is_refused_at_once(tmp_path, path):
    with pytest.raises(DataError, match="relative to the image root"):
        ImageFile(root=tmp_path, path=path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent.png", "does not exist under"),
        ("folder", "is not a file"),
        ("pipe", "is not a file"),
        ("outward.png", "leaves the image root"),
        ("loop", "cannot be opened|leaves"),
        ("x" * 5000, "cannot be opened"),
        ("\ud800.png", "cannot be opened|does not exist"),
        ("..hidden/...png", "does not exist"),
    ],
)
def test_a_path_without_a_file_is_one_line(tmp_path, path, message):
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    os.mkfifo(root / "pipe")
    (tmp_path / "secret.png").write_bytes(encode(half_and_half(), "PNG"))
    (root / "outward.png").symlink_to(tmp_path / "secret.png")
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(DataError, match=message) as caught:
        ImageFile(root=root, path=path).load()
    assert str(caught.value).isprintable()


def test_links_inside_the_root_are_followed(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(half_and_half(), "PNG"))
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    assert corners(ImageFile(root=tmp_path, path="b.png").load()) == (RED, GREEN)


@pytest.mark.parametrize(("decode", "is_found"), [(False, False), (True, True)])
def test_verify_reads_the_header_and_decodes_on_demand(tmp_path, decode, is_found):
    data = encode(half_and_half(size=(300, 300)), "BMP")
    (tmp_path / "good.png").write_bytes(data)
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    assert verify(ImageFile(root=tmp_path, path="good.png"), decode=decode) is None
    assert (verify(ImageFile(root=tmp_path, path="cut.png"), decode=decode) is not None) == is_found


def test_an_image_file_is_small_and_travels():
    source = ImageFile(root=Path("data"), path="./imgs//a.png")
    assert source.uri == "imgs/a.png"
    assert pickle.loads(pickle.dumps(source)) == source


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_a_picture_or_one_line(tmp_path, name):
    rng = np.random.default_rng(1)
    data = np.frombuffer(encode(half_and_half(size=(48, 48)), name), np.uint8)
    for _ in range(60):
        damaged = data.copy()
        places = rng.integers(0, min(len(data), rng.choice([40, 200, len(data)])), 3)
        damaged[places] = rng.integers(0, 256, 3)
        (tmp_path / "damaged").write_bytes(damaged.tobytes())
        fault = verify(ImageFile(root=tmp_path, path="damaged"), decode=True)
        assert fault is None or fault.isprintable()
