#!/usr/bin/env bash
# highdicom 0.28.2, `segread(path, lazy_frame_retrieval=True)`: frames of a BINARY segmentation are stored as bits, one after the other, so where
# rows x columns is no multiple of 8 a frame begins and ends within a byte (DICOM PS3.5, 8.1.1). The lazy reader takes ceil(rows x columns / 8)
# bytes for each frame, one too few where the frame lies over one byte more: `get_stored_frame` raises ValueError for those frames, and
# returns the others. Without `lazy_frame_retrieval` all frames of the same file are read.
#
# Seen: frames of 5 x 7 pixels that are read as they were written, of 5:
#       all at once: 1 2 3 4 5
#       lazily: 1 2 4 5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/read.py" <<'PYTHON'
import pathlib
import sys
import highdicom
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROWS, COLUMNS, FRAMES = 5, 7, 5
path = pathlib.Path(sys.argv[1])
study, series, frame_of_reference = (generate_uid() for _ in range(3))


def make_slice(number):
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame_of_reference
    image.Modality, image.SeriesNumber, image.InstanceNumber = "CT", 1, number + 1
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime", "AccessionNumber",
                    "ReferringPhysicianName"):
        setattr(image, keyword, "")
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, -2 * number], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness = [1, 1], 2
    image.Rows, image.Columns, image.BitsAllocated = ROWS, COLUMNS, 16
    return image


pixels = np.random.default_rng(0).integers(0, 2, (FRAMES, ROWS, COLUMNS), np.uint8)
pixels[:, 0, 0] = 1
description = highdicom.seg.SegmentDescription(
    segment_number=1,
    segment_label="liver",
    segmented_property_category=highdicom.sr.CodedConcept("91723000", "SCT", "Anatomical Structure"),
    segmented_property_type=highdicom.sr.CodedConcept("10200004", "SCT", "Liver"),
    algorithm_type="MANUAL",
)
highdicom.seg.Segmentation(
    source_images=[make_slice(number) for number in range(FRAMES)],
    pixel_array=pixels,
    segmentation_type="BINARY",
    segment_descriptions=[description],
    series_instance_uid=generate_uid(),
    series_number=2,
    sop_instance_uid=generate_uid(),
    instance_number=1,
    manufacturer="none",
    manufacturer_model_name="none",
    software_versions="1",
    device_serial_number="1",
).save_as(path)


def equal_frames(**options):
    segmentation = highdicom.seg.segread(path, **options)
    for number in range(1, FRAMES + 1):
        try:
            if (segmentation.get_stored_frame(number) == pixels[number - 1]).all():
                yield number
        except ValueError:
            pass


print("all at once:", *equal_frames())
print("lazily:", *equal_frames(lazy_frame_retrieval=True))
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet highdicom==0.28.2 pydicom==3.0.2 numpy==2.4.6 2> /dev/null
seen=$("$folder/venv/bin/python" "$folder/read.py" "$folder/segmentation.dcm" 2> /dev/null)
echo "$seen"
[ "$seen" = "all at once: 1 2 3 4 5
lazily: 1 2 4 5" ] || { echo "changed" >&2; exit 1; }
