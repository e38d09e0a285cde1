"""Small reader studies, and readers with known error rates who answer over HTTP, for the tests of the reader study."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.testclient import TestClient

from osler.config import Config, load_config
from osler.evaluation.records import append_records
from osler.evaluation.votes import grade_completion
from osler.prompts import render
from osler.serving.app import create_app
from osler.serving.readers.plan import StudySettings
from osler.serving.readers.routes import study_part
from osler.serving.readers.session import Answer, Sessions
from osler.serving.readers.study import Study, prepare_study
from osler.serving.settings import ServerSettings
from osler.types import Completion, FinishReason, Sample

SECRETS = ("private_case", "hidden_file", "secret_folder", "sentinel_rationale", "sentinel_subject")
"""Texts that stand in ids, names of files and facts of the rows, and that no reader may see."""

CHOICES = ("CT", "MRI", "X-ray", "Ultrasound")


def write_rows(folder: Path, num: int = 12, *, targets: str = "ABCD", **changes: Any) -> Path:
    """A JSON Lines file of questions, each about a picture of its own, with names that no reader may see. The targets take turns."""
    (folder / SECRETS[2]).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(num):
        name = f"{SECRETS[2]}/{SECRETS[1]}_{number}.png"
        info = Image.new("RGB", (40, 30), (number * 16 % 256, 90, 200))
        info.save(folder / name, exif=Image.Exif())
        rows.append(
            {
                "id": f"{SECRETS[0]}_{number}",
                "image": name,
                "question": f"Which technique made picture {number}?",
                "choices": list(CHOICES),
                "answer": targets[number % len(targets)],
                "modality": ["ct", "mri", "xray"][number % 3],
                "subject_id": f"{SECRETS[4]}_{number}",
                "rationale": f"{SECRETS[3]} {number}",
                **changes,
            }
        )
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config_of(rows: Path) -> Config:
    return load_config(None, ["--data.reader=jsonl", f"--data.root={rows}", "--name=rows"])


def make_study(folder: Path, rows: Path | None = None, *, with_model: str | None = None, **settings: Any) -> Study:
    """A study of two readers, a quarter of its questions twice and a quarter without images, unless the settings say otherwise."""
    chosen = StudySettings(**{"num_readers": 2, "repeated": 0.25, "without_image": 0.25, **settings})
    return prepare_study(config_of(rows or write_rows(folder)), folder / "run", chosen, with_model=with_model)


def write_model(folder: Path, samples: Sequence[Sample], reasoning: str = "It looks so.") -> Path:
    """Records of a policy that answers B to everything."""
    path = folder / "run" / "records" / "policy.jsonl"
    completions = [Completion(text=f"<think>{reasoning}</think><answer>B</answer>", token_ids=(1,), finish_reason=FinishReason.STOP)] * len(
        samples
    )
    append_records(path, [grade_completion(render(one, "think"), text, "tiny") for one, text in zip(samples, completions, strict=True)])
    return path


def open_client(study: Study) -> TestClient:
    """A client of the study's server."""
    app = create_app(ServerSettings(), None, [study_part(Sessions(study))])
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


Choose = Callable[[Mapping[str, Any]], str]


def play(client: TestClient, token: str, choose: Choose, limit: int | None = None) -> list[dict[str, Any]]:
    """Answer the open cases of a reader over HTTP until there are none, or `limit` cases; the cases as they were shown."""
    seen: list[dict[str, Any]] = []
    state = client.get(f"/study/{token}/state").json()
    while state["phase"] == "open" and (limit is None or len(seen) < limit):
        case = client.post(f"/study/{token}/case", json={}).json()
        for number in range(case["pictures"]):
            assert client.get(f"/study/{token}/pictures/{case['position']}/{number}.png").status_code == 200
        reply = client.post(f"/study/{token}/answers", json=answer_to(case, choose))
        assert reply.status_code == 200, reply.text
        state = reply.json()
        seen.append(case)
    return seen


def play_all(study: Study, *choose: Choose) -> None:
    """Every reader answers everything, without a server: a reader for each of `choose`."""
    sessions = Sessions(study)
    for token, chooses in zip(study.tokens, choose, strict=True):
        while sessions.state(token)["phase"] == "open":
            case = sessions.open_case(token)
            sessions.answer(token, Answer(comment="", **answer_to(case, chooses)))


def answer_to(case: Mapping[str, Any], choose: Choose) -> dict[str, Any]:
    return {"position": case["position"], "answer": choose(case), "seconds": 1.5 + case["position"] % 3}


def knows(study: Study, error_rate: float, seed: int) -> Choose:
    """A reader who knows the answers by the texts of the questions, and gives another letter at this rate."""
    rng = random.Random(seed)
    targets = {sample.question: sample.target for sample in study.samples}

    def choose(case: Mapping[str, Any]) -> str:
        right, letters = targets[case["question"]], [choice["letter"] for choice in case["choices"]]
        wrong = [letter for letter in letters if letter != right]
        return rng.choice(wrong) if rng.random() < error_rate else right

    return choose
