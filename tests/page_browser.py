"""A browser and a server for tests of the page."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import PIL.Image

from osler.serving.app import create_app
from osler.serving.generation import GenerationRequest, Generator
from osler.serving.scripted import ScriptedGenerator
from osler.serving.server import Server
from osler.serving.settings import ServerSettings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

CHROMIUM: Final = Path("/usr/bin/chromium")
ARGUMENTS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
ANSWER: Final = "<think>A ring with a dark centre. It lies in the lower half.</think><answer>C</answer>"
LOOKS: Final = {
    "blank": "<think>There is nothing to see.</think><answer>B</answer>",
    "swapped": "<think>A round bright disc.</think><answer>C</answer>",
    "mirrored": "<think>It lies on the other side.</think><answer>A</answer>",
}


def find_missing() -> str | None:
    """Why the page cannot be tested here; None where it can."""
    for name in ("playwright", "axe_playwright_python"):
        if find_spec(name) is None:
            return f"{name} is not installed"
    return None if CHROMIUM.exists() else f"{CHROMIUM} is not there"


def script(request: GenerationRequest) -> str:
    """An answer that depends on the image."""
    name = request.images[0].uri.partition(":")[0] if request.images else ""
    return LOOKS.get(name, ANSWER)


def scripted(delay: float = 0.0) -> ScriptedGenerator:
    return ScriptedGenerator(script, delay=delay, policy_name="osler-tiny", policy_fingerprint="f" * 64)


@contextmanager
def serving(generator: Generator, port: int, settings: ServerSettings | None = None) -> Iterator[str]:
    """A server on a port of this machine; the address of its page."""
    server = Server(create_app(replace(settings or ServerSettings(), port=port), generator))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server did not stop"


@contextmanager
def browsing() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, url: str, *, example: bool = True, width: int = 1280, scheme: Any = "light", **options: Any) -> Iterator[Page]:
    """The page in a window of its own. Without `example` it is not the first visit. A fault of a script fails the test."""
    context = browser.new_context(viewport={"width": width, "height": 860}, color_scheme=scheme, reduced_motion="reduce", **options)
    context.set_default_timeout(20_000)
    if not example:
        context.add_init_script("localStorage.setItem('osler-visited', 'yes')")
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None)
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    if example:
        wait_for_strip(page)
    yield page
    context.close()
    assert not faults, faults


def send(page: Page, files: Any, *, folder: bool = False) -> None:
    """Choose files, or a folder."""
    page.set_input_files("#folder" if folder else "#files", files)


def as_file(name: str, content: bytes) -> dict[str, Any]:
    """A file as Playwright sends it."""
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


def wait_until(page: Page, holds: Callable[[], bool]) -> None:
    """Wait until something holds: the policy of the page forbids Playwright's own `wait_for_function`."""
    for _ in range(200):
        if holds():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come to hold within 10 s")


def wait_for_strip(page: Page, number: int | None = None) -> None:
    """Wait until what the model sees is painted."""
    page.wait_for_selector("#strip:not(.is-stale) canvas:not([width='1'])")
    if number is not None:
        page.wait_for_selector(f"#strip li:nth-child({number}):last-child canvas:not([width='1'])")
    page.wait_for_selector("#strip:not(:has(canvas[width='1']))")


def wait_for_answer(page: Page) -> None:
    """Wait until the whole answer is shown."""
    page.wait_for_selector("#take:not([hidden])")


def fill_closed(page: Page, field: str, value: str) -> None:
    """Fill a field of the section "How to ask", and close the section."""
    page.click("#settings summary")
    page.fill(field, value)
    page.click("#settings summary")


def pixels_of(canvas: Locator) -> np.ndarray:
    """The pixels of a canvas, (rows, columns, 3)."""
    url = canvas.evaluate("canvas => canvas.toDataURL('image/png')")
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def assert_the_model_saw_the_strip(page: Page, request: GenerationRequest) -> None:
    """Every picture below "What the model sees" has the pixels that the policy got, in its order."""
    shown = page.locator("#strip canvas").all()
    assert len(shown) == len(request.images)
    for canvas, source in zip(shown, request.images, strict=True):
        np.testing.assert_array_equal(pixels_of(canvas), np.asarray(source.load()))
