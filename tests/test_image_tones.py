"""Images of 16 bits a channel: every layout of the same content gives the same picture, in its own hue."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from osler.errors import DataError
from osler.images.files import ImageFile, verify

HEIGHT, WIDTH, FULL = 40, 64, 65535
RAMP = np.tile(np.linspace(0, 4095, WIDTH).astype(np.uint16), (HEIGHT, 1))  # 12 bits in 16
RAMP[: HEIGHT // 2] += 100
TURNED = 6
"""The EXIF orientation of a picture that is to be turned right by 90 degrees."""


def load(folder, data):
    (folder / "deep").write_bytes(data)
    return np.asarray(ImageFile(root=folder, path="deep").load())


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def filter_rows(values):
    """The rows of a PNG, each with another of the five filters."""
    rows = values.astype(">u2").reshape(len(values), -1).view(np.uint8).astype(int)
    step = 2 * values.shape[2]
    previous, lines = np.zeros_like(rows[0]), []
    for number, row in enumerate(rows):
        left, corner = (np.concatenate([np.zeros(step, int), line[:-step]]) for line in (row, previous))
        guess = left + previous - corner
        distances = np.stack([abs(guess - left), abs(guess - previous), abs(guess - corner)])
        paeth = np.choose(distances.argmin(axis=0), [left, previous, corner])
        kind = number % 5
        lines.append(
            bytes([kind]) + ((row - [0 * row, left, previous, (left + previous) // 2, paeth][kind]) % 256).astype(np.uint8).tobytes()
        )
        previous = row
    return b"".join(lines)


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> PNG's colour type


def png(values, *, interlaced=False, extra=b""):
    height, width, channels = values.shape
    passes = [values[top::down, left::right] for left, top, right, down in ADAM7] if interlaced else [values]
    raw = b"".join(filter_rows(part) for part in passes if part.size)
    header = struct.pack(">IIBBBBB", width, height, 16, COLOURS[channels], 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def exif(orientation):
    return chunk(b"eXIf", struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0))


def transparent(*values):
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


def cut(values, *, planar, tile, strip):
    """The parts of an image that a TIFF stores one after the other."""
    height, width, channels = values.shape
    for plane in [values[..., [number]] for number in range(channels)] if planar else [values]:
        if tile:
            padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
            corners = itertools.product(range(0, height, tile), range(0, width, tile))
            yield from (padded[y : y + tile, x : x + tile] for y, x in corners)
        else:
            yield from (plane[y : y + strip] for y in range(0, height, strip))


def tiff(values, *, order="<", planar=False, compressed=False, predictor=1, tile=0, strip=HEIGHT, **tags):
    """A TIFF of 16-bit values, (height, width, channels); `tags` are extra, orientation and photometric."""
    height, width, channels = values.shape
    blocks = []
    for part in cut(values, planar=planar, tile=tile, strip=strip):
        part = np.diff(part, axis=1, prepend=np.zeros_like(part[:, :1])) if predictor == 2 else part
        data = part.astype(f"{order}u2").tobytes()
        blocks.append(zlib.compress(data) if compressed else data)
    offsets = [8 + sum(map(len, blocks[:number])) for number in range(len(blocks))]
    extra = tags.get("extra")
    fields = {
        256: (3, [width]),
        257: (3, [height]),
        258: (3, [16] * channels),
        259: (3, [8 if compressed else 1]),
        262: (3, [tags.get("photometric", 2 if channels > 2 else 1)]),
        274: (3, [tags.get("orientation", 1)]),
        277: (3, [channels]),
        284: (3, [2 if planar else 1]),
        317: (3, [predictor]),
    }
    lengths = [len(block) for block in blocks]
    fields |= {322: (3, [tile]), 323: (3, [tile]), 324: (4, offsets), 325: (4, lengths)} if tile else {}
    fields |= {} if tile else {273: (4, offsets), 278: (3, [strip]), 279: (4, lengths)}
    fields |= {} if extra is None else {338: (3, [extra])}
    body = b"".join(blocks)
    directory, later = 8 + len(body), b""
    after = directory + 2 + 12 * len(fields) + 4
    entries = b""
    for tag, (kind, numbers) in sorted(fields.items()):
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            where, later = struct.pack(f"{order}I", after + len(later)), later + packed
        else:
            where = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + where
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}I", directory) + body + struct.pack(f"{order}H", len(fields)) + entries + b"\0" * 4 + later


def stack(*channels):
    return np.dstack(channels)


OPAQUE = np.full_like(RAMP, FULL)
GREY, GREY_ALPHA = stack(RAMP), stack(RAMP, OPAQUE)
RGB, RGBA = stack(RAMP, RAMP, RAMP), stack(RAMP, RAMP, RAMP, OPAQUE)

FILES = {
    "grey png": png(GREY),
    "grey and alpha png": png(GREY_ALPHA),
    "rgb png": png(RGB),
    "rgba png": png(RGBA),
    "interlaced grey png": png(GREY, interlaced=True),
    "interlaced grey and alpha png": png(GREY_ALPHA, interlaced=True),
    "interlaced rgb png": png(RGB, interlaced=True),
    "interlaced rgba png": png(RGBA, interlaced=True),
    "rgb png with a transparent colour that it lacks": png(RGB, extra=transparent(1, 2, 3)),
    "grey png with a transparent grey that it lacks": png(GREY, extra=transparent(1)),
    **{
        f"{name} tiff {order}{number}": tiff(values, order=order, extra=extra, **options)
        for order in "<>"
        for name, values, extra in (
            ("grey", GREY, None),
            ("rgb", RGB, None),
            ("rgba", RGBA, 2),
            ("rgb and opaque premultiplied", RGBA, 1),
            ("rgb and something", stack(RAMP, RAMP, RAMP, RAMP[::-1]), 0),
        )
        for number, options in enumerate(
            [
                {"strip": 7},
                {"tile": 16},
                {"compressed": True, "strip": 7},
                {"compressed": True, "tile": 16},
                {"compressed": True, "predictor": 2},
            ]
        )
    },
    **{
        f"planar {name} tiff {order}": tiff(values, order=order, planar=True, extra=extra, strip=strip)
        for order in "<>"
        for name, values, extra in (("rgb", RGB, None), ("rgba", RGBA, 2), ("rgb and something", RGBA, 0))
        for strip in (7, HEIGHT)
    },
}


@pytest.mark.parametrize("name", FILES)
def test_every_layout_gives_the_picture_of_the_grey_one(tmp_path, name):
    expected = np.round((RAMP - float(RAMP.min())) * (255 / (int(RAMP.max()) - int(RAMP.min()))))
    shown = load(tmp_path, FILES[name])
    assert shown.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(shown, np.repeat(expected[..., None], 3, axis=2), atol=1 if "premultiplied" in name else 0)
    assert (shown.min(), shown.max()) == (0, 255)


TURNS = [
    *(pytest.param(png(values, extra=exif(TURNED)), id=f"png {values.shape[2]}") for values in (GREY, GREY_ALPHA, RGB, RGBA)),
    *(
        pytest.param(tiff(values, orientation=TURNED, compressed=compressed, extra=extra), id=f"tiff {values.shape[2]} {compressed}")
        for values, extra in ((GREY, None), (RGB, None), (RGBA, 2))
        for compressed in (False, True)
    ),
]


@pytest.mark.parametrize("data", TURNS)
def test_an_image_of_16_bits_is_shown_upright(tmp_path, data):
    np.testing.assert_array_equal(load(tmp_path, data), np.rot90(load(tmp_path, png(GREY)), -1))


@pytest.mark.parametrize("top", [4095, FULL])
@pytest.mark.parametrize("write", [png, tiff])
def test_a_colour_keeps_its_hue(tmp_path, write, top):
    """Red, green and blue share one range: their ratios stay as they are."""
    slope = np.tile(np.linspace(0, top, 256).astype(np.uint16), (8, 1))
    shown = load(tmp_path, write(stack(slope, slope // 2, slope // 4))).astype(float)
    np.testing.assert_allclose(shown[..., 0], slope * (255 / top), atol=0.5)
    np.testing.assert_allclose(shown[..., 1], shown[..., 0] / 2, atol=1)
    np.testing.assert_allclose(shown[..., 2], shown[..., 0] / 4, atol=1)


HALF = np.full_like(RAMP, FULL // 2 + 1)
HOLE = OPAQUE.copy()
HOLE[:, :8] = 0
HIDDEN = np.where(HOLE > 0, RAMP, FULL)  # what nobody sees is far brighter
SEEN = np.where(HOLE > 0, 1.0, 0.0)[..., None]


def premultiply(colours, alpha):
    return stack((colours * (alpha[..., None] / FULL)).round().astype(np.uint16), alpha)


ALPHA = [
    pytest.param(png(stack(RAMP, HALF)), 0.5, id="half of grey png"),
    pytest.param(png(stack(RAMP, RAMP, RAMP, HALF)), 0.5, id="half of rgb png"),
    pytest.param(tiff(stack(RAMP, RAMP, RAMP, HALF), extra=2), 0.5, id="half of rgb tiff"),
    pytest.param(tiff(premultiply(RGB, HALF), extra=1), 0.5, id="half of rgb tiff, premultiplied"),
    pytest.param(png(stack(HIDDEN, HOLE)), SEEN, id="hole in grey png"),
    pytest.param(png(stack(HIDDEN, HIDDEN, HIDDEN, HOLE)), SEEN, id="hole in rgb png"),
    pytest.param(tiff(premultiply(stack(HIDDEN, HIDDEN, HIDDEN), HOLE), extra=1), SEEN, id="hole in rgb tiff, premultiplied"),
    pytest.param(png(stack(HIDDEN), extra=transparent(FULL)), SEEN, id="transparent grey"),
    pytest.param(png(stack(HIDDEN, HIDDEN, HIDDEN), extra=transparent(FULL, FULL, FULL)), SEEN, id="transparent colour"),
    pytest.param(png(stack(RAMP, 0 * RAMP)), 0.0, id="nothing of grey"),
    pytest.param(png(stack(RAMP, RAMP, RAMP, 0 * RAMP)), 0.0, id="nothing of rgb"),
    pytest.param(png(stack(0 * RAMP + 7), extra=transparent(7)), 0.0, id="only the transparent grey"),
]


@pytest.mark.parametrize(("data", "alpha"), ALPHA)
def test_transparent_pixels_are_black_and_set_no_range(tmp_path, data, alpha):
    visible = RAMP if np.isscalar(alpha) else RAMP[:, 8:]
    scaled = (RAMP - float(visible.min())) * (255 / (int(visible.max()) - int(visible.min())))
    expected = np.repeat(scaled[..., None], 3, axis=2) * alpha
    np.testing.assert_allclose(load(tmp_path, data), expected, atol=1)


@pytest.mark.parametrize("number", [0, 4095, FULL])
@pytest.mark.parametrize("write", [png, tiff])
def test_a_constant_is_black(tmp_path, write, number):
    assert not load(tmp_path, write(np.full((4, 4, 3), number, np.uint16))).any()


REFUSED = [
    pytest.param(
        tiff(RGB, planar=True, compressed=True), "compressed TIFF of 16-bit colours in separate planes.*PNG", id="compressed planes"
    ),
    pytest.param(tiff(GREY_ALPHA, extra=2), "number of channels or bits.*PNG", id="grey and alpha tiff"),
    pytest.param(tiff(RGBA, photometric=5), "CMYK colours of 16 bits.*PNG", id="cmyk"),
    pytest.param(png(RGB)[:-60], "damaged or cut short", id="cut png"),
    pytest.param(png(GREY_ALPHA)[:-60], "damaged or cut short", id="cut png of grey and alpha"),
    pytest.param(tiff(RGB, compressed=True).replace(b"\x78\x9c", b"\0\0"), "damaged or cut short", id="broken tiff"),
    pytest.param(tiff(RGB)[:8] + tiff(RGB)[-200:], "damaged", id="cut tiff"),
]


@pytest.mark.parametrize(("data", "message"), REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, data, message):
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path, data)
    assert str(caught.value).startswith("image 'deep' ")
    assert "\n" not in str(caught.value)


def test_a_damaged_image_of_16_bits_is_a_picture_or_one_line(tmp_path):
    rng = np.random.default_rng(2)
    for data in (png(RGB), png(GREY_ALPHA, interlaced=True), tiff(RGBA, extra=2), tiff(RGB, compressed=True), tiff(RGB, planar=True)):
        for _ in range(40):
            damaged = np.frombuffer(data, np.uint8).copy()
            damaged[rng.integers(0, min(len(data), rng.choice([60, len(data)])), 3)] = rng.integers(0, 256, 3)
            (tmp_path / "deep").write_bytes(damaged.tobytes())
            fault = verify(ImageFile(root=tmp_path, path="deep"), decode=True)
            assert fault is None or fault.isprintable()


EIGHT_BITS = [
    pytest.param(Image.fromarray(np.random.default_rng(0).integers(0, 200, (9, 7, 3), dtype=np.uint8)), id="rgb"),
    pytest.param(Image.fromarray(np.random.default_rng(0).integers(50, 90, (9, 7), dtype=np.uint8)), id="grey"),
]


@pytest.mark.parametrize("name", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("picture", EIGHT_BITS)
def test_8_bits_are_shown_as_they_are(tmp_path, picture, name):
    stream = io.BytesIO()
    picture.save(stream, name)
    assert load(tmp_path, stream.getvalue()).tobytes() == picture.convert("RGB").tobytes()


@pytest.mark.parametrize("name", ["PNG", "TIFF"])
def test_pils_own_grey_file_gives_the_same_picture(tmp_path, name):
    stream = io.BytesIO()
    Image.fromarray(RAMP).save(stream, name)
    np.testing.assert_array_equal(load(tmp_path, stream.getvalue()), load(tmp_path, png(GREY)))


def drawing(tone, *, mode="RGBA", others=0.0):
    """Strokes of a tone on a transparent ground whose hidden colour is the opposite one; a share of the strokes is bright."""
    values = np.zeros((20, 20, 4), np.uint8)
    values[..., :3] = 255 - tone
    values[4:14, :, :3] = tone
    values[4:14, :, 3] = 255
    values[4:14, : round(20 * others), :3] = 200
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize(
    ("picture", "ground"),
    [
        pytest.param(drawing(0), 255, id="a drawing in black"),
        pytest.param(drawing(0, mode="LA"), 255, id="in grey and alpha"),
        pytest.param(drawing(0, mode="PA"), 255, id="in a palette and alpha"),
        pytest.param(drawing(60, others=0.1), 255, id="with a line in colour"),
        pytest.param(drawing(0, others=0.15), 0, id="with more that is bright"),
        pytest.param(drawing(255), 0, id="a drawing in white"),
        pytest.param(drawing(100), 0, id="in grey"),
        pytest.param(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), 0, id="nothing"),
    ],
)
def test_the_ground_of_transparent_pixels_does_not_swallow_the_drawing(tmp_path, picture, ground):
    stream = io.BytesIO()
    picture.save(stream, "TIFF" if picture.mode == "PA" else "PNG")
    shown = load(tmp_path, stream.getvalue())
    assert (shown[0] == ground).all()
    np.testing.assert_array_equal(shown[5, -1], np.asarray(picture.convert("RGBA"))[5, -1, :3] if picture.getbbox() else [0] * 3)
