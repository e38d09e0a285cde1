"""The OpenAPI schema against the server: requests that fit it and requests that do not give replies as it declares, and never a 5xx."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from live_server import LiveServer, serve
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from osler.serving.scripted import ScriptedGenerator

pytestmark = pytest.mark.integration

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ROUTES = [
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/v1/about"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/answer"),
    ("POST", "/v1/uploads"),
    ("POST", "/v1/uploads/example"),
    ("GET", "/v1/uploads/{upload_id}"),
    ("DELETE", "/v1/uploads/{upload_id}"),
    ("GET", "/v1/uploads/{upload_id}/{index}"),
    ("GET", "/v1/uploads/{upload_id}/{index}/slices/{number}.png"),
    ("GET", "/v1/uploads/{upload_id}/{index}/shown"),
    ("GET", "/v1/uploads/{upload_id}/{index}/shown/{number}.png"),
]


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with serve(ScriptedGenerator("<think>x</think><answer>A</answer>")) as server:
        yield server


@pytest.fixture(scope="module")
def schema(live: LiveServer) -> Any:
    return schemathesis.openapi.from_url(live.url + "/openapi.json")


def test_all_routes_are_tried(schema: Any) -> None:
    declared = {(method.upper(), path) for path, methods in schema.raw_schema["paths"].items() for method in methods}
    assert declared == set(ROUTES)


NOTHING_WRONG = {"/health", "/metrics", "/v1/about", "/v1/models", "/v1/models/{model}"}
"""Routes for which every request fits the schema."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [(*route, mode) for route in ROUTES for mode in GenerationMode if mode is GenerationMode.POSITIVE or route[1] not in NOTHING_WRONG],
)
def test_replies_are_as_declared(schema: Any, live: LiveServer, method: str, path: str, mode: GenerationMode) -> None:
    operation = schema[path][method]
    upload = live.http.post("/v1/uploads/example").json()["upload"]

    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "scripted"  # any other model is not found
        if method == "GET" and "upload_id" in path and case.path_parameters:
            case.path_parameters["upload_id"] = upload
        case.call_and_validate(checks=CHECKS)

    check()
