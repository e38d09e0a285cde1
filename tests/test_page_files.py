"""The files of the page: nothing from elsewhere, nothing inline, small modules, strict headers."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import osler.serving
from osler.prompts import STRATEGIES
from osler.serving.app import create_app
from osler.serving.page import list_files
from osler.serving.scripted import ScriptedGenerator
from osler.serving.settings import ServerSettings

STATIC = Path(osler.serving.__file__).parent / "static"
MAX_LINES = 300
KEY = "a-key-of-the-test"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(ServerSettings(api_key=KEY), ScriptedGenerator("<answer>A</answer>")), base_url="http://localhost") as made:
        yield made


@pytest.mark.parametrize("name", sorted(list_files()))
def test_a_file_of_the_page_is_served_as_it_lies(client: TestClient, name: str) -> None:
    reply = client.get("/" if name == "index.html" else f"/static/{name}")
    assert reply.status_code == 200
    assert reply.content == (STATIC / name).read_bytes()
    assert reply.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert reply.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])


@pytest.mark.parametrize("name", sorted(list_files()))
def test_a_file_of_the_page_is_small_and_needs_no_other_host(name: str) -> None:
    text = (STATIC / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) < MAX_LINES
    assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML\s*=|insertAdjacentHTML|document\.write|\beval\(|new Function", text)


def test_the_page_has_nothing_inline_and_names_only_files_that_are_there() -> None:
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\sstyle=|\son[a-z]+=|<style|<script(?![^>]*\ssrc=)", text)
    named = set(re.findall(r"/static/([\w.]+)", text))
    for file in STATIC.glob("*.js"):
        named |= set(re.findall(r"(?:from|import) \"\./([\w.]+)\"", file.read_text(encoding="utf-8")))
    assert named | {"index.html"} == list_files()


def test_every_element_that_the_modules_name_is_on_the_page() -> None:
    ids = re.findall(r'\sid="([\w-]+)"', (STATIC / "index.html").read_text(encoding="utf-8"))
    assert len(ids) == len(set(ids))
    for file in STATIC.glob("*.js"):
        assert set(re.findall(r'byId\("([\w-]+)"\)', file.read_text(encoding="utf-8"))) <= set(ids), file.name


@pytest.mark.parametrize("path", ["/static/main.mjs", "/static/..%2fpage.py", "/static/index.html", "/static/none.js", "/static/"])
def test_no_other_file_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_page_is_open_and_what_it_asks_for_is_not(client: TestClient) -> None:
    assert client.get("/").status_code == 200
    assert client.get("/v1/about").status_code == 401
    about = client.get("/v1/about", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert about["policy"] == "scripted"
    assert [strategy["name"] for strategy in about["strategies"]] == list(STRATEGIES)
    assert "not for clinical use" in about["disclaimer"]
