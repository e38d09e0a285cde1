"""Recipes: a TOML file plus overrides such as `--policy.path=X` -> one frozen, typed Config. An unknown key is an error.

Sections `[grpo]` and `[sft]` hold the keys of TRL's GRPOConfig and SFTConfig. `osler train` and `osler sft` check them, because this module
does not import torch. The sampling parameters are set in `[sampling]` only, so that no default of a checkpoint is used.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from osler.errors import ConfigError
from osler.files import packaged_recipes
from osler.taxonomy import Modality, Plane, QuestionType

MAX_RECIPE_BYTES: Final = 1 << 20
ROLLOUT_KEYS: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_completion_length")
"""Keys of TRL's GRPOConfig that are set in `[sampling]` instead of `[grpo]`."""


HIDDEN: Final = "private"
"""What stands for a path of a private dataset in the files of a run."""


class Section(BaseModel):
    """A section of a recipe: frozen; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, validate_default=True)


class ReaderSection(Section):
    """A section that passes its other keys to the reader: `axis = "modality"` is short for `options.axis = "modality"`.

    The reader raises ConfigError for an option that it does not have.
    """

    @model_validator(mode="before")
    @classmethod
    def _collect_options(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        own = {key: value for key, value in values.items() if key in cls.model_fields}
        options = {key: value for key, value in values.items() if key not in cls.model_fields}
        return {**own, "options": {**own.get("options", {}), **options}} if options else own


class SelectionConfig(ReaderSection):
    """`[data.train]`: which questions of the reader to use. An empty list means all; a limit draws a random sample by `[data] seed`."""

    split: str = "train"
    modalities: tuple[Modality, ...] = ()
    question_types: tuple[QuestionType, ...] = ()
    has_choices: bool | None = None  # true: only multiple-choice questions; false: only open-ended ones
    limit: int | None = Field(default=None, ge=1)
    limit_per_modality: int | None = Field(default=None, ge=1)
    limit_per_question_type: int | None = Field(default=None, ge=1)
    options: dict[str, Any] = Field(default_factory=dict)  # reader options for this split; they override [data.options]


class TestSelectionConfig(SelectionConfig):
    """`[data.test]`: the same keys; `split` is "test" by default."""

    split: str = "test"


Layout = Literal["images", "montage", "video"]
"""How the slices of a study become images of a prompt."""


MAX_SHOWN_SLICES: Final = 256
"""The most slices of a study that a prompt shows."""


class StudyConfig(Section):
    """`[data.study]`: what a prompt shows of a series, a volume or a cine. A single picture is shown as it is."""

    slices: int = Field(default=8, ge=1, le=MAX_SHOWN_SLICES)  # of each study; all of them where it has no more
    choice: Literal["even", "around", "information"] = "even"  # see `osler.images.slices`
    plane: Plane | None = None  # default: the plane in which they were taken
    window: str | None = None  # "auto", "lung", "40/400", "lung+mediastinum+bone"; default: that of the files. See `osler.images.windows`
    layout: Layout = "images"  # an image for each slice, one of all of them, or a clip (qwen2_vl)
    max_tokens: int = Field(default=768, ge=0)  # image tokens of a study, for which its slices are reduced; 0: no limit
    context: Literal["rows", "header"] = "rows"  # header: age, sex and side of a DICOM study, where the row says nothing of them
    min_tokens: int = Field(default=4, ge=1)  # that the processor gives the smallest picture: 4 for Qwen2-VL, 64 for Qwen3-VL
    token_side: int = Field(default=28, ge=1)  # pixels of the side of an image token: 28 for Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL


class DataConfig(ReaderSection):
    """`[data]`: the reader, the location of its files, and the questions for training and testing."""

    reader: str = "phantom"
    root: str | None = None  # folder or file of the dataset
    manifest: str | None = None  # a file written by `osler split`; [data.train] and [data.test] select from its splits
    private: bool = False  # ids, subjects and image names become keyed hashes, and errors name no file
    key_file: str | None = None  # of a private dataset; made when it is missing; outside of the data and of the run
    strict: bool = False  # stop where a row is refused, instead of leaving it out
    seed: int = Field(default=0, ge=0)
    distractors: Literal["original", "redrawn"] = "original"  # redrawn: correct answers to other questions of the same modality and type
    rationales: Literal["own", "facts"] = "own"  # of training questions; facts: where the data have none, written from what is known
    mixture: Literal["proportional", "balanced", "temperature"] = "proportional"  # shares of modalities in GRPO (docs/curriculum.md)
    mixture_temperature: float = Field(default=2.0, gt=0, allow_inf_nan=False)  # shares follow n ** (1 / temperature)
    curriculum: Literal["none", "variance"] = "none"  # variance: GRPO asks the questions whose rewards vary most more often
    curriculum_refresh: int = Field(default=10, ge=1)  # steps between two estimates of the variances
    shuffle_options: bool = False  # training: a new order in every epoch; evaluation: one fixed random order
    study: StudyConfig = StudyConfig()
    options: dict[str, Any] = Field(default_factory=dict)
    train: SelectionConfig = SelectionConfig()
    test: TestSelectionConfig = TestSelectionConfig()


class PromptConfig(Section):
    """`[prompt]`: the prompting strategy."""

    strategy: str = "think"
    eval_strategy: str | None = None  # for evaluation, if different


class LoraSection(Section):
    """`[policy.lora]`: the most used keys of peft's LoraConfig. Without this section all weights are trained."""

    r: int = Field(default=16, ge=1)
    alpha: float = 32.0
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"


