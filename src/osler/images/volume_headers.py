"""The headers of NIfTI (1 and 2) and NRRD files: the shape and type of the voxels, and where they lie in the patient.

NIfTI: the sform is used where it is set, else the qform (https://nifti.nimh.nih.gov/nifti-1/documentation/nifti1fields); a slope of 0 or
that is no number means no scaling, and then no intercept either. NRRD: directions and origin in the space that the header names.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

from osler.errors import MissingExtra
from osler.images.tones import decoder_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_GZIP: Final = b"\x1f\x8b"
_NRRD: Final = b"NRRD000"
_NIFTI_1, _NIFTI_2 = (348, b"n+1\0", 344), (540, b"n+2\0", 4)  # size of the header, its magic and where that stands
_HEADER_BYTES: Final = 540
_SAME_PLACE: Final = 0.1  # millimetres between the corners of a volume by its sform and its qform

_MILLIMETRES: Final = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 0.001, "m": 1000.0, "cm": 10.0, "um": 0.001, "": 1.0}
# From a space of NRRD to left, posterior, superior.
_SPACES: Final = {
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1), "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip
_TYPES: Final = {
    "i1": ("signed char", "int8", "int8_t"), "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"), "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "f4": ("float",), "f8": ("double",),
}  # fmt: skip
_TIMES: Final = ("list", "time", "???", "none", "")  # kinds of an axis that counts volumes


class VolumeError(Exception):
    """A volume that cannot be read: what it is, in words, and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VolumeHeader:
    """Where the voxels stand in the file and lie in the patient."""

    shape: tuple[int, int, int]
    num_times: int
    dtype: np.dtype[Any]
    stored_shape: tuple[int, ...]  # of the file, the first axis being the fastest
    axes: tuple[int, ...]  # of the file, in the order of `shape`, then time
    offset: int  # of the voxels, in bytes
    is_compressed: bool
    is_packed_whole: bool  # the header is compressed too
    slope: float
    intercept: float
    affine: NDArray[np.float64]  # (4, 4), from voxel to millimetres in LPS
    findings: tuple[str, ...]


def read_volume_header(stream: IO[bytes]) -> VolumeHeader:
    """The header of a NIfTI file, compressed or not, or of an NRRD file. Raises VolumeError and MissingExtra."""
    head = stream.read(_HEADER_BYTES)
    try:
        if head.startswith(_NRRD):
            return _read_nrrd(stream)
        is_packed = head.startswith(_GZIP)
        if is_packed:
            stream.seek(0)
            head = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(stream.read(1 << 16), _HEADER_BYTES)
        for size, magic, place in (_NIFTI_1, _NIFTI_2):
            if head[place : place + len(magic)] == magic and len(head) >= size:
                return _read_nifti(head[:size], is_packed=is_packed, is_second=size == _HEADER_BYTES)
    except decoder_errors() as error:
        raise VolumeError(f"has a damaged header ({type(error).__name__}): fetch it again") from None
    if not head:
        raise VolumeError("is empty: fetch it again")
    raise VolumeError("is no NIfTI file (.nii, .nii.gz) and no NRRD file: convert it, or remove the row")


def _read_nifti(head: bytes, *, is_packed: bool, is_second: bool) -> VolumeHeader:
    import numpy as np

    try:
        from nibabel.nifti1 import Nifti1Header
        from nibabel.nifti2 import Nifti2Header
        from nibabel.spatialimages import HeaderDataError
    except ImportError:
        raise MissingExtra("nibabel", "medical") from None
    try:
        header = (Nifti2Header if is_second else Nifti1Header)(head, check=False)
        sizes = tuple(int(size) for size in header.get_data_shape())
        dtype = header.get_data_dtype()
        affine, findings = _nifti_affine(header, sizes)
        unit = header.get_xyzt_units()[0]
    except HeaderDataError as error:
        raise VolumeError(f"has a damaged header ({type(error).__name__}): fetch it again") from None
    if dtype.kind not in "iuf":
        raise VolumeError("has voxels that are no numbers (colours or complex values), which Osler does not read: convert it")
    if len(sizes) < 2 or min(sizes) < 1 or any(size != 1 for size in sizes[4:]):
        raise VolumeError(f"has the shape {sizes}, which Osler does not read: store three or four axes")
    sizes = (*sizes[:4], *(1,) * (4 - len(sizes)))
    if (offset := int(header["vox_offset"])) < len(head):
        raise VolumeError("has voxels that begin within its header: fetch it again")
    if _MILLIMETRES[unit] != 1:
        findings.append(f"its unit is {unit}: it is converted to millimetres")
        affine[:3] *= _MILLIMETRES[unit]
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    is_scaled = np.isfinite(slope) and slope != 0
    if not is_scaled and np.isfinite(intercept) and intercept != 0:
        findings.append("its slope is 0 or no number, so that its intercept is not applied")
    return VolumeHeader(
        shape=(sizes[0], sizes[1], sizes[2]),
        num_times=sizes[3],
        dtype=dtype,
        stored_shape=sizes,
        axes=(0, 1, 2, 3),
        offset=offset,
        is_compressed=is_packed,
        is_packed_whole=is_packed,
        slope=slope if is_scaled else 1.0,
        intercept=intercept if is_scaled and np.isfinite(intercept) else 0.0,
        affine=_checked(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine),
        findings=tuple(findings),
    )


