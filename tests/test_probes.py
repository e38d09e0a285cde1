"""`osler eval` with altered questions: what is asked, what is written, what is compared, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from osler.cli.eval import print_probes, probes_to_json
from osler.cli.main import main
from osler.config import PolicyConfig, build_config
from osler.data.select import load_split
from osler.errors import ConfigError, DataError, OslerError
from osler.evaluation.ablations import Ablation
from osler.evaluation.compare import compare
from osler.evaluation.engines.hf import HfEngine
from osler.evaluation.engines.scripted import ScriptedEngine
from osler.evaluation.interventions import Intervention
from osler.evaluation.records import read_records
from osler.evaluation.run import answer_prompts, evaluate
from osler.experiments.probes import run_probes
from osler.policies.load import load_policy
from osler.prompts import render
from osler.types import Prompt


def probe(config: Any, out: Path, **options: Any) -> dict[str, Any]:
    """What `osler eval` prints and returns for altered questions."""
    results = run_probes(config, out, **options)
    print_probes(results)
    return probes_to_json(results)


def make_config(folder: Path, strategy: str = "no_think", test: dict[str, Any] | None = None, **evaluation: Any) -> Any:
    return build_config(
        {
            "data": {"test": {"modalities": ["mri", "oct"], "limit": 12, "size": 56, **(test or {})}},
            "prompt": {"strategy": strategy},
            "policy": {"path": str(folder), "device": "cpu"},
            "eval": {"max_completion_length": 2, "batch_size": 8, **evaluation},
        }
    )


@pytest.mark.integration
def test_every_alteration_has_its_records(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config(tiny_folder)
    evaluate(config, tmp_path)
    found = probe(config, tmp_path, ablations=tuple(Ablation), is_circular=True)
    plain = read_records(tmp_path / "records" / "eval.jsonl")
    for ablation in Ablation:
        records = read_records(tmp_path / "records" / f"eval.{ablation}.jsonl")
        assert [record.sample_id for record in records] == [record.sample_id for record in plain]
        assert {record.ablation for record in records} == {ablation.value}
        assert all(record.image_uris != before.image_uris for record, before in zip(records, plain, strict=True))
        assert [record.own_image_uris for record in records] == [record.image_uris for record in plain]
        assert found["probes"][ablation.value]["change"]["questions"] == 12
    turned = read_records(tmp_path / "records" / "eval.circular.jsonl")
    assert len(turned) == sum(len(record.choices) for record in plain)
    assert {record.ablation for record in plain} == {record.rotation for record in plain} == {None}
    assert found["circular"]["plain"]["value"] == found["plain"]["value"]
    assert [record.answer for record in turned if record.rotation == 0] == [record.answer for record in plain]
    before = {path.name: path.read_bytes() for path in (tmp_path / "records").iterdir()}
    assert probe(config, tmp_path, ablations=tuple(Ablation), is_circular=True) == found
    assert {path.name: path.read_bytes() for path in (tmp_path / "records").iterdir()} == before
    assert "swap_across" in capsys.readouterr().out


def test_without_plain_records_there_is_nothing_to_compare(tiny_folder: Path, tmp_path: Path) -> None:
    found = probe(make_config(tiny_folder), tmp_path, ablations=(Ablation.QUESTION_ONLY,))
    assert found["plain"] is None
    assert found["probes"]["question_only"]["change"] is found["probes"]["question_only"]["same_answer"] is None
    assert found["probes"]["question_only"]["questions"] == 12


def write_plain(folder: Path, config: Any, text: str) -> None:
    """Plain records that another engine wrote, with no terms beside them."""
    prompts = [render(sample, "think") for sample in load_split(config.data, "test")]

    def answer(prompt: Prompt) -> str:
        return text.replace("{target}", prompt.sample.target).replace("{text}", prompt.sample.target_text)

    answer_prompts(ScriptedEngine(answer), prompts, max_completion_length=9, path=folder / "records" / "eval.jsonl")


def test_reasoning_is_changed_and_answers_compared(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config(tiny_folder, "think")
    write_plain(tmp_path, config, "<think>I see it, so the finding is {text}</think><answer>{target}</answer>")
    found = probe(config, tmp_path, interventions=tuple(Intervention))
    for intervention in Intervention:
        records = read_records(tmp_path / "records" / f"eval.reasoning_{intervention}.jsonl")
        assert all(record.completion.startswith("<think>") and "</think><answer>" in record.completion for record in records)
        assert {record.ablation for record in records} == {f"reasoning_{intervention}"}
        assert all(record.num_tokens <= 2 for record in records)
    assert found["consistency"]["option"]["agreement"]["value"] == 1.0
    assert found["consistency"]["option"]["stated"] == 12
    assert "Follows reasoning" in capsys.readouterr().out


def test_a_prefix_is_continued_as_if_the_policy_had_written_it(tiny_folder: Path) -> None:
    """What follows the first half of a greedy completion is its second half."""
    policy = load_policy(PolicyConfig(path=str(tiny_folder), device="cpu"))
    samples = load_split(make_config(tiny_folder).data, "test")
    prompts = [render(sample, "no_think") for sample in samples]
    asked = [Prompt(sample=one.sample, strategy=one.strategy, messages=one.messages, prefix="<answer>") for one in prompts]
    engine = HfEngine(policy, batch_size=3)
    completions = [group[0] for group in engine.generate(asked, max_completion_length=3)]
    assert all(completion.text.startswith("<answer>") for completion in completions)
    for prompt, completion in zip(prompts, completions, strict=True):
        text = policy.processor.apply_chat_template(list(prompt.messages), add_generation_prompt=True, tokenize=False) + "<answer>"
        inputs = policy.processor(text=[text], images=[image.load() for image in prompt.sample.images], return_tensors="pt")
        (expected,) = policy.model.generate(
            **inputs, max_new_tokens=3, do_sample=False, suppress_tokens=[policy.model.config.image_token_id]
        )
        ids = expected[inputs["input_ids"].shape[1] :].tolist()
        assert tuple(ids[: len(completion.token_ids)]) == completion.token_ids
    script = ScriptedEngine(lambda prompt: f"{prompt.sample.target}</answer>").generate(asked, max_completion_length=3)
    assert [group[0].text for group in script] == [f"<answer>{sample.target}</answer>" for sample in samples]


def test_comparison_by_hand() -> None:
    prompts = [render(sample, "no_think") for sample in load_split(make_config(Path("unused")).data, "test")]

    def answers(letters: str) -> list[Any]:
        script = {
            prompt.sample.id: f"<answer>{letter}</answer>" if letter != "-" else "" for prompt, letter in zip(prompts, letters, strict=True)
        }
        return answer_prompts(ScriptedEngine(script), prompts, max_completion_length=9)

    targets = "".join(prompt.sample.target for prompt in prompts)
    result = compare("blank", answers(targets[:8] + "----"), answers("--------" + targets[8:]))
    assert result.change is not None
    assert result.same_answer is not None
    assert (result.change.gained, result.change.lost, result.change.difference.value) == (4, 8, pytest.approx(-1 / 3))
    assert (result.same_answer.correct, result.same_answer.total) == (0, 8)
    empty = compare("blank", answers(targets), [])
    assert empty.accuracy.value is None
    assert empty.change is not None
    assert empty.change.difference.value is None


def test_an_impossible_ablation_does_not_stop_the_others(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config(tiny_folder, test={"modalities": ["mri"], "limit": 2})
    found = probe(config, tmp_path, ablations=(Ablation.BLANK, Ablation.SWAP_ACROSS))
    assert (found["probes"]["blank"]["questions"], found["probes"]["swap_across"]["questions"]) == (2, 0)
    assert found["probes"]["swap_across"]["value"] is None
    assert "swap_across: 2 questions left out, no image to swap with" in capsys.readouterr().out
    with pytest.raises(OslerError, match=r"swap_across leaves no question to ask \(2 with no image to swap with\)"):
        run_probes(config, tmp_path, ablations=(Ablation.SWAP_ACROSS,))


MISTAKES: list[tuple[str, list[str], str]] = [
    ("an unknown ablation", ["--ablation", "blur"], "--ablation does not know 'blur': use blank, noise"),
    ("an unknown intervention", ["--reasoning", "cut,cot"], "--reasoning does not know 'cot': use cut"),
    ("a bad label", ["--circular", "--label", "../x"], "cannot name a file"),
    ("no such policy", ["--ablation", "blank", "--policy", "./nowhere"], "no policy at ./nowhere"),
    ("an engine without its script", ["--ablation", "blank", "--eval.engine=scripted"], "the scripted engine needs eval.script"),
    ("an unknown distractor", ["--circular", "--data.distractors=new"], "data.distractors"),
    ("an unknown strategy", ["--circular", "--prompt.strategy=thunk"], "unknown strategy 'thunk'"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_mistakes_are_one_line(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, arguments: list[str], message: str
) -> None:
    command = ["eval", "demo", f"--policy.path={tiny_folder}", "--out", str(tmp_path / "run"), "--data.test.limit=4"]
    assert main([*command, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert not (tmp_path / "run").exists()


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "a strategy that does not reason",
        {"strategy": "no_think"},
        "<answer>A</answer>",
        "reasons before it answers, such as think, not no_think",
    ),
    ("a strategy that reasons afterwards", {"strategy": "think_after"}, "<answer>A</answer>", "reasons before it answers"),
    (
        "completions without reasoning",
        {"strategy": "think"},
        "B",
        r"reasoning_cut leaves no question to ask \(12 with no answer behind reasoning\)",
    ),
]


@pytest.mark.parametrize(("name", "changes", "text", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_reasoning_needs_reasoning(tiny_folder: Path, tmp_path: Path, name: str, changes: dict[str, Any], text: str, message: str) -> None:
    config = make_config(tiny_folder, **changes)
    write_plain(tmp_path, config, text)
    with pytest.raises(OslerError, match=message):
        run_probes(config, tmp_path, interventions=(Intervention.CUT,))


def test_unfinished_plain_records_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    config = make_config(tiny_folder)
    evaluate(config, tmp_path)
    path = tmp_path / "records" / "eval.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="it resumes"):
        run_probes(config, tmp_path, ablations=(Ablation.BLANK,))


def test_other_plain_records_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    evaluate(make_config(tiny_folder), tmp_path)
    for other, key in (
        (make_config(tiny_folder, "think"), "questions"),
        (make_config(tiny_folder, max_completion_length=3), "max_completion"),
    ):
        with pytest.raises(ConfigError, match=f"eval.jsonl was made with other {key}"):
            run_probes(other, tmp_path, ablations=(Ablation.BLANK,))


def test_the_command_line_ends_with_json(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "demo", f"--policy.path={tiny_folder}", "--out", str(tmp_path / "run"), "--data.test.limit=3", "--json"]
    command += ["--trainer.max_prompt_length=400"]
    assert main([*command, "--eval.max_completion_length=2", "--ablation", "noise,blank", "--circular"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(printed["probes"]) == ["blank", "noise"]
    assert printed["circular"]["questions"] == 3