class PolicyConfig(Section):
    """`[policy]`: the model and how it is loaded."""

    path: str = "osler-tiny"  # a packaged model, a local folder or an id on the Hugging Face hub
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "auto"  # a GPU if there is one
    attn_implementation: str = "sdpa"
    min_pixels: int | None = Field(default=None, ge=1)  # smaller images are enlarged; default: the processor's
    max_pixels: int | None = Field(default=None, ge=1)  # larger images are reduced; default: the processor's
    freeze_vision: bool = False
    lora: LoraSection | None = None


class RewardsConfig(Section):
    """`[rewards]`: names from `grading.REWARDS` and their weights, 1 each by default. The rewards are summed."""

    names: tuple[str, ...] = ("accuracy", "format")
    weights: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = None  # 0: the reward is computed and logged only
    looking: float = Field(default=0.0, ge=0, le=1)  # times what the same question earns with another image is subtracted

    @model_validator(mode="after")
    def _check_weights(self) -> RewardsConfig:
        if self.weights is None:
            return self
        if len(self.weights) != len(self.names):
            raise ValueError(f"{len(self.names)} names and {len(self.weights)} weights: give one weight for each name")
        if not any(self.weights):
            raise ValueError("every weight is 0, so nothing would be learnt: give one reward another weight")
        return self


class SamplingConfig(Section):
    """`[sampling]`: the sampling parameters of rollouts. They always replace the defaults of the checkpoint."""

    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)  # 0: all tokens
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    max_completion_length: int = Field(default=256, ge=1)  # tokens


Expectation = Literal["sampled", "enumerated", "partial", "exact"]
"""enumerated: each answer of a question once, of strategies that answer first; partial: reasoning is sampled, its letter is not; exact: the
one of the two that suits the strategy."""


