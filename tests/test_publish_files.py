"""The files of a published policy: every family in the form of Transformers 4.57 and 5.23, and settings that suit the evaluation."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file
from small_runs import as_run
from tiny_checkpoint import save_hub_layout, save_tiny

from osler.config import build_config
from osler.files import read_json_object
from osler.policies.families import FAMILIES
from osler.policies.sources import PACKAGED_POLICIES
from osler.publishing.compatibility import readable_config, readable_images, readable_tokenizer
from osler.publishing.files import generation_settings, write_policy
from osler.publishing.finished import open_finished

ARCHITECTURES = {"qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration", "qwen3_vl": "Qwen3VLForConditionalGeneration"}
WEIGHTS = {"qwen3_vl": ("model.language_model.", "model.visual.")}
OLDER_WEIGHTS = ("model.layers.", "model.norm.", "model.embed_tokens.", "visual.")


@pytest.mark.parametrize("model_type", [*FAMILIES, "the first layout of the hub"])
def test_every_family_is_written_in_the_form_of_both_versions(tmp_path: Path, model_type: str) -> None:
    source = save_tiny(tmp_path / "base", model_type) if model_type in FAMILIES else save_hub_layout(tmp_path / "base")
    finished = open_finished(as_run(source, tmp_path / "run"))
    folder = tmp_path / "out"
    folder.mkdir()
    write_policy(finished, folder)  # compares the logits before and after
    config = read_json_object(folder / "config.json")
    # vLLM and llama.cpp find the model by this name, and its weights by the names of the published checkpoints.
    assert config["architectures"] == [ARCHITECTURES.get(model_type, "Qwen2VLForConditionalGeneration")]
    parts = (
        ("model.language_model.", "model.visual.")
        if model_type == "qwen3_vl"
        else ("model.layers.", "visual.", "model.norm.", "model.embed")
    )
    assert all(name.startswith(parts) for name in load_file(folder / "model.safetensors"))
    text = config["text_config"]
    assert text["rope_theta"] == text["rope_parameters"]["rope_theta"]
    assert text["rope_scaling"]["mrope_section"] == text["rope_parameters"]["mrope_section"]
    assert text["tie_word_embeddings"] is True
    tokenizer = read_json_object(folder / "tokenizer_config.json")
    assert "<|image_pad|>" in tokenizer["additional_special_tokens"]
    assert "extra_special_tokens" not in tokenizer
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert {"min_pixels", "max_pixels"} < read_json_object(folder / "preprocessor_config.json").keys()
    assert not (folder / "processor_config.json").exists()
    assert (folder / "chat_template.jinja").is_file()


@pytest.mark.parametrize("name", ["osler-tiny", "osler-tiny-study"])
def test_the_packaged_policies_are_in_the_form_of_both_versions(name: str) -> None:
    config, tokenizer = (read_json_object(PACKAGED_POLICIES / name / file) for file in ("config.json", "tokenizer_config.json"))
    assert readable_config(config) == config
    assert config["text_config"]["rope_scaling"]["mrope_section"] == [4, 6, 6]
    assert config["text_config"]["tie_word_embeddings"] is True
    assert readable_tokenizer(tokenizer) == tokenizer
    assert "<|image_pad|>" in tokenizer["additional_special_tokens"]


ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [2, 1, 1]}
CONFIGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"rope_theta": 1.0, "rope_scaling": {"type": "mrope"}}, {"rope_theta": 1.0, "rope_scaling": {"type": "mrope"}}),  # of 4.x
    (
        {"rope_parameters": {**ROPE, "type": "mrope"}},
        {
            "rope_parameters": {**ROPE, "type": "mrope"},
            "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]},
            "rope_theta": 5e6,
        },
    ),
    ({"tie_word_embeddings": True, "text_config": {}}, {"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": True}}),
    ({"text_config": {"a": 1}}, {"text_config": {"a": 1}}),
]


@pytest.mark.parametrize(("config", "expected"), CONFIGS)
def test_configs_name_what_both_versions_read(config: dict[str, Any], expected: dict[str, Any]) -> None:
    assert readable_config(config) == expected
    assert readable_config(expected) == expected


TOKENIZERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"extra_special_tokens": ["<a>"], "backend": "tokenizers", "is_local": True}, {"additional_special_tokens": ["<a>"]}),
    ({"extra_special_tokens": {"image_token": "<a>"}}, {"extra_special_tokens": {"image_token": "<a>"}}),  # of 4.x
    ({"tokenizer_class": "TokenizersBackend"}, {"tokenizer_class": "PreTrainedTokenizerFast"}),
    ({"tokenizer_class": "Qwen2Tokenizer"}, {"tokenizer_class": "Qwen2Tokenizer"}),
]


@pytest.mark.parametrize(("config", "expected"), TOKENIZERS)
def test_tokenizers_name_what_both_versions_read(config: dict[str, Any], expected: dict[str, Any]) -> None:
    assert readable_tokenizer(config) == expected


def test_image_settings_are_those_of_the_published_families() -> None:
    settings = {"image_processor_type": "Qwen2VLImageProcessorPil", "size": {"shortest_edge": 4, "longest_edge": 8}, "data_format": None}
    expected = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 4, "max_pixels": 8, "processor_class": "Qwen2VLProcessor"}
    assert readable_images(settings, "Qwen2VLProcessor") == expected


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, {"do_sample": False, "max_new_tokens": 256}),
        ({"eval": {"max_completion_length": 40}}, {"do_sample": False, "max_new_tokens": 40}),
        (
            {"eval": {"num_votes": 5}, "sampling": {"temperature": 0.7, "top_k": 20}},
            {"do_sample": True, "max_new_tokens": 256, "temperature": 0.7, "top_k": 20, "top_p": 1.0, "repetition_penalty": 1.0},
        ),
    ],
    ids=["greedy", "short", "votes"],
)
def test_generation_is_as_in_the_evaluation(sections: dict[str, Any], expected: dict[str, Any]) -> None:
    settings = SimpleNamespace(eos_token_id=[2, 0], pad_token_id=0)
    policy: Any = SimpleNamespace(model=SimpleNamespace(generation_config=settings, config=SimpleNamespace(transformers_version="5.23.0")))
    found = generation_settings(policy, build_config(sections))
    assert found == {"eos_token_id": [2, 0], "pad_token_id": 0, "transformers_version": "5.23.0", **expected}
