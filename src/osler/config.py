"""Recipes: TOML plus dotted overrides -> one frozen, typed Config. An unknown key is an error that names the nearest known one.

Sections `[grpo]` and `[sft]` are TRL's GRPOConfig and SFTConfig, key for key; `train` and `sft` check them against TRL itself, because
this module must stay free of torch. What decides sampling stands in `[sampling]` only, so that no default of a checkpoint can leak in.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from osler.errors import ConfigError
from osler.taxonomy import Modality, QuestionType

MAX_RECIPE_BYTES: Final = 1 << 20
ROLLOUT_KEYS: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_completion_length")
"""Keys of TRL's GRPOConfig that `[sampling]` owns."""


class Section(BaseModel):
    """A recipe's section: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, validate_default=True)


class ReaderSection(Section):
    """A section whose further keys are the reader's own options: `axis = "modality"` is short for `options.axis = "modality"`.

    The reader itself refuses an option that it does not know.
    """

    @model_validator(mode="before")
    @classmethod
    def _collect_options(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        own = {key: value for key, value in values.items() if key in cls.model_fields}
        further = {key: value for key, value in values.items() if key not in cls.model_fields}
        return {**own, "options": {**own.get("options", {}), **further}} if further else own


class SelectionConfig(ReaderSection):
    """Which questions of a reader to use. Empty lists mean all; limits take a seeded random sample."""

    split: str = "train"
    modalities: tuple[Modality, ...] = ()
    question_types: tuple[QuestionType, ...] = ()
    has_choices: bool | None = None  # true keeps multiple choice, false keeps open-ended questions
    limit: int | None = Field(default=None, ge=1)
    limit_per_modality: int | None = Field(default=None, ge=1)
    limit_per_question_type: int | None = Field(default=None, ge=1)
    options: dict[str, Any] = Field(default_factory=dict)  # reader options of this split only, on top of [data.options]


class TestSelectionConfig(SelectionConfig):
    """The same for `[data.test]`, whose split is the test split unless named."""

    split: str = "test"


class DataConfig(ReaderSection):
    """`[data]`: a reader, where its files lie, and what to train and test on."""

    reader: str = "phantom"
    root: str | None = None
    manifest: str | None = None  # a file of `osler split`: it decides what [data.train] and [data.test] may hold
    seed: int = Field(default=0, ge=0)
    distractors: Literal["original", "redrawn"] = "original"  # redrawn: right answers of other questions of the same modality and type
    shuffle_options: bool = False  # in a new order in every epoch of training, in one other order at evaluation
    options: dict[str, Any] = Field(default_factory=dict)
    train: SelectionConfig = SelectionConfig()
    test: TestSelectionConfig = TestSelectionConfig()


class PromptConfig(Section):
    """`[prompt]`: the strategy that trains, and the one that evaluation uses (the same unless named)."""

    strategy: str = "think"
    eval_strategy: str | None = None


class LoraSection(Section):
    """`[policy.lora]`: peft's LoraConfig, its most used keys."""

    r: int = Field(default=16, ge=1)
    alpha: float = 32.0
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"


class PolicyConfig(Section):
    """`[policy]`: which model, and how it is loaded."""

    path: str = "osler-tiny"  # a packaged name, a local folder or a hub id
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "auto"
    attn_implementation: str = "sdpa"
    min_pixels: int | None = Field(default=None, ge=1)
    max_pixels: int | None = Field(default=None, ge=1)
    freeze_vision: bool = False
    lora: LoraSection | None = None


class RewardsConfig(Section):
    """`[rewards]`: names of `scoring.REWARDS` and their weights (1 each unless given)."""

    names: tuple[str, ...] = ("accuracy", "format")
    weights: tuple[float, ...] | None = None


class SamplingConfig(Section):
    """`[sampling]`: how rollouts are drawn. Every parameter is always set, whatever the checkpoint's own defaults say."""

    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    max_completion_length: int = Field(default=256, ge=1)


class TrainerConfig(Section):
    """`[trainer]`: what Osler adds around TRL's trainers."""

    max_prompt_length: int = Field(default=1024, ge=1)  # tokens, image tokens included; a longer prompt is refused before step 1
    share_prefix: bool = True  # GRPO computes a prompt once for its whole group; false leaves everything to TRL
    groups_per_forward: int = Field(default=0, ge=0)  # groups a pass may hold, in the update of one process too; 0: no bound
    static_decoding: bool = False  # GRPO's decoding in steps of one shape, which CUDA records and plays
    vision_cache: str | None = None  # folder that keeps what a frozen vision tower makes of each image, across epochs and runs
    vision_cache_gb: float = Field(default=4.0, gt=0)  # its bound; the longest unused files go first
    dynamic_sampling: int = Field(default=0, ge=0)  # rounds in which groups that all earned the same are replaced by other questions
    print_completions_every: int = Field(default=0, ge=0)  # steps; 0 never prints
    report_to: tuple[str, ...] = ()  # e.g. ["tensorboard"]; plain JSONL metrics are always written


