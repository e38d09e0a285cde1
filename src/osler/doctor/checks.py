"""What is installed, on which device, and whether the images of a recipe can be read."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final, Literal

from osler.config import Config
from osler.doctor.findings import Finding, ok
from osler.images.files import verify
from osler.training.disk import format_bytes
from osler.types import ImageSource, Prompt

ImageChoice = Literal["sample", "all", "none"]
IMAGE_CHOICES: Final[tuple[ImageChoice, ...]] = ("sample", "all", "none")

SAMPLED_IMAGES: Final = 64
"""Images that are decoded of many: a fault of a twentieth of them is missed once in 27 times."""

SHOWN_IMAGES: Final = 3
"""Unreadable images that are named."""

LITTLE_SPACE: Final = 2 * 10**9
"""Bytes of free disk below which a run of a model of hundreds of millions of weights does not fit."""


def check_installed() -> Iterator[Finding]:
    """The versions of Python and of the packages that Osler needs, against what it was tested with."""
    from packaging.requirements import Requirement

    try:
        required = [Requirement(text) for text in requires("osler") or ()]
    except PackageNotFoundError:
        yield Finding(check="installed", level="skipped", says="Osler is not installed as a package: versions are unknown")
        return
    needed = [one for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    found = {one.name: _version(one.name) for one in needed}
    for one in needed:
        installed = found[one.name]
        if installed is None:
            yield Finding(
                check="installed", level="failure", says=f"{one.name} is missing", remedy=f'pip install "{one.name}{one.specifier}"'
            )
        elif not one.specifier.contains(installed, prereleases=True):
            says = f"{one.name} {installed} is installed and Osler was tested with {one.specifier}"
            yield Finding(check="installed", level="failure", says=says, remedy=f'pip install "{one.name}{one.specifier}"')
    shown = ", ".join(f"{name} {found.get(name)}" for name in ("torch", "transformers", "trl"))
    yield ok("installed", f"Python {sys.version.split()[0]}, {shown}; {sum(map(bool, found.values()))} of {len(needed)} packages")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_device(name: str) -> Iterator[Finding]:
    """The device of `[policy] device`, with its memory. Raises PolicyError for one that is not there."""
    import torch

    from osler.policies.load import find_device

    device = find_device(name)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        yield ok("device", f"{torch.cuda.get_device_name(device)}, {format_bytes(free)} of {format_bytes(total)} free")
        return
    yield ok("device", f"{device.type}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")


def check_disk(folder: Path) -> Iterator[Finding]:
    """The free space where a run is written."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < LITTLE_SPACE:
        says = f"{format_bytes(free)} are free in {folder}; checkpoints of large models take three times their weights"
        yield Finding(check="disk", level="warning", says=says, remedy="--trainer.checkpoint=none")
        return
    yield ok("disk", f"{format_bytes(free)} free in {folder}")


def check_images(prompts: Sequence[Prompt], config: Config, choice: ImageChoice) -> Iterator[Finding]:
    """Whether the images of questions can be decoded: all of them, or a sample drawn by `[data] seed`."""
    sources = {source.uri: source for prompt in prompts for source in prompt.sample.images}
    if choice == "none" or not sources:
        why = "the questions have no images" if not sources else "--images none"
        yield Finding(check="images", level="skipped", says=f"not read: {why}")
        return
    names = sorted(sources)
    if choice == "sample" and len(names) > SAMPLED_IMAGES:
        names = random.Random(f"doctor/{config.data.seed}").sample(names, SAMPLED_IMAGES)
    faults = {name: fault for name in names if (fault := _verify(sources[name])) is not None}
    if not faults:
        yield ok("images", f"{len(names)} of {len(sources)} decoded")
        return
    shown = "; ".join(f"{name} {fault}" if not config.data.private else fault for name, fault in list(faults.items())[:SHOWN_IMAGES])
    says = f"{len(faults)} of {len(names)} that were read cannot be decoded: {shown}"
    yield Finding(check="images", level="failure", says=says, remedy="replace them, or leave their questions out of the data")


def _verify(source: ImageSource) -> str | None:
    return verify(source, decode=True)
