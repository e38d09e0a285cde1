"""The grammar against readers: free texts about phantoms, labelled by a reader that saw the facts and the text, not the rules.

Two language models took part: one wrote the texts, half of them with something false, another labelled them. Set 1 was read before some
rules were made for it, so it is no longer blind. Set 2 is blind: no rule was made for it, and none may be. The numbers are those that were
measured; a rule may only raise them.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from osler.config import load_config
from osler.data.select import load_split
from osler.facts import Truth
from osler.grading.statements import judge
from osler.types import Sample

FILE = Path(__file__).parent / "fixtures" / "blind" / "reasonings.jsonl"
MODALITIES = ["mri", "ct", "xray", "ultrasound", "dermoscopy", "fundus", "oct", "microscopy"]
SEEDS = {1: 77, 2: 78}


def read_samples(seed: int) -> dict[str, Sample]:
    modalities = json.dumps(MODALITIES)
    config = load_config("demo", [f"--data.test.modalities={modalities}", "--data.test.limit_per_modality=60", f"--data.seed={seed}"])
    return {sample.id: sample for sample in load_split(config.data, "test")}


@pytest.mark.parametrize(("number", "states", "statements"), [(1, 48, 0.94), (2, 51, 0.92)])
def test_the_grammar_agrees_with_a_reader(number: int, states: int, statements: float) -> None:
    """`states`: texts of 64 that both find true, false or unchecked. `statements`: the share of equal truths where both find one."""
    samples = read_samples(SEEDS[number])
    rows = [row for row in map(json.loads, FILE.read_text(encoding="utf-8").splitlines()) if row["set"] == number]
    assert len(rows) == 64
    num_states, truths = 0, Counter[bool]()
    for row in rows:
        text, sample = row["text"], samples[row["id"]]
        assert sample.facts is not None
        judged = judge(text, facts=sample.facts, terms=sample.terms)
        found = {statement.truth for statement in judged}
        state = "false" if Truth.FALSE in found else "true" if Truth.TRUE in found else "unchecked"
        num_states += state == row["state"]
        places = [(begin := text.index(quote), begin + len(quote), truth) for quote, truth in row["statements"]]
        for statement in judged:
            said = {truth for begin, end, truth in places if begin < statement.end and statement.begin < end} - {"not_checkable"}
            if said and statement.truth is not Truth.NOT_CHECKABLE:
                truths[statement.truth.value in said] += 1
    assert num_states >= states
    assert truths[True] / truths.total() >= statements
    assert truths.total() >= 170
