"""MIMIC-CXR-VQA as its own script builds it, and sets of the same layout: train.json, valid.json and test.json, each a list of rows.

`answer` is a list: ["yes"] or ["no"] of a `verify` question; none, one or both of the two things that a `choose` question names; any number
of findings or places of a `query`. One answer of two becomes a choice. No answer is "none", and several are a list such as
"atelectasis, pleural effusion", which open answers compare as a set.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from osler.data.readers.base import ReaderCard, ReadReport, Rows, check_choice, check_object, get_text
from osler.data.readers.make_choices import Closed, arrange, close_yes_no, present
from osler.data.readers.read_files import load_rows
from osler.errors import DataError
from osler.images.files import ImageFile
from osler.taxonomy import SPLITS, Modality, QuestionType
from osler.types import Sample

FILES: Final = MappingProxyType({"train": "train.json", "validation": "valid.json", "test": "test.json"})
_FOLDERS: Final = (".", "dataset", "mimiccxrvqa/dataset")
_TYPES: Final = {
    **dict.fromkeys(("anatomy", "plane"), QuestionType.ANATOMY_IDENTIFICATION),  # as for SLAKE and VQA-RAD
    **dict.fromkeys(("attribute", "presence", "abnormality"), QuestionType.DISEASE_DIAGNOSIS),
    **dict.fromkeys(("gender", "size"), QuestionType.OTHER_BIOLOGICAL_ATTRIBUTES),
}
_WORDS: Final = {"gender": {"m": "male", "f": "female"}, "plane": {"ap": "AP", "pa": "PA"}}
"""The words of the questions for the codes of the answers."""

NONE: Final = "none"
"""The target of a question whose right answer is an empty list."""

CARD: Final = ReaderCard(
    title="MIMIC-CXR-VQA",
    source="Bae et al., NeurIPS 2023, arXiv 2310.18652; github baeseongsu/mimic-cxr-vqa",
    licence="PhysioNet credentialed health data licences of MIMIC-CXR-JPG, Chest ImaGenome and MIMIC-IV",
    counts="about 377,000 questions from 48 templates",
    layout="the folder that holds train.json, valid.json and test.json, as build_dataset.sh writes them, and the images in p10/, ..",
    options={"images": "the folder of MIMIC-CXR-JPG that holds p10/, p11/, .. or files/; the folder of the rows when left out"},
)


def read(root: Path, *, split: str | None = None, seed: int = 0, images: str | Path | None = None) -> ReadReport:
    """The questions of one split; the order of options depends on the seed and the row's id. Raises ConfigError and DataError."""
    check_choice("split", split, SPLITS)
    folder = find_folder(root)
    if folder is None:
        raise DataError(f"{root} holds none of {', '.join(FILES.values())}{_unbuilt(root)}: check the data root")
    image_root = Path(images) if images is not None else folder
    image_root = image_root / "files" if (image_root / "files").is_dir() else image_root
    present_files = [name for name, file in FILES.items() if (folder / file).is_file()]
    wanted = present_files if split is None else [split]
    rows = Rows()
    for name in wanted:
        for index, row in enumerate(load_rows(folder / FILES[name])):
            rows.add(f"mimic_cxr_vqa/{FILES[name]}/{index}", _make_sample, row, name, image_root, seed, rows.notes)
    return rows.report(splits=wanted if split is None else ())


def find_folder(root: Path) -> Path | None:
    """The folder at or below a root that holds the rows; None without one."""
    return next((root / name for name in _FOLDERS for file in FILES.values() if (root / name / file).is_file()), None)


def _unbuilt(root: Path) -> str:
    """What to do with the files that the repository distributes, which lack the answers."""
    names = [path.name for name in _FOLDERS for path in sorted((root / name).glob("_*.json"))]
    return f", only {names[0]} without answers, from which build_dataset.sh of the repository makes them" if names else ""


def _make_sample(row: Any, split: str, image_root: Path, seed: int, notes: Counter[str]) -> Sample:
    row = check_object(row)
    sample_id = f"mimic_cxr_vqa/{split}/{get_text(row, 'idx')}"
    kind, content = get_text(row, "semantic_type").lower(), get_text(row, "content_type").lower()
    words = _WORDS.get(content, {})
    answers = [words.get(answer.lower(), answer) for answer in _answers(row)]
    closed = _close(kind, answers, _offered(row, content), random.Random(f"{seed}/{sample_id}"), notes)
    question_type = _TYPES.get(content)
    if question_type is None:
        notes[f"content type outside the published ones: {content[:60]!r}"] += 1
    return Sample(
        id=sample_id,
        dataset="mimic_cxr_vqa",
        images=(ImageFile(root=image_root, path=get_text(row, "image_path").removeprefix("files/")),),
        question=get_text(row, "question", notes),
        choices=closed.choices,
        target=closed.target,
        modality=Modality.XRAY,
        question_type=question_type,
        subject_id=get_text(row, "subject_id") if "subject_id" in row else None,
        metadata={
            "answer": answers,
            "semantic_type": kind,
            "content_type": content,
            "study_id": row.get("study_id"),
            "template_program": row.get("template_program"),
        },
    )


def _answers(row: Mapping[str, Any]) -> list[str]:
    """The right answers, each once; a lone text is one. Raises DataError where they are missing or no texts."""
    given = row.get("answer")
    if given is None:
        raise DataError("'answer' is missing: build the dataset with build_dataset.sh of its repository")
    answers = [given] if isinstance(given, str) else given
    if not isinstance(answers, list) or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise DataError("'answer' is not a list of texts")
    return list(dict.fromkeys(answer.strip() for answer in answers))


def _offered(row: Mapping[str, Any], content: str) -> tuple[str, ...]:
    """The two things that a `choose` question names: those of which its template has two, or the codes of sex and view."""
    if content in _WORDS:
        return tuple(_WORDS[content].values())
    arguments = row.get("template_arguments")
    groups = [arguments.get(name) for name in ("attribute", "object")] if isinstance(arguments, dict) else []
    pairs = [tuple(map(str, group.values())) for group in groups if isinstance(group, dict) and len(group) == 2]
    return pairs[0] if pairs else ()


def _close(kind: str, answers: list[str], offered: tuple[str, ...], rng: random.Random, notes: Counter[str]) -> Closed:
    """The choices and the target of a question. Raises DataError for answers that its kind does not have."""
    if kind == "verify":
        if len(answers) != 1 or answers[0].lower() not in ("yes", "no"):
            raise DataError(f"a verify question has the answer {', '.join(answers)[:60] or NONE!r}: yes or no is expected")
        return close_yes_no(answers[0], rng, notes)
    if kind not in ("choose", "query"):
        raise DataError(f"unknown semantic type {kind[:40]!r}: verify, choose or query is expected")
    if kind == "choose":
        if foreign := [answer for answer in answers if answer.lower() not in map(str.lower, offered)]:
            raise DataError(f"a choose question has the answer {foreign[0][:60]!r}, which it does not name")
        if len(answers) == 1:
            notes["question made a choice of the two that it names"] += 1
            return arrange(tuple(map(present, offered)), answers[0], rng)
    notes["question made open-ended, with " + {0: "no answer", 1: "one answer"}.get(len(answers), "a set of answers")] += 1
    return Closed(choices=(), target=", ".join(answers) or NONE)
