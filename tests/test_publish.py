"""`osler publish`: a folder that loads, a card whose numbers are those of the records, and an upload that asks first."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import as_run, recipe

from osler import metrics
from osler.cli.main import main
from osler.config import build_config
from osler.errors import ConfigError, OslerError
from osler.evaluation.compare import UNIT
from osler.evaluation.records import read_records, record_to_json
from osler.evaluation.run import evaluate
from osler.files import read_json_object
from osler.policies.load import load_policy
from osler.publishing.author import Author, read_author
from osler.publishing.checklist import FILLS, check_keys, read_checklists
from osler.publishing.files import probe
from osler.publishing.finished import find_base, open_finished, public_recipe
from osler.publishing.publish import Published, publish_run
from osler.training.grpo import train_grpo

pytestmark = pytest.mark.integration

LORA = {"lora": {"r": 2}}


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained LoRA run with an evaluation of its policy, and one of the base. Random weights answer nothing, so answers are put in."""
    folder = tmp_path_factory.mktemp("runs") / "grpo-no-think"
    config = recipe(tiny_folder, policy=LORA, eval={"max_completion_length": 6, "option_probabilities": True})
    train_grpo(config, folder)
    evaluate(config, folder, policy=str(folder), label="grpo")
    evaluate(config, folder, label="zero_shot")
    file = folder / "records" / "grpo.jsonl"
    right, wrong = (
        replace(one, answer=one.target, outcome=outcome, option_probabilities=tuple(1 / len(one.choices) for _ in one.choices))
        for one, outcome in zip(read_records(file), ("correct", "incorrect"), strict=True)
    )
    file.write_text(f"{record_to_json(right)}\n{record_to_json(wrong)}\n")
    return folder


