"""A short training for `test_sharing_processes`, which starts it in two processes at once: `sharing_training.py POLICY OUT SETTINGS`.

Each process writes the completions of every rollout; the first also what it logged and the weights it ended with.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from sharing_cases import pay, run


def main(policy: str, out: str, settings: str) -> None:
    """Train with TRL's sampling, sharing on."""
    rank, folder = int(os.environ["RANK"]), Path(out)
    own = json.loads(settings)

    def watch(trainer: Any) -> None:
        assert trainer.accelerator.num_processes == 2
        torch.manual_seed(rank)  # each process draws completions of its own

    trainer, written, logged, weights = run(Path(policy), pay, own["grpo"], own["sections"], share=True, prepare=watch)
    assert trainer.shares_prefix
    assert trainer._is_checked
    (folder / f"completions-{rank}.json").write_text(json.dumps(written))
    if rank == 0:
        (folder / "logged.json").write_text(json.dumps(logged))
        torch.save({name.removeprefix("module."): weight for name, weight in weights.items()}, folder / "weights.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
