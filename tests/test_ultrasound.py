"""The regions of an ultrasound picture: their scales, and the picture without what lies around them."""

from pathlib import Path

import numpy as np
import pytest
from small_dicom import item, sequence, write_dicom

from osler.errors import ConfigError, DataError
from osler.images.dicom import DicomFrame
from osler.images.ultrasound import Region, RegionFormat, read_regions

PICTURE = np.add.outer(np.arange(20, dtype=np.uint8), np.arange(40, dtype=np.uint8) * 3)


def region(*box: int, kind: int = 1, units: tuple[int, int] = (3, 3), deltas: tuple[float, float] = (0.1, 0.1)) -> object:
    names = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
    return item(
        **dict(zip(names, box, strict=False)),
        RegionSpatialFormat=kind,
        PhysicalUnitsXDirection=units[0],
        PhysicalUnitsYDirection=units[1],
        PhysicalDeltaX=deltas[0],
        PhysicalDeltaY=deltas[1],
    )


def test_every_region_has_its_own_scale() -> None:
    sector, strip = region(1, 2, 20, 10, deltas=(0.02, -0.03)), region(0, 11, 39, 19, kind=2, units=(4, 3), deltas=(0.01, 0.05))
    assert read_regions(item(SequenceOfUltrasoundRegions=sequence(sector, strip))) == (
        Region(box=(1, 2, 21, 11), format=RegionFormat.TISSUE_OR_FLOW, pixel_height=0.03, pixel_width=0.02),
        Region(box=(0, 11, 40, 20), format=RegionFormat.M_MODE, pixel_height=0.05, pixel_width=None),  # seconds to the right
    )
    assert read_regions(item()) == ()


@pytest.mark.parametrize(
    ("regions", "box", "size"),
    [
        ([region(5, 2, 24, 11)], (5, 2, 25, 12), (20, 10)),
        ([region(5, 2, 14, 6), region(10, 4, 29, 11)], (5, 2, 30, 12), (25, 10)),
        ([region(5, 2, 24, 11, deltas=(0.1, 0.2))], (5, 2, 25, 12), (20, 20)),  # pixels twice as high as wide
        ([region(0, 0, 40, 20)], (0, 0, 40, 20), (40, 20)),  # one pixel too far
    ],
)
def test_a_crop_is_the_rectangle_with_all_regions(
    tmp_path: Path, regions: list, box: tuple[int, int, int, int], size: tuple[int, int]
) -> None:
    write_dicom(tmp_path / "a", PICTURE, Modality="US", SequenceOfUltrasoundRegions=sequence(*regions))
    source = DicomFrame(root=tmp_path, path="a", crop="regions")
    whole = DicomFrame(root=tmp_path, path="a")
    shown = source.load()
    assert source.uri == "a?crop=regions"
    assert source.read_size() == shown.size == size
    if size == (box[2] - box[0], box[3] - box[1]):
        np.testing.assert_array_equal(np.asarray(shown)[..., 0], PICTURE[box[1] : box[3], box[0] : box[2]])
    assert source.digest() != whole.digest()


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([], "has no ultrasound regions: leave the crop out"),
        ([region()], "has no ultrasound regions"),
        ([region(50, 2, 60, 11)], "lie outside its picture"),
        ([region(9, 9, 3, 3)], "lie outside its picture"),
    ],
)
def test_a_crop_without_regions_is_one_line(tmp_path: Path, regions: list, message: str) -> None:
    write_dicom(tmp_path / "a", PICTURE, SequenceOfUltrasoundRegions=sequence(*regions))
    for act in ("load", "check_header"):
        with pytest.raises(DataError, match=message):
            getattr(DicomFrame(root=tmp_path, path="a", crop="regions"), act)()
    with pytest.raises(ConfigError, match="crop 'sector' is unknown"):
        DicomFrame(root=tmp_path, path="a", crop="sector")  # type: ignore[arg-type]
