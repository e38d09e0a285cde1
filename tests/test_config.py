"""Recipes: valid ones, overrides, and the messages of errors."""

from pathlib import Path

import pytest

from osler.config import Config, load_config, parse_overrides
from osler.errors import ConfigError
from osler.files import packaged_recipes
from osler.taxonomy import Modality, QuestionType, parse_modality, parse_question_type


@pytest.mark.parametrize("recipe", sorted(packaged_recipes().values()), ids=lambda path: path.stem)
def test_every_recipe_parses(recipe: Path) -> None:
    assert load_config(recipe).name == recipe.stem
    assert load_config(recipe.stem) == load_config(recipe)


OVERRIDES = [
    (["--policy.path", "Qwen/Qwen2-VL-2B-Instruct"], lambda c: c.policy.path, "Qwen/Qwen2-VL-2B-Instruct"),
    (["--policy.path=a=b"], lambda c: c.policy.path, "a=b"),
    (["--grpo.learning_rate=1e-6"], lambda c: c.grpo["learning_rate"], 1e-6),
    (["--data.test.modalities=['mri', 'ct']"], lambda c: c.data.test.modalities, (Modality.MRI, Modality.CT)),
    (["--data.test.limit=5"], lambda c: c.data.test.split, "test"),
    (["--data.root=12"], lambda c: c.data.root, "12"),
    (["--data.axis=modality"], lambda c: c.data.options, {"axis": "modality"}),
    (["--data.test.name=ct"], lambda c: c.data.test.options, {"name": "ct"}),
    (["--data.options.axis=modality", "--data.name=ct"], lambda c: c.data.options, {"axis": "modality", "name": "ct"}),
    (["--policy.lora.r=4"], lambda c: c.policy.lora.r, 4),
    (["--seed=3"], lambda c: c.seed, 3),
]


@pytest.mark.parametrize(("overrides", "read", "expected"), OVERRIDES, ids=[" ".join(row[0]) for row in OVERRIDES])
def test_overrides(overrides: list[str], read, expected: object) -> None:
    assert read(load_config(None, overrides)) == expected


@pytest.mark.parametrize(
    ("overrides", "weights"),
    [
        ([], (1, 1, 2)),
        (["--rewards.names=['accuracy', 'format', 'reasoning_matters']"], None),  # the recipe's weights are those of its own rewards
        (["--rewards.names=['accuracy']", "--rewards.weights=[3]"], (3,)),
        (["--rewards.weights=[1, 1, 0]"], (1, 1, 0)),
    ],
)
def test_other_rewards_do_not_take_the_recipes_weights(overrides: list[str], weights: tuple[float, ...] | None) -> None:
    assert load_config("demo", overrides).rewards.weights == weights


MISTAKES = [
    (["--polcy.path=x"], "did you mean 'policy'"),
    (["--policy.pth=x"], "did you mean 'path'"),
    (["--policy.lora.rank=4"], "unknown key policy.lora.rank"),
    (["--policy.dtype=float8"], "policy.dtype"),
    (["--sampling.temperature=0"], "sampling.temperature"),
    (["--sampling.top_p=1.5"], "sampling.top_p"),
    (["--data.train.limit=0"], "data.train.limit"),
    (["--data.train.modalities=['pet']"], "data.train.modalities"),
    (["--rewards.weights=[nan, 1]"], "rewards.weights"),
    (["--rewards.weights=[inf, 1]"], "rewards.weights"),
    (["--rewards.weights=[0, 0]"], "every weight is 0"),
    (["--rewards.weights=[1]"], "2 names and 1 weights"),
    (["--seed"], "needs a value"),
    (["--seed", "--name=x"], "--seed needs a value"),
    (["--seed=-1"], "seed"),
    (["stray"], "unexpected argument"),
    (["--name.x=1", "--name=2", "--name.y=3"], "name is a value"),
    (["--.x=1"], "is no key"),
]


@pytest.mark.parametrize(("overrides", "words"), MISTAKES, ids=lambda value: str(value))
def test_mistakes_are_one_line(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"a = ", "is not TOML"), (b"\xff\xfe", "is not TOML"), (b"x = 1", "unknown key x"), (b"#" * (2 << 20), "no recipe")],
    ids=["broken", "binary", "unknown", "huge"],
)
def test_broken_recipes(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        load_config(path)


def test_missing_recipe_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="demo"):
        load_config("no-such-recipe")


def test_config_survives_json() -> None:
    config = load_config("demo")
    assert Config.model_validate_json(config.to_json()) == config


def test_override_order_is_kept() -> None:
    assert parse_overrides(["--a.b", "1", "--a.b=2"]) == [("a.b", 1), ("a.b", 2)]


@pytest.mark.parametrize(
    ("raw", "modality"),
    [
        ("MR (Mag-netic Resonance Imaging)", Modality.MRI),
        ("CT(Computed Tomography)", Modality.CT),
        ("x_ray", Modality.XRAY),
        ("X-Ray", Modality.XRAY),
        ("Fundus Photography", Modality.FUNDUS),
        ("OCT (Optical Coherence Tomography", Modality.OCT),
        ("Microscopy Images", Modality.MICROSCOPY),
        *((modality.value, modality) for modality in Modality),
        *((modality.title, modality) for modality in Modality),
    ],
)
def test_modality_labels(raw: str, modality: Modality) -> None:
    assert parse_modality(raw) is modality


@pytest.mark.parametrize("question_type", QuestionType)
def test_question_type_labels(question_type: QuestionType) -> None:
    assert parse_question_type(question_type.title) is question_type
