"""The page in a browser: upload of each kind, ask, stream, look again, bad files, a busy server, a server that goes and comes back."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from live_server import free_port
from page_browser import (
    as_file,
    assert_the_model_saw_the_strip,
    browsing,
    fill_closed,
    find_missing,
    opened,
    pixels_of,
    script,
    scripted,
    send,
    serving,
    wait_for_answer,
    wait_for_strip,
    wait_until,
)
from small_uploads import dicom, jpeg, nifti, png, radiograph, series, transparent

from osler.serving.generation import GenerationRequest, QueueFull
from osler.serving.scripted import ScriptedGenerator
from osler.serving.settings import ServerSettings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytestmark = [pytest.mark.integration, pytest.mark.skipif(find_missing() is not None, reason=str(find_missing()))]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with browsing() as made:
        yield made


@pytest.fixture(scope="module")
def generator() -> ScriptedGenerator:
    return scripted()


@pytest.fixture(scope="module")
def url(generator: ScriptedGenerator) -> Iterator[str]:
    with serving(generator, free_port()) as address:
        yield address


def ask(page: "Page", question: str = "Which finding?", options: tuple[str, ...] = ("one", "two", "three")) -> None:
    page.fill("#question", question)
    while page.locator("#options li").count() > len(options):
        page.click("#options li:last-child button")
    while page.locator("#options li").count() < len(options):
        page.click("#add-option")
    for place, option in enumerate(options):
        page.fill(f"#options li:nth-child({place + 1}) input", option)
    page.click("#ask-button")
    wait_for_answer(page)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """The files of a folder, which is chosen as a whole."""
    for name, content in files.items():
        (folder / "chosen" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "chosen" / name).write_bytes(content)
    return folder / "chosen" / next(iter(files)).partition("/")[0]


def test_one_press_shows_the_whole_thing(browser: "Browser", url: str, generator: ScriptedGenerator) -> None:
    """The first visit: a drawn example, its question, the answer, and whether the model looked."""
    with opened(browser, url) as page:
        assert page.input_value("#question")
        assert page.locator("#disclaimer").is_visible()
        page.click("#ask-button")
        wait_for_answer(page)
        assert_the_model_saw_the_strip(page, generator.requests[-1])
        assert page.inner_text("#verdict .said") == "C\nlower left"
        assert page.inner_text("#reasoning") == "A ring with a dark centre. It lies in the lower half."
        assert [share.strip() for share in page.locator(".bar-share").all_inner_texts()] == ["10 %", "10 %", "70 %", "10 %"]
        assert "the right answer is C (lower left), as answered" in page.inner_text("#verdict")
        page.click("#look-button")
        page.wait_for_selector("#look-summary:not(:empty)")
        assert page.locator(".change").all_inner_texts() == ["other answer", "same answer", "other answer"]
        assert "only in part" in page.inner_text("#look-summary")
        for image, request in zip(("blank", "swapped", "mirrored"), generator.requests[-3:], strict=True):
            page.wait_for_selector(f"[data-image={image}] canvas:not([width='1'])")
            shown = pixels_of(page.locator(f"[data-image={image}] canvas"))
            assert any((shown == other.images[0].load()).all() for other in generator.requests[-3:]), request


KINDS: list[tuple[str, Callable[[Path], dict[str, bytes]], dict[str, Any]]] = [
    ("png", lambda _: {"a.png": transparent()}, {"name": "a.png", "pictures": 1, "marks": "", "windows": 0}),
    ("jpeg", lambda _: {"a.jpg": jpeg()}, {"name": "a.jpg", "pictures": 1, "marks": "", "windows": 0}),
    ("dicom", lambda path: {"a.dcm": dicom(path)}, {"name": "a.dcm", "pictures": 1, "marks": "", "windows": 10}),
    ("radiograph", lambda path: {"a.dcm": radiograph(path)}, {"name": "a.dcm", "pictures": 1, "marks": "RLHF", "windows": 2}),
    ("nifti", lambda path: {"v.nii.gz": nifti(path)}, {"name": "v.nii.gz", "pictures": 4, "marks": "RLAP", "windows": 10}),
    ("series", series, {"name": "ct", "pictures": 4, "marks": "RLAP", "windows": 10}),
    ("pictures", lambda _: {"a.png": png(), "b.png": png(tone=9)}, {"name": "a.png", "pictures": 2, "marks": "", "windows": 0}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "make", "expected"), KINDS, ids=[kind for kind, _, _ in KINDS])
def test_every_kind_is_shown_and_asked_about(
    browser: "Browser", url: str, generator: ScriptedGenerator, tmp_path: Path, kind: str, make: Any, expected: dict[str, Any]
) -> None:
    with opened(browser, url, example=False) as page:
        files = make(tmp_path)
        if kind == "series":
            send(page, write(tmp_path, files), folder=True)
        else:
            send(page, [as_file(name, content) for name, content in files.items()])
        wait_for_strip(page, expected["pictures"])
        assert page.inner_text("#image-name") == expected["name"]
        assert "".join(page.inner_text(f"#mark-{side}") for side in ("left", "right", "top", "bottom")) == expected["marks"]
        assert page.locator("#window option").count() == expected["windows"]
        assert pixels_of(page.locator("#canvas")).any()
        ask(page)
        assert_the_model_saw_the_strip(page, generator.requests[-1])


def test_slices_window_and_plane_are_those_that_the_model_sees(
    browser: "Browser", url: str, generator: ScriptedGenerator, tmp_path: Path
) -> None:
    """Without a mouse, once the folder is chosen."""
    with opened(browser, url, example=False) as page:
        send(page, write(tmp_path, series(tmp_path, WindowCenter="40", WindowWidth="400")), folder=True)
        wait_for_strip(page, 4)
        page.focus("#stage")
        page.keyboard.press("End")
        assert page.inner_text("#corner").split() == ["4", "/", "4", "3.0", "mm"]
        page.keyboard.press("m")
        wait_for_strip(page, 3)
        assert page.input_value("#choice") == "hand"
        page.keyboard.press("]")
        assert page.input_value("#window") == "auto"
        page.keyboard.press("[")
        for key in ("Shift+ArrowRight", "Shift+ArrowUp", "+", "Control+ArrowLeft", "ArrowUp"):
            page.keyboard.press(key)
        page.wait_for_selector("#window option:checked:has-text('/')", state="attached")
        assert float(page.get_attribute("#stage", "data-zoom") or 0) == 1.25
        page.wait_for_selector("#canvas[aria-label*='slice 3 of 4']", state="attached")
        page.fill("#question", "Which?")
        page.fill("#options input >> nth=0", "left")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#ask-error:has-text('One option is no choice')")
        page.fill("#options input >> nth=1", "right")
        page.keyboard.press("Control+Enter")
        wait_for_answer(page)
        request = generator.requests[-1]
        assert_the_model_saw_the_strip(page, request)
        assert page.input_value("#window") in request.images[0].uri
        page.select_option("#plane", "coronal")
        wait_for_strip(page, 5)
        assert page.inner_text("#mark-top") == "H"
        page.click("#ask-button")
        page.wait_for_selector("#history-list li:nth-child(2)")
        assert_the_model_saw_the_strip(page, generator.requests[-1])


@pytest.mark.slow
def test_no_letter_stands_beside_a_picture_of_another_plane(browser: "Browser", url: str, tmp_path: Path) -> None:
    with opened(browser, url, example=False) as page:
        send(page, [as_file("v.nii.gz", nifti(tmp_path))])
        wait_for_strip(page, 4)
        assert page.inner_text("#mark-top") == "A"
        waiting: list[Route] = []
        is_held = True
        page.route("**/slices/*plane=coronal*", lambda route: waiting.append(route) if is_held else route.continue_())
        page.select_option("#plane", "coronal")
        page.wait_for_selector("#stage.is-loading")
        assert [page.inner_text(f"#mark-{side}") for side in ("left", "right", "top", "bottom")] == [""] * 4
        assert not pixels_of(page.locator("#canvas")).any()
        is_held = False
        for route in waiting:
            route.continue_()
        page.wait_for_selector("#mark-top:has-text('H')")
        assert pixels_of(page.locator("#canvas")).any()


@pytest.mark.slow
def test_another_upload_begins_with_its_own_window(browser: "Browser", url: str, tmp_path: Path) -> None:
    with opened(browser, url, example=False) as page:
        for _ in range(2):
            send(page, [as_file("v.nii.gz", nifti(tmp_path))])
            page.wait_for_selector("#window option[value=file]:checked", state="attached")
            page.select_option("#window", "lung")


@pytest.mark.slow
def test_dragging_and_the_wheel_move_the_picture(browser: "Browser", url: str, tmp_path: Path) -> None:
    with opened(browser, url, example=False) as page:
        send(page, [as_file("v.nii.gz", nifti(tmp_path))])
        wait_for_strip(page, 4)
        box = page.locator("#stage").bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        before = page.inner_text("#corner-level")
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 60, y + 20, steps=4)
        page.mouse.up()
        wait_until(page, lambda: page.inner_text("#corner-level") != before)
        page.mouse.wheel(0, 80)
        page.wait_for_selector("#corner:has-text('4 / 4')")
        page.keyboard.down("Control")
        page.mouse.wheel(0, -200)
        page.keyboard.up("Control")
        assert float(page.get_attribute("#stage", "data-zoom") or 0) > 1.5
        page.click("#zoom-fit")
        assert page.get_attribute("#stage", "data-zoom") == "1.00"


@pytest.mark.slow
def test_files_are_dropped(browser: "Browser", url: str) -> None:
    with opened(browser, url, example=False) as page:
        transfer = page.evaluate_handle(
            "content => { const all = new DataTransfer(); all.items.add(new File([new Uint8Array(content)], 'dropped.png')); return all; }",
            list(png()),
        )
        for event in ("dragenter", "dragover", "drop"):
            page.dispatch_event("#drop", event, {"dataTransfer": transfer})
        wait_for_strip(page, 1)
        assert page.inner_text("#image-name") == "dropped.png"


@pytest.mark.slow
def test_the_reasoning_streams_and_can_be_stopped(browser: "Browser") -> None:
    with serving(scripted(delay=0.1), free_port()) as url, opened(browser, url) as page:
        page.click("#ask-button")
        page.wait_for_selector("#reasoning:has-text('A ring with')")
        assert page.locator("#take").is_hidden()
        assert "<" not in page.inner_text("#reasoning")
        page.keyboard.press("Escape")
        page.wait_for_selector("#answer-status:has-text('Stopped')")
        assert page.locator("#history").is_hidden()
        page.click("#ask-button")
        wait_for_answer(page)


BAD = [
    ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "is not an image that Osler reads"),
    ("cut.png", png()[:40], "has a damaged header"),
    ("<img src=x onerror=alert(1)>.png", b"text", "is not an image"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_a_bad_file_is_one_line_and_the_question_stays(browser: "Browser", url: str, name: str, content: bytes, message: str) -> None:
    with opened(browser, url) as page:
        question = page.input_value("#question")
        send(page, [as_file(name, content)])
        page.wait_for_selector("#upload-error:not([hidden])")
        assert message in page.inner_text("#upload-error")
        assert page.input_value("#question") == question
        assert page.locator("#strip canvas").count() == 1  # the image before is still there


def test_a_busy_server_is_waited_for(browser: "Browser") -> None:
    refusals = iter([True, False])

    def busy(request: GenerationRequest) -> str:
        if next(refusals, False):
            raise QueueFull(retry_after=2)
        return script(request)

    with serving(ScriptedGenerator(busy), free_port()) as url, opened(browser, url) as page:
        page.click("#ask-button")
        page.wait_for_selector("#answer-status:has-text('The server is busy: asks again in 2 s')")
        wait_for_answer(page)


def test_a_server_that_goes_and_comes_back_answers_the_kept_question(browser: "Browser") -> None:
    port = free_port()
    with ExitStack() as stack:
        first = ExitStack()
        page = stack.enter_context(opened(browser, first.enter_context(serving(scripted(), port))))
        first.close()
        page.fill("#question", "A question of mine?")
        page.click("#ask-button")
        page.wait_for_selector("#banner[data-kind=gone]")
        assert "does not answer" in page.inner_text("#banner-text")
        assert page.input_value("#question") == "A question of mine?"
        generator = scripted()
        stack.enter_context(serving(generator, port))
        page.click("#banner-action")
        wait_for_answer(page)  # the image is sent again, because the new server does not have it
        assert page.inner_text("#asked") == "A question of mine?"
        assert len(generator.requests[-1].images) == 1


@pytest.mark.slow
def test_a_key_is_asked_for_and_kept_in_the_tab(browser: "Browser") -> None:
    with serving(scripted(), free_port(), ServerSettings(api_key="a-key-of-the-test")) as url:
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        page.fill("#key", "wrong-key")
        page.click("#key-form button")
        page.wait_for_selector("#key:focus")
        page.fill("#key", "a-key-of-the-test")
        page.click("#key-form button")
        wait_for_strip(page)
        page.click("#ask-button")
        wait_for_answer(page)
        assert "a-key" not in json.dumps(context.storage_state())
        context.close()


HOSTILE = "<img src=x onerror=\"document.title='taken'\"></script><b>?"


@pytest.mark.slow
def test_an_answer_can_be_taken_away(browser: "Browser", url: str, tmp_path: Path) -> None:
    with opened(browser, url, permissions=["clipboard-read", "clipboard-write"], accept_downloads=True) as page:
        ask(page, HOSTILE, (HOSTILE, "two & <i>", "three"))
        assert page.title() == "Osler"
        page.click("#look-button")
        page.wait_for_selector("#look-summary:not(:empty)")
        page.click("#copy")
        page.wait_for_selector("#taken:has-text('Copied')")
        copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
        assert copied["asked"]["question"] == HOSTILE
        assert [look["image"] for look in copied["answer"]["look"]] == ["blank", "swapped", "mirrored"]
        assert len(copied["pictures"][0]["digest"]) == 64
        with page.expect_download() as download:
            page.click("#download")
        download.value.save_as(tmp_path / "answer.html")
        text = (tmp_path / "answer.html").read_text(encoding="utf-8")
        assert "phantom MRI" not in text  # names of files are left out
        assert not re.search(r"<script|\son\w+=(?!\")|<b>|<i>", text)
        assert not re.search(r"(?:src|href)=\"(?!data:)", text)
        taken = page.context.new_page()
        taken.goto(f"file://{tmp_path / 'answer.html'}")
        body = taken.inner_text("body")
        for part in (HOSTILE, "two & <i>", "not for clinical use", "f" * 64, copied["answer"]["prompt_hash"], "only in part", "Reasoning"):
            assert part in body
        assert taken.title() == f"Osler: {HOSTILE}"
        assert taken.locator("img").evaluate_all("all => all.map(one => one.naturalWidth)") == [336]


@pytest.mark.slow
def test_the_history_shows_earlier_answers(browser: "Browser", url: str) -> None:
    with opened(browser, url) as page:
        ask(page, "First?")
        ask(page, "Second?", ())
        assert page.locator(".past-question").all_inner_texts() == ["Second?", "First?"]
        page.click("#history-list li:nth-child(2) button")
        assert (page.inner_text("#asked"), page.input_value("#question")) == ("First?", "First?")
        assert page.locator("#options li").count() == 3
        page.click("#remove")
        page.click("#history-list li:nth-child(1) button")
        assert "no longer open" in page.inner_text("#look-hint")
        assert page.locator("#look-button").is_hidden()
        page.click("#history-clear")
        assert page.locator("#history").is_hidden()


FAULTS: list[tuple[Callable[["Page"], object], str]] = [
    (lambda page: page.fill("#question", ""), "Write a question first"),
    (lambda page: page.fill("#options input >> nth=1", "lower right"), "Two options are the same"),
    (lambda page: page.click("#remove"), "Choose an image first"),
    (lambda page: ask_openly(page), "needs options"),
    (lambda page: fill_closed(page, "#votes", "99"), "Votes must be a whole number from 1 to 16."),
    (lambda page: fill_closed(page, "#votes", "2.5"), "Votes must be a whole number from 1 to 16."),
    (lambda page: fill_closed(page, "#threshold", "1.5"), "Abstain below must be a number from 0 to 1."),
    (lambda page: fill_closed(page, "#max-tokens", "0"), "Longest answer must be a whole number from 1 to"),
    (lambda page: fill_closed(page, "#seed", "-1"), "Seed must be a whole number from 0 to"),
]


def ask_openly(page: "Page") -> None:
    """With a strategy that has no wording for it."""
    page.click("#settings summary")
    page.select_option("#strategy", "med_r1_think")
    while page.locator("#options li").count():
        page.click("#options li:last-child button")


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "message"), FAULTS)
def test_what_is_missing_is_said_before_it_is_sent(browser: "Browser", url: str, spoil: Callable[["Page"], object], message: str) -> None:
    with opened(browser, url) as page:
        spoil(page)
        page.click("#ask-button")
        page.wait_for_selector("#ask-error:not([hidden])")
        assert message in page.inner_text("#ask-error")


@pytest.mark.slow
def test_how_to_ask_and_the_context_reach_the_server(browser: "Browser", url: str, generator: ScriptedGenerator) -> None:
    with opened(browser, url) as page:
        page.click("#context summary")
        page.fill("#context-age", "63")
        page.select_option("#context-sex", "female")
        page.fill("#context-indication", "headache")
        page.click("#settings summary")
        page.select_option("#strategy", "think_after")
        page.fill("#votes", "3")
        page.fill("#threshold", "1")
        page.fill("#max-tokens", "40")
        ask(page)
        request = generator.requests[-1]
        assert (request.num_generations, request.max_tokens) == (3, 40)
        text = str(request.messages)
        assert "63-year-old woman" in text
        assert "headache" in text
        assert "then explain" in text
        assert "votes" in page.inner_text("#verdict")


@pytest.mark.slow
def test_dark_and_light_are_switched_and_remembered(browser: "Browser", url: str) -> None:
    with opened(browser, url, example=False, scheme="dark") as page:
        paper = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(paper)
        page.click("#theme")
        assert page.evaluate(paper) != dark
        page.reload()
        page.wait_for_selector("html[data-ready]")
        assert page.evaluate(paper) != dark


def to_state(page: "Page", state: str) -> None:
    """Bring the page to one of its states."""
    if state == "answered":
        page.click("#ask-button")
        wait_for_answer(page)
        page.click("#look-button")
        page.wait_for_selector("#look-summary:not(:empty)")
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    elif state == "error":
        send(page, [as_file("a.svg", b"<svg/>")])
        page.wait_for_selector("#upload-error:not([hidden])")
        page.fill("#question", "")
        page.click("#ask-button")
    elif state == "series":
        page.click("#remove")
        page.click("[data-example=series]")
        wait_for_strip(page, 8)
    elif state == "gone":
        page.context.set_offline(True)
        page.click("#ask-button")
        page.wait_for_selector("#banner[data-kind=gone]")
    elif state == "help":
        page.evaluate("document.querySelector('#help').showModal()")


@pytest.mark.slow
@pytest.mark.parametrize("state", ["empty", "loaded", "series", "answered", "error", "gone", "help"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: "Browser", url: str, state: str, width: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with opened(browser, url, example=state != "empty", width=width, scheme=scheme) as page:
        to_state(page, state)
        result = Axe().run(page)
        assert not result.violations_count, result.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the window"
