"""The files of a published policy: weights in shards, config, generation settings, tokenizer, processor, and the LoRA adapter beside them.

::

    config.json  generation_config.json  model.safetensors, or model-00001-of-00002.safetensors .. and model.safetensors.index.json
    tokenizer.json  tokenizer_config.json  chat_template.jinja  preprocessor_config.json
    adapter/     the LoRA adapter that is merged into the weights, for runs that trained one
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from osler.config import Config, PolicyConfig
from osler.errors import ConfigError, PolicyError
from osler.files import read_json_object, write_json
from osler.publishing.compatibility import readable_config, readable_images, readable_tokenizer
from osler.publishing.finished import FinishedRun

if TYPE_CHECKING:
    import torch

    from osler.policies.load import Policy

SHARD_SIZE: Final = "5GB"
"""The largest file of weights by default; smaller files resume better when a download stops."""

ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")

_SIZE: Final = re.compile(r"[1-9]\d*[KMG]B")
_PROBE: Final = "Which organ is shown?\nA) Liver\nB) Spleen"
_SIDE: Final = 64  # pixels of the probe's picture, before the processor resizes it


def write_policy(finished: FinishedRun, folder: Path, *, shard_size: str = SHARD_SIZE) -> None:
    """Write the policy of a run to `folder`, and check that plain Transformers loads it from there with equal logits.

    Raises ConfigError for a shard size that is not like "5GB", and PolicyError for a policy that cannot be loaded, or whose logits differ.
    """
    if not _SIZE.fullmatch(shard_size):
        raise ConfigError(f"--shard-size {shard_size!r} is no size: use a number with KB, MB or GB, such as 5GB")
    logits = _save(finished, folder, shard_size)
    if finished.folder.adapter.is_dir():
        _copy_adapter(finished.folder.adapter, folder / "adapter", finished.base.hub_id or finished.base.name)
    _check(folder, logits)


def _save(finished: FinishedRun, folder: Path, shard_size: str) -> torch.Tensor:
    """Write everything but the adapter; returns the logits of the policy before it was written."""
    from osler.policies.load import load_policy
    from osler.policies.quiet import quiet_loading

    config = PolicyConfig.model_validate({"path": str(finished.folder.policy), "dtype": finished.weights.dtype, "device": "cpu"})
    policy = load_policy(config)
    policy.tokenizer.chat_template = policy.processor.chat_template
    with quiet_loading():
        policy.model.save_pretrained(folder, max_shard_size=shard_size)
        policy.tokenizer.save_pretrained(folder)
    write_json(folder / "generation_config.json", generation_settings(policy, finished.config))
    make_readable(folder)
    images = readable_images(image_settings(policy.processor.image_processor), policy.family.processor_class)
    write_json(folder / "preprocessor_config.json", images)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors 0.8 writes them for their owner alone
    return probe(policy.model, policy.processor)


def image_settings(image_processor: Any) -> dict[str, Any]:
    """The settings of an image processor as JSON values."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in image_processor.to_dict().items()}


def make_readable(folder: Path) -> None:
    """Rewrite the configs of model and tokenizer in a form that Transformers 4.57 and 5.23 both read (see `compatibility`)."""
    config, tokenizer = folder / "config.json", folder / "tokenizer_config.json"
    write_json(config, readable_config(read_json_object(config)))
    write_json(tokenizer, readable_tokenizer(read_json_object(tokenizer)))


def generation_settings(policy: Policy, config: Config) -> dict[str, Any]:
    """generation_config.json: how the policy was evaluated, greedily or by votes with the sampling of the recipe, and no longer.

    A sampling default of the base, such as Qwen2-VL's temperature of 0.01, would make other answers than those that the card counts.
    """
    settings: dict[str, Any] = {
        "eos_token_id": policy.model.generation_config.eos_token_id,
        "pad_token_id": policy.model.generation_config.pad_token_id,
        "max_new_tokens": config.eval.max_completion_length,
        "do_sample": config.eval.num_votes > 1,
    }
    if config.eval.num_votes > 1:
        settings |= config.sampling.model_dump(mode="json", exclude={"max_completion_length"}, exclude_none=True)
    return {**settings, "transformers_version": policy.model.config.transformers_version}


def probe(model: Any, processor: Any) -> torch.Tensor:
    """The logits (tokens, vocabulary) of one question about one picture: they depend on weights, positions, tokenizer and processor."""
    import torch
    from PIL import Image

    picture = Image.linear_gradient("L").resize((_SIDE, _SIDE)).convert("RGB")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _PROBE}]}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[picture], return_tensors="pt")
    with torch.inference_mode():
        logits: torch.Tensor = model(**inputs).logits[0]
    return logits


def _check(folder: Path, expected: torch.Tensor) -> None:
    """Raise PolicyError unless plain Transformers loads the folder and gives these logits for the probe."""
    import torch
    import transformers
    from transformers import AutoModelForImageTextToText

    from osler.policies.families import FAMILIES
    from osler.policies.processor import load_processor
    from osler.policies.quiet import quiet_loading

    config = read_json_object(folder / "config.json")
    with quiet_loading():
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", trust_remote_code=False).eval()
    processor = load_processor(folder, getattr(transformers, FAMILIES[config["model_type"]].processor_class))
    found = probe(model, processor)
    if found.shape != expected.shape or not torch.equal(found, expected):
        raise PolicyError("the policy gives other logits after it was written: report this, with the versions of torch and transformers")


def _copy_adapter(adapter: Path, folder: Path, base: str) -> None:
    """Copy an adapter; its config names `base` in place of a path of this machine."""
    folder.mkdir()
    for name in ADAPTER_FILES:
        if not (adapter / name).is_file():
            raise PolicyError(f"{adapter} holds no {name}: train the run again, or delete the folder to publish without the adapter")
        shutil.copyfile(adapter / name, folder / name)
    config = folder / "adapter_config.json"
    write_json(config, {**read_json_object(config), "base_model_name_or_path": base})
