"""A safetensors file whose tensors are read one by one, each only if it has the shape that its reader asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from osler.errors import DataError, first_line
from osler.files import replacing


class TensorFile:
    """The tensors of an open file by name. Each may be taken once, and all must be (`open_tensors`)."""

    def __init__(self, file: Any, path: Path, remedy: str) -> None:
        self._file, self._path, self._remedy = file, path, remedy
        self._left = set(file.keys())

    @property
    def names(self) -> frozenset[str]:
        """Those of the tensors that were not taken yet."""
        return frozenset(self._left)

    def has(self, name: str) -> bool:
        """Whether there is a tensor of that name that was not taken yet."""
        return name in self._left

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor. Raises DataError if there is none of that name."""
        if name not in self._left:
            self.refuse(f"has no {name}")
        return tuple(self._file.get_slice(name).get_shape())

    def take(self, name: str, shape: Sequence[int | None], *, is_float: bool, below: int | None = None, least: int = 0) -> Tensor:
        """The tensor `name` of that shape, None for any size; its values are at least `least` and less than `below`, where that is given.

        Raises DataError, in one line that names the file, for any other tensor.
        """
        found = self.shape(name)
        if len(found) != len(shape) or any(size not in (None, own) for size, own in zip(shape, found, strict=True)):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            self.refuse(f"holds {name} of the shape [{', '.join(map(str, found))}] and not [{wanted}]")
        if self._file.get_slice(name).get_dtype().startswith(("F", "BF")) != is_float:
            self.refuse(f"holds {name} as {self._file.get_slice(name).get_dtype()}")
        self._left.remove(name)
        tensor: Tensor = self._file.get_tensor(name)
        if below is not None and tensor.numel() and not least <= int(tensor.min()) <= int(tensor.max()) < below:
            self.refuse(f"holds {name} with values outside {least} to {below - 1}")
        return tensor

    def require_all_taken(self) -> None:
        """Raise DataError if a tensor is left: this version of Osler does not know it."""
        if self._left:
            self.refuse(f"holds {min(self._left)}, which does not belong there")

    def refuse(self, what: str) -> NoReturn:
        """Raise DataError: "<path> <what>: <remedy>"."""
        raise DataError(f"{self._path} {what}: {self._remedy}")


@contextmanager
def open_tensors(path: Path, remedy: str) -> Iterator[TensorFile]:
    """The tensors of a safetensors file; at the end of the `with` block all must have been taken.

    Raises DataError, in one line that ends with `remedy`, for a file that is absent or no safetensors file.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = TensorFile(file, path, remedy)
            yield tensors
            tensors.require_all_taken()
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({first_line(error)}): {remedy}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file that appears whole or not at all. Tensors may share memory; each is written in full."""
    with replacing(path) as draft, torch.no_grad():
        save_file({name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, draft)