@pytest.fixture(scope="module")
def published(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish_run(run, tmp_path_factory.mktemp("published") / "tiny-radiology", shard_size="200KB")


# The folder


def test_the_folder_loads_in_plain_transformers_with_the_logits_of_the_run(run: Path, published: Published) -> None:
    from transformers import AutoModelForImageTextToText

    from osler.policies.quiet import quiet_loading

    policy = load_policy(str(run))
    with quiet_loading():
        model = AutoModelForImageTextToText.from_pretrained(published.folder).eval()
    assert torch.equal(probe(model, policy.processor), probe(policy.model, policy.processor))
    again = load_policy(str(published.folder))
    assert torch.equal(probe(again.model, again.processor), probe(policy.model, policy.processor))


def test_weights_are_in_shards_with_an_index(published: Published) -> None:
    shards = sorted(published.folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert all(shard.stat().st_size < 250_000 for shard in shards)
    assert set(read_json_object(published.folder / "model.safetensors.index.json")["weight_map"].values()) == {one.name for one in shards}
    assert all(one.stat().st_mode & 0o044 == 0o044 for one in shards)


def test_the_adapter_on_its_base_gives_the_logits_of_the_merged_weights(run: Path, published: Published, tiny_folder: Path) -> None:
    adapter = published.folder / "adapter"
    values = read_json_object(adapter / "adapter_config.json")
    assert values["base_model_name_or_path"] == tiny_folder.name
    (adapter / "adapter_config.json").write_text(json.dumps({**values, "base_model_name_or_path": str(tiny_folder)}))
    try:
        wrapped = load_policy(str(adapter), merge_adapter=False)
    finally:
        (adapter / "adapter_config.json").write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    merged = load_policy(str(published.folder))
    torch.testing.assert_close(probe(wrapped.model, merged.processor), probe(merged.model, merged.processor))
    assert not torch.equal(probe(load_policy(str(tiny_folder)).model, merged.processor), probe(merged.model, merged.processor))


# The card


def test_the_card_has_the_numbers_of_the_records_in_the_form_of_the_hub(run: Path, published: Published) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(published.folder / "README.md")
    records = read_records(run / "records" / "grpo.jsonl")
    accuracy = metrics.accuracy(records, UNIT)
    assert card.data.model_name == "tiny-radiology"
    assert card.data.pipeline_tag == "image-text-to-text"
    (result,) = [one for one in card.data.eval_results if one.metric_type == "accuracy"]
    assert result.metric_value == round(accuracy.value or 0.0, 4)
    assert str(accuracy) in result.metric_name
    assert result.dataset_config == "CT"
    assert str(accuracy) in card.text
    gain = next(one for one in card.data.eval_results if one.metric_type == "image_gain")
    assert gain.metric_value <= result.metric_value


PARTS = [
    "**Not for clinical use.**",
    "Give only the letter inside <answer> </answer>.",  # the strategy's words
    "<|im_start|>user",
    "`grpo.learning_rate` | `0.001`",
    "Best without the image",
    "Image gain",
    "Expected calibration error",
    "### Against the policy before training",
    "Energy and emissions were not measured.",
    "https://arxiv.org/abs/2502.19634",
    "https://arxiv.org/abs/2503.13939",
    "title = {Osler}",
    "the LoRA adapter, which is merged into the weights",
    "**not stated**: the author must name one",  # a licence
    "GRPO for 2 steps (1 pass over the training questions)",
]


@pytest.mark.parametrize("part", PARTS)
def test_the_card_says(published: Published, part: str) -> None:
    assert part in published.card
    assert published.card == (published.folder / "README.md").read_text()


def test_the_card_holds_the_hashes_of_the_data_and_no_path_of_the_machine(run: Path, published: Published, tiny_folder: Path) -> None:
    manifest = read_json_object(run / "manifest.json")
    assert manifest["train"]["content_sha256"] in published.card
    assert manifest["test"]["ids_sha256"] in published.card
    for name in ("README.md", "CHECKLIST.md", "config.json", "published.json", "adapter/adapter_config.json", "tokenizer_config.json"):
        text = (published.folder / name).read_text()
        assert str(tiny_folder.parent) not in text
        assert str(run.parent) not in text


def test_the_example_of_the_card_runs(published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    code = published.card.partition("```python\n")[2].partition("```")[0]
    code = code.replace('"tiny-radiology"', repr(str(published.folder))).replace('"image.png"', repr(str(tmp_path / "image.png")))
    # AutoProcessor needs torchvision, which is not installed here; the processor of Osler is the same without its video part.
    code = code.replace("AutoProcessor.from_pretrained(name)", "load_policy(name).processor").replace("(name, dtype", "(str(name), dtype")
    exec(code, {"load_policy": load_policy})
    assert capsys.readouterr().out


def test_a_policy_without_an_evaluation_has_no_results(tiny_folder: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    published = publish_run(as_run(tiny_folder, tmp_path / "run"), tmp_path / "out", is_dry=True)
    assert not (tmp_path / "out").exists()
    assert "**This card holds no evaluation of this model.**" in published.card
    assert ModelCard(published.card).data.eval_results is None
    assert any("--with FOLDER" in note for note in published.notes)


def test_records_of_another_policy_are_not_those_of_the_published_one(run: Path) -> None:
    finished = open_finished(run)
    assert [row.label for row in finished.own] == ["grpo"]
    assert {row.label for row in finished.evaluations} == {"zero_shot", "grpo"}


def test_other_runs_stand_beside_it(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "sft"
    shutil.copytree(run / "records", other / "records")
    for file in (other / "records").glob("grpo*"):
        file.rename(file.with_name(file.name.replace("grpo", "sft")))
    terms = other / "records" / "sft.terms.json"
    terms.write_text(json.dumps({**read_json_object(terms), "policy": "another"}))
    card = publish_run(run, tmp_path / "out", others=[other], is_dry=True).card
    assert "| SFT |" in card
    assert "| **GRPO** |" in card


@pytest.mark.parametrize("energy", [None, {"kwh": 1.5, "kg_co2": 0.5, "measured_with": "a meter"}])
def test_the_author_fills_in_what_only_he_knows(run: Path, tmp_path: Path, energy: dict[str, Any] | None) -> None:
    from huggingface_hub import ModelCard

    stated: dict[str, Any] = {"license": "apache-2.0", "base_model": "Qwen/Qwen2-VL-2B-Instruct", "dataset_id": "a/b", "contact": "me"}
    author = Author.model_validate(stated | ({"energy": energy} if energy else {}))
    card = ModelCard(publish_run(run, tmp_path / "out", author=author, is_dry=True).card)
    assert (card.data.license, card.data.base_model, card.data.datasets) == ("apache-2.0", "Qwen/Qwen2-VL-2B-Instruct", ["a/b"])
    assert ("1.5 kWh" in card.text) == (energy is not None)
    assert (card.data.get("co2_eq_emissions") is not None) == (energy is not None)


def test_the_recipe_of_the_card_hides_paths() -> None:
    values = {
        "data": {"root": "/data/Smith", "key_file": "/keys/k", "private": True, "options": {"images": "/data/images"}},
        "policy": {"path": "/models/mine"},
        "trainer": {"vision_cache": "/cache"},
        "grpo": {"deepspeed": "~/ds.json", "beta": 0.0},
        "eval": {
            "base_url": "http://gpu7.example.org/v1",
            "api_key_file": "alice/key.txt",
            "extra_body": {"token": "hidden"},
            "script": "bob.jsonl",
        },
    }
    text = json.dumps(public_recipe(build_config(values), "base"))
    assert not any(part in text for part in ("Smith", "keys", 'images": "/', "/models", "/cache", "~/ds", "gpu7", "alice", "hidden", "bob"))
    assert '"beta": 0.0' in text


def test_the_base_is_that_of_the_first_run(run: Path, tiny_folder: Path) -> None:
    assert find_base("osler-tiny").is_packaged
    assert find_base("Qwen/Qwen2-VL-2B-Instruct").hub_id == "Qwen/Qwen2-VL-2B-Instruct"
    later = find_base(str(run))
    assert (later.name, later.hub_id, later.stages) == (tiny_folder.name, None, ("grpo-no-think",))
    assert find_base("/no/longer/there").name == "there"


# The checklists


def test_checklists_have_every_item_once() -> None:
    tripod, claim = read_checklists()
    assert [one.number for one in tripod.items] == [str(number) for number in range(1, 20)]
    assert [one.number for one in claim.items] == [str(number) for number in range(1, 43)]
    items = [*tripod.items, *claim.items]
    assert all(one.osler or one.author for one in items)
    assert {one.osler for one in items} - {None} == set(FILLS)


def test_what_the_author_states_is_no_longer_open(run: Path, tmp_path: Path) -> None:
    before = publish_run(run, tmp_path / "out", is_dry=True)
    stated = Author.model_validate({"checklist": {"CLAIM 42": "None.", "TRIPOD-LLM 13": "Exempt."}})
    assert publish_run(run, tmp_path / "out", author=stated, is_dry=True).num_open == before.num_open - 2
    with pytest.raises(ConfigError, match="no item 'CLAIM 43'"):
        check_keys({"CLAIM 43": ""})


def test_the_checklist_is_a_table_of_both(published: Published) -> None:
    text = (published.folder / "CHECKLIST.md").read_text()
    assert text.count("**the author must**") == published.num_open
    assert "## TRIPOD-LLM" in text
    assert "| 42 | Funding" in text
    assert "Not for clinical use" in text


BAD_AUTHORS = [
    ("licence = 'mit'", "licence"),
    ("license = 'Apache 2'", "license"),
    ("[energy]\nkwh = 1", "measured_with"),
    ("a = ", "TOML"),
]


@pytest.mark.parametrize(("text", "message"), BAD_AUTHORS)
def test_a_wrong_file_of_the_author_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "author.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_author(tmp_path / "author.toml")
    assert "\n" not in str(caught.value)


# What is refused


def halve_records(run: Path) -> None:
    file = run / "records" / "grpo.jsonl"
    file.write_text(file.read_text().splitlines(keepends=True)[0])


REFUSED: list[tuple[str, Callable[[Path], object], str]] = [
    ("no run", lambda run: (run / "config.json").unlink(), "is no run"),
    ("an unfinished training", lambda run: shutil.rmtree(run / "policy"), "no trained policy"),
    ("an unfinished evaluation", halve_records, "answered 1 of 2 questions"),
    ("a damaged recipe", lambda run: (run / "config.json").write_text('{"polcy": {}}'), "not as this version"),
    ("no weights", lambda run: (run / "policy" / "model.safetensors").unlink(), "no safetensors|no model.safetensors"),
    ("the terms of another version", lambda run: (run / "manifest.json").write_text("["), "manifest.json cannot be read"),
    ("half an adapter", lambda run: (run / "adapter" / "adapter_model.safetensors").unlink(), "holds no adapter_model"),
]


@pytest.mark.parametrize(("name", "damage", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_unfinished_runs_are_refused(run: Path, tmp_path: Path, name: str, damage: Callable[[Path], object], message: str) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    damage(copy)
    with pytest.raises(OslerError, match=message) as caught:
        publish_run(copy, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_runs_names_one_of_them(run: Path) -> None:
    with pytest.raises(OslerError, match=r"such as .*grpo-no-think"):
        open_finished(run.parent)


def test_a_published_folder_is_used_again_with_an_edited_card(run: Path, published: Published, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(published.folder, tmp_path / "tiny-radiology"))
    before = (folder / "README.md").read_text()
    (folder / "README.md").write_text("edited")
    again = publish_run(run, folder, hub_id="example/tiny")
    assert not again.is_new
    assert any("does not name example/tiny" in note for note in again.notes)
    assert any("README.md was edited, so it stays" in note for note in again.notes)
    assert (folder / "README.md").read_text() == "edited"
    (folder / "README.md").write_text(before)
    assert publish_run(run, folder, hub_id="example/tiny", is_dry=True).card != before
    assert (folder / "README.md").read_text() == before  # a dry run
    for hub_id in ("example/tiny", "example/other"):  # not edited, so what is known now is written
        assert not any("edited" in note for note in publish_run(run, folder, hub_id=hub_id).notes)
        assert f'"{hub_id}"' in (folder / "README.md").read_text()
    (folder / "config.json").write_text("{}")
    with pytest.raises(OslerError, match=r"config.json was changed"):
        publish_run(run, folder)


@pytest.mark.parametrize("what", ["another file", "another run"])
def test_a_folder_of_something_else_is_refused(run: Path, published: Published, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "out"
    if what == "another file":
        folder.mkdir()
        (folder / "thesis.tex").write_text("")
    else:
        shutil.copytree(published.folder, folder)
        (folder / "published.json").write_text(json.dumps({"format": "osler-published", "source": "another", "files": {}}))
    with pytest.raises(OslerError, match="holds something else"):
        publish_run(run, folder)


# The command line


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["publish", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "examples:\n  osler publish" in text
    assert "not for clinical use" in text


def test_a_dry_run_writes_nothing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["publish", str(run), "--out", str(out), "--dry-run", "--json", "--push", "example/tiny"]) == 0
    printed = capsys.readouterr()
    values = json.loads(printed.out.splitlines()[-1])
    assert not out.exists()
    assert values["is_dry_run"]
    assert values["uploaded"] is None
    assert "README.md" in values["files"]
    assert "adapter/adapter_model.safetensors" in values["files"]
    assert "# tiny\n" in printed.err
    assert 'name = "example/tiny"' in printed.err


MISTAKES: list[tuple[list[str], str]] = [
    (["/no/such/run"], "is no run"),
    (["{run}", "--push", "tiny"], "names no owner"),
    (["{run}", "--push", "a b/c"], "no id of the hub"),
    (["{run}", "--author", "/no/author.toml"], "no file"),
    (["{run}", "--shard-size", "big"], "is no size"),
    (["{run}", "--with", "/no/such/run"], "/no/such/run is no run"),
    (["{run}/manifest.json"], "is no manifest"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(row[0]) for row in MISTAKES])
def test_mistakes_are_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    given = [part.format(run=run) for part in arguments]
    assert main(["publish", *given, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("osler: ")
    assert error.count("\n") == 1
