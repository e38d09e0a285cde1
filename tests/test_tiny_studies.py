"""`osler-tiny-study`: the packaged policy of volumes, and a miniature of its training."""

import hashlib
from pathlib import Path

import pytest

from osler.config import build_config, load_config
from osler.evaluation.run import evaluate
from osler.policies.load import load_policy
from osler.policies.sources import PACKAGED_POLICIES
from tools.build_tiny.studies import build_on_studies, draw_questions


def test_it_is_osler_tiny_but_for_the_language_model() -> None:
    one, other = (dict(load_policy(name).model.state_dict()) for name in ("osler-tiny", "osler-tiny-study"))
    assert one.keys() == other.keys()
    same = {name for name in one if one[name].equal(other[name])}
    assert same == {name for name in one if ".visual." in name}
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "chat_template.jinja"):
        first, second = ((PACKAGED_POLICIES / folder / name).read_bytes() for folder in ("osler-tiny", "osler-tiny-study"))
        assert first == second, name


@pytest.mark.slow
def test_it_says_more_than_any_single_slice_tells(tmp_path: Path) -> None:
    values = load_config("demo_volume").model_dump(mode="json")
    values["data"] |= {"options": values["data"]["options"] | {"kinds": ["mri_volume"], "aspects": ["diagnosis"]}}
    values["data"]["test"] |= {"limit": 40}
    result = evaluate(build_config(values), tmp_path)
    right = sum(record.outcome == "correct" for record in result.records)
    assert len(result.records) == 40
    assert right >= 24  # 86 % were right of 150; the best reader of one slice has 38 % (docs/datasets.md)
    assert sum(record.is_well_formed for record in result.records) >= 38


def test_no_recipe_trains_on_its_studies() -> None:
    ids = {sample.id.split("/")[4] for sample in draw_questions(seed=770_000, num_questions=4)}
    assert ids == {"770000"}


@pytest.mark.slow
def test_it_is_built_to_the_same_bytes_twice(tmp_path: Path) -> None:
    digests = []
    for name in ("first", "second"):
        build_on_studies(tmp_path / name, seed=3, steps=2, num_questions=4)
        digests.append(hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest())
        assert "is_local" not in (tmp_path / name / "tokenizer_config.json").read_text()
    assert digests[0] == digests[1]