class TrainerConfig(Section):
    """`[trainer]`: what Osler adds to TRL's trainers."""

    max_prompt_length: int = Field(default=1024, ge=1)  # tokens, including image tokens; a longer prompt is an error before step 1
    share_prefix: bool = True  # GRPO encodes a prompt once for its whole group; false: TRL's own trainer
    groups_per_forward: int = Field(default=0, ge=0)  # maximum number of groups in one forward pass, to save memory; 0: no limit
    static_decoding: bool = False  # GRPO decodes with a KV cache of fixed size, so that a CUDA graph can replay each step
    vision_cache: str | None = None  # folder that caches the image features of a frozen vision encoder, across epochs and runs
    vision_cache_gb: float = Field(default=4.0, gt=0)  # size limit; the least recently used files are deleted first
    dynamic_sampling: int = Field(default=0, ge=0)  # rounds that replace groups of equal rewards by other questions; 0: off
    expectation: Expectation = "sampled"  # what of a group is computed and not drawn, see docs/learning.md
    min_enumerated_mass: float = Field(default=0.9, ge=0, le=1)  # less probable answers are sampled, until the policy knows the format
    checkpoint: Literal["resume", "weights", "none"] = "resume"  # weights: a third of the space, and an interrupted run starts over
    print_completions_every: int = Field(default=0, ge=0)  # in steps; 0: never
    watch_image_every: int = Field(default=0, ge=0)  # GRPO steps between two answers to a few test questions with blank images; 0: never
    keep_completions_every: int = Field(default=10, ge=0)  # in steps; a few in completions.jsonl, for `osler report --watch`; 0: never
    report_to: tuple[str, ...] = ()  # e.g. ["tensorboard"]; metrics.jsonl is always written


Dialect = Literal["open", "openai"]
"""open: `max_tokens`, and top_k, min_p and repetition_penalty too, because a server of open models takes those of the checkpoint otherwise;
openai: `max_completion_tokens`, and only what OpenAI itself accepts."""


class EndpointConfig(Section):
    """The keys of `[eval]` for the engine `openai`: how a model behind an OpenAI-compatible endpoint is asked. `[policy] path` names it."""

    base_url: str | None = None  # "http://localhost:8000/v1"
    api_key_env: str | None = None  # name of the environment variable that holds the key
    api_key_file: str | None = None  # file that holds the key on one line
    concurrency: int = Field(default=8, ge=1, le=256)  # requests at a time
    timeout: float = Field(default=120.0, gt=0, le=3600, allow_inf_nan=False)  # seconds for a request, from first to last byte
    max_retries: int = Field(default=5, ge=0, le=20)  # of a request that failed
    max_image_side: int = Field(default=2048, ge=28)  # pixels; larger images are reduced before they are sent
    dialect: Dialect = "open"  # which sampling fields are sent
    extra_body: dict[str, Any] = Field(default_factory=dict)  # more fields of a request; they replace those of the engine
    reported_model: str | None = None  # how the endpoint calls the model in its replies, where not as [policy] path does
    continues_prefix: bool = False  # the server continues a begun answer (`continue_final_message` of vLLM and SGLang): for --reasoning
    may_send_private: bool = False  # that images and texts of a private dataset may go to another machine
    price_in: float | None = Field(default=None, ge=0, allow_inf_nan=False)  # of a million prompt tokens, in any currency
    price_out: float | None = Field(default=None, ge=0, allow_inf_nan=False)  # of a million generated tokens


class EvalConfig(EndpointConfig):
    """`[eval]`: how the test questions are answered: by greedy decoding, or by votes."""

    engine: str = "hf"  # "openai", "vllm", "scripted"; "option_prior", the blind baseline from option texts alone; or a registered one
    batch_size: int = Field(default=32, ge=1)
    max_completion_length: int = Field(default=256, ge=1)
    script: str | None = None  # JSONL file of completions for the scripted engine
    option_probabilities: bool = False  # record the probability of each option letter at the answer (hf, vllm, openai)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # arithmetic; auto: that of training, so bfloat16 on a GPU if [grpo] bf16 is on
    check_float32: int = Field(default=0, ge=0)  # so many questions are answered in float32 too, to say how many answers differ (hf only)
    num_votes: int = Field(default=1, ge=1)  # above 1: sample this many completions by [sampling] and take the most frequent answer


class MatrixConfig(Section):
    """`[matrix]`: defaults of `osler matrix`, which command-line options override."""

    strategies: tuple[str, ...] = ()  # empty: the [prompt] strategy


