#!/usr/bin/env bash
# pydicom 3.0.2: the second value of LUT Descriptor (0028,3002) in a VOI LUT Sequence is signed where the values after slope and intercept may
# be negative, as in every CT in Hounsfield units (DICOM PS3.3, C.11.2.1.1). In a file in implicit VR, which does not say the type, pydicom
# goes by Pixel Representation, the sign of the stored values. So of a CT with unsigned pixels the table begins at 65526 instead of -10, and
# `apply_voi_lut` gives its first entry for every pixel, without an error or a warning. The same file in explicit VR is right.
#
# Seen: the four values -10, -9, -8, -7 HU through a table that begins at -10 and holds 0, 21845, 43690, 65535:
#       Explicit VR Little Endian: begins at -10: 0 21845 43690 65535
#       Implicit VR Little Endian: begins at 65526: 0 0 0 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/show.py" <<'PYTHON'
import sys
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_rescale, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
    table = Dataset()
    table.add_new("LUTDescriptor", "SS", [4, -10, 16])
    table.add_new("LUTData", "OW", np.array([0, 21845, 43690, 65535], "<u2").tobytes())
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = syntax
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.Modality, image.SamplesPerPixel, image.PhotometricInterpretation = "CT", 1, "MONOCHROME2"
    image.Rows, image.Columns, image.BitsAllocated, image.BitsStored, image.HighBit = 1, 4, 16, 12, 11
    image.PixelRepresentation, image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 0, 1, -1024, "HU"
    image.VOILUTSequence = Sequence([table])
    image.PixelData = np.array([1014, 1015, 1016, 1017], "<u2").tobytes()
    image["PixelData"].VR = "OW"
    image.save_as(sys.argv[1], enforce_file_format=True)
    read = pydicom.dcmread(sys.argv[1])
    shown = apply_voi_lut(apply_rescale(read.pixel_array, read).astype(np.int32), read)
    print(f"{syntax.name}: begins at {read.VOILUTSequence[0].LUTDescriptor[1]}:", *shown[0])
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pydicom==3.0.2 numpy==2.4.6 2> /dev/null
seen=$("$folder/venv/bin/python" "$folder/show.py" "$folder/ct.dcm" 2> /dev/null)
echo "$seen"
[ "$seen" = "Explicit VR Little Endian: begins at -10: 0 21845 43690 65535
Implicit VR Little Endian: begins at 65526: 0 0 0 0" ] || { echo "changed" >&2; exit 1; }
