"""The rollout in a checkpoint: a run that resumes between two generations continues with the completions of the interrupted one.

TRL generates once for `steps_per_generation * num_iterations` micro-batches. It keeps the completions, the number of micro-batches and the
metrics that are not logged yet in memory only, so a resumed run would generate at once, with other random numbers. Here each process adds
to a checkpoint, beside the random state that Transformers stores:

- `rollout.json`, or `rollout_0.json`, `rollout_1.json`, .. of several processes: a RolloutState;
- `rollout.safetensors`, only where completions of the last rollout are still to be used: TRL's micro-batches and, with shared prompts,
  the groups (`shared_prefix.groups`).

Legend: N rows of a micro-batch, P prompt, C completion, S = P + C, I images, D patches, O options.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from osler.errors import ConfigError, DataError
from osler.files import read_text, write_json
from osler.training.callbacks import write_above_bar
from osler.training.tensor_file import TensorFile, open_tensors, write_tensors
from osler.types import LETTERS

MAX_STATE_BYTES: Final = 64 * 1024**2
"""A larger state is refused. It grows with `logging_steps`: some fifty numbers for each step."""

ESTIMATED_FROM: Final = 8
"""Questions whose images `estimate_bytes` prepares."""

FEATURE_BYTES: Final = 4
"""Of a number of an image's features, at most."""

State = TypeVar("State", bound=BaseModel)

IDS, MASK, GROUP, PLACE, ANY = "ids", "mask", "group", "place", "any"  # the range of a column of whole numbers


@dataclass(frozen=True, slots=True)
class Column:
    """A tensor of a micro-batch: its dimensions in the letters of the legend, and the range of whole numbers, None for others."""

    dims: str
    range: str | None = None
    least: int = 0


COLUMNS: Final[Mapping[str, Column]] = MappingProxyType(
    {
        "prompt_ids": Column("NP", IDS),
        "prompt_mask": Column("NP", MASK),
        "completion_ids": Column("NC", IDS),
        "completion_mask": Column("NC", MASK),
        "advantages": Column("N"),
        "num_items_in_batch": Column("", ANY),
        "old_per_token_logps": Column("NC"),
        "ref_per_token_logps": Column("NC"),
        "rollout_logps": Column("NC"),
        "rollout_entropies": Column("NC"),
        "sampling_per_token_logps": Column("NC"),  # vLLM's
        "importance_sampling_ratio": Column("NC"),  # TRL's correction for it; one column where a ratio is for the whole completion
        "mm_token_type_ids": Column("NS", ANY),
        "group_id": Column("N", GROUP),
        "own_rewards": Column("N"),  # these and the next are those of `shared_prefix.expected`
        "branch_tokens": Column("N", ANY),
        "branch_answer": Column("N", ANY),
        "letter_place": Column("N", PLACE, least=-1),
        "letter_ids": Column("NO", IDS, least=-1),
        "letter_rewards": Column("NO"),
        "ref_letter_logps": Column("NO"),
        "has_twin": Column("N", MASK),  # of `shared_prefix.looking`
    }
)
"""TRL's columns of a rollout that Osler knows, beside those of images, and Osler's own."""

BRANCHES: Final = frozenset({"own_rewards", "branch_tokens", "branch_answer"})
LETTERS_OF_ROWS: Final = frozenset({"own_rewards", "letter_place", "letter_ids", "letter_rewards"})
EXPECTATION_COLUMNS: Final = BRANCHES | LETTERS_OF_ROWS
"""Columns that come together, of enumerated answers or of completions whose letters are known."""

REQUIRED: Final = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "num_items_in_batch")