def _nifti_affine(header: Any, sizes: tuple[int, ...]) -> tuple[NDArray[np.float64], list[str]]:
    """From voxel to right, anterior, superior in the unit of the file, and what is unusual about it."""
    import numpy as np

    sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    if sform is None and qform is None:
        return np.array(header.get_best_affine(), float), ["its header gives no orientation: right, anterior, superior is assumed"]
    findings = []
    if sform is not None and qform is not None:
        ends = [(0, size - 1) for size in (*sizes, 1, 1)[:3]]
        corners = np.array([(x, y, z, 1) for x in ends[0] for y in ends[1] for z in ends[2]], float)
        apart = float(np.linalg.norm(((sform - qform) @ corners.T)[:3], axis=0).max())
        if not apart <= _SAME_PLACE:
            findings.append(f"its sform and its qform are up to {apart:.1f} apart: the sform is used")
    return np.array(sform if sform is not None else qform, float), findings


def _read_nrrd(stream: IO[bytes]) -> VolumeHeader:
    import numpy as np

    try:
        import nrrd
    except ImportError:
        raise MissingExtra("pynrrd", "medical") from None
    stream.seek(0)
    try:
        header: dict[str, Any] = dict(nrrd.read_header(stream))
    except nrrd.NRRDError:
        raise VolumeError("has a damaged header (NRRDError): fetch it again") from None
    if "data file" in header or "datafile" in header:
        raise VolumeError("has its voxels in another file: store it as one .nrrd file")
    encoding = str(header.get("encoding", "")).lower()
    skips = [int(header.get(f"{unit}{joint}skip", 0)) for unit in ("line", "byte") for joint in (" ", "")]
    if encoding not in ("raw", "gz", "gzip") or any(skips):
        raise VolumeError("has an encoding that Osler does not read: store it as raw or gzip")
    name = next((code for code, names in _TYPES.items() if str(header["type"]).lower() in names), None)
    if name is None:
        raise VolumeError("has voxels of a type that Osler does not read: store numbers")
    sizes = tuple(int(size) for size in header["sizes"])
    affine, space, findings = _nrrd_affine(header, len(sizes))
    times = [axis for axis in range(len(sizes)) if axis not in space]
    kinds = header.get("kinds") or [""] * len(sizes)
    if min(sizes) < 1 or len(times) > 1 or any(str(kinds[axis]).lower() not in _TIMES for axis in times):
        raise VolumeError("has axes that are neither space nor time, such as colours, which Osler does not read: convert it")
    return VolumeHeader(
        shape=(sizes[space[0]], sizes[space[1]], sizes[space[2]]),
        num_times=sizes[times[0]] if times else 1,
        dtype=np.dtype(name).newbyteorder(">" if header.get("endian") == "big" else "<"),
        stored_shape=sizes if times else (*sizes, 1),
        axes=(*space, *(times or [3])),
        offset=stream.tell(),
        is_compressed=encoding != "raw",
        is_packed_whole=False,
        slope=1.0,
        intercept=0.0,
        affine=_checked(affine),
        findings=tuple(findings),
    )


def _nrrd_affine(header: dict[str, Any], num_axes: int) -> tuple[NDArray[np.float64], list[int], list[str]]:
    """From voxel to LPS in millimetres, the axes of space, and what is unusual."""
    import numpy as np

    findings = []
    if (given := header.get("space directions")) is not None:
        rows = [None if row is None or not np.isfinite(np.asarray(row, float)).all() else np.asarray(row, float) for row in given]
    else:
        findings.append("its header gives no directions: right to left, front to back, feet to head is assumed")
        steps = [float(step) for step in header.get("spacings", [1.0] * num_axes)]
        rows = [np.eye(3)[axis] * (steps[axis] if np.isfinite(steps[axis]) else 1.0) if axis < 3 else None for axis in range(num_axes)]
    space = [axis for axis, row in enumerate(rows) if row is not None]
    if len(space) != 3 or any(row is not None and len(row) != 3 for row in rows):
        raise VolumeError(f"has {len(space)} axes of space: store a volume of three")
    name = str(header.get("space", "")).strip().lower()
    if name not in _SPACES and given is not None:
        findings.append("its header names no space of the patient: left, posterior, superior is assumed")
    units = {str(unit).lower() for unit in header.get("space units") or []}
    unit = units.pop() if len(units) == 1 else ""
    if len(units) or unit not in _MILLIMETRES:
        findings.append("its units are not known: millimetres are assumed")
    elif _MILLIMETRES[unit] != 1:
        findings.append(f"its unit is {unit}: it is converted to millimetres")
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row for row in rows if row is not None], axis=1)
    origin = np.asarray(header.get("space origin", (0, 0, 0)), float)
    affine[:3, 3] = origin if origin.shape == (3,) and np.isfinite(origin).all() else 0
    affine[:3] *= np.array(_SPACES.get(name, (1, 1, 1)))[:, None] * _MILLIMETRES.get(unit, 1.0)
    return affine, space, findings


def _checked(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise VolumeError("has an affine that spans no space: write it again with the right orientation")
    return affine
