"""Write phantom questions in the file layout of Med-R1, so that code that reads Med-R1's files reads them too.

::

    out/Images/phantom/<split>/<modality>/<seed>-<index>.png
    out/modality/<split>/<Med-R1's name of the modality>_<split>.json
    out/question_type/<split>/<Med-R1's name of the question type>_<split>.json
    out/phantom.jsonl       one line per question, with the fields that Med-R1's items lack (rationale, findings, subject)
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, get_args

from tqdm import tqdm

from osler.data.phantom.canvas import Difficulty
from osler.data.phantom.images import PhantomImage
from osler.data.phantom.leftovers import check_leftovers
from osler.data.phantom.questions import build_samples
from osler.data.phantom.sheet import contact_sheet
from osler.errors import DataError
from osler.files import replacing, write_json_lines, write_whole
from osler.taxonomy import Modality, QuestionType, Split
from osler.types import LETTERS, Sample

MODALITY_NAMES: Final[Mapping[Modality, str]] = MappingProxyType(
    {
        Modality.CT: "CT(Computed Tomography)",
        Modality.MRI: "MR (Mag-netic Resonance Imaging)",
        Modality.XRAY: "X-Ray",
        Modality.ULTRASOUND: "ultrasound",
        Modality.DERMOSCOPY: "Dermoscopy",
        Modality.FUNDUS: "Fundus Photography",
        Modality.OCT: "OCT (Optical Coherence Tomography",  # Med-R1's file names lack the closing bracket too
        Modality.MICROSCOPY: "Microscopy Images",
    }
)
QUESTION_TYPE_NAMES: Final[Mapping[QuestionType, str]] = MappingProxyType(
    {question_type: question_type.value.replace("_", " ").title() for question_type in QuestionType}
)
_IMAGES_PER_WORKER: Final = 256
"""Starting a worker process takes as long as drawing this many pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The numbers of what `write_med_r1` wrote."""

    num_images: int
    num_questions: int
    questions_per_file: Mapping[str, int]  # {"modality/test/X-Ray_test.json": 300}


def write_phantom(
    out: Path, *, num_questions: Mapping[Split, int], seed: int, size: int, difficulty: Difficulty, shortcut: float = 0.0
) -> Written:
    """Write `num_questions` questions per modality for each split ({"train": 2000}) with `write_med_r1`, and `contact_sheet.png`."""
    samples = [
        sample
        for split, number in num_questions.items()
        for modality in Modality
        for sample in build_samples(
            modality=modality, split=split, seed=seed, num_questions=number, size=size, difficulty=difficulty, shortcut=shortcut
        )
    ]
    written = write_med_r1(out, samples=samples)
    contact_sheet(seed=seed, difficulty=difficulty).save(out / "contact_sheet.png")
    return written


def write_med_r1(out: Path, *, samples: Sequence[Sample]) -> Written:
    """Write the samples' pictures, the split files of both axes and phantom.jsonl to `out`; existing files are replaced.

    Each file appears whole or not at all. Pictures are written first, so an annotation file never names a missing picture.
    Raises DataError for samples that are not phantom questions with choices, for two pictures with the same file name, and for a folder
    with files of a phantom that these do not replace.
    """
    pictures: dict[str, PhantomImage] = {}
    tables: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    sidecar: list[dict[str, Any]] = []
    for sample in samples:
        image = _phantom_image(sample)
        path = f"Images/phantom/{image.split}/{image.modality}/{image.seed}-{image.index:06d}.png"
        if pictures.setdefault(path, image) != image:
            raise DataError(f"{path} would hold {pictures[path].uri} and {image.uri}: write one size and difficulty per folder")
        assert sample.question_type is not None
        for axis, value in (("modality", MODALITY_NAMES[image.modality]), ("question_type", QUESTION_TYPE_NAMES[sample.question_type])):
            tables[f"{axis}/{image.split}/{value}_{image.split}.json"].append(_med_r1_item(sample, path))
        sidecar.append(_sidecar_row(sample, image, path))
    check_leftovers(out, {*pictures, *tables}, _patterns())
    _write_pictures(out, pictures)
    for name, items in tables.items():
        write_whole(out / name, json.dumps(items, indent=4, ensure_ascii=False) + "\n")
    write_json_lines(out / "phantom.jsonl", sidecar)
    counts = {name: len(items) for name, items in tables.items()}
    return Written(num_images=len(pictures), num_questions=len(samples), questions_per_file=counts)


def _patterns() -> Iterator[str]:
    """Of all files that `write_med_r1` may write, but for phantom.jsonl, which is always replaced."""
    for split in get_args(Split):
        yield f"Images/phantom/{split}/*/[0-9]*-[0-9]*.png"
        for axis, names in (("modality", MODALITY_NAMES.values()), ("question_type", QUESTION_TYPE_NAMES.values())):
            yield from (f"{axis}/{split}/{name}_{split}.json" for name in names)


def _med_r1_item(sample: Sample, path: str) -> dict[str, str]:
    """One item of a Med-R1 split file: the options follow the question inline, the letter is in answer tags with spaces."""
    options = ", ".join(f"{letter}){choice}" for letter, choice in zip(LETTERS, sample.choices, strict=False))
    return {"image": path, "problem": f"{sample.question} {options}", "solution": f"<answer> {sample.target} </answer>"}


def _phantom_image(sample: Sample) -> PhantomImage:
    image = sample.images[0] if len(sample.images) == 1 else None
    if not isinstance(image, PhantomImage) or not sample.choices or sample.question_type is None:
        raise DataError(f"{sample.id} is not a phantom question with choices: write only samples of osler.data.phantom.build_samples")
    return image


def _sidecar_row(sample: Sample, image: PhantomImage, path: str) -> dict[str, Any]:
    keys = ("modality", "question_type", "subject_id", "question", "choices", "target", "rationale")
    facts = {key: getattr(sample, key) for key in keys}
    return {"id": sample.id, "image": path, "uri": image.uri, "split": image.split, **facts, "findings": asdict(image.findings)}


def _write_pictures(out: Path, pictures: Mapping[str, PhantomImage]) -> None:
    tasks = [(image, out / path) for path, image in pictures.items()]
    num_workers = min(os.cpu_count() or 1, len(tasks) // _IMAGES_PER_WORKER)
    with ExitStack() as stack:
        if num_workers < 2:
            written: Iterator[None] = map(_write_picture, tasks)
        else:  # spawned, because a fork of a process with threads (torch, a notebook) can hang
            pool = stack.enter_context(ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")))
            written = pool.map(_write_picture, tasks, chunksize=64)
        for _ in tqdm(written, total=len(tasks), unit="image", desc="phantom"):
            pass


def _write_picture(task: tuple[PhantomImage, Path]) -> None:
    image, path = task
    with replacing(path) as draft:  # noise hardly compresses: level 1 is three times faster than the default and as small
        image.load().save(draft, format="PNG", compress_level=1)
