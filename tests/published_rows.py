"""Benchmarks in their published layouts: rows of the same shape, invented, and writers of small files."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from osler.data.readers import ReadReport
from osler.types import Sample

Row = Mapping[str, Any]


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def draw(path: Path, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new(mode, (12, 8), 7 if mode == "L" else (7,) * len(mode)).save(path)


def reasons(report: ReadReport) -> list[str]:
    return [refusal.reason for refusal in report.refused]


def facts_of(sample: Sample) -> tuple[Any, ...]:
    return sample.question, sample.choices, sample.target, sample.subject_id, [image.uri for image in sample.images]


OPTIONS = {"Choice A": " A:Diffuse uptake ", "Choice B": " B:Focal uptake ", "Choice C": " C:No uptake ", "Choice D": " D:Cannot tell "}
FIRST = {
    "Figure_path": "PMC1064097_F1.jpg",
    "Question": " What is the uptake pattern? ",
    "Answer": " Focal uptake ",
    **OPTIONS,
    "Answer_label": "B",
}
SECOND = {
    "index": 0,
    "Figure_path": "PMC1064097_F1.jpg",
    "Caption": "Focal uptake in the breast.",
    "Question": "What is the uptake pattern?",
    **OPTIONS,
    "Answer": "B",
    "split": "train",
}


def write_pmc(root: Path) -> Path:
    """Both versions, each with its own figures, and the clean test file of version 1."""
    for file in ("train.csv", "test.csv", "test_clean.csv", "train_2.csv", "test_2.csv"):
        row = SECOND if file.endswith("_2.csv") else FIRST
        write_csv(root / file, [row, {**row, "Question": "And what else?"}][: 1 if file == "test_clean.csv" else 2])
    draw(root / "images/PMC1064097_F1.jpg")
    draw(root / "figures/PMC1064097_F1.jpg")
    return root


CHOICES = {"A": "Erythema infectiosum", "B": "Cold agglutinin disease", "C": "Cutis marmorata", "D": "Erythema ab igne", "E": "Vasculitis"}


def repeated(question: str, options: Mapping[str, str]) -> str:
    return f"{question}\nAnswer Choices: " + " ".join(f"({letter}) {text}" for letter, text in options.items())


MEDX = {
    "id": "MM-26",
    "question": repeated("What is the most probable diagnosis?", CHOICES),
    "options": CHOICES,
    "label": "C",
    "images": ["MM-26-a.jpeg"],
    "medical_task": "Diagnosis",
    "body_system": "Lymphatic",
    "question_type": "Reasoning",
}
ARGUMENTS = {"object": {}, "attribute": {}, "category": {}, "viewpos": {}, "gender": {}}
VERIFY = {
    "split": "test",
    "idx": 13280,
    "subject_id": 10000032,
    "study_id": 50414267,
    "image_id": "02aa804e-bde0afdd",
    "image_path": "p10/p10000032/s50414267/02aa804e-bde0afdd.jpg",
    "question": "Are there signs of both pleural effusion and lung cancer in the left lower lobe?",
    "semantic_type": "verify",
    "content_type": "attribute",
    "template": "Are there signs of both ${attribute_1} and ${attribute_2} in the ${object}?",
    "template_program": "program_5",
    "template_arguments": {**ARGUMENTS, "object": {"0": "left lower lobe"}, "attribute": {"0": "pleural effusion", "1": "lung cancer"}},
    "answer": ["no"],
}
CHOOSE = {
    **VERIFY,
    "question": "Which anatomical location is related to lung opacity, the left lung or the right lung?",
    "semantic_type": "choose",
    "content_type": "anatomy",
    "template_arguments": {**ARGUMENTS, "object": {"0": "left lung", "1": "right lung"}, "attribute": {"0": "lung opacity"}},
    "answer": ["right lung"],
}
QUERY = {
    **VERIFY,
    "question": "List all abnormalities in the left lung.",
    "semantic_type": "query",
    "content_type": "abnormality",
    "template_arguments": {**ARGUMENTS, "object": {"0": "left lung"}},
    "answer": ["atelectasis", "copd/emphysema", "mass/nodule (not otherwise specified)"],
}
M3D = {
    "Image Path": "M3D_Cap_npy/ct_quizze/000008/Axial_C__arterial_phase.npy",
    "Text": "There is a mass of the liver.",
    "Question Type": "4",
    "Question": "What is the abnormality of the liver?",
    "Choice A": "Cyst",
    "Choice B": "Mass",
    "Choice C": "Abscess",
    "Choice D": "Haematoma",
    "Answer": "Mass",
    "Answer Choice": "B",
}


def image_bytes(mode: str, tone: int) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new(mode, (9, 6), (tone,) * len(mode)).save(stream, "JPEG")
    return stream.getvalue()


def write_path_vqa(root: Path, rows: Sequence[tuple[str, str]], name: str = "test") -> Path:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")})
    cells = [{"image": {"bytes": image_bytes("CMYK", 40), "path": None}, "question": asked, "answer": said} for asked, said in rows]
    table = datasets.Dataset.from_list(cells, features=features)
    (root / "data").mkdir(parents=True, exist_ok=True)
    table.to_parquet(root / "data" / f"{name}-00000-of-00001.parquet")
    return root


PATH_ROWS = [
    ("where are liver stem cells (oval cells) located?", "in the canals of hering"),
    ("are bile duct cells shown?", "yes"),
    ("Is there a tumour? ", "No."),
    ("is it yes or no?", "yes and no"),
    ("what is shown?", " "),
]


def write_all(name: str, root: Path) -> Path:
    """A small dataset with its images."""
    if name == "pmc_vqa":
        return write_pmc(root)
    if name == "path_vqa":
        return write_path_vqa(write_path_vqa(root, PATH_ROWS[:3]), PATH_ROWS[:2], "train")
    if name == "medxpertqa_mm":
        rows = ({**MEDX, "images": ["a.png", "b.png"]}, {**MEDX, "id": 1, "images": ["a.png"]})
        write_text(root / "MM/test.jsonl", "\n".join(map(json.dumps, rows)))
        for file in ("a.png", "b.png"):
            draw(root / "images" / file, "L" if file == "a.png" else "RGB")
    if name == "mimic_cxr_vqa":
        write_text(root / "test.json", json.dumps([{**row, "idx": number} for number, row in enumerate((VERIFY, CHOOSE, QUERY))], indent=4))
        draw(root / str(VERIFY["image_path"]), "L")
    if name == "m3d_vqa":
        write_csv(root / "M3D-VQA/M3D_VQA_test.csv", [M3D, {**M3D, "Choice D": "NA"}])
        for number in range(12):
            draw(root / f"M3D_Cap/ct_quizze/000008/Axial_C__arterial_phase/{number}.png", "L")
    return root


NAMES = ("pmc_vqa", "path_vqa", "medxpertqa_mm", "mimic_cxr_vqa", "m3d_vqa")
