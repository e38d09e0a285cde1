"""Three scripted readers play a study in a browser, with keys and with clicks; the page is checked for accessibility."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_studies_of_readers import config_of, knows, make_study, write_model, write_rows

from osler.data.select import load_split
from osler.evaluation.readings import Part, read_readings
from osler.evaluation.records import read_records
from osler.serving.app import create_app
from osler.serving.readers.routes import study_part
from osler.serving.readers.session import Sessions
from osler.serving.readers.study import Study
from osler.serving.server import Server
from osler.serving.settings import ServerSettings

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = Path("/usr/bin/chromium")

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason="no browser at /usr/bin/chromium"),
    pytest.mark.slow,  # half a minute
]


@contextmanager
def serving(study: Study, port: int = 0) -> Iterator[str]:
    """The address of a running server of the study, on a free port or the given one."""
    with closing(socket.create_server(("127.0.0.1", port))) as listener:
        settings = ServerSettings(port=listener.getsockname()[1])
        server = Server(create_app(settings, None, [study_part(Sessions(study))]))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield settings.url
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def study(tmp_path: Path) -> Study:
    rows = write_rows(tmp_path, 6)
    path = write_model(tmp_path, load_split(config_of(rows).data, "test"))
    return make_study(tmp_path, rows, with_model=str(path), num_readers=3, repeated=0.2, without_image=0.3)


def read_case(page: Any) -> dict[str, Any]:
    """What the page shows, as the scripted readers know it."""
    letters = page.locator("#options input").evaluate_all("inputs => inputs.map(input => input.value)")
    return {"question": page.locator("#question").inner_text(), "choices": [{"letter": letter} for letter in letters]}


def wait_for_next(page: Any, done: int) -> None:
    page.wait_for_function("done => document.getElementById('count').textContent.startsWith(`${done} of `)", arg=done)
    page.wait_for_function("() => document.getElementById('case').hidden || document.querySelector('#options input:checked') === null")


def answer_all(page: Any, study: Study, reader: int, *, with_keys: bool) -> int:
    """Answer every case; the number of parts that were introduced."""
    choose, num_parts = knows(study, 0.2 * (reader - 1), reader), 0
    for done in range(len(study.plan.steps[reader - 1]) + 1):
        page.wait_for_function("() => ['intro', 'case', 'finished'].some(id => !document.getElementById(id).hidden)")
        if page.locator("#finished").is_visible():
            return num_parts
        if page.locator("#intro").is_visible():
            num_parts += 1
            page.keyboard.press("Tab") if with_keys else None
            page.locator("#begin").press("Enter") if with_keys else page.locator("#begin").click()
            page.wait_for_selector("#case:not([hidden])")
        letter = choose(read_case(page))
        if with_keys:
            page.keyboard.press(letter.lower())
            page.keyboard.press("Enter")
        else:
            page.locator(f".option:has(input[value={letter}])").click()
            page.locator("#confirm").click()
        wait_for_next(page, done + 1)
    raise AssertionError("the study does not end")


def test_three_readers_in_a_browser(browser: Any, study: Study) -> None:
    faults: list[str] = []
    with serving(study) as url:
        for reader, token in enumerate(study.tokens, start=1):
            page = browser.new_page(viewport={"width": 390, "height": 844} if reader == 3 else {"width": 1280, "height": 900})
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
            page.goto(f"{url}/study/{token}")
            assert answer_all(page, study, reader, with_keys=reader != 3) == 3
            page.close()
    assert faults == []
    assert {label: len(read_records(study.run.records / f"{label}.jsonl")) for label in labels()} == labels()
    first = read_records(study.run.records / "reader_1.jsonl")
    assert all(record.outcome == "correct" for record in first)
    for readings in read_readings(study.run.root).values():
        assert all(0 < one.seconds < 30 for one in readings)
        assert [one.part for one in readings if one.is_repeat] == [Part.UNAIDED]


def labels() -> dict[str, int]:
    names = ("reader_1", "reader_2", "reader_3", "readers_majority")
    return {f"{name}{end}": number for name in names for end, number in (("", 6), (".question_only", 2), (".with_model", 6))}


def test_a_reload_a_pause_and_another_tab(browser: Any, tmp_path: Path) -> None:
    """A pause and a hidden page stop the clock, a reload keeps the case and its time; the answer is still there after a lost reply."""
    study = make_study(tmp_path, write_rows(tmp_path, 4), num_readers=1, repeated=0, without_image=0)
    with serving(study) as url:
        page = browser.new_page()
        page.clock.install(time=0)
        page.goto(f"{url}/study/{study.tokens[0]}")
        page.wait_for_selector("#intro:not([hidden])")
        page.clock.pause_at(3600)
        page.locator("#begin").click()
        page.wait_for_selector("#case:not([hidden])")
        question = page.locator("#question").inner_text()
        page.clock.run_for(5000)
        page.locator("#pause").click()
        assert not page.locator("#pictures").is_visible()
        page.clock.run_for(60_000)
        page.reload()
        page.locator("#begin").click()
        page.wait_for_selector("#case:not([hidden])")
        assert page.locator("#question").inner_text() == question
        page.clock.run_for(2000)
        for state, milliseconds in (("hidden", 30_000), ("visible", 1000)):
            page.evaluate("state => Object.defineProperty(document, 'visibilityState', {value: state, configurable: true})", state)
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            page.clock.run_for(milliseconds)
        page.keyboard.press("Enter")  # nothing is chosen
        assert page.locator("#count").inner_text() == "0 of 4 answered"
        page.locator("#more summary").click()
        page.locator("#comment").fill("A bad line")
        page.locator("#comment").press("b")  # letters in a comment choose nothing
        assert page.locator("#options input:checked").count() == 0
        page.locator("#options input[value=C]").check()
        page.route("**/answers", lambda route: route.abort())
        page.locator("#confirm").click()
        page.wait_for_selector("#trouble:not([hidden])")
        assert page.locator("#options input[value=C]").is_checked()
        page.unroute("**/answers")
        page.locator("#again").click()
        wait_for_next(page, 1)
        page.close()
    (reading,) = read_readings(study.run.root)[1]
    assert (reading.answer, reading.comment, reading.views) == ("C", "A bad lineb", 2)
    assert reading.seconds >= 0.6


def test_an_answer_is_saved_once_the_server_is_back(browser: Any, tmp_path: Path) -> None:
    """The page tries again by itself, with the answer as it was confirmed, also where only the reply was lost."""
    study = make_study(tmp_path, write_rows(tmp_path, 4), num_readers=1, repeated=0, without_image=0)
    page = browser.new_page()
    with serving(study) as url:
        page.goto(f"{url}/study/{study.tokens[0]}")
        page.locator("#begin").click()
        page.wait_for_selector("#case:not([hidden])")
        page.keyboard.press("c")
    page.keyboard.press("Enter")
    page.wait_for_selector("#trouble:has-text('This page tries again by itself, next in 1 second.')")
    assert "Your answer is not saved yet" in page.locator("#trouble-text").inner_text()
    page.keyboard.press("a")  # it is confirmed already
    assert page.locator("#options input[value=C]").is_checked()
    assert page.locator("#options input, #comment, #confirm, #pause").evaluate_all("all => all.every(one => one.disabled)")
    page.wait_for_selector("#trouble:has-text('next in 2 seconds.')")  # after the first try
    with serving(study, int(url.rpartition(":")[2])):
        page.wait_for_selector("#count:has-text('1 of 4 answered')")
        page.wait_for_selector("#options:not(:has(input:checked)) input:enabled")
        assert page.locator("#trouble").is_hidden()
        page.route("**/answers", lambda route: (route.fetch(), route.abort()), times=1)
        page.keyboard.press("b")
        page.keyboard.press("Enter")
        page.wait_for_selector("#trouble:has-text('next in 1 second.')")  # counted from the start again
        page.wait_for_selector("#count:has-text('2 of 4 answered')")
        page.wait_for_selector("#trouble", state="hidden")
        page.route("**/answers", lambda route: route.fulfill(status=400, json={"error": {"message": "no"}}), times=1)
        page.locator(".option:has(input[value=A])").click()
        page.keyboard.press("Enter")
        page.wait_for_selector("#trouble:has-text('no')")  # refused for good: it may be changed
        assert "by itself" not in page.locator("#trouble-text").inner_text()
        page.keyboard.press("b")
        page.keyboard.press("Enter")
        page.wait_for_selector("#count:has-text('3 of 4 answered')")
        page.close()
    assert [one.answer for one in read_readings(study.run.root)[1]] == ["C", "B", "B"]


def test_the_next_case_is_opened_once_the_server_is_back(browser: Any, tmp_path: Path) -> None:
    study = make_study(tmp_path, write_rows(tmp_path, 4), num_readers=1, repeated=0, without_image=0)
    with serving(study) as url:
        page = browser.new_page()
        page.goto(f"{url}/study/{study.tokens[0]}")
        page.locator("#begin").click()
        page.wait_for_selector("#case:not([hidden])")
        page.keyboard.press("c")
        page.route("**/case", lambda route: route.abort(), times=2)
        page.keyboard.press("Enter")
        page.wait_for_selector("#trouble:has-text('next in 1 second.')")
        assert "not saved" not in page.locator("#trouble-text").inner_text()
        page.keyboard.press("Enter")  # does not stop the page from trying
        page.wait_for_selector("#trouble:has-text('next in 2 seconds.')")
        page.wait_for_selector("#trouble", state="hidden")
        page.wait_for_selector("#options:not(:has(input:checked)) input:enabled")
        assert page.locator("#count").inner_text() == "1 of 4 answered"
        page.close()
    assert len(read_readings(study.run.root)[1]) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_the_page_is_accessible_and_fits(browser: Any, study: Study, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    choose = knows(study, 0.0, 0)
    with serving(study) as url:
        page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        page.goto(f"{url}/study/{study.tokens[0]}")
        page.wait_for_selector("#intro:not([hidden])")
        check_accessible(axe, page)
        page.locator("#begin").click()
        page.wait_for_selector("#case:not([hidden])")
        check_accessible(axe, page)
        sessions = Sessions(study)  # answers behind the page's back, up to the part with the model
        while sessions.state(study.tokens[0])["part"]["name"] != "with_model":
            case = sessions.open_case(study.tokens[0])
            sessions.answer(study.tokens[0], to_answer(case, choose(case)))
        page.close()
    with serving(study) as url:
        page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        page.goto(f"{url}/study/{study.tokens[0]}")
        page.locator("#begin").click()
        page.wait_for_selector("#model:not([hidden])")
        check_accessible(axe, page)
        page.close()


def to_answer(case: dict[str, Any], letter: str) -> Any:
    from osler.serving.readers.session import Answer

    return Answer(position=case["position"], answer=letter, comment="", seconds=1.0)


def check_accessible(axe: Any, page: Any) -> None:
    found = axe.Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
    assert [violation["id"] for violation in found.response["violations"]] == [], found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
