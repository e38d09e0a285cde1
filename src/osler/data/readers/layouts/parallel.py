"""A large JSON Lines file read by several processes, each a stretch of its lines; the rows are those of reading it alone."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from tqdm import tqdm

from osler.data.readers.layouts.packing import Packed, pack, unpack
from osler.data.readers.layouts.reading import How, Part, read_rows
from osler.data.readers.layouts.tables import Row, Table
from osler.data.readers.read_files import MAX_FILE_BYTES, load_lines
from osler.elsewhere import calling, count_cores

LEAST_BYTES: Final = 16 * 1024**2
"""Bytes of a stretch; they take a second or two, and the start of a process a third of one."""
MAX_PROCESSES: Final = 4
"""The caller receives the rows of all, which takes it a sixth of the time of reading them."""
_FIRST: Final = 1.4
"""How much larger the first stretch is than the others, whose processes have to start and to send what they read."""
_AT_ONCE: Final = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Some lines of a file."""

    path: Path
    begin: int  # the byte where its first line begins
    first: int  # the number of this line, from 1
    count: int | None  # lines; None: all that follow

    def rows(self) -> Iterator[Row]:
        """Its rows. Raises DataError for a file that cannot be read."""
        return load_lines(self.path, begin=self.begin, first=self.first, count=self.count)


def read_table(table: Table, how: How, *, least_bytes: int = LEAST_BYTES, num_processes: int | None = None) -> Part:
    """The rows of a table; those of a large JSON Lines file in `num_processes`, at most one for each core when it is None.

    Raises DataError for a file that cannot be read.
    """
    num_processes = min(MAX_PROCESSES, count_cores()) if num_processes is None else num_processes
    stretches = cut_file(table.lines, num_processes, least_bytes) if table.lines is not None else []
    if len(stretches) < 2:
        return read_rows(table.rows(), how)
    first, *others = stretches
    with ExitStack() as stack:
        readers = [stack.enter_context(calling(read_packed, stretch, how)) for stretch in others]
        scale = (_FIRST + len(others)) / _FIRST
        bar = tqdm(first.rows(), desc=f"read {table.name}", unit="row", total=first.count, unit_scale=scale, delay=2, disable=None)
        part = read_rows(bar, how)  # the bar takes it that the others read as fast
        for receive in readers:
            part.extend(unpack(receive(), how.root))
    return part


def cut_file(path: Path, num_stretches: int, least_bytes: int) -> list[Stretch]:
    """Stretches of about `least_bytes` or more, the first the largest; none where it would be the only one, or where reading fails."""
    try:
        size = path.stat().st_size
        num_stretches = min(num_stretches, size // least_bytes)
        if num_stretches < 2 or size > MAX_FILE_BYTES:
            return []
        share = size / (_FIRST + num_stretches - 1)
        with path.open("rb") as stream:
            places = list(_find_lines(stream, [int(share * (_FIRST + place)) for place in range(num_stretches - 1)]))
    except OSError:
        return []
    begins = [(0, 1), *places]
    counts = [after - first for (_, first), (_, after) in pairwise(begins)]
    return [
        Stretch(path=path, begin=begin, first=first, count=count) for (begin, first), count in zip(begins, [*counts, None], strict=True)
    ]


def _find_lines(stream: io.BufferedReader, targets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Byte and number of the first line that begins after each byte of `targets`, which ascend; each line once."""
    number, found = 1, 0
    for target in targets:
        while (left := target - stream.tell()) > 0:
            number += stream.read(min(left, _AT_ONCE)).count(b"\n")
        if stream.tell() > target:
            continue  # a line longer than a stretch
        stream.readline()
        number += 1
        if stream.tell() > found and stream.peek(1):
            found = stream.tell()
            yield found, number


def read_packed(stretch: Stretch, how: How) -> Packed:
    """The rows of a stretch, packed for another process. Raises DataError for a file that cannot be read."""
    return pack(read_rows(stretch.rows(), how))
