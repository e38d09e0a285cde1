"""`osler data deidentify`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osler.cli.common import add_verb
from osler.errors import ConfigError, DataError

if TYPE_CHECKING:
    from osler.data.privacy.folders import Deidentified


def add_deidentify(verbs: Any) -> None:
    """`osler data deidentify`."""
    parser = add_verb(
        verbs,
        "deidentify",
        _run,
        "write DICOM files without what names a patient",
        "Write every DICOM file with pixels below IN to OUT/patient/study/series/file.dcm, by the basic\n"
        "profile of DICOM PS3.15, Annex E: UIDs, the patient's id and all names of files and folders become\n"
        "keyed hashes, dates, descriptions, private elements and other free text go. The key is made where\n"
        "--key names no file; the same key gives the same names, so that series and patients stay together.\n"
        "Files with signs of text in their pixels are left out, unless --burned-in keep is given or pixels\n"
        "are blackened. The same command goes on where it was stopped. No certificate: docs/privacy.md says\n"
        "what is not guaranteed.",
        "osler data deidentify ward clean --key ~/ward.key",
        "osler data deidentify ward clean --key ~/ward.key --dates modified --patient-characteristics",
        "osler data deidentify echo clean --key ~/ward.key --outside-regions --blacken 0,0,800,60",
    )
    parser.add_argument("root", type=Path, metavar="IN", help="folder of DICOM files")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder, or one of an earlier run with the same settings")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="key file, outside of both folders; made when missing")
    parser.add_argument(
        "--dates",
        choices=("removed", "modified", "full"),
        default="removed",
        help="modified: moved back by a keyed number of days for each patient; full: as they are (default: %(default)s)",
    )
    parser.add_argument(
        "--clean-descriptors", action="store_true", help="keep descriptions, with words of a closed vocabulary only ('ax t2 brain')"
    )
    parser.add_argument(
        "--patient-characteristics", action="store_true", help="keep age (90 and more as 90), sex, size and weight of the patient"
    )
    parser.add_argument(
        "--blacken", action="append", default=[], metavar="L,T,R,B", help="blacken this box of every frame, in pixels; may be repeated"
    )
    parser.add_argument("--outside-regions", action="store_true", help="blacken what lies outside of the ultrasound regions")
    parser.add_argument(
        "--burned-in",
        choices=("leave_out", "keep"),
        default="leave_out",
        help="files with signs of text in their pixels, by the header or the detector (default: %(default)s)",
    )
    parser.add_argument(
        "--failures", type=Path, default=None, metavar="FILE", help="write the paths of files that were left out here: they may hold names"
    )


def _run(options: argparse.Namespace) -> Mapping[str, Any]:
    from osler.data.privacy.deidentify import DeidentifyOptions
    from osler.data.privacy.folders import deidentify_folder, parse_boxes
    from osler.data.privacy.keys import check_key_file, load_key
    from osler.files import write_whole

    if options.overrides:
        raise ConfigError(f"{options.overrides[0]} belongs to a recipe, and this verb reads none: see osler data deidentify --help")
    boxes = parse_boxes(options.blacken)
    if not options.root.is_dir():
        raise DataError(f"{str(options.root)!r} is no folder: check the path")
    check_key_file(options.key, options.root, options.out)
    if options.failures is not None and options.failures.resolve().is_relative_to(options.out.resolve()):
        raise ConfigError(f"--failures {options.failures} lies inside {options.out}, which is to hold no names: write it elsewhere")
    done = deidentify_folder(
        options.root,
        options.out,
        DeidentifyOptions(
            key=load_key(options.key),
            dates=options.dates,
            clean_descriptors=options.clean_descriptors,
            patient_characteristics=options.patient_characteristics,
            boxes=boxes,
            outside_regions=options.outside_regions,
        ),
        burned_in=options.burned_in,
        has_progress=True,
    )
    if options.failures is not None:
        try:
            write_whole(options.failures, "".join(f"{line}\n" for line in done.failures))
        except OSError as error:
            raise DataError(f"{options.failures} cannot be written ({error.strerror}): name another file") from None
    print_done(done)
    if not (done.num_written or done.num_present or done.left_out):
        raise DataError(f"{str(options.root)!r} holds no DICOM file: check the path")
    return {
        "out": done.out,
        "written": done.num_written,
        "present": done.num_present,
        "others": done.num_others,
        "left_out": done.left_out,
        "flagged": done.flagged,
    }


def print_done(done: Deidentified) -> None:
    """Print what was done, in one line, and why files were left out."""
    num = sum(done.left_out.values())
    print(
        f"{done.num_written:,} files written to {done.out}, {done.num_present:,} were there, {num:,} left out, "
        f"{done.num_others:,} of other kinds not read"
    )
    for reason, count in done.left_out.items():
        print(f"  {count:>8,}  left out: {reason}")
    if num:
        print("--failures FILE writes their paths")
