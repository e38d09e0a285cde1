"""The form and the words of the page in a browser: what is not accepted, what an example leaves behind, an answer that cannot be read."""

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from live_server import free_port
from page_browser import as_file, browsing, fill_closed, find_missing, opened, scripted, send, serving, wait_for_answer, wait_for_strip
from small_uploads import png

from osler.serving.scripted import ScriptedGenerator

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

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


def seen_as(image: str, answer: str | None, probability: float | None = None, own: float | None = None) -> dict[str, Any]:
    """A look as the server sends it, at the answer A with the probability `own`."""
    gain = None if own is None or probability is None else own - probability
    rest = None if probability is None else 1 - probability
    choices = [{"letter": "A", "probability": probability}, {"letter": "B", "probability": rest}]
    return {"image": image, "answer": answer, "changed": answer != "A", "gain": gain, "choices": choices}


SUMMARIES: list[tuple[str, str | None, list[dict[str, Any]], str]] = [
    ("one look", "A", [seen_as("blank", "B")], ""),
    ("both change", "A", [seen_as("blank", "B"), seen_as("swapped", None)], "The answer changes when the image is taken away"),
    ("blank", "A", [seen_as("blank", "B"), seen_as("swapped", "A")], "with the image blanked, not with it swapped: .* in part"),
    ("swap", "A", [seen_as("blank", "A"), seen_as("swapped", "B")], "with the image swapped, not with it blanked: .* in part"),
    ("neither", "A", [seen_as("blank", "A"), seen_as("swapped", "A")], "may not rest on the image at all"),
    ("a small fall", "A", [seen_as("blank", "A", 0.78, 0.97), seen_as("swapped", "A", 0.97, 0.97)], "may not rest on the image"),
    ("a rise", "A", [seen_as("blank", "A", 0.97, 0.6), seen_as("swapped", "A", 0.9, 0.6)], "may not rest on the image"),
    ("a fall", "A", [seen_as("blank", "A", 0.43, 0.97), seen_as("swapped", "A", 0.9, 0.97)], "less sure .* of A falls from 0.97 to 0.43"),
    ("by 0.2", "A", [seen_as("blank", "A", 0.7, 0.7), seen_as("swapped", "A", 0.5, 0.7)], "less sure .* from 0.70 to 0.50 .* swapped"),
    ("no answer", None, [seen_as("blank", "B"), seen_as("swapped", None)], "got no answer that can be read: there is no answer to compare"),
    ("no option", "D", [seen_as("blank", "A"), seen_as("swapped", "A")], "there is no answer to compare with"),
]


def test_the_looks_are_told_in_a_sentence(browser: "Browser", url: str) -> None:
    with opened(browser, url, example=False) as page:
        for name, answer, looks, expected in SUMMARIES:
            own = next((look["choices"][0]["probability"] + look["gain"] for look in looks if look["gain"] is not None), None)
            reply = {"answer": answer, "choices": [{"letter": letter, "probability": own} for letter in "AB"]}
            call = "async ([looks, reply]) => (await import('/static/look.js')).summarize(looks, reply)"
            told = page.evaluate(call, [looks, reply])
            assert re.search(expected, told) if expected else told == "", (name, told)