class RolloutState(BaseModel):
    """What one process keeps between two updates, without the tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    num_processes: int
    micro_batches: int = Field(ge=0)  # forward and backward passes so far: TRL's `_step`
    tensors: list[str] = []  # names in `rollout.safetensors`; none where the completions of the last rollout are used up
    group_bound: int = Field(default=0, ge=0)  # groups in one forward pass, as the rollout found it
    has_ended_sharing: bool = False  # whether shared prompts differed from TRL's own, so that the rest of the run goes without
    metrics: dict[str, list[float]] = {}  # not logged yet
    loss: float = 0.0  # the sum since the last logged step
    last_logged: int = 0  # that step
    times_watched: int = Field(default=0, ge=0)  # how often questions were asked with blank images: `blank_images.Watched`
    last_watched: int | None = Field(default=None, ge=0)  # the step of the last time


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSizes:
    """The sizes that the tensors of a rollout must have."""

    num_batches: int
    rows: int  # of a micro-batch
    num_groups: int
    max_prompt: int
    max_completion: int
    vocabulary: int
    hidden: int
    image_token_id: int | None
    patch_values: int
    patches_per_token: int

    @property
    def max_patches(self) -> int:
        """Of the images of one prompt."""
        return self.max_prompt * self.patches_per_token

    @classmethod
    def of(cls, trainer: Any, config: Any) -> RolloutSizes:
        """Those of a GRPO trainer whose model has the Transformers config `config`."""
        text, images = config.get_text_config(), trainer.processing_class.image_processor
        arguments, padding = trainer.args, trainer.pad_to_multiple_of or 0
        return cls(
            num_batches=arguments.steps_per_generation,
            rows=arguments.per_device_train_batch_size,
            num_groups=arguments.per_device_train_batch_size * arguments.steps_per_generation // trainer.num_generations,
            max_prompt=text.max_position_embeddings + padding,
            max_completion=trainer.max_completion_length + padding,
            vocabulary=text.vocab_size,
            hidden=text.hidden_size,
            image_token_id=getattr(config, "image_token_id", None),
            patch_values=3 * images.temporal_patch_size * images.patch_size**2,
            patches_per_token=images.merge_size**2,
        )


def state_path(folder: Path, arguments: Any) -> Path:
    """The file of this process: "checkpoint-3/rollout.json", or ".../rollout_1.json" of several processes."""
    return folder / (f"rollout_{arguments.process_index}.json" if arguments.world_size > 1 else "rollout.json")


def is_used_up(trainer: Any, micro_batches: int) -> bool:
    """Whether the next micro-batch after so many begins a new rollout."""
    return bool(micro_batches % (trainer.args.steps_per_generation * trainer.num_iterations) == 0)


def save_rollout(trainer: Any, folder: Path) -> None:
    """Write the state of this process's GRPO trainer into a checkpoint. Raises OSError."""
    path = state_path(folder, trainer.args)
    tensors = {} if is_used_up(trainer, trainer._step) else trainer.rollout_tensors()
    if tensors:
        write_tensors(path.with_suffix(".safetensors"), tensors)
    generation = getattr(trainer, "generation", None)
    state = RolloutState(
        num_processes=trainer.args.world_size,
        micro_batches=trainer._step,
        tensors=sorted(tensors),
        group_bound=generation.bound if generation is not None else 0,
        has_ended_sharing=trainer.has_ended_sharing,
        metrics={name: [float(value) for value in values] for name, values in trainer._metrics["train"].items() if values},
        loss=float(trainer._tr_loss),
        last_logged=trainer._globalstep_last_logged,
        times_watched=trainer.watched.times,
        last_watched=trainer.watched.last,
    )
    write_json(path, state.model_dump())


