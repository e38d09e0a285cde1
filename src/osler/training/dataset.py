"""The training questions of a recipe: rendered, checked for length, and as the dataset that TRL iterates over."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from osler.config import Config
from osler.data.select import load_split
from osler.errors import ConfigError, DataError
from osler.images.clip import count_image_units
from osler.policies.image_tokens import count_image_tokens, max_image_tokens
from osler.prompts import render
from osler.types import ImageSource, Prompt, Sample

if TYPE_CHECKING:
    from osler.training.callbacks import OptionShuffler

CACHE_BYTES: Final = 256 * 1024**2
"""Decoded training images that are kept in memory."""


def read_prompts(config: Config) -> list[Prompt]:
    """The rendered training questions of a recipe. Raises what readers and the renderer raise, and what `check_images` raises."""
    prompts = [render(sample, config.prompt.strategy, phase="train") for sample in load_split(config.data, "train")]
    check_images(prompts)
    return prompts


def check_images(prompts: Sequence[Prompt]) -> None:
    """Raise DataError for questions with images beside questions without: TRL fails at the first step that mixes them."""
    without = [prompt.sample.id for prompt in prompts if not prompt.sample.images]
    if without and len(without) < len(prompts):
        raise DataError(
            f"{len(without)} of {len(prompts)} training questions have no image, the first is {without[0]}, and a step cannot mix "
            "them with the others: train on one kind"
        )


def check_prompt_lengths(prompts: Sequence[Prompt], processor: Any, limit: int) -> None:
    """Raise DataError, with the sample's id, for the first prompt of more than `limit` tokens, image tokens included.

    Looks at the sizes of images only for prompts that would be too long with images of the largest size.
    """
    texts = [processor.apply_chat_template(list(prompt.messages), add_generation_prompt=True, tokenize=False) for prompt in prompts]
    text_lengths = [len(ids) for ids in processor.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    largest = max_image_tokens(processor)
    for prompt, text_length in zip(prompts, text_lengths, strict=True):
        if text_length + largest * sum(count_image_units(source) for source in prompt.sample.images) <= limit:
            continue
        num_image_tokens = sum(count_image_tokens(source, processor) for source in prompt.sample.images)
        length = text_length - len(prompt.sample.images) + num_image_tokens  # the text holds one placeholder for each image
        if length > limit:
            raise DataError(
                f"{prompt.sample.id} makes a prompt of {length} tokens ({num_image_tokens} of them image), the limit is {limit}: "
                f"lower [policy] max_pixels or [data.study] slices, raise [trainer] max_prompt_length, or leave the question out"
            )


def build_dataset(
    prompts: Sequence[Prompt],
    completions: Sequence[str] | None = None,
    *,
    shuffler: OptionShuffler | None = None,
    complete: Callable[[Sample], str] | None = None,
) -> Any:
    """A `datasets.Dataset` in memory, one row for each prompt; images are decoded when a row is read, and the G copies of a row share them.

    Columns, all of which rewards receive: `prompt` (chat messages), `images`, `sample_id`, `choices`, `target`, `strategy`,
    `question_type`, `facts` (`Sample.facts`) and `terms` (`Sample.terms`). With `completions`, one for each prompt, also `completion`, for
    SFT. A `shuffler` reorders the options of a row when it is read, and `complete` then writes the completion that goes with the new order.
    """
    from datasets import Dataset

    cache = ImageCache()

    def read_rows(batch: Mapping[str, Sequence[int]]) -> dict[str, list[Any]]:
        asked = [prompts[index] if shuffler is None else shuffler.prompt(prompts[index]) for index in batch["index"]]
        rows: dict[str, list[Any]] = {
            "prompt": [list(prompt.messages) for prompt in asked],
            "images": [[cache.load(source) for source in prompt.sample.images] for prompt in asked],
            "sample_id": [prompt.sample.id for prompt in asked],
            "choices": [prompt.sample.choices for prompt in asked],
            "target": [prompt.sample.target for prompt in asked],
            "strategy": [prompt.strategy for prompt in asked],
            "question_type": [prompt.sample.question_type for prompt in asked],
            "facts": [prompt.sample.facts for prompt in asked],
            "terms": [Whole(prompt.sample.terms) for prompt in asked],
        }
        texts = None if completions is None else [completions[index] for index in batch["index"]]
        if shuffler is not None and complete is not None:
            texts = [complete(prompt.sample) for prompt in asked]
        if texts is not None:
            rows["completion"] = [[{"role": "assistant", "content": text}] for text in texts]
        return rows

    dataset = Dataset.from_dict({"index": list(range(len(prompts)))})
    # The wrapped `set_transform` would pickle every question, only to name the dataset in a cache that one in memory does not have.
    Dataset.set_format.__wrapped__(dataset, "custom", transform=read_rows)
    return dataset


class Whole(Sequence[Any]):
    """A tuple that accelerate passes on as it is. It rebuilds tuples to move tensors in them: 200 terms of 256 rows in every step."""

    def __init__(self, items: tuple[Any, ...]) -> None:
        self._items = items

    def __getitem__(self, place: Any) -> Any:
        return self._items[place]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def option_shuffler(config: Config, arguments: Any) -> OptionShuffler | None:
    """The callback that reorders options in every epoch when `[data] shuffle_options` is set, else None; the trainer needs it too.

    Raises ConfigError for persistent data loader workers, which would keep the order of the first epoch.
    """
    if not config.data.shuffle_options:
        return None
    if arguments.dataloader_num_workers and arguments.dataloader_persistent_workers:
        raise ConfigError("[data] shuffle_options needs workers that start anew in every epoch: set dataloader_persistent_workers = false")
    from osler.training.callbacks import OptionShuffler

    return OptionShuffler(config.seed)


class ImageCache:
    """Decoded images up to `max_bytes`; the least recently used are dropped first."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._images: OrderedDict[ImageSource, Any] = OrderedDict()

    def load(self, source: ImageSource) -> Any:
        """The RGB picture of `source`, decoded at most once while it stays in the cache."""
        if source in self._images:
            self._images.move_to_end(source)
            return self._images[source]
        image = source.load()
        self._images[source] = image
        self.num_bytes += _num_bytes(image)
        while self.num_bytes > self.max_bytes and len(self._images) > 1:
            _, oldest = self._images.popitem(last=False)
            self.num_bytes -= _num_bytes(oldest)
        return image


def _num_bytes(image: Any) -> int:
    return int(image.width * image.height * len(image.getbands()))
