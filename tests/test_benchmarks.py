"""The benchmarks run. A step of the smallest shape, with TRL's trainer and with Osler's, on equal completions."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from osler import read
from osler.data.phantom import build_samples
from osler.policies.quiet import quiet_training
from osler.taxonomy import Modality
from osler.types import LETTERS, Record


@pytest.mark.integration
def test_a_step_is_measured_with_both_trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import grpo_step

    shape = grpo_step.Shape(size=56, prompt=40, completion=4, num_generations=2)
    with quiet_training():
        result = grpo_step.measure(shape, 1, time.perf_counter)
    assert result["equal_completions"] == 1.0
    assert result["trl_ms"] > 0 < result["osler_ms"]
    assert result["phases"]["osler"]["prefill"] > 0


@pytest.mark.integration
def test_the_server_is_measured_on_equal_completions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import serving

    result = serving.measure(["batch"], "osler-tiny", num_clients=3, num_requests=4, num_rounds=1)
    assert result["one_per_second"] > 0 < result["batch"]["per_second"]
    memory = serving.watch_memory("osler-tiny", num_clients=4, num_requests=16)
    assert memory["resident_mb"] == []  # printed every 500 requests


def test_more_gpus_never_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import scaling_plan

    plans = [scaling_plan.plan(number, seeds=3, tokens=120, card=scaling_plan.Card()) for number in (8, 64, 512)]
    assert sum(-(-train // 4) for train, _ in scaling_plan.QUESTIONS.values()) == 17_837
    for name in ("bound", "eager", "reported"):
        hours = [plan["hours"][name] for plan in plans]
        assert hours == sorted(hours, reverse=True)
        longest = 6377 * plans[1]["step_seconds"][name] / 3600  # one after the other, on a GPU of its own
        assert hours[1] >= longest - 0.1
    assert [(plan["jobs"], plan["gpus_used"]) for plan in plans] == [(72, 8), (72, 64), (72, 288)]
    assert all(row["gflop_per_second"] > 0 for row in scaling_plan.check_against_cpu())


def test_the_curriculum_is_measured_on_uneven_modalities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    train, test = (read("benchmarks.curriculum:uneven", split=split, modalities=["mri", "oct"], num=100) for split in ("train", "test"))
    assert [sum(sample.modality == name for sample in train) for name in ("mri", "oct")] == [87, 13]
    assert [sum(sample.modality == name for sample in test) for name in ("mri", "oct")] == [300, 300]


KINDS = [
    ("Modality", "modality"),
    ("ABN", "abnormality"),
    ("Color", "colour, shape"),
    ("PRES, SIZE", "others"),
    ("cells", "cell counts"),
]


@pytest.mark.parametrize(("content_type", "kind"), KINDS, ids=str)
def test_questions_about_real_images_have_a_kind(content_type: str, kind: str) -> None:
    from benchmarks.real_images import find_kind

    assert find_kind(content_type) == kind


def test_no_text_tells_how_many_cells_there_are(tmp_path: Path) -> None:
    from benchmarks.real_images import read_cells

    (tmp_path / "counts.csv").write_text("image,RBC,WBC,Platelets\n" + "".join(f"images/{n}.jpg,{n},1,{n % 7}\n" for n in range(40)))
    asked = [sample for sample in read_cells(tmp_path, seed=0) if "red" in sample.question]
    assert {sample.question for sample in asked} == {"Does this image show 20 or more red blood cells?"}
    assert [sample.target_text for sample in asked] == ["No"] * 20 + ["Yes"] * 20
    assert 10 < sum(sample.target == "A" for sample in asked) < 30
    assert list(read_cells(tmp_path / "missing", seed=0)) == []


@pytest.mark.parametrize("mark", ["right", "wrong"])
def test_a_policy_that_trusts_the_shortcut_is_misled(monkeypatch: pytest.MonkeyPatch, mark: str) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    from test_demo import record

    from benchmarks.shortcuts import is_misled, marked

    clean = build_samples(modality=Modality.MRI, split="test", seed=1, num_questions=20)
    asked = marked(seed=1, mark=mark, num=20)
    assert [sample.id for sample in asked] == [sample.id for sample in clean]
    for sample in asked:
        blank = replace(record(0, Modality.MRI, is_right=True), choices=sample.choices, target=sample.target)
        (trusting,) = [letter for letter in LETTERS[: len(sample.choices)] if is_misled(replace(blank, answer=letter))]
        assert (trusting == sample.target) == (mark == "right")
        assert not any(is_misled(replace(blank, answer=answer)) for answer in (None, "J"))


def test_the_change_of_an_image_gain_is_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    from test_demo import record

    from benchmarks.shortcuts import change_of_gain

    def answer(right: list[bool]) -> list[Record]:
        return [replace(record(number, Modality.MRI, is_right=one), subject_id=f"{number // 2}") for number, one in enumerate(right)]

    blind = {"clean": answer([True, True] * 20), "blank": answer([True, True] * 20)}
    looks = {"clean": answer([True, True] * 20), "blank": answer([True, False] * 20)}
    assert change_of_gain(blind, looks, "blank").value == 0.5
    assert change_of_gain(blind, looks, "blank").low == 0.5  # every patient alike
    assert change_of_gain(looks, blind, "blank").value == -0.5
    half = {"clean": answer([True] * 40), "blank": answer([True] * 20 + [False] * 20)}
    found = change_of_gain(blind, half, "blank")
    assert found.value == 0.5
    assert found.low < 0.3 < 0.7 < found.high  # of 20 patients, and not of 40 questions
