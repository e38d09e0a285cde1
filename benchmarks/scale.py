"""How time and memory grow with the data: the search for near-duplicates and `osler audit`, from 10,000 to 1,000,000.

    python benchmarks/scale.py [--rows 10000,100000,1000000] [--only near,audit] [--once 0.1] [--peer faiss] [--json]

Near-duplicates: hashes of 64 bits, half of them random and half copies of these of which 0 to 6 bits are changed, are put into groups of
hashes that are at most 4 bits apart, directly or through others. On the first 20,000 the groups are those of comparing all with all; the
script asserts it. `--peer faiss` also times the exact binary index of faiss, where it is installed, with the same groups.

Audit: a train and a test file of rows, 10 % of them test. Of the texts of questions, options and answers the share `--once` occurs once
and the others are drawn from 1,000; a quarter of the questions is open, an image has 2 rows, a patient 2 images, and 1 % of the test
images stand in train too. The whole command is measured, its start included: reading, comparing the splits, fitting and scoring the
baselines, and checking rows. No image is opened.

Each measurement is a process of its own. The slope is that of the seconds of CPU between two rows, both axes logarithmic: 1 is linear.
Seconds of the clock depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]
    Groups = NDArray[np.int32]

DISTANCE: Final = 4  # bits
CHECKED: Final = 20_000  # hashes that are compared all with all
AT_ONCE: Final = 500
MAX_SECONDS: Final = 60
MAX_GIB: Final = 2
MODALITIES: Final = ("ct", "mri", "xray", "ultrasound", "fundus", "dermoscopy")
TYPES: Final = ("modality_recognition", "anatomy_identification", "disease_diagnosis", "lesion_grading")
SYLLABLES: Final = ("ro", "ca", "li", "no", "ma", "te", "si", "pu", "ve", "do", "ra", "gi")
TEMPLATES: Final = (
    "What is shown in the {} of this image?",
    "Which finding explains the {} on the right?",
    "Where is the {} located?",
    "Which of these is consistent with {}?",
)


def draw_hashes(number: int) -> Hashes:
    """Distinct hashes, half of them copies of others of which 0 to 6 bits are changed."""
    import numpy as np

    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**64, number - number // 2, dtype=np.uint64)
    copies = values[rng.integers(0, len(values), number // 2)]
    for _ in range(6):
        bits = np.uint64(1) << rng.integers(0, 64, len(copies), dtype=np.uint64)
        copies ^= np.where(rng.random(len(copies)) < 0.5, bits, np.uint64(0))
    return np.unique(np.concatenate([values, copies]))


def group_all(values: Hashes) -> Groups:
    """The groups by comparing all with all."""
    import numpy as np

    edges = []
    for begin in range(0, len(values), AT_ONCE):
        ones, others = np.nonzero(np.bitwise_count(values[begin : begin + AT_ONCE, None] ^ values[None, :]) <= DISTANCE)
        edges.append(np.stack([begin + ones, others]))
    return connect(np.concatenate(edges, axis=1), len(values))


def group_by_faiss(values: Hashes) -> Groups:
    """The groups by faiss: two hashes at most 4 bits apart differ in at most one bit of one of three pieces, so the search is exact."""
    import faiss  # type: ignore[import-not-found]
    import numpy as np

    faiss.omp_set_num_threads(1)
    index = faiss.IndexBinaryMultiHash(64, 3, 21)
    index.nflip = 1
    packed = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8)
    index.add(packed)
    limits, _, found = index.range_search(packed, DISTANCE + 1)  # faiss leaves the radius itself out
    return connect(np.stack([np.repeat(np.arange(len(values)), np.diff(limits.astype(np.int64))), found]), len(values))


def connect(edges: NDArray[np.int64], number: int) -> Groups:
    """The connected components of pairs (2, P)."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    groups: Groups = connected_components(coo_array((np.ones(edges.shape[1], np.int8), edges), shape=(number,) * 2), directed=False)[1]
    return groups


def is_same(one: Groups, other: Groups) -> bool:
    """Whether two numberings name the same groups."""
    import numpy as np

    pairs = np.unique(np.stack([one, other]), axis=1).shape[1]
    return bool(pairs == len(np.unique(one)) == len(np.unique(other)))