class Config(Section):
    """A complete recipe with all defaults filled in."""

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
    sft_target: Literal["strategy", "med_r1_sft"] = "strategy"  # the text SFT trains on: in the strategy's format, or as Med-R1's baseline
    eval: EvalConfig = EvalConfig()
    matrix: MatrixConfig = MatrixConfig()

    def to_values(self) -> dict[str, Any]:
        """The recipe as the values of a run's `config.json`: of a private dataset without the paths, which may name patients."""
        values = self.model_dump(mode="json")
        if self.data.private:
            data = values["data"]
            data["root"], data["key_file"] = data["root"] and HIDDEN, None
            for section in (data, data["train"], data["test"]):
                section["options"] = {key: HIDDEN if key == "images" else value for key, value in section["options"].items()}
        return values

    def to_json(self) -> str:
        """`to_values` as indented JSON."""
        return json.dumps(self.to_values(), indent=2)


def load_config(recipe: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe (a path, a packaged name, or None for all defaults), apply overrides such as "--seed=3" and check every key.

    Raises ConfigError, one line, for a missing file, invalid TOML, an unknown key or an invalid value.
    """
    values = read_toml(find_recipe(recipe)) if recipe is not None else {}
    pairs = parse_overrides(overrides)
    if {"rewards.names"} == {dotted for dotted, _ in pairs} & {"rewards.names", "rewards.weights"}:
        values.get("rewards", {}).pop("weights", None)  # they are those of the recipe's own rewards
    for dotted, value in pairs:
        assign(values, dotted, value)
    return build_config(values)


def build_config(values: Mapping[str, Any]) -> Config:
    """The Config of a nested mapping, e.g. {"data": {"seed": 1}}. Raises ConfigError for the first unknown key or invalid value."""
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe, given as a path or as a packaged name such as "demo". Raises ConfigError if there is none."""
    path = Path(recipe)
    if path.is_file():
        return path
    packaged = packaged_recipes()
    name = path.name.removesuffix(".toml")
    if path.parent.name in ("", "recipes") and name in packaged:
        return packaged[name]
    raise ConfigError(f"no recipe at {recipe}: give a TOML file or one of {', '.join(sorted(packaged))}")


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises ConfigError if it is larger than MAX_RECIPE_BYTES or not TOML."""
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_RECIPE_BYTES} bytes: this is no recipe")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def parse_overrides(arguments: Sequence[str]) -> list[tuple[str, Any]]:
    """`["--policy.path", "x", "--seed=3"]` -> `[("policy.path", "x"), ("seed", 3)]`. A value that is not TOML is text.

    Raises ConfigError for an argument without "--", or without a value.
    """
    pairs = []
    remaining = deque(arguments)
    while remaining:
        argument = remaining.popleft()
        if not argument.startswith("--"):
            raise ConfigError(f"unexpected argument {argument!r}: overrides look like --section.key=value")
        key, equals, value = argument[2:].partition("=")
        if not equals:
            if not remaining or remaining[0].startswith("--"):
                raise ConfigError(f"--{key} needs a value: --{key}=value")
            value = remaining.popleft()
        pairs.append((key, _parse_value(value)))
    return pairs


def assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `values["a"]["b"] = value` for the key "a.b". Raises ConfigError if a part is empty, or a value instead of a section."""
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
    """A hint such as "; did you mean 'policy'?"; empty if no known word is similar."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _parse_value(raw: str) -> Any:
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _explain(error: ValidationError) -> str:
    """The first error in one line; for an unknown key with the keys of its section."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] != "extra_forbidden":
        return f"{'.'.join(path)}: {first['msg'].removeprefix('Value error, ')} (got {first['input']!r})"
    section: type[BaseModel] = Config
    for name in path[:-1]:
        annotation = section.model_fields[name].annotation
        kinds = (annotation, *get_args(annotation))  # `LoraSection | None` is a union
        section = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    known = sorted(section.model_fields)
    return f"unknown key {'.'.join(path)}{nearest(path[-1], known)} (known here: {', '.join(known)})"
