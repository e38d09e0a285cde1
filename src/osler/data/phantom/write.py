"""Phantom questions on disk in Med-R1's layout, so that whatever reads Med-R1's files reads these too.

::

    out/Images/phantom/<split>/<modality>/<seed>-<index>.png
    out/modality/<split>/<Med-R1's name of the modality>_<split>.json
    out/question_type/<split>/<Med-R1's name of the question type>_<split>.json
    out/phantom.jsonl       one line per question: what the item schema has no room for (rationale, findings, subject)
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tqdm import tqdm

from osler.data.phantom.canvas import Difficulty
from osler.data.phantom.images import PhantomImage, Split
from osler.data.phantom.questions import build_samples
from osler.data.phantom.sheet import contact_sheet
from osler.errors import DataError
from osler.files import replacing, write_json_lines, write_whole
from osler.taxonomy import Modality, QuestionType
from osler.types import LETTERS, Sample

MODALITY_NAMES: Final[Mapping[Modality, str]] = MappingProxyType(
    {
        Modality.CT: "CT(Computed Tomography)",
        Modality.MRI: "MR (Mag-netic Resonance Imaging)",
        Modality.XRAY: "X-Ray",
        Modality.ULTRASOUND: "ultrasound",
        Modality.DERMOSCOPY: "Dermoscopy",
        Modality.FUNDUS: "Fundus Photography",
        Modality.OCT: "OCT (Optical Coherence Tomography",  # the bracket is open in Med-R1's file names too
        Modality.MICROSCOPY: "Microscopy Images",
    }
)
QUESTION_TYPE_NAMES: Final[Mapping[QuestionType, str]] = MappingProxyType(
    {question_type: question_type.value.replace("_", " ").title() for question_type in QuestionType}
)
_IMAGES_PER_WORKER: Final = 256
"""Starting a worker costs as much time as this many pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What `write_med_r1` put on disk."""

    num_images: int
    num_questions: int
    questions_per_file: Mapping[str, int]  # {"modality/test/X-Ray_test.json": 300}


def write_phantom(out: Path, *, num_questions: Mapping[Split, int], seed: int, size: int, difficulty: Difficulty) -> Written:
    """Draw `num_questions` of each modality for each split in Med-R1's layout, and `contact_sheet.png` beside them."""
    samples = [
        sample
        for split, number in num_questions.items()
        for modality in Modality
        for sample in build_samples(modality=modality, split=split, seed=seed, num_questions=number, size=size, difficulty=difficulty)
    ]
    written = write_med_r1(out, samples=samples)
    contact_sheet(seed=seed, difficulty=difficulty).save(out / "contact_sheet.png")
    return written


def write_med_r1(out: Path, *, samples: Sequence[Sample], num_workers: int | None = None, has_progress: bool = True) -> Written:
    """Write the samples' pictures, both axes' split files and the sidecar under `out`; existing files of the same names are replaced.

    Every file is written beside its name and then renamed, the annotations after the pictures, so an annotation file never names a picture
    that is not there. `num_workers` defaults to every core. Raises DataError for samples that are not phantom questions with choices.
    """
    pictures: dict[str, PhantomImage] = {}
    tables: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    sidecar: list[dict[str, Any]] = []
    for sample in samples:
        image = _phantom_image(sample)
        path = f"Images/phantom/{image.split}/{image.modality}/{image.seed}-{image.index:06d}.png"
        if pictures.setdefault(path, image) != image:
            raise DataError(f"{path} would hold {pictures[path].uri} and {image.uri}: write one size and difficulty per folder")
        item = make_item(sample, path)
        for name in _table_names(sample, image):
            tables[name].append(item)
        sidecar.append(_sidecar_row(sample, image, path))
    _write_pictures(out, pictures, num_workers or os.cpu_count() or 1, has_progress)
    for name, items in tables.items():
        write_whole(out / name, json.dumps(items, indent=4, ensure_ascii=False) + "\n")
    write_json_lines(out / "phantom.jsonl", sidecar)
    return Written(
        num_images=len(pictures),
        num_questions=len(samples),
        questions_per_file=MappingProxyType(dict(Counter({name: len(items) for name, items in tables.items()}))),
    )


def make_item(sample: Sample, path: str) -> dict[str, str]:
    """One item of a Med-R1 split file: options inline after the question, the letter inside answer tags with spaces."""
    options = ", ".join(f"{letter}){choice}" for letter, choice in zip(LETTERS, sample.choices, strict=False))
    return {"image": path, "problem": f"{sample.question} {options}", "solution": f"<answer> {sample.target} </answer>"}


def _phantom_image(sample: Sample) -> PhantomImage:
    image = sample.images[0] if len(sample.images) == 1 else None
    if not isinstance(image, PhantomImage) or not sample.choices or sample.question_type is None:
        raise DataError(f"{sample.id} is not a phantom question with choices: write only what osler.data.phantom.build_samples makes")
    return image


def _table_names(sample: Sample, image: PhantomImage) -> tuple[str, str]:
    """The split file of each axis that holds the sample."""
    assert sample.question_type is not None
    split = image.split
    return (
        f"modality/{split}/{MODALITY_NAMES[image.modality]}_{split}.json",
        f"question_type/{split}/{QUESTION_TYPE_NAMES[sample.question_type]}_{split}.json",
    )


def _sidecar_row(sample: Sample, image: PhantomImage, path: str) -> dict[str, Any]:
    return {
        "id": sample.id,
        "image": path,
        "uri": image.uri,
        "split": image.split,
        "modality": image.modality,
        "question_type": sample.question_type,
        "subject_id": sample.subject_id,
        "question": sample.question,
        "choices": sample.choices,
        "target": sample.target,
        "rationale": sample.rationale,
        "findings": asdict(image.findings),
    }


def _write_pictures(out: Path, pictures: Mapping[str, PhantomImage], num_workers: int, has_progress: bool) -> None:
    for folder in {(out / path).parent for path in pictures}:
        folder.mkdir(parents=True, exist_ok=True)
    tasks = [(image, out / path) for path, image in pictures.items()]
    num_workers = min(num_workers, len(tasks) // _IMAGES_PER_WORKER)

    def watch(done: Iterable[None]) -> None:
        for _ in tqdm(done, total=len(tasks), unit="image", desc="phantom", disable=not has_progress):
            pass

    if num_workers < 2:
        watch(map(_write_picture, tasks))
        return
    # Spawned, not forked: a fork of a process that runs threads (torch, a notebook) can hang.
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        watch(pool.map(_write_picture, tasks, chunksize=64))


def _write_picture(task: tuple[PhantomImage, Path]) -> None:
    image, path = task
    with replacing(path) as draft:
        image.load().save(draft, format="PNG", compress_level=1)  # noise hardly compresses: level 1 is three times faster and as small
