#!/usr/bin/env bash
# pydicom 3.0.2, `apply_color_lut`: a value beyond the end of a palette takes the colour of the palette's last entry (DICOM PS3.3,
# C.7.6.3.1.5). With entries of 8 bits the value is first cut to 8 bits: 300 takes the colour of 44, without an error or a warning. So a
# 16-bit PALETTE COLOR image with a palette of 256 entries shows arbitrary colours wherever its values are above 255.
#
# Seen: the red of the values 255, 256, 300 and 1000 with a palette whose entry number N is N (right: 255 each time):
#       entries of 8 bits: 255 0 44 232
#       entries of 16 bits: 255 255 255 255
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/show.py" <<'PYTHON'
import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

for bits in (8, 16):
    image = Dataset()
    for colour in ("Red", "Green", "Blue"):
        setattr(image, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, bits])
        setattr(image, f"{colour}PaletteColorLookupTableData", np.arange(256, dtype=f"u{bits // 8}").tobytes())
    shown = apply_color_lut(np.array([[255, 256, 300, 1000]], np.uint16), image)
    print(f"entries of {bits} bits:", *shown[0, :, 0])
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pydicom==3.0.2 numpy==2.4.6 2> /dev/null
seen=$("$folder/venv/bin/python" "$folder/show.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "entries of 8 bits: 255 0 44 232
entries of 16 bits: 255 255 255 255" ] || { echo "changed" >&2; exit 1; }
