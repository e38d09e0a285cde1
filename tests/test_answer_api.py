"""POST /v1/answer: what is asked, what is told of the answer, and what another image changes."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_requests import png
from live_server import LiveServer, serve
from PIL import Image, ImageStat
from small_studies import save_nifti, save_series, values

from osler.evaluation.looks import Look, alter
from osler.images.clip import Clip, count_frames
from osler.images.embedded import ImageBytes
from osler.images.files import ImageFile
from osler.serving.generation import GenerationRequest
from osler.serving.pictures import read_data_url
from osler.serving.scripted import ANSWER_PROBABILITY, ScriptedGenerator
from osler.serving.settings import ServerSettings

pytestmark = pytest.mark.integration

THOUGHT = "<think>A bright ring.</think>"
OTHER = 1 - ANSWER_PROBABILITY


def script(request: GenerationRequest) -> Sequence[str]:
    """B with the image, A without it; one of four completions has no answer."""
    said = request.messages[-1]["content"][-1]["text"]
    if "Which finding" in said:
        return ["<answer>the pleural effusion</answer>", "<answer>Pleural effusion.</answer>", "<answer>mass</answer>"]
    if "unread" in said:
        return ["It may be A or B."]
    uri = request.images[0].uri if request.images else ""
    if uri.startswith("blank"):
        return [f"{THOUGHT}<answer>A</answer>"]
    if uri.startswith("swapped"):
        return ["<answer>E</answer>"]
    return [f"{THOUGHT}<answer>B</answer>", "<answer>B</answer>", "<answer>A</answer>", "<think>"]


@pytest.fixture(scope="module")
def generator() -> ScriptedGenerator:
    return ScriptedGenerator(script, policy_fingerprint="cd" * 32)


@pytest.fixture(scope="module")
def live(generator: ScriptedGenerator) -> Iterator[LiveServer]:
    with serve(generator) as server:
        yield server


def ask(**more: Any) -> dict[str, Any]:
    return {"question": "Which organ?", "choices": ["Liver", "Spleen"], "images": [{"url": png()}], **more}


def answer(live: LiveServer, body: dict[str, Any]) -> dict[str, Any]:
    reply = live.http.post("/v1/answer", json=body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def test_an_answer_says_what_it_rests_on(live: LiveServer, generator: ScriptedGenerator) -> None:
    reply = answer(live, ask(context={"age": "063Y", "sex": "M", "indication": None}))
    prompt = (
        "Patient: 63-year-old man.\nWhich organ?\nA) Liver\nB) Spleen\n"
        "Think inside <think> </think>, then give the letter inside <answer> </answer>."
    )
    timings = reply.pop("timings")
    usage = reply.pop("usage")
    assert reply == {
        "answer": "B",
        "answer_text": "Spleen",
        "reasoning": "A bright ring.",
        "completion": f"{THOUGHT}<answer>B</answer>",
        "rule": "answer_tag.letter",
        "is_well_formed": True,
        "finish_reason": "stop",
        "choices": [
            {"letter": "A", "text": "Liver", "probability": pytest.approx(OTHER), "votes": 0.0},
            {"letter": "B", "text": "Spleen", "probability": ANSWER_PROBABILITY, "votes": 1.0},
        ],
        "vote_share": None,
        "confidence": ANSWER_PROBABILITY,
        "abstains": False,
        "threshold": None,
        "look": [],
        "images": {"count": 1, "tokens": 4, "slice_numbers": None, "slices": None},
        "notes": [],
        "prompt": prompt,
        "policy": {"name": "scripted", "fingerprint": "cd" * 32},
        "prompt_hash": hashlib.sha256(prompt.encode()).hexdigest(),
        "disclaimer": "Research tool, not for clinical use.",
    }
    assert 0 <= timings["queued"] <= timings["first_token"] <= timings["total"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    sent = generator.requests[-1]
    assert (sent.sampling, sent.seed, sent.max_tokens, sent.num_choices) == (None, 0, 256, 2)


def test_votes(live: LiveServer, generator: ScriptedGenerator) -> None:
    reply = answer(live, ask(votes=4, seed=5))
    assert (reply["answer"], reply["vote_share"], reply["confidence"]) == ("B", 0.5, 0.5)
    assert [choice["votes"] for choice in reply["choices"]] == [0.25, 0.5]
    mean = (2 * ANSWER_PROBABILITY + OTHER) / 3  # one completion has no answer, and no probabilities
    assert reply["choices"][1]["probability"] == pytest.approx(mean)
    sent = generator.requests[-1]
    assert (sent.num_generations, sent.seed) == (4, 5)
    assert sent.sampling is not None
    assert sent.sampling.temperature == 1.0


def test_an_open_question(live: LiveServer) -> None:
    reply = answer(live, {"question": "Which finding is seen?"})
    assert (reply["answer"], reply["answer_text"], reply["rule"]) == ("the pleural effusion", "the pleural effusion", "answer_tag.text")
    assert (reply["choices"], reply["confidence"], reply["images"]["count"]) == ([], None, 0)
    voted = answer(live, {"question": "Which finding is seen?", "votes": 3, "threshold": 0.6})
    assert (voted["vote_share"], voted["abstains"]) == (pytest.approx(2 / 3), False)


@pytest.mark.parametrize(
    ("more", "abstains"),
    [
        ({"threshold": 0.5}, False),
        ({"threshold": ANSWER_PROBABILITY}, False),
        ({"threshold": 0.71}, True),
        ({"threshold": 0.51, "votes": 4}, True),
        ({"threshold": 0, "question": "unread?"}, True),
        ({"question": "unread?"}, True),
    ],
)
def test_abstention(live: LiveServer, more: dict[str, Any], abstains: bool) -> None:
    assert answer(live, ask(**more))["abstains"] is abstains


def test_looks(live: LiveServer) -> None:
    looks = answer(live, ask(look=["blank", "swapped", "mirrored", "blank"][:3]))["look"]
    assert [(look["image"], look["answer"], look["changed"]) for look in looks] == [
        ("blank", "A", True),
        ("swapped", None, True),  # E is none of the choices
        ("mirrored", "B", False),
    ]
    assert [look["gain"] for look in looks] == [pytest.approx(2 * ANSWER_PROBABILITY - 1), None, 0.0]
    assert [look["sentence"] for look in looks] == [
        "With the image blanked it answers A (Liver) in place of B (Spleen); the probability of B goes from 0.70 to 0.30.",
        "With an image of something else it gives no answer that can be read.",
        "With the image mirrored it still answers B (Spleen); the probability of B goes from 0.70 to 0.70.",
    ]
    assert looks[0]["reasoning"] == "A bright ring."
    assert [choice["probability"] for choice in looks[0]["choices"]] == [ANSWER_PROBABILITY, pytest.approx(OTHER)]


def test_looks_wait_for_a_place() -> None:
    generator = ScriptedGenerator(script, max_running=1, max_queued=0, delay=0.001)
    with serve(generator) as live:
        assert len(answer(live, ask(look=["blank", "swapped", "mirrored"]))["look"]) == 3


def test_a_stream_has_the_same_answer(live: LiveServer) -> None:
    body = ask(look=["blank"], votes=4)
    whole = answer(live, body)
    reply = live.http.post("/v1/answer", json={**body, "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [part.split("\n") for part in reply.text.strip().split("\n\n")]
    named = [(lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))) for lines in events]
    names = [name for name, _ in named]
    assert names == ["start", *["token"] * names.count("token"), "answer", "look", "done"]
    assert named[0][1] == {"images": whole["images"]}
    assert "".join(value["text"] for name, value in named if name == "token") == f"{THOUGHT}<answer>B</answer>"
    ((answered,), (look,)) = ([value for name, value in named if name == wanted] for wanted in ("answer", "look"))
    assert look == whole["look"][0]
    assert {key: value for key, value in answered.items() if key != "timings"} == {
        key: value for key, value in whole.items() if key not in ("timings", "look")
    }


def test_a_stream_that_takes_too_long_ends_with_an_error() -> None:
    with serve(ScriptedGenerator("word " * 500, delay=0.02), settings=ServerSettings(request_seconds=0.2)) as slow:
        reply = slow.http.post("/v1/answer", json=ask(stream=True, max_tokens=500))
        last = reply.text.strip().split("\n\n")[-1].split("\n")
        assert last[0] == "event: error"
        assert json.loads(last[1].removeprefix("data: "))["error"]["code"] == "timeout"


# Studies.


def encode(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def series_files(folder: Path) -> list[dict[str, str]]:
    """Four slices, whose names are in the wrong order."""
    save_series(folder / "ct", values(), RescaleType="HU")
    paths = sorted((folder / "ct").iterdir(), reverse=True)
    return [{"name": f"ct/IM{number}", "data": encode(path)} for number, path in enumerate(paths)]


def test_a_study_of_dicom_files(live: LiveServer, generator: ScriptedGenerator, tmp_path: Path) -> None:
    files = series_files(tmp_path)
    body = ask(images=[], study={"files": files}, study_settings={"slices": 2, "window": "40/400"}, look=["blank"])
    reply = answer(live, body)
    assert reply["images"] == {"count": 2, "tokens": 8, "slice_numbers": [2, 4], "slices": [1, 3]}  # the older `slices` counts from 0
    assert reply["look"][0]["changed"]
    exact = answer(live, ask(images=[], study={"files": files, "settings": {"indices": [0, 2, 3]}}))
    assert exact["images"]["slices"] == [0, 2, 3]
    numbered = answer(live, ask(images=[], study={"files": files, "settings": {"slice_numbers": [4, 1, 3]}}))
    assert numbered["images"] == exact["images"]
    assert numbered["images"]["slice_numbers"] == [1, 3, 4]
    montage = answer(live, ask(images=[], study={"files": files}, study_settings={"layout": "montage"}))
    assert montage["images"]["count"] == 1


def test_that_one_of_two_series_is_shown_is_told(live: LiveServer, tmp_path: Path) -> None:
    save_series(tmp_path / "a", values(), SeriesInstanceUID="1.2.1")
    save_series(tmp_path / "b", values()[:, :, :2], SeriesInstanceUID="1.2.2")
    paths = [*(tmp_path / "a").iterdir(), *(tmp_path / "b").iterdir()]
    files = [{"name": f"ct/{path.parent.name}{path.name}", "data": encode(path)} for path in paths]
    reply = answer(live, ask(images=[], study={"files": files}))
    assert reply["images"]["slice_numbers"] == [1, 2, 3, 4]
    assert reply["notes"] == ["2 series: number 1 is shown, the longest whose slices have positions"]
    chosen = answer(live, ask(images=[], study={"files": files}, study_settings={"images": [1]}))
    assert (chosen["images"]["slice_numbers"], chosen["notes"]) == ([1, 2], [])


def test_a_volume(live: LiveServer, tmp_path: Path) -> None:
    save_nifti(tmp_path / "v.nii.gz", values())
    body = ask(images=[], study={"files": [{"name": "v.nii.gz", "data": encode(tmp_path / "v.nii.gz")}]})
    assert answer(live, {**body, "study_settings": {"slices": 3, "plane": "coronal"}})["images"]["count"] == 3


def test_an_upload_is_asked_about(live: LiveServer, tmp_path: Path) -> None:
    save_nifti(tmp_path / "v.nii.gz", values())
    sent = live.http.post("/v1/uploads", files={"files": ("v.nii.gz", (tmp_path / "v.nii.gz").read_bytes())})
    assert sent.status_code == 200, sent.text
    upload = sent.json()["upload"]
    for _ in range(2):  # it stays
        assert answer(live, ask(images=[], upload=upload, study_settings={"slices": 2}))["images"]["count"] == 2
    gone = live.http.post("/v1/answer", json=ask(images=[], upload="u_gone"))
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "upload_gone")


def test_an_image_that_is_lost_while_its_question_waits_is_told_without_a_path() -> None:
    def lose(request: GenerationRequest) -> str:
        (image,) = request.images
        assert isinstance(image, ImageFile)
        (image.root / image.path).unlink()
        image.load()
        raise AssertionError("the image is still there")

    file = {"name": "liver.png", "data": png().partition(",")[2]}
    with serve(ScriptedGenerator(lose)) as live:
        reply = live.http.post("/v1/answer", json=ask(images=[], study={"files": [file]}))
    assert (reply.status_code, reply.json()["error"]["message"]) == (404, "the upload is no longer here: send the files again")


PICTURE = {"files": [{"name": "liver.png", "data": png().partition(",")[2]}]}

REFUSED = [
    (ask(question=""), "question", "at least 1"),
    (ask(question="  "), "question", "empty"),
    (ask(question="x" * 20_001), "question", "20,000"),
    (ask(question="x <|im_end|>"), None, "chat token"),
    (ask(question="Where <image> is <image>?"), None, "places"),
    (ask(choices=["Liver"]), "choices", "2 to 26"),
    (ask(choices=["Liver", "liver "]), "choices", "equal"),
    (ask(choices=["Liver", " "]), "choices", "empty"),
    (ask(choices=["Liver\nB) Spleen", "Kidney"]), "choices", "several lines"),
    (ask(choices=[str(number) for number in range(10_000)]), "choices", "at most 26"),
    (ask(choices=["Liver", 5]), "choices.1", "string"),
    (ask(strategy="ponder"), "strategy", "think"),
    (ask(strategy="medvlm_r1", choices=[]), None, "asks for a letter"),
    (ask(votes=0), "votes", "1"),
    (ask(votes=17), "votes", "16"),
    (ask(votes=True), "votes", "integer"),
    (ask(votes="5"), "votes", "integer"),
    (ask(votes=2, temperature=0), "temperature", "above 0"),
    (ask(votes=2, top_p=0), "top_p", "above 0"),
    (ask(threshold=1.5), "threshold", "1"),
    (ask(threshold=0.5, choices=[]), "threshold", "votes"),
    (ask(seed=-1), "seed", "0"),
    (ask(look=["noise"]), "look.0", "blank"),
    (ask(look=["blank"], images=[]), "look", "image"),
    (ask(context={"age": "old"}), "context", "age"),
    (ask(context={"name": "Miller"}), "context.name", "not permitted"),
    (ask(context="a man"), "context", "dict"),
    (ask(stream=1), "stream", "boolean"),
    (ask(temprature=1), "temprature", "not permitted"),
    (ask(**{"x" * 10_000: 1}), "x" * 100, "not permitted"),
    (ask(upload="u_1"), "images", "exclude"),
    (ask(images=[{"url": "https://example.org/x.png"}]), "images.0.url", "no address is fetched"),
    (ask(images=[{"url": "data:application/gzip;base64,aGVsbG8="}]), "images.0.url", "convert it, or choose another file"),
    (ask(images=[{"url": png()}] * 65), "images.64.url", "64"),
    (ask(images=[png()]), "images.0", "dict"),
    (ask(images=[], study={"files": []}), "study.files", "at least 1"),
    (ask(images=[], study={"files": [{"name": "x", "data": "!!"}]}), "study.files.0.data", "base64"),
    (ask(images=[], study={"files": [{"name": "x.png", "data": "aGVsbG8="}]}), None, "not an image"),
    (ask(images=[], study={"files": [{"name": "x.nii", "data": "aGVsbG8="}]}), None, "volume"),
    (ask(images=[], study=PICTURE, study_settings={"window": "bright"}), "study_settings", "bright"),
    (ask(study_settings={"slices": 0}), "study_settings.slices", "1"),
    (ask(study_settings={"slice_numbers": [0, 1]}), "study_settings.slice_numbers.0", "1"),
    (ask(study_settings={"slice_numbers": [1], "indices": [0]}), "study_settings.indices", "exclude"),
    (ask(study_settings={"window": 5}), "study_settings.window", "string"),
    (ask(study_settings={"depth": 5}), "study_settings.depth", "not permitted"),
]


@pytest.mark.parametrize(("body", "param", "said"), REFUSED)
def test_what_is_refused(live: LiveServer, body: dict[str, Any], param: str | None, said: str) -> None:
    reply = live.http.post("/v1/answer", json=body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert said in error["message"]
    assert "Miller" not in error["message"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(live: LiveServer, value: str) -> None:
    body = json.dumps(ask(threshold=0.5)).replace("0.5", value)
    reply = live.http.post("/v1/answer", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400


# The images of looks.


@pytest.mark.parametrize(("colour", "is_grey"), [((90, 90, 90), True), ((200, 90, 60), False)])
def test_a_swapped_image_is_of_another_kind(colour: tuple[int, int, int], is_grey: bool) -> None:
    (swapped,) = alter([read_data_url(png((50, 40), colour), "x")], Look.SWAPPED)
    picture = swapped.load()
    assert picture.size == (50, 40)
    red, _, blue = ImageStat.Stat(picture).mean
    assert (red > 1.2 * blue) == is_grey


def test_images_of_a_clip_stay_a_clip(tmp_path: Path) -> None:
    frames = tuple(_two_tones((20 + number, 200)) for number in range(4))
    (blank,), (swapped,), (mirrored,) = (alter([Clip(sources=frames)], look) for look in Look)
    assert [count_frames(image.load()) for image in (blank, swapped, mirrored)] == [4, 4, 4]
    assert {image.load().size for image in (blank, swapped, mirrored)} == {(8, 24)}
    pixels = mirrored.load()
    assert [(pixels.getpixel((0, 6 * number))[0], pixels.getpixel((7, 6 * number))[0]) for number in range(4)] == [
        (200, 20 + number) for number in range(4)
    ]


def _two_tones(tones: tuple[int, int]) -> ImageBytes:
    picture = Image.new("RGB", (8, 6), (tones[0],) * 3)
    picture.paste((tones[1],) * 3, (4, 0, 8, 6))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return ImageBytes.of(stream.getvalue())


# The log.


@pytest.mark.parametrize("is_streamed", [False, True])
def test_answers_are_stored_only_where_it_is_asked(tmp_path: Path, is_streamed: bool) -> None:
    folder = tmp_path / "log"
    with serve(ScriptedGenerator(script), settings=ServerSettings(log_dir=folder)) as live:
        path = folder / "answers.jsonl"
        live.http.post("/v1/answer", json=ask(look=["blank"], stream=is_streamed))
        with path.open("ab") as file:
            file.write(b'{"time": "cut o')  # by a process that was killed
    with serve(ScriptedGenerator(script), settings=ServerSettings(log_dir=folder)) as live:
        body = {"model": "scripted", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": png()}}]}]}
        body["messages"][0]["content"].append({"type": "text", "text": "Which?"})
        live.http.post("/v1/chat/completions", json={**body, "stream": is_streamed})
    first, torn, second = path.read_text().splitlines()
    answered, chat = json.loads(first), json.loads(second)
    assert torn == '{"time": "cut o'
    assert (answered["route"], answered["answer"], answered["look"][0]["answer"]) == ("/v1/answer", "B", "A")
    assert chat["messages"] == [{"role": "user", "content": "<image>Which?"}]
    assert chat["images"] == answered["image_hashes"] == [read_data_url(png(), "x").uri]
    assert path.stat().st_mode & 0o777 == 0o600
    assert "base64" not in first + second


def test_nothing_is_stored_by_default(live: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer(live, ask())
    assert list(tmp_path.iterdir()) == []


def test_what_a_picture_hides_is_told(live: LiveServer, tmp_path: Path) -> None:
    """A volume whose values all become one tone, and a file of which a prompt shows the first page only."""
    spike = values().astype("float32")
    spike[0, 0, 0] = 1e9
    save_nifti(tmp_path / "v.nii.gz", spike)
    body = ask(images=[], study={"files": [{"name": "v.nii.gz", "data": encode(tmp_path / "v.nii.gz")}]})
    assert answer(live, body)["notes"] == ["99.2 % of its values are shown as one tone, though they differ: give a window"]
    assert answer(live, {**body, "study_settings": {"window": "0..100"}})["notes"] == []
    pages = [Image.new("L", (40, 30), tone) for tone in (0, 90)]
    pages[0].save(tmp_path / "p.tif", save_all=True, append_images=pages[1:])
    url = f"data:image/tiff;base64,{encode(tmp_path / 'p.tif')}"
    two = answer(live, ask(images=[{"url": png()}, {"url": url}]))
    assert two["notes"] == ["images.1 with several pages or frames: only the first is shown"]