def load_rollout(trainer: Any, folder: Path) -> RolloutState:
    """Give the trainer the rollout of a checkpoint and its number of micro-batches; returns the rest, which Transformers resets later.

    Raises OslerError, in one line, where the run would not continue as the interrupted one: the checkpoint has no such state or a damaged
    one, or that of another number of processes, the reference is moved during training, or the questions so far are not skipped.
    """
    if trainer.args.beta and trainer.args.sync_ref_model:
        raise ConfigError("[grpo] sync_ref_model moves the reference, which is in no checkpoint, so the run cannot resume: use --fresh")
    if trainer.args.ignore_data_skip:
        raise ConfigError(
            "[grpo] ignore_data_skip begins with the first questions again, in the middle of a run: leave it out, or use --fresh"
        )
    path, remedy = state_path(folder, trainer.args), f"delete {folder} to resume from an earlier checkpoint, or start over with --fresh"
    found = path if path.exists() else next(iter(sorted(folder.glob("rollout*.json"))), path)  # that of other processes says how many
    state = read_state(found, RolloutState, remedy)
    if state.num_processes != trainer.args.world_size:
        raise ConfigError(
            f"{folder} was written by {state.num_processes} processes, and {trainer.args.world_size} would draw other completions: "
            f"start {state.num_processes}, or start over with --fresh"
        )
    state = read_state(path, RolloutState, remedy)
    if bool(state.tensors) == is_used_up(trainer, state.micro_batches):
        raise DataError(f"{path} does not fit [grpo] steps_per_generation and num_iterations: {remedy}")
    remarks = []
    if state.has_ended_sharing:
        trainer.end_sharing()
        remarks.append("prompts are not shared within groups: before the run was interrupted, log-probabilities differed from TRL's own")
    if state.tensors:
        with open_tensors(path.with_suffix(".safetensors"), remedy) as file:
            if other := file.names ^ set(state.tensors):
                file.refuse(f"and {path.name} differ: one of them has {min(other)}")
            trainer.restore_rollout(file, state)
    trainer._step = state.micro_batches
    trainer._metrics["train"].update({name: list(values) for name, values in state.metrics.items()})
    if trainer.use_vllm:
        remarks.append("vLLM's random state is in no checkpoint: from here on it draws other completions than an uninterrupted run")
    if trainer.accelerator.is_main_process:
        for remark in remarks:
            write_above_bar(remark)
    return state


def estimate_bytes(trainer: Any) -> int:
    """The size of a rollout in a checkpoint, of all processes together: that of its images, estimated from some questions.

    0 where every checkpoint is at the end of a rollout.
    """
    arguments = trainer.args
    if is_used_up(trainer, arguments.gradient_accumulation_steps):
        return 0
    dataset = trainer.train_dataset
    rows = [dataset[row] for row in range(0, len(dataset), math.ceil(len(dataset) / ESTIMATED_FROM))]
    images = trainer.processing_class.image_processor
    prepared = [images(row["images"], return_tensors="np") for row in rows if row["images"]]
    num_bytes = sum(one["pixel_values"].nbytes for one in prepared)
    if getattr(trainer, "vision", None) is not None:
        hidden = trainer.accelerator.unwrap_model(trainer.model).config.get_text_config().hidden_size
        num_bytes += sum(len(one["pixel_values"]) // images.merge_size**2 * hidden * FEATURE_BYTES for one in prepared)
    copies = 1 if getattr(trainer, "shares_prefix", False) else trainer.num_generations
    copies += getattr(trainer, "looking", None) is not None  # another image for each question
    return int(num_bytes / len(rows) * copies * arguments.generation_batch_size / trainer.num_generations)


def read_state(path: Path, kind: type[State], remedy: str) -> State:
    """A file of a checkpoint. Raises DataError, in one line that ends with the remedy, for one that is missing or damaged."""
    text = read_text(path, MAX_STATE_BYTES, remedy)
    try:
        return kind.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}, {'.'.join(map(str, first['loc']))}: {first['msg']}: {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}): {remedy}") from None


