"""What Osler hangs on TRL's trainers: plain JSONL metrics, and a progress bar on standard error."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from osler.data.answer_options import shuffle_options
from osler.files import read_json_lines, write_json_lines
from osler.prompts import render
from osler.types import Prompt


class MetricsWriter(TrainerCallback):  # type: ignore[misc]
    """`metrics.jsonl`: one JSON object for each logged step, the trainer's own keys plus `step` and `time_s`.

    `time_s` counts seconds of training, over all parts of a run that was interrupted. When a run goes on from a checkpoint, lines of later
    steps are removed first, so that no step appears twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = 0.0  # the clock's reading at step 0

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Keep the lines up to the step that training goes on from."""
        if not state.is_world_process_zero:
            return
        kept = [line for line in read_json_lines(self.path) if line["step"] <= state.global_step]
        write_json_lines(self.path, kept)
        self.started = time.monotonic() - (kept[-1]["time_s"] if kept else 0.0)

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Append one line. The summary at the end of training is left out: it repeats the last step."""
        if not state.is_world_process_zero or logs is None or "train_runtime" in logs:
            return
        line = {"step": state.global_step, "time_s": round(time.monotonic() - self.started, 3), **logs}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class OptionShuffler(TrainerCallback):  # type: ignore[misc]
    """Options in another order in every epoch: `prompt` is asked for when a row is read, and knows which epoch it is.

    The order follows from the seed, the epoch and the sample's id, so a run that goes on in its second epoch asks what one that was never
    interrupted asks. Workers of a data loader read the epoch when they start, hence anew in every epoch.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.epoch = 0

    def on_epoch_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Note the epoch; in the middle of one, where a run goes on, the state counts a fraction."""
        self.epoch = int(state.epoch or 0)

    def prompt(self, prompt: Prompt) -> Prompt:
        """The prompt with its options in this epoch's order."""
        return render(shuffle_options(prompt.sample, f"{self.seed}/{self.epoch}"), prompt.strategy, phase="train")


class ProgressBar(ProgressCallback):  # type: ignore[misc]
    """Transformers' bar with the latest reward or loss beside it, in place of one line of numbers for each step."""

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Show the reward of GRPO or the loss of SFT."""
        if self.training_bar is None or logs is None:
            return
        name = next((key for key in ("reward", "loss") if isinstance(logs.get(key), float)), None)
        if name is not None:
            self.training_bar.set_postfix({name: f"{logs[name]:.3f}"}, refresh=False)


def write_above_bar(text: str) -> None:
    """Print to standard error without tearing a progress bar."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)
