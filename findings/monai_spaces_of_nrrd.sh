#!/usr/bin/env bash
# MONAI 1.6.1, `LoadImage` of an NRRD file, whose default reader is NrrdReader: the affine is in RAS where the header says
# "left-posterior-superior" or "right-anterior-superior". The other names that the format has for a patient's space, the short "LPS" and
# "left-anterior-superior" or "LAS", change nothing: directions and origin are taken as they are, also with `affine_lps_to_ras=True`, the
# default. `SaveImage` and `ResampleToMatch` read them as RAS: "LAS" exchanges left and right, "LPS" front and back too, without an error or a
# warning. With `reader="ITKReader"` MONAI agrees with SimpleITK.
#
# Seen: where the marked voxel lies in the patient, by SimpleITK 2.5.7, and in the NIfTI file that MONAI makes of the same NRRD file:
#       left-posterior-superior: SimpleITK left back, MONAI left back, with ITKReader left back
#       LPS: SimpleITK left back, MONAI right front, with ITKReader left back
#       right-anterior-superior: SimpleITK right front, MONAI right front, with ITKReader right front
#       RAS: SimpleITK right front, MONAI right front, with ITKReader right front
#       left-anterior-superior: SimpleITK left front, MONAI right front, with ITKReader left front
#       LAS: SimpleITK left front, MONAI right front, with ITKReader left front
# and the voxels of a label, stored as "LAS", that lie on the same structure of an image, after `ResampleToMatch`:
#       label in LAS: 0 of 8 voxels; with ITKReader 8 of 8
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/place.py" <<'PYTHON'
import pathlib
import sys
import warnings
import nibabel
import nrrd
import numpy as np
import SimpleITK
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the import
    from monai.transforms import LoadImage, ResampleToMatch, SaveImage

folder = pathlib.Path(sys.argv[1])
SIDE, MARK = 4, (3, 3, 3)


def write(path, values, space, directions, origin):
    nrrd.write(str(path), values, {"space": space, "space directions": directions, "space origin": origin, "kinds": ["domain"] * 3})


def name(place):
    """The side of a point in RAS, in millimetres from the middle of the volume."""
    return ("right" if place[0] > 0 else "left") + " " + ("front" if place[1] > 0 else "back")


def by_simpleitk(path):
    image = SimpleITK.ReadImage(str(path))
    ends = [np.array(image.TransformContinuousIndexToPhysicalPoint(index)) for index in ([float(i) for i in MARK], [(SIDE - 1) / 2] * 3)]
    return name((ends[0] - ends[1]) * (-1, -1, 1))


def by_monai(path, reader):
    image = LoadImage(reader=reader, ensure_channel_first=True)(path)
    SaveImage(folder / "saved", output_ext=".nii", output_postfix="", separate_folder=False, print_log=False)(image)
    saved = nibabel.load(folder / "saved" / f"{path.stem}.nii")
    (mark,) = np.argwhere(saved.get_fdata().reshape([SIDE] * 3) == 1)
    return name(saved.affine[:3, :3] @ (mark - (SIDE - 1) / 2))


values = np.zeros([SIDE] * 3, np.float32)
values[MARK] = 1
for space in ("left-posterior-superior", "LPS", "right-anterior-superior", "RAS", "left-anterior-superior", "LAS"):
    path = folder / f"{space}.nrrd"
    write(path, values, space, np.eye(3), [0, 0, 0])
    print(f"{space}: SimpleITK {by_simpleitk(path)}, MONAI {by_monai(path, None)}, with ITKReader {by_monai(path, 'ITKReader')}")

# One structure of 2 x 2 x 2 voxels in an image around the origin, and its label in a file whose first axis runs to the left.
image = np.zeros([10] * 3, np.float32)
image[7:9, 4:6, 4:6] = 1
write(folder / "image.nrrd", image, "right-anterior-superior", np.eye(3), [-4.5] * 3)
write(folder / "label.nrrd", np.ascontiguousarray(image[::-1]), "LAS", np.eye(3), [-4.5] * 3)
seen = []
for reader in (None, "ITKReader"):
    load = LoadImage(reader=reader, ensure_channel_first=True)
    target = load(folder / "image.nrrd")
    label = ResampleToMatch(mode="nearest", padding_mode="zeros")(load(folder / "label.nrrd"), target)
    seen.append(int(torch.logical_and(label > 0.5, target > 0.5).sum()))
print(f"label in LAS: {seen[0]} of 8 voxels; with ITKReader {seen[1]} of 8")
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet monai==1.6.1 torch==2.13.0 SimpleITK==2.5.7 itk==5.4.7 nibabel==5.4.2 pynrrd==1.1.3 numpy==2.4.6 2> /dev/null
export OMP_NUM_THREADS=1
seen=$("$folder/venv/bin/python" "$folder/place.py" "$folder" 2> "$folder/errors") || { tail -5 "$folder/errors"; exit 1; }
echo "$seen"
[ "$seen" = "left-posterior-superior: SimpleITK left back, MONAI left back, with ITKReader left back
LPS: SimpleITK left back, MONAI right front, with ITKReader left back
right-anterior-superior: SimpleITK right front, MONAI right front, with ITKReader right front
RAS: SimpleITK right front, MONAI right front, with ITKReader right front
left-anterior-superior: SimpleITK left front, MONAI right front, with ITKReader left front
LAS: SimpleITK left front, MONAI right front, with ITKReader left front
label in LAS: 0 of 8 voxels; with ITKReader 8 of 8" ] || { echo "the behaviour has changed" >&2; exit 1; }
