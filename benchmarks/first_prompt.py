"""From a folder with a CT series to the pictures of a prompt: Osler, SimpleITK and MONAI side by side.

    python benchmarks/first_prompt.py [--slices 500] [--headers 2000] [--runs 3] [--libraries SimpleITK,MONAI] [--json]

The script writes a synthetic CT of 512 x 512 pixels, one DICOM file for each slice, under shuffled names. Each reader makes 8 evenly spaced
slices with the window 40/400 into RGB pictures, in a process of its own, in turn; libraries are imported, and a series of 3 small slices is
read, before the clock starts. The files are in the cache of the operating system. The script asserts that all give the same pictures (to
one tone). It prints the median seconds of the clock and of the CPU, and the peak resident memory minus that before. Readers that are not
installed are left out.

"kept" is what the result needs: the headers of all slices (the peak of a process that only sorts them) and the pictures (Pillow keeps 4
bytes for each pixel). "one slice" is the peak of a process that decodes one slice. The script asserts that Osler's peak is at most what is
kept and 1.5 times one slice. The last row is the time to sort `--headers` slices of 64 x 64 pixels.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SIZE: Final = 512
CHOSEN: Final = 8
CENTER, WIDTH = 40, 400
INTERCEPT: Final = -1024
MARGIN: Final = 1.5  # times one slice
Pictures = list[Any]


def write_series(folder: Path, num_slices: int, size: int) -> None:
    """A CT of one file for each slice, with a header as scanners write it, under shuffled names."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    body = np.where(x**2 + (y * 1.3) ** 2 < 0.7, 1064, 24)
    noise = rng.normal(0, 20, (size, size))
    names = list(range(num_slices))
    random.Random(0).shuffle(names)
    series, study, frame = (generate_uid(entropy_srcs=[word]) for word in ("series", "study", "frame"))
    for number in range(num_slices):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        uid = generate_uid(entropy_srcs=["image", str(number)])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = series, study, frame
        dataset.Modality, dataset.PatientName, dataset.PatientID = "CT", "Phantom", "1"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.StudyDate, dataset.StudyTime, dataset.AcquisitionTime = "20260101", "120000", f"1200{number % 60:02}"
        dataset.SeriesNumber, dataset.InstanceNumber = 1, number + 1
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [-180, -180, 0.7 * number], [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.SliceThickness, dataset.KVP = [360 / size, 360 / size], 0.7, 120
        dataset.Rows = dataset.Columns = size
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, INTERCEPT, "HU"
        dataset.WindowCenter, dataset.WindowWidth = CENTER, WIDTH
        pixels = np.roll(noise, number * 37, axis=1) + body + 60 * np.sin(number / 40 + 6 * x)
        dataset.PixelData = pixels.clip(0, 4095).astype("<u2").tobytes()
        dataset.save_as(folder / f"{names[number]:05}.dcm", enforce_file_format=True)


def places(num_slices: int) -> list[int]:
    """Evenly spaced, the middles of equal parts."""
    return [int((part + 0.5) * num_slices / CHOSEN) for part in range(CHOSEN)]


def show(values: NDArray[Any]) -> Any:
    """A slice of Hounsfield units as an RGB picture, as anyone would write it by PS3.3, C.11.2.1.2."""
    from PIL import Image

    tones = ((values.astype(np.float32) - (CENTER - 0.5)) / (WIDTH - 1) + 0.5) * 255
    return Image.fromarray(np.rint(tones.clip(0, 255)).astype(np.uint8)).convert("RGB")


def read_osler(folder: Path) -> Pictures:
    """Headers of all, pixels of the chosen slices."""
    from osler.images.series import read_dicom_series

    (series,) = read_dicom_series(folder, window=f"{CENTER}/{WIDTH}").series
    return [series.slices[place].load() for place in places(len(series.slices))]


def read_headers(folder: Path) -> Pictures:
    """Osler's series alone."""
    from osler.images.series import read_dicom_series

    (_,) = read_dicom_series(folder).series
    return []


def read_one(folder: Path) -> Pictures:
    """One slice alone."""
    from osler.images.dicom import DicomFrame

    return [DicomFrame(root=folder, path=min(path.name for path in folder.iterdir()), window=f"{CENTER}/{WIDTH}").load()]


def read_simpleitk(folder: Path) -> Pictures:
    """The whole volume, by SimpleITK's series reader."""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()  # its memory is that of the view
    volume = SimpleITK.GetArrayViewFromImage(image)
    return [show(volume[place]) for place in places(len(volume))]


def read_monai(folder: Path, reader: str) -> Pictures:
    """The whole volume, by MONAI's loader; its axes are x, y and z."""
    from monai.transforms import LoadImage

    volume = LoadImage(reader=reader, image_only=True)(str(folder)).numpy()
    return [show(volume[:, :, place].T) for place in places(volume.shape[2])]


READERS: Final[Mapping[str, tuple[tuple[str, ...], Callable[[Path], Pictures]]]] = {
    "Osler": ((), read_osler),
    "SimpleITK, ImageSeriesReader": (("SimpleITK",), read_simpleitk),
    "MONAI, PydicomReader": (("monai", "pydicom"), lambda folder: read_monai(folder, "PydicomReader")),
    "MONAI, ITKReader": (("monai", "itk"), lambda folder: read_monai(folder, "ITKReader")),
    "headers": ((), read_headers),
    "one slice": ((), read_one),
}


def peak_bytes() -> int:
    """The peak resident memory of this process so far: by /proc, because `getrusage` counts what the parent had before `exec`."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)


def forget_peak() -> None:
    """Start the peak anew at what is resident now, where the system can."""
    control = Path("/proc/self/clear_refs")
    if control.exists():
        control.write_text("5")


def measure(name: str, folder: Path, small: Path, out: Path) -> dict[str, float]:
    """Seconds of the clock and of the CPU, and bytes, of one reader in this process; the pictures go to `out`."""
    read = READERS[name][1]
    read(small)
    forget_peak()
    before, start, busy = peak_bytes(), time.perf_counter(), time.process_time()
    pictures = read(folder)
    seconds, cpu = time.perf_counter() - start, time.process_time() - busy
    used = peak_bytes() - before
    np.save(out, np.stack([np.asarray(picture) for picture in pictures]) if pictures else np.zeros(0))
    return {"seconds": seconds, "cpu": cpu, "bytes": used}


def run(name: str, folder: Path, small: Path, out: Path) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--in-process", name, str(folder), str(small), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(root: Path, num_runs: int, libraries: Sequence[str]) -> dict[str, dict[str, float]]:
    """The medians of every installed reader. Asserts that their pictures are equal, and that Osler's memory is bounded."""
    found: dict[str, list[dict[str, float]]] = {}
    installed = [
        name
        for name, (modules, _) in READERS.items()
        if all(map(importlib.util.find_spec, modules)) and (not modules or name.startswith(tuple(libraries)))
    ]
    for _ in range(num_runs):
        for name in installed:
            found.setdefault(name, []).append(run(name, root / "ct", root / "small", root / f"{name}.npy"))
    expected = np.load(root / "Osler.npy").astype(int)
    for name in set(installed) - {"headers", "one slice"}:
        assert np.abs(np.load(root / f"{name}.npy") - expected).max() <= 1, f"{name} shows other pictures"
    table = {name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in found.items()}
    kept = table["headers"]["bytes"] + CHOSEN * SIZE * SIZE * 4
    table["kept"] = {"bytes": kept}
    bound = kept + MARGIN * table["one slice"]["bytes"]
    assert table["Osler"]["bytes"] <= bound, f"Osler took {table['Osler']['bytes']:,} bytes, more than {bound:,.0f}"
    return table


def main(arguments: Sequence[str]) -> int:
    """Write the series, measure every reader, print the table."""
    if arguments[:1] == ["--in-process"]:
        name, *paths = arguments[1:]
        folder, small, out = map(Path, paths)
        print(json.dumps(measure(name, folder, small, out)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slices", type=int, default=500, help="files of the series (default: %(default)s)")
    parser.add_argument("--headers", type=int, default=2000, help="files that are sorted without reading pixels (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="processes for each reader (default: %(default)s)")
    parser.add_argument("--libraries", default="SimpleITK,MONAI", help="that are compared, comma-separated (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name, count, size in (("ct", options.slices, SIZE), ("small", 3, 64), ("headers", options.headers, 64)):
            write_series(root / name, count, size)
        table = compare(root, options.runs, options.libraries.split(","))
        many = [run("headers", root / "headers", root / "small", root / "none.npy") for _ in range(options.runs)]
    table["sorted"] = {key: statistics.median(row[key] for row in many) for key in ("seconds", "cpu")}
    ours = table["Osler"]
    print("| reader | first prompt, s | times Osler's | CPU, s | times Osler's | peak memory, MiB |\n|---|---|---|---|---|---|")
    for name in (name for name in READERS if name in table and name not in ("headers", "one slice")):
        row = table[name]
        cells = [f"{row[key]:.2f} | {row[key] / ours[key]:.1f}" for key in ("seconds", "cpu")]
        print(f"| {name} | {' | '.join(cells)} | {row['bytes'] / 2**20:.1f} |")
    print(f"\nkept: {table['kept']['bytes'] / 2**20:.1f} MiB; one slice: {table['one slice']['bytes'] / 2**20:.1f} MiB")
    print(f"{options.headers:,} headers sorted: {table['sorted']['seconds']:.2f} s, CPU {table['sorted']['cpu']:.2f} s")
    if options.json:
        print(json.dumps(table))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
