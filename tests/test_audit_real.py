"""The audit of real files: figures of the papers' own splits, and the images that official splits share."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from small_audits import at, run

from osler.audits.run import AuditOptions

pytestmark = pytest.mark.integration


@cache
def published() -> dict[str, Any]:
    folder = os.environ.get("OSLER_TEST_DATA")
    if not folder:
        pytest.skip("OSLER_TEST_DATA does not name the folder of the annotation files")
    root = Path(folder) / "omnimedvqa_splits"
    return run("--data.reader=med_r1", f"--data.root={root}", options=AuditOptions(redrawn=True)).to_json()


# Per cent, as measured on the papers' own files. MRI's and Disease Diagnosis's train files are absent there.
@pytest.mark.parametrize(
    ("where", "percent"),
    [
        ("blind.option_prior.ct.ct", 99.0),
        ("blind.option_prior.xray.xray", 94.6),
        ("blind.option_prior.ultrasound.ultrasound", 83.4),
        ("blind.option_prior.dermoscopy.dermoscopy", 95.1),
        ("blind.option_prior.fundus.fundus", 94.9),
        ("blind.option_prior.oct.oct", 100.0),
        ("blind.option_prior.microscopy.microscopy", 98.6),
        ("blind.lower_case.ultrasound.ultrasound", 93.3),
        ("recovered.mri.option_prior", 99.7),
        ("by_axis.question_type.blind.option_prior.anatomy_identification.anatomy_identification", 81.1),
        ("by_axis.question_type.blind.option_prior.lesion_grading.lesion_grading", 96.1),
        ("by_axis.question_type.blind.option_prior.modality_recognition.modality_recognition", 95.0),
        ("by_axis.question_type.blind.option_prior.other_biological_attributes.other_biological_attributes", 100.0),
        ("by_axis.question_type.recovered.disease_diagnosis.option_prior", 98.3),
        ("leaks.same_image.xray.xray", 32.6),
        ("leaks.same_image.oct.oct", 29.8),
        ("leaks.same_image.microscopy.microscopy", 27.7),
        ("leaks.same_image.dermoscopy.dermoscopy", 18.5),
        ("leaks.same_image.ct.ct", 13.4),
        ("leaks.same_image.fundus.fundus", 9.7),
        ("leaks.same_image.ultrasound.ultrasound", 2.1),
        ("cases_by_source.Chest CT Scan.share", 98.3),
        ("cases_by_source.BreakHis.share", 94.9),
        ("cases_by_source.Mura.share", 78.6),
        ("across_axes.modality.question_type", 80.4),
        ("items.ct.all_rows.original", 99.0),
        ("items.ct.all_rows.redrawn", 58.9),
        ("items.ct.original.value", 100.0),
        ("items.ct.redrawn.value", 29.3),
        ("items.ct.difference.value", -70.7),
        ("items.ultrasound.original.value", 81.7),
        ("items.ultrasound.redrawn.value", 27.6),
        ("items.oct.all_rows.redrawn", 36.1),
        ("items.oct.redrawn.value", 25.7),
    ],
)
def test_published_files(where: str, percent: float) -> None:
    assert 100 * at(published(), where) == pytest.approx(percent, abs=0.06)


def test_published_rows_are_counted() -> None:
    items = published()["items"]
    assert (items["ct"]["rows"], items["ct"]["redrawn_rows"], items["mri"]["redrawn_rows"]) == (3241, 1839, 5664)
    for found in items.values():
        assert sum(found["counts"].values()) == found["rows"]
        assert found["clusters"] <= found["redrawn_rows"] == found["counts"]["redrawn"]


@pytest.mark.parametrize(
    "where",
    [
        "blind.option_prior.mri.mri",
        "leaks.same_image.mri.mri",
        "leaks.same_row.mri.ct",
        "items.mri.original.value",
        "items.mri.difference.low",
    ],
)
def test_an_absent_train_file_has_no_value(where: str) -> None:
    assert at(published(), where) is None


@pytest.mark.parametrize(
    ("reader", "arguments", "shared", "total"),
    [
        ("vqa_rad", (), 142, 143),
        ("slake", ("--data.train.language=en", "--data.test.language=zh"), 70, 84),
        ("slake", ("--data.train.language=en", "--data.test.language=en", "--data.test.split=validation"), 0, 96),
    ],
)
def test_images_of_the_official_splits(reader: str, arguments: tuple[str, ...], shared: int, total: int) -> None:
    folder = os.environ.get("OSLER_TEST_DATA")
    if not folder:
        pytest.skip("OSLER_TEST_DATA does not name the folder of the datasets")
    found = run(f"--data.reader={reader}", f"--data.root={Path(folder) / reader}", *arguments, options=AuditOptions(images="paths")).images
    assert (found.num_shared, found.num_test) == (shared, total)
