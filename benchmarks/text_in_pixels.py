"""How often the detector of text in pixels is wrong, on real pictures: alarms without text, and planted names that it misses.

python benchmarks/text_in_pixels.py --data DIR --count 150 --planted 12
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from osler.images.burned_in import find_text
from osler.images.files import ImageFile

FOLDERS: Final = {"body CT": "volumes/ct_body_dicom_series/*", "SLAKE": "slake/**/source.jpg", "VQA-RAD": "vqa_rad/**/*.jpg"}
FONTS: Final = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif")
SIZES: Final = (8, 10, 12, 16, 24, 40, 64)
CONTRASTS: Final = (40, 60, 100, 200)
NAME: Final = "SMITH JOHN 4711"


def read(data: Path, pattern: str, count: int) -> Iterator[Image.Image]:
    """A random sample of the pictures of a dataset."""
    paths = sorted(path for path in data.glob(pattern) if path.is_file())
    random.Random(0).shuffle(paths)
    for path in paths[:count]:
        yield ImageFile(root=path.parent, path=path.name).load().convert("L")


def plant(picture: Image.Image, size: int, contrast: int, place: str, font: str) -> tuple[Image.Image, tuple[int, ...]] | None:
    """The picture with a name in it, and its box; None where it does not fit, or where there is no such contrast."""
    import matplotlib

    face = ImageFont.truetype(str(Path(matplotlib.__file__).parent / f"mpl-data/fonts/ttf/{font}.ttf"), size)
    ink = Image.new("L", picture.size)
    corner = (4, 4) if place == "corner" else (picture.width // 3, picture.height // 2)
    ImageDraw.Draw(ink).text(corner, NAME, fill=255, font=face)
    box = ink.getbbox()
    if box is None or box[2] >= picture.width:
        return None
    values = np.asarray(picture).astype(float)
    ground = float(np.median(values[box[1] : box[3], box[0] : box[2]]))
    tone = ground + contrast if ground <= 128 else ground - contrast
    if not 0 <= tone <= 255:
        return None
    share = np.asarray(ink) / 255
    return Image.fromarray((values * (1 - share) + tone * share).round().clip(0, 255).astype(np.uint8)), box


def is_found(picture: Image.Image, box: tuple[int, ...]) -> bool:
    """Whether a line of the picture overlaps the box."""
    left, top, right, bottom = box
    return any(line.left < right and line.right > left and line.top < bottom and line.bottom > top for line in find_text(picture))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with volumes/, slake/ and vqa_rad/")
    parser.add_argument("--count", type=int, default=150, help="pictures of each dataset (default: %(default)s)")
    parser.add_argument("--planted", type=int, default=12, help="pictures that a name is planted into (default: %(default)s)")
    options = parser.parse_args()
    for name, pattern in FOLDERS.items():
        found = [bool(find_text(picture)) for picture in read(options.data, pattern, options.count)]
        print(f"{name}: {sum(found)} alarms on {len(found)} pictures")
    half = options.planted // 2
    chosen = [*read(options.data, FOLDERS["body CT"], half), *read(options.data, FOLDERS["SLAKE"], options.planted - half)]
    plain = [picture for picture in chosen if not find_text(picture)]
    missed, asked = Counter[tuple[int, int, str]](), Counter[tuple[int, int, str]]()
    for number, picture in enumerate(plain):
        for size in SIZES:
            for contrast in CONTRASTS:
                for place in ("corner", "middle"):
                    planted = plant(picture, size, contrast, place, FONTS[(number + size) % len(FONTS)])
                    if planted is not None:
                        asked[size, contrast, place] += 1
                        missed[size, contrast, place] += not is_found(*planted)
    for place in ("corner", "middle"):
        print(f"missed of those planted in the {place}, by size (rows) and contrast (columns {', '.join(map(str, CONTRASTS))})")
        for size in SIZES:
            print(f"{size:>4}", *(f"{missed[size, contrast, place]:>4}/{asked[size, contrast, place]}" for contrast in CONTRASTS))


if __name__ == "__main__":
    main()