class EvalConfig(Section):
    """`[eval]`: how the test questions are answered, greedily unless there are votes."""

    engine: Literal["hf", "scripted", "option_prior"] = "hf"  # the last is the blind baseline: no image, no question, no model
    batch_size: int = Field(default=32, ge=1)
    max_completion_length: int = Field(default=256, ge=1)
    script: str | None = None  # a JSONL of completions for the scripted engine
    option_probabilities: bool = False  # keep how likely each letter was where the answer's was written (hf only)
    num_votes: int = Field(default=1, ge=1)  # above 1: so many completions drawn as [sampling] says, and their most frequent answer


class MatrixConfig(Section):
    """`[matrix]`: what `osler matrix` asks unless told otherwise on the command line."""

    strategies: tuple[str, ...] = ()  # [prompt] strategy when empty


class Config(Section):
    """A whole recipe, every value resolved."""

    name: str = "run"
    seed: int = Field(default=0, ge=0)
    data: DataConfig = DataConfig()
    prompt: PromptConfig = PromptConfig()
    policy: PolicyConfig = PolicyConfig()
    rewards: RewardsConfig = RewardsConfig()
    sampling: SamplingConfig = SamplingConfig()
    trainer: TrainerConfig = TrainerConfig()
    grpo: dict[str, Any] = Field(default_factory=dict)
    sft: dict[str, Any] = Field(default_factory=dict)
    sft_target: Literal["strategy", "med_r1_sft"] = "strategy"
    eval: EvalConfig = EvalConfig()
    matrix: MatrixConfig = MatrixConfig()

    def to_json(self) -> str:
        """The resolved recipe, as a run's `config.json` keeps it."""
        return json.dumps(self.model_dump(mode="json"), indent=2)


def load_config(recipe: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe (a path, or the name of a packaged one), apply overrides and check every key.

    Raises ConfigError in one line for a missing file, broken TOML, an unknown key or a wrong value.
    """
    values = read_toml(find_recipe(recipe)) if recipe is not None else {}
    for dotted, value in parse_overrides(overrides):
        assign(values, dotted, value)
    return build_config(values)


def build_config(values: Mapping[str, Any]) -> Config:
    """Check a nested mapping against Config. Raises ConfigError for the first wrong key."""
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def packaged_recipes() -> Path:
    """The folder of the recipes that come with Osler, in an installed package or in a checkout."""
    installed = Path(__file__).parent / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe given as a path or as a packaged name such as "demo". Raises ConfigError."""
    path = Path(recipe)
    if path.is_file():
        return path
    packaged = packaged_recipes() / f"{path.name.removesuffix('.toml')}.toml"
    if path.parent.name in ("", "recipes") and packaged.is_file():
        return packaged
    known = ", ".join(sorted(p.stem for p in packaged_recipes().glob("*.toml")))
    raise ConfigError(f"no recipe at {recipe}: give a TOML file or one of {known}")


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file of at most MAX_RECIPE_BYTES. Raises ConfigError."""
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_RECIPE_BYTES} bytes: that is no recipe")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def parse_overrides(arguments: Sequence[str]) -> list[tuple[str, Any]]:
    """`["--policy.path", "x", "--seed=3"]` -> `[("policy.path", "x"), ("seed", 3)]`. A value is TOML where it parses as TOML, else text."""
    pairs: list[tuple[str, Any]] = []
    pending: str | None = None
    for argument in arguments:
        if pending is not None:
            pairs.append((pending, _parse_value(argument)))
            pending = None
        elif not argument.startswith("--"):
            raise ConfigError(f"unexpected argument {argument!r}: overrides look like --section.key=value")
        elif "=" in argument:
            key, _, raw = argument[2:].partition("=")
            pairs.append((key, _parse_value(raw)))
        else:
            pending = argument[2:]
    if pending is not None:
        raise ConfigError(f"--{pending} needs a value: --{pending}=value")
    return pairs


def assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `values["a"]["b"] = value` for the key "a.b". Raises ConfigError where a part is no section."""
    *sections, key = dotted.split(".")
    if not all((*sections, key)):
        raise ConfigError(f"--{dotted} is no key: overrides look like --section.key=value")
    for section in sections:
        child = values.setdefault(section, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--{dotted}: {section} is a value, not a section")
        values = child
    values[key] = value


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint such as "; did you mean 'policy'?", or nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _parse_value(raw: str) -> Any:
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] != "extra_forbidden":
        return f"{'.'.join(path)}: {first['msg']} (got {first['input']!r})"
    model: type[BaseModel] | None = Config
    for part in path[:-1]:
        annotation = model.model_fields[part].annotation if model is not None else None
        candidates = getattr(annotation, "__args__", (annotation,))
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    known = sorted(model.model_fields) if model is not None else []
    return f"unknown key {'.'.join(path)}{nearest(path[-1], known)} (known here: {', '.join(known)})"
