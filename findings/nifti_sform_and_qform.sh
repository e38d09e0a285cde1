#!/usr/bin/env bash
# nibabel 5.4.2 and SimpleITK 2.5.7 place one NIfTI file differently where its sform and its qform are both set and disagree. nibabel takes
# the sform. SimpleITK takes the sform if its code is 1 and the qform if the code is larger (aligned, Talairach, MNI 152, template). Neither
# says so. A mask that one library wrote for an image that the other one read lies elsewhere.
#
# Seen: the x of the first voxel in nibabel's axes, for a file whose sform says 0 and whose qform says 120:
#       sform code 1, qform code 1: nibabel 0, SimpleITK 0
#       sform code 2, qform code 1: nibabel 0, SimpleITK 120
#       sform code 4, qform code 1: nibabel 0, SimpleITK 120
#       sform code 1, qform code 4: nibabel 0, SimpleITK 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/place.py" <<'PYTHON'
import pathlib
import sys
import nibabel
import numpy as np
import SimpleITK

path = pathlib.Path(sys.argv[1])
for sform_code, qform_code in ((1, 1), (2, 1), (4, 1), (1, 4)):
    content = bytearray(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).to_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]))
    moved = np.eye(4)
    moved[0, 3] = 120
    header.set_qform(moved, qform_code)
    header.set_sform(np.eye(4), sform_code)
    content[:348] = header.binaryblock
    path.write_bytes(content)
    one, other = nibabel.load(path).affine[0, 3], -SimpleITK.ReadImage(str(path)).GetOrigin()[0]  # x points the other way in ITK
    print(f"sform code {sform_code}, qform code {qform_code}: nibabel {one:.0f}, SimpleITK {abs(other):.0f}")
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6 2> /dev/null
seen=$("$folder/venv/bin/python" "$folder/place.py" "$folder/volume.nii" 2> /dev/null)
echo "$seen"
[ "$seen" = "sform code 1, qform code 1: nibabel 0, SimpleITK 0
sform code 2, qform code 1: nibabel 0, SimpleITK 120
sform code 4, qform code 1: nibabel 0, SimpleITK 120
sform code 1, qform code 4: nibabel 0, SimpleITK 0" ] || { echo "changed" >&2; exit 1; }