@pytest.mark.parametrize(("answer", "text"), [(None, None), ("E", "E")], ids=["null", "a letter of no option"])
def test_an_answer_that_is_no_option_is_no_answer(browser: "Browser", url: str, answer: str | None, text: str | None) -> None:
    """As the server sends it, and in the history and the download too."""

    def spoil(route: "Route") -> None:
        body = route.fetch().text()
        pattern = r'"answer": ?"C", ?"answer_text": ?"lower left", ?"reasoning"'
        spoiled, number = re.subn(pattern, f'"answer":{json.dumps(answer)},"answer_text":{json.dumps(text)},"reasoning"', body)
        assert number
        route.fulfill(body=spoiled, headers={"content-type": "text/event-stream"})

    with opened(browser, url) as page:
        page.route("**/v1/answer", spoil)
        page.click("#ask-button")
        wait_for_answer(page)
        assert page.inner_text("#verdict .said") == "No answer that can be read"
        assert page.locator(".bar.chosen").count() == 0
        assert "No answer that can be read." in page.inner_text("#history-list")
        assert "as answered" not in page.inner_text("#verdict")
        page.click("#look-button")
        page.wait_for_selector("#look-summary:has-text('no answer to compare with')")
        assert page.locator(".change").all_inner_texts() == ["an answer", "no answer", "an answer"]
        assert page.locator(".is-changed").count() == 0
        download = page.evaluate(
            "async () => (await import('/static/export.js')).toPage((await import('/static/history.js')).history.current)"
        )
        for shown in (page.inner_text("#answer"), download):
            assert not re.search(r"\bnull\b|undefined|E: E|E\nE", shown.partition("Details")[0])


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_a_number_out_of_range_is_told_and_never_sent(browser: "Browser", url: str, generator: ScriptedGenerator, width: int) -> None:
    with opened(browser, url, width=width) as page:
        before = len(generator.requests)
        fill_closed(page, "#votes", "99")
        assert page.inner_text("#settings-summary") == "think; not accepted: votes"
        page.focus("#question")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#settings[open] #votes:focus[aria-invalid=true]")
        assert "Votes must" in page.inner_text("#ask-error")
        for shown in ("#votes", "#ask-error"):
            box = page.locator(shown).bounding_box()
            assert box is not None
            assert 0 < box["y"] < 860 - box["height"]
        page.fill("#votes", "3")
        assert page.locator("#ask-error").is_hidden()
        assert page.locator("[aria-invalid]").count() == 0
        assert page.inner_text("#settings-summary") == "think, 3 votes"
        assert len(generator.requests) == before
        page.click("#ask-button")
        wait_for_answer(page)
        assert generator.requests[-1].num_generations == 3


@pytest.mark.slow
def test_an_old_error_goes_when_its_field_changes_and_when_the_next_question_begins(browser: "Browser", url: str) -> None:
    with opened(browser, url) as page:
        page.click("#context summary")
        page.fill("#context-age", "old")
        page.click("#ask-button")
        page.wait_for_selector("#ask-error:has-text('age')")
        fill_closed(page, "#votes", "99")
        assert page.locator("#ask-error").is_hidden()  # a field has changed
        page.click("#ask-button")
        page.wait_for_selector("#ask-error:has-text('Votes must')")
        page.fill("#votes", "1")
        page.click("#ask-button")
        page.wait_for_selector("#ask-error:has-text('age')")
        page.fill("#context-age", "63")
        assert page.locator("#ask-error").is_hidden()
        page.click("#ask-button")
        wait_for_answer(page)


def test_an_example_leaves_the_context_that_was_written(browser: "Browser", url: str) -> None:
    with opened(browser, url) as page:
        page.click("#context summary")
        page.fill("#context-age", "63")
        page.select_option("#context-sex", "female")
        page.fill("#context-indication", "cough")
        page.click("#remove")
        page.click("[data-example=series]")
        page.wait_for_selector("#image-name:has-text('phantom CT')")
        fields = {name: page.input_value(f"#context-{name}") for name in ("age", "sex", "indication", "history")}
        assert fields == {"age": "63", "sex": "female", "indication": "cough", "history": ""}
        assert page.inner_text("#context-count") == "3 given"


@pytest.mark.slow
@pytest.mark.parametrize("edited", ["", "question", "options"])
def test_ones_own_image_does_not_get_the_question_of_an_example(browser: "Browser", url: str, edited: str) -> None:
    with opened(browser, url) as page:
        first = page.input_value("#options input >> nth=0")
        if edited == "question":
            page.fill("#question", "A question of mine?")
        elif edited == "options":
            page.fill("#options input >> nth=1", "an option of mine")
        kept = page.input_value("#question")
        if edited == "question":
            page.click("#remove")
        send(page, [as_file("own.png", png())])
        page.wait_for_selector("#image-name:has-text('own.png')")
        wait_for_strip(page, 1)
        assert page.input_value("#question") == (kept if edited == "question" else "")
        options = [field.input_value() for field in page.locator("#options input").all()]
        assert options[:2] == ([first, "an option of mine"] if edited == "options" else ["", ""])
        page.fill("#question", "Kept?")
        send(page, [as_file("second.png", png(tone=9))])
        page.wait_for_selector("#image-name:has-text('second.png')")
        assert page.input_value("#question") == "Kept?"  # of one's own from then on