def batch_tensors(batches: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """TRL's micro-batches as tensors with names such as "0/prompt_ids"; a list of numbers becomes a tensor."""
    return {
        f"{number}/{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for number, batch in enumerate(batches)
        for name, value in batch.items()
        if value is not None
    }


def read_batches(file: TensorFile, sizes: RolloutSizes, device: torch.device) -> list[dict[str, Any]]:
    """The micro-batches that `batch_tensors` wrote. Raises DataError for a file that holds none of these sizes."""
    return [_read_batch(file, number, sizes, device) for number in range(sizes.num_batches)]


def _read_batch(file: TensorFile, number: int, sizes: RolloutSizes, device: torch.device) -> dict[str, Any]:
    widths = {}
    for letter, name, limit in (("P", "prompt_ids", sizes.max_prompt), ("C", "completion_ids", sizes.max_completion)):
        shape = file.shape(f"{number}/{name}")
        if len(shape) != 2 or shape[1] > limit:
            file.refuse(f"holds {number}/{name} of the shape {list(shape)}, and no row has more than {limit} tokens")
        widths[letter] = shape[1]
    lengths = {"N": sizes.rows, **widths, "S": widths["P"] + widths["C"], "O": 0}
    if file.has(key := f"{number}/letter_ids"):
        shape = file.shape(key)
        if len(shape) != 2 or shape[1] > len(LETTERS):
            file.refuse(f"holds {key} of the shape {list(shape)}, and no question has more than {len(LETTERS)} options")
        lengths["O"] = shape[1]
    limits = {IDS: sizes.vocabulary, MASK: 2, GROUP: sizes.num_groups, PLACE: widths["C"], ANY: None}
    batch: dict[str, Any] = {}
    for name, column in COLUMNS.items():
        key = f"{number}/{name}"
        if name not in REQUIRED and not file.has(key):
            continue
        shape = tuple(lengths[letter] for letter in column.dims)
        if name == "importance_sampling_ratio" and file.shape(key) == (sizes.rows, 1):
            shape = (sizes.rows, 1)
        below = None if column.range is None else limits[column.range]
        tensor = file.take(key, shape, is_float=column.range is None, below=below, least=column.least)
        batch[name] = tensor if name == "group_id" else tensor.to(device)  # the trainer keeps the groups of rows on the CPU
    _require_expectation(file, batch)
    if file.has(f"{number}/pixel_values"):
        batch |= _read_images(file, f"{number}/", batch["prompt_ids"], sizes, device)
    return batch


def _require_expectation(file: TensorFile, batch: Mapping[str, Any]) -> None:
    """Refuse a file with only some of the columns of an expectation, with values that are not finite, or with a letter outside its text."""
    found = EXPECTATION_COLUMNS & batch.keys()
    if found and found not in (BRANCHES, LETTERS_OF_ROWS):
        file.refuse(f"holds only some columns of an expectation: {', '.join(sorted(found))}")
    if "has_twin" in batch and not (found == BRANCHES and file.has("twin/0/ids")):
        file.refuse("says which questions were compared with another image, and holds no such image or no enumerated answers")
    if not all(bool(torch.isfinite(batch[name]).all()) for name in found if batch[name].is_floating_point()):
        file.refuse("holds rewards that are not finite")
    if "letter_place" in found:
        place_N, mask_NC = batch["letter_place"], batch["completion_mask"]
        if not bool((mask_NC.gather(1, place_N.clamp(min=0)[:, None])[:, 0].bool() | (place_N < 0)).all()):
            file.refuse("holds a letter behind the end of its completion")


def _read_images(file: TensorFile, prefix: str, ids_NP: Tensor, sizes: RolloutSizes, device: torch.device) -> dict[str, Any]:
    """The images of rows that TRL prepared, as many as their prompts have room for."""
    num_images = file.take(f"{prefix}num_images", (sizes.rows,), is_float=False, below=sizes.max_prompt)
    grids = file.take(f"{prefix}image_grid_thw", (int(num_images.sum()), 3), is_float=False, below=sizes.max_patches)
    patches = require_room(file, f"{prefix}prompt_ids", ids_NP, grids, sizes)
    pixels = file.take(f"{prefix}pixel_values", (patches, sizes.patch_values), is_float=True)
    return {"pixel_values": pixels.to(device), "image_grid_thw": grids.to(device), "num_images": num_images.tolist()}


def require_room(file: TensorFile, name: str, ids: Tensor, grids: Iterable[Tensor], sizes: RolloutSizes) -> int:
    """The number of patches of images with these grids [3], which the image tokens in `ids` must fit. Raises DataError."""
    patches = sum(int(grid.prod()) for grid in grids)
    if sizes.image_token_id is not None and patches != int((ids == sizes.image_token_id).sum()) * sizes.patches_per_token:
        file.refuse(f"holds images of {patches} patches, which do not fit the image tokens of {name}")
    return patches
