import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_prompts import Noise, make_prompt
from tiny_checkpoint import save_hub_layout, save_tiny

from osler.config import PolicyConfig, SamplingConfig, build_config
from osler.errors import ConfigError, DataError, EngineError, OslerError
from osler.evaluation.engines import ENGINES, open_engine
from osler.evaluation.engines.hf import HfEngine
from osler.evaluation.engines.scripted import ScriptedEngine
from osler.policies.load import Policy, load_policy
from osler.types import Completion, FinishReason


@pytest.fixture(scope="module")
def policy(tiny_folder: Path) -> Policy:
    return load_policy(PolicyConfig(path=str(tiny_folder), device="cpu"))


def texts(groups: list[list[Completion]]) -> list[list[str]]:
    return [[completion.text for completion in group] for group in groups]


SHAPES = [make_prompt(0, 1), make_prompt(1, 9), make_prompt(2, 4, [Noise(seed=1), Noise(seed=2, width=84)]), make_prompt(3, 2, [])]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_a_batch_answers_as_each_prompt_alone(policy: Policy, batch_size: int) -> None:
    """Padding, order and neighbours change nothing: one image, several, none, short and long."""
    together = HfEngine(policy, batch_size=batch_size).generate(SHAPES, max_completion_length=6)
    alone = [HfEngine(policy).generate([prompt], max_completion_length=6)[0] for prompt in SHAPES]
    assert texts(together) == texts(alone)
    assert [group[0].token_ids for group in together] == [group[0].token_ids for group in alone]
    assert len({group[0].token_ids for group in together}) > 1


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_an_image_of_several_prompts_is_seen_once(policy: Policy, batch_size: int) -> None:
    shared = [make_prompt(number, 1 + number, [Noise(seed=number % 2), Noise(seed=5)]) for number in range(6)]
    patches: list[int] = []
    handle = policy.model.model.visual.register_forward_hook(lambda _, inputs, __: patches.append(len(inputs[0])))
    together = HfEngine(policy, batch_size=batch_size).generate(shared, max_completion_length=6)
    handle.remove()
    assert sum(patches) == 3 * 16  # of three pictures
    assert texts(together) == [texts(HfEngine(policy).generate([prompt], max_completion_length=6))[0] for prompt in shared]


@pytest.mark.parametrize(
    ("model_type", "dtype"), [("qwen2_5_vl", "float32"), ("qwen3_vl", "float32"), ("qwen2_vl", "bfloat16")], ids=lambda value: str(value)
)
def test_every_family_answers(tmp_path: Path, model_type: str, dtype: str) -> None:
    policy = load_policy(PolicyConfig(path=str(save_tiny(tmp_path / "policy", model_type)), dtype=dtype, device="cpu"))
    together = HfEngine(policy).generate(SHAPES, max_completion_length=6)
    alone = [HfEngine(policy).generate([prompt], max_completion_length=6)[0] for prompt in SHAPES]
    assert all(1 <= len(group[0].token_ids) <= 6 for group in together)
    assert dtype == "bfloat16" or together == alone  # coarse numbers round differently in a batch


def test_the_engine_is_greedy_search_by_hand(policy: Policy) -> None:
    prompt = make_prompt(5)
    processor, model = policy.processor, policy.model
    text = processor.apply_chat_template(list(prompt.messages), add_generation_prompt=True, tokenize=False)
    inputs = dict(processor(text=[text], images=[source.load() for source in prompt.sample.images], return_tensors="pt"))
    written: list[int] = []
    with torch.inference_mode():
        for _ in range(5):
            logits = model(**inputs).logits[0, -1]
            logits[model.config.image_token_id] = -torch.inf
            written.append(int(logits.argmax()))
            for name, token in (("input_ids", written[-1]), ("attention_mask", 1), ("mm_token_type_ids", 0)):
                inputs[name] = torch.cat([inputs[name], torch.tensor([[token]])], dim=1)
    ((completion,),) = HfEngine(policy).generate([prompt], max_completion_length=5)
    assert list(completion.token_ids) == written
    assert completion.finish_reason is FinishReason.LENGTH


def test_the_image_is_seen(policy: Policy) -> None:
    prompts = [make_prompt(0, 3, [Noise(seed=seed)]) for seed in range(12)]
    assert len({group[0].token_ids for group in HfEngine(policy).generate(prompts, max_completion_length=8)}) > 1


STOP, PAD = 256, 257  # <|im_end|> and <|endoftext|> in the tiny tokenizer
ROWS: list[tuple[str, list[int], tuple[int, ...], str, FinishReason]] = [
    ("stopped", [32, 33, STOP, PAD, PAD], (32, 33, STOP), "AB", FinishReason.STOP),
    ("cut off", [32, 33, 34], (32, 33, 34), "ABC", FinishReason.LENGTH),
    ("at once", [STOP, PAD], (STOP,), "", FinishReason.STOP),
    ("stops at its last token", [32, STOP], (32, STOP), "A", FinishReason.STOP),
    ("other special tokens are no text", [32, 262, 33, STOP], (32, 262, 33, STOP), "AB", FinishReason.STOP),
]


@pytest.mark.parametrize(("name", "row", "token_ids", "text", "reason"), ROWS, ids=[row[0] for row in ROWS])
def test_completions_end_at_the_stop(
    policy: Policy, name: str, row: list[int], token_ids: tuple[int, ...], text: str, reason: FinishReason
) -> None:
    assert (policy.tokenizer.eos_token_id, policy.tokenizer.pad_token_id) == (STOP, PAD)
    (completion,) = HfEngine(policy)._read([row], [STOP])
    assert completion == Completion(text=text, token_ids=token_ids, finish_reason=reason)


