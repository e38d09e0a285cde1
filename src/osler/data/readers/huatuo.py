"""The Medical_Multimodal_Evaluation_Data of HuatuoGPT-Vision, and the test file of MedVLM-R1, which has the same format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from osler.data.facts.multiple_choice import add_facts
from osler.data.readers.base import ReaderCard, ReadReport, Rows, check_object, check_test_only, get_text, image_files, parse_names
from osler.data.readers.read_files import load_rows
from osler.data.readers.text import check_choices, letter_of, parse_label, repair_mojibake
from osler.errors import DataError
from osler.taxonomy import Modality, parse_modality
from osler.types import Sample

CARD: Final = ReaderCard(
    title="Huatuo multimodal evaluation bundle",
    source="hub set FreedomIntelligence/Medical_Multimodal_Evaluation_Data; MedVLM-R1's 900 items, github JZPeterPan/MedVLM-R1",
    licence="the terms of the benchmarks that it bundles",
    counts="MedVLM-R1's file: 900 questions, 300 each of MRI, CT and X-ray",
    layout="a JSON list of rows {image, question, options, answer, dataset, subset}, or a folder with one such file, beside images/",
    options={
        "dataset": "one bundled benchmark, such as OmniMedVQA; all when left out",
        "modalities": "list of modalities; all rows when left out",
        "images": "the folder that holds images/; the file's folder when left out",
    },
)


def read(
    root: Path,
    *,
    split: str | None = None,
    dataset: str | None = None,
    modalities: Sequence[str] | None = None,
    images: str | Path | None = None,
) -> ReadReport:
    """All rows that match the options, which are one test split. Raises ConfigError and DataError."""
    check_test_only("huatuo", split)
    file = _find_file(root)
    selected = parse_names(modalities or (), parse_modality)
    image_root = Path(images) if images is not None else file.parent
    rows = Rows()
    for index, row in enumerate(load_rows(file)):
        if dataset is not None and isinstance(row, dict) and row.get("dataset") != dataset:
            continue
        if selected and isinstance(row, dict) and _modality(row, Counter()) not in selected:
            continue
        row_id = f"huatuo/{index}"
        rows.add(row_id, _make_sample, row_id, row, image_root, rows.notes)
    return rows.report(add_facts)


def _find_file(root: Path) -> Path:
    if root.is_file():
        return root
    if len(files := sorted(root.glob("*.json"))) != 1:
        raise DataError(f"{root} holds {len(files)} JSON files: name the annotation file itself as the root")
    return files[0]


def _modality(row: dict[str, Any], notes: Counter[str]) -> Modality | None:
    """The modality under "subset"; None for benchmarks other than OmniMedVQA, which use that field for other things."""
    return parse_label(row.get("subset"), parse_modality, "modality", notes)


def _make_sample(row_id: str, row: Any, image_root: Path, notes: Counter[str]) -> Sample:
    row = check_object(row)
    choices = check_choices(row.get("options"), notes)
    target = letter_of(repair_mojibake(get_text(row, "answer", notes), notes), choices, notes, kind="either")
    if "solution" in row and get_text(row, "solution") != target:
        raise DataError(f"the answer is option {target}, but the solution is {row['solution']!r}")
    return Sample(
        id=row_id,
        dataset="huatuo",
        images=image_files(row.get("image"), image_root, "'image'"),
        question=repair_mojibake(get_text(row, "question", notes), notes),
        choices=choices,
        target=target,
        modality=_modality(row, notes),
        question_type=None,
        metadata={"source_set": row.get("dataset"), "subset": row.get("subset")},
    )