def measure_near(number: int, *, is_peer: bool) -> dict[str, Any]:
    """Seconds and groups of one search, in this process; the groups of the first hashes are checked, outside the clock."""
    import numpy as np

    from osler.images.near import group_near

    values = draw_hashes(number)
    search = group_by_faiss if is_peer else lambda hashes: group_near(hashes, DISTANCE)
    search(values[:1000])  # imports
    clock, cpu = time.perf_counter(), time.process_time()
    groups = search(values)
    result = {"seconds": time.perf_counter() - clock, "cpu": time.process_time() - cpu, "groups": len(np.unique(groups))}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)
    few = values[:: max(1, len(values) // CHECKED)][:CHECKED]
    assert is_same(search(few), group_all(few)), "the groups are not those of comparing all with all"
    return {**result, "gib": peak / 2**30}


def write_rows(folder: Path, number: int, once: float) -> None:
    """`train.jsonl` and `test.jsonl`, a tenth of the rows test."""
    rng = random.Random(0)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))) for _ in range(20_000)]
    common = [" ".join(rng.choices(words, k=rng.randint(1, 3))) for _ in range(1000)]

    def draw(place: int) -> str:
        return f"{' '.join(rng.choices(words, k=2))} {place}" if rng.random() < once else rng.choice(common)

    num_test = number // 10
    for split, begin, end in (("train", num_test, number), ("test", 0, num_test)):
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as stream:
            for place in range(begin, end):
                image = place // 2 if split == "train" or rng.random() >= 0.01 else rng.randrange(num_test, number) // 2
                choices = [] if place % 4 == 3 else list(dict.fromkeys(draw(4 * place + part) for part in range(4)))
                row = {
                    "id": str(place),
                    "images": [f"images/{image}.png"],
                    "question": rng.choice(TEMPLATES).format(draw(place)),
                    "choices": choices,
                    "target": "ABCD"[rng.randrange(len(choices))] if choices else draw(place),
                    "modality": MODALITIES[image % len(MODALITIES)],
                    "question_type": rng.choice(TYPES),
                    "subject_id": f"p{image // 2}",
                }
                stream.write(json.dumps(row) + "\n")


def measure_audit(number: int, once: float) -> dict[str, Any]:
    """Seconds and memory of the whole command."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_rows(folder, number, once)
        command = [sys.executable, "-m", "osler", "audit", "--data.reader=jsonl", f"--data.root={folder}", "--images", "paths", "--json"]
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        report = json.loads(process.stdout.read().splitlines()[-1])
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begin
    assert process.returncode == 0, f"the audit ended with {process.returncode}"
    assert not report["quality"]["refused"], "rows were refused"
    peak = usage.ru_maxrss << (0 if sys.platform == "darwin" else 10)
    return {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "gib": peak / 2**30, "rows": report["quality"]["rows"]}


def measure(kind: str, number: int, once: float) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", kind, "--rows", str(number), "--once", str(once)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return {"what": kind, "number": number, **result}


def add_slopes(rows: Sequence[dict[str, Any]]) -> None:
    """The slope from the row before, of the same kind."""
    for before, after in pairwise(rows):
        if before["what"] == after["what"]:
            after["slope"] = math.log(after["cpu"] / before["cpu"]) / math.log(after["number"] / before["number"])


def to_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The results in Markdown."""
    titles = {"near": "near-duplicates", "faiss": "near-duplicates, faiss", "audit": "`osler audit`"}
    lines = ["| | number | seconds | of CPU | slope | peak GiB |", "|---|---|---|---|---|---|"]
    for row in rows:
        slope = f"{row['slope']:.2f}" if "slope" in row else ""
        cells = (titles[row["what"]], f"{row['number']:,}", f"{row['seconds']:.2f}", f"{row['cpu']:.2f}", slope, f"{row['gib']:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How time and memory grow with the data.")
    parser.add_argument("--rows", default="10000,100000,1000000", help="numbers of hashes and rows (default: %(default)s)")
    parser.add_argument("--only", default="near,audit", help="what is measured (default: %(default)s)")
    parser.add_argument("--peer", choices=("faiss",), default=None, help="also measure this index")
    parser.add_argument("--once", type=float, default=0.1, help="share of the audit's texts that occur once (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--measure", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    numbers = [int(number) for number in options.rows.split(",")]
    if options.measure is not None:
        one = (
            measure_audit(numbers[0], options.once)
            if options.measure == "audit"
            else measure_near(numbers[0], is_peer=options.measure == "faiss")
        )
        print(json.dumps(one))
        return
    kinds = [kind for kind in options.only.split(",") if kind] + ([options.peer] if options.peer else [])
    rows = []
    for kind in kinds:
        for number in numbers:
            rows.append(measure(kind, number, options.once))
            print(f"{kind} {number:,}: {rows[-1]['seconds']:.2f} s", file=sys.stderr)
    add_slopes(rows)
    print(to_table(rows))
    within = all(row["seconds"] <= MAX_SECONDS and row["gib"] <= MAX_GIB for row in rows)
    print(f"All within {MAX_SECONDS} s and {MAX_GIB} GiB: {'yes' if within else 'no'}.")
    if options.json:
        print(json.dumps({"rows": rows, "within": within}))


if __name__ == "__main__":
    main()