def test_sampling_is_seeded_and_leaves_global_state_alone(policy: Policy) -> None:
    engine, prompts = HfEngine(policy), SHAPES[:2]
    state = torch.random.get_rng_state()
    first, again, other = (
        engine.generate(prompts, max_completion_length=8, num_generations=3, sampling=SamplingConfig(), seed=seed) for seed in (0, 0, 1)
    )
    assert [len(group) for group in first] == [3, 3]
    assert first == again != other
    assert len({completion.token_ids for completion in first[0]}) > 1
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_checkpoints_sampling_defaults_do_not_leak(tmp_path: Path) -> None:
    """Qwen2-VL's own top_k 1 and temperature 0.01 would make a group's completions equal."""
    policy = load_policy(PolicyConfig(path=str(save_hub_layout(tmp_path / "hub")), device="cpu"))
    published = {"do_sample": True, "top_k": 1, "temperature": 0.01, "top_p": 0.001, "repetition_penalty": 1.9, "min_p": 0.9}
    expected = [HfEngine(policy).generate([make_prompt(0)], max_completion_length=6)]
    expected.append(_sample(policy))
    policy.model.generation_config.update(**published)  # as if the checkpoint had brought it
    assert [HfEngine(policy).generate([make_prompt(0)], max_completion_length=6), _sample(policy)] == expected
    assert len({completion.token_ids for completion in expected[1][0]}) > 1


def _sample(policy: Policy) -> list[list[Completion]]:
    return HfEngine(policy).generate([make_prompt(0)], max_completion_length=6, num_generations=4, sampling=SamplingConfig())


@pytest.mark.parametrize(
    "sampling", [{"temperature": 1e-5}, {"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=lambda values: next(iter(values))
)
def test_every_sampling_parameter_arrives(policy: Policy, sampling: dict[str, Any]) -> None:
    """At its extreme each one makes sampling greedy."""
    engine, prompts = HfEngine(policy), SHAPES[:2]
    drawn = engine.generate(prompts, max_completion_length=6, num_generations=2, sampling=SamplingConfig(**sampling))
    greedy = engine.generate(prompts, max_completion_length=6)
    assert drawn == [group * 2 for group in greedy]


def test_what_the_hf_engine_refuses(policy: Policy) -> None:
    with pytest.raises(EngineError, match=r"own/1 takes \d+ tokens and trainer\.max_prompt_length is 150") as caught:
        HfEngine(policy, max_prompt_length=150).generate(SHAPES[:2], max_completion_length=4)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="own/7: noise:-1 cannot be drawn"):
        HfEngine(policy, batch_size=1).generate([make_prompt(0), make_prompt(7, 30, [Noise(seed=-1)])], max_completion_length=4)
    with pytest.raises(EngineError, match="all the same"):
        HfEngine(policy).generate(SHAPES, max_completion_length=4, num_generations=2)
    assert HfEngine(policy).generate([], max_completion_length=4) == []


# Scripted


def test_the_scripted_engine_answers_from_a_table_or_a_function() -> None:
    prompts = [make_prompt(0), make_prompt(1)]
    table = ScriptedEngine({"own/0": "A", "own/1": "B"})
    function = ScriptedEngine(lambda prompt: prompt.sample.target)
    assert texts(table.generate(prompts, max_completion_length=1)) == [["A"], ["B"]]
    assert texts(function.generate(prompts, max_completion_length=1, num_generations=2)) == [["A", "A"], ["A", "A"]]


def test_the_scripted_engine_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "zero_shot.jsonl"
    row = {"sample_id": "own/0", "completion": "ä\u2028\n", "outcome": "correct"}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n\n", encoding="utf-8")
    engine = open_engine(build_config({"eval": {"engine": "scripted", "script": str(path)}}))
    assert engine.policy_name == "zero_shot"
    assert texts(engine.generate([make_prompt(0)], max_completion_length=1)) == [["ä\u2028\n"]]


BAD_SCRIPTS: list[tuple[str, str | bytes | None, str]] = [
    ("no file", None, "cannot read the script"),
    ("not text", b"\xff\xfe\x00", "cannot read the script"),
    ("not JSON", "{", "line 1: not JSON"),
    ("a list", "[1]", "line 1: needs the texts"),
    ("a number for a text", '{"sample_id": "own/0", "completion": 3}', "line 1: needs the texts"),
    ("no id", '{"completion": "A"}', "line 1: needs the texts"),
    ("twice", '{"sample_id": "own/0", "completion": "A"}\n' * 2, "line 2: own/0 has a completion already"),
    ("another sample", '{"sample_id": "own/9", "completion": "A"}', "no completion for own/0"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_SCRIPTS, ids=[row[0] for row in BAD_SCRIPTS])
def test_bad_scripts_are_refused_in_one_line(tmp_path: Path, name: str, content: str | bytes | None, message: str) -> None:
    path = tmp_path / "script.jsonl"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(OslerError, match=message) as caught:
        ScriptedEngine.from_jsonl(path).generate([make_prompt(0)], max_completion_length=1)
    assert "\n" not in str(caught.value)


def test_every_engine_of_a_recipe_can_be_opened(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "script.jsonl").write_text("")
    titles = {"hf": "tiny", "scripted": "script", "option_prior": "option prior"}
    assert titles.keys() <= ENGINES.keys()  # other tests register engines of their own
    for name, title in titles.items():
        settings = {"engine": name, "script": str(tmp_path / "script.jsonl")}
        engine = open_engine(build_config({"policy": {"path": str(tiny_folder), "device": "cpu"}, "eval": settings}))
        assert engine.policy_name == title
    with pytest.raises(ConfigError, match=r"eval\.script"):
        open_engine(build_config({"eval": {"engine": "scripted"}}))
