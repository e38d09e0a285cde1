import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from osler.config import Config, build_config
from osler.data.select import counts, load_split
from osler.errors import OslerError
from osler.types import Sample


def make_config(**data: Any) -> Config:
    return build_config({"data": data})


def cells(samples: list[Sample]) -> Counter[str]:
    return Counter(str(sample.modality) for sample in samples)


PHANTOM_ROWS: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    ("a limit is spread evenly", {"modalities": ["mri", "ct", "xray"], "limit": 10}, {"mri": 4, "ct": 3, "xray": 3}),
    ("a limit below the modalities", {"limit": 3}, {"ct": 1, "mri": 1, "xray": 1}),
    ("per modality", {"modalities": ["oct", "fundus"], "limit_per_modality": 7}, {"oct": 7, "fundus": 7}),
    ("both limits", {"modalities": ["oct", "fundus"], "limit_per_modality": 7, "limit": 4}, {"oct": 2, "fundus": 2}),
    ("both limits, the other way", {"modalities": ["oct", "fundus"], "limit_per_modality": 2, "limit": 40}, {"oct": 2, "fundus": 2}),
    ("per question type", {"modalities": ["mri", "ct"], "limit_per_question_type": 3}, {"mri": 10, "ct": 5}),
    ("the reader's own option", {"modalities": ["mri"], "num_questions": 11}, {"mri": 11}),
    ("one question type", {"modalities": ["mri"], "question_types": ["lesion_grading"], "limit": 6}, {"mri": 6}),
]


@pytest.mark.parametrize(("name", "section", "expected"), PHANTOM_ROWS, ids=[row[0] for row in PHANTOM_ROWS])
def test_phantom_selection(name: str, section: dict[str, Any], expected: dict[str, int]) -> None:
    samples = load_split(make_config(train=section).data, "train")
    assert cells(samples) == expected
    if types := section.get("question_types"):
        assert {sample.question_type for sample in samples} == set(types)
    assert all("/train/" in sample.id for sample in samples)


def test_phantom_seed_and_split_decide() -> None:
    section = {"modalities": ["mri"], "limit": 20}
    ids = [
        [sample.id for sample in load_split(make_config(seed=seed, train=section, test=section).data, which)]
        for seed in (0, 1)
        for which in ("train", "test")
    ]
    assert len({identifier for found in ids for identifier in found}) == 80


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    kinds = [("mri", "disease_diagnosis"), ("ct", "lesion_grading"), (None, None)]
    path = tmp_path / "rows.jsonl"
    lines = []
    for index in range(60):
        modality, question_type = kinds[index % 3]
        row = {
            "id": f"own/{index}",
            "images": ["a.png"],
            "messages": [{"role": "user", "content": "What is it?"}],
            "choices": ["CT", "MRI"],
            "answer": "B",
            "modality": modality,
            "question_type": question_type,
        }
        lines.append(json.dumps({key: value for key, value in row.items() if value is not None}))
    path.write_text("\n".join(lines))
    return path


FILE_ROWS: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    ("all", {}, {"mri": 20, "ct": 20, "None": 20}),
    ("one modality", {"modalities": ["ct"]}, {"ct": 20}),
    ("one type", {"question_types": ["disease_diagnosis"]}, {"mri": 20}),
    ("per modality", {"limit_per_modality": 5}, {"mri": 5, "ct": 5, "None": 5}),
    ("per question type", {"limit_per_question_type": 4}, {"mri": 4, "ct": 4, "None": 4}),
    ("a limit above what there is", {"limit": 500}, {"mri": 20, "ct": 20, "None": 20}),
]


@pytest.mark.parametrize(("name", "section", "expected"), FILE_ROWS, ids=[row[0] for row in FILE_ROWS])
def test_file_selection(rows_file: Path, name: str, section: dict[str, Any], expected: dict[str, int]) -> None:
    assert cells(load_split(make_config(reader="jsonl", root=str(rows_file), test=section).data, "test")) == expected


def test_limits_draw_a_stable_nested_sample(rows_file: Path) -> None:
    def draw(limit: int, seed: int = 0) -> list[str]:
        data = make_config(reader="jsonl", root=str(rows_file), seed=seed, train={"limit": limit}).data
        return [sample.id for sample in load_split(data, "train")]

    assert draw(12) == draw(12)
    assert len(draw(12)) == 12
    assert set(draw(12)) < set(draw(30))
    assert draw(12) != draw(12, seed=1)
    order = [int(identifier.rpartition("/")[2]) for identifier in draw(12)]
    assert order == sorted(order)


def test_empty_selection_says_what_exists(rows_file: Path) -> None:
    data = make_config(reader="jsonl", root=str(rows_file), train={"modalities": ["oct"]}).data
    with pytest.raises(OslerError) as caught:
        load_split(data, "train")
    assert "oct" in str(caught.value)
    assert "mri: disease_diagnosis" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_counts(rows_file: Path) -> None:
    data = make_config(reader="jsonl", root=str(rows_file)).data
    assert counts(load_split(data, "test")) == {
        "ct": {"lesion_grading": 20},
        "mri": {"disease_diagnosis": 20},
        "none": {"none": 20},
    }
    assert counts([]) == {}
