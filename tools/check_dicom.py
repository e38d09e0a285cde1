"""Compare Osler's pictures of DICOM files with those of dcmtk, an independent implementation in another language.

    apt install dcmtk libgdcm-tools
    python -m tools.check_dicom [FOLDER] [--all] [--json FILE]

FOLDER is that of pydicom's own files by default. `dcmj2pnm` renders the first frame of each file with the window that Osler takes: the VOI
lookup table, else the first valid window, else minimum to maximum, or none for values of 8 bits; overlays are off. What it cannot decode,
such as JPEG 2000, is decompressed by GDCM's `gdcmconv` first. The table has a line for each file: its transfer syntax, what Osler says of
it, which program showed it, the greatest difference of a tone, and the reason where it is above 1. Without --all, files that agree within
one tone, or that both refuse, are counted by transfer syntax and not listed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.Image import Image

from osler.errors import DataError
from osler.images.dicom import DicomFrame

RENDERER, CONVERTER = "dcmj2pnm", "gdcmconv"
BILINEAR: Final = PIL.Image.Resampling.BILINEAR  # of dcmtk's picture, where Osler makes pixels square
CLOSE: Final = 1  # tones: the programs round in different ways
WHITE: Final = 255
FEW: Final = 0.02  # of the range of tones, by which decoders of a lossy picture may differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One file."""

    file: str
    syntax: str  # "JPEG 2000 Image Compression"; "" where the file does not say it
    osler: str  # "read", or why it is refused
    other: str  # "dcmtk", "gdcm and dcmtk", or "no"
    difference: int | None  # the greatest, in tones of 255; None where one of them shows nothing
    reason: str  # of a difference above CLOSE


def compare(root: Path, path: str, folder: Path) -> Comparison:
    """Show one file by both, and say how they differ."""
    dataset = _read(root / path)
    syntax = dataset.file_meta.get("TransferSyntaxUID") if dataset is not None else None
    ours: NDArray[Any] | None = None
    try:
        ours, told = np.asarray(DicomFrame(root=root, path=path).load()).astype(int), "read"
    except DataError as error:
        told = str(error).removeprefix(f"image {path!r} ").partition(": ")[0]
    other, theirs = render(root / path, dataset, folder) if dataset is not None else ("no", None)
    difference, reason = None, ""
    if ours is not None and theirs is not None:
        apart = np.abs(ours - np.asarray(theirs.resize(ours.shape[1::-1], BILINEAR))).max(axis=2)
        difference = int(apart.max())
        reason = explain(dataset, apart) if difference > CLOSE else ""
    return Comparison(
        file=path, syntax=str(getattr(syntax, "name", "")) if syntax else "", osler=told, other=other, difference=difference, reason=reason
    )


def _read(path: Path) -> Any:
    """The header by pydicom; None for a file that is no DICOM file."""
    import pydicom

    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except Exception:  # whatever it is: the table then says what Osler says of the file
        return None


def render(path: Path, dataset: Any, folder: Path) -> tuple[str, Image | None]:
    """Who showed the first frame, and the picture."""
    plain = folder / "plain.dcm"
    for name, source in (("dcmtk", path), ("gdcm and dcmtk", plain)):
        if source is plain and not (shutil.which(CONVERTER) and _run(CONVERTER, "--raw", str(path), str(plain))):
            continue
        out = folder / "out.pnm"
        out.unlink(missing_ok=True)
        if _run(RENDERER, "+opb", "-O", "+F", "1", *_window(dataset), str(source), str(out)) and out.exists():
            with PIL.Image.open(out) as picture:
                return name, picture.convert("RGB")
    return "no", None


def _run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=120).returncode == 0


def _window(dataset: Any) -> list[str]:
    """The option of `dcmj2pnm` for the window of the file."""
    if dataset.get("SamplesPerPixel", 1) != 1 or dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        return []
    if dataset.get("VOILUTSequence"):
        return ["+Wl", "1"]
    widths = np.atleast_1d(dataset.get("WindowWidth") or [])
    if valid := [number for number, width in enumerate(widths, 1) if float(width) >= 1]:
        return ["+Wi", str(valid[0])]
    is_display = dataset.get("BitsStored", 16) <= 8 and not dataset.get("PixelRepresentation") and dataset.get("RescaleSlope", 1) == 1
    return [] if is_display and not dataset.get("RescaleIntercept") else ["+Wm"]


def explain(dataset: Any, apart: NDArray[Any]) -> str:
    """Why the tones differ by more than CLOSE."""
    syntax, greatest = dataset.file_meta.TransferSyntaxUID, int(apart.max())
    if "PixelPaddingValue" in dataset:
        return "padding: black in Osler and outside the range; a value like any other in dcmtk"
    if dataset.get("BitsStored") == 1 and greatest == 127:
        return "one bit: 1 is white in Osler, 128 in dcmtk"
    if dataset.get("BitsAllocated", 0) > 16 and not syntax.is_little_endian:
        return "more than 16 bits in big endian: the two take the 16-bit words in opposite order"
    is_ybr = str(dataset.get("PhotometricInterpretation", "")).startswith("YBR")
    is_lossy = syntax.is_encapsulated and "Lossless" not in syntax.name
    if (is_lossy or is_ybr) and greatest <= FEW * WHITE:
        return (
            "lossy compression: decoders round in different ways"
            if is_lossy
            else "YBR colours: the equations are rounded in different ways"
        )
    return f"unexplained: {float((apart > CLOSE).mean()):.1%} of the pixels"


def report(rows: Sequence[Comparison], *, lists_all: bool) -> Iterator[str]:
    """The lines of the tables, in Markdown."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(row.syntax or "none given", Counter())[_kind(row)] += 1
    kinds = ("equal", "one tone", "differs", "Osler alone", "dcmtk alone", "neither")
    yield f"| transfer syntax | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}"
    for syntax, found in sorted(counts.items()):
        yield f"| {syntax} | {' | '.join(str(found[kind] or '-') for kind in kinds)} |"
    total = sum(counts.values(), Counter[str]())
    yield f"| all | {' | '.join(str(total[kind]) for kind in kinds)} |"
    yield "\n| file | transfer syntax | Osler | shown by | difference | reason |\n|---|---|---|---|---|---|"
    for row in rows:
        if lists_all or _kind(row) not in ("equal", "one tone", "neither"):
            difference = "-" if row.difference is None else str(row.difference)
            yield f"| {row.file} | {row.syntax} | {row.osler} | {row.other} | {difference} | {row.reason} |"


def _kind(row: Comparison) -> str:
    if row.osler == "read" and row.other != "no":
        return "differs" if row.difference is None or row.difference > CLOSE else "one tone" if row.difference else "equal"
    return "Osler alone" if row.osler == "read" else "dcmtk alone" if row.other != "no" else "neither"


def main(arguments: Sequence[str]) -> int:
    """Compare all files of the folder and print the tables."""
    import pydicom

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(pydicom.__file__).parent / "data", help="default: pydicom's files")
    parser.add_argument("--all", action="store_true", help="list every file")
    parser.add_argument("--json", type=Path, help="write one line for each file")
    options = parser.parse_args(arguments)
    if not shutil.which(RENDERER):
        sys.exit(f"{RENDERER} is not installed: apt install dcmtk")
    files = sorted(path for path in options.folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [compare(options.folder, path.relative_to(options.folder).as_posix(), Path(temporary)) for path in files]
    if options.json:
        options.json.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    sys.stdout.writelines(f"{line}\n" for line in report(rows, lists_all=options.all))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
