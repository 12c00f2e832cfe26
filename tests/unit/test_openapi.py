"""The OpenAPI document against the running service: schemathesis asks what it allows, and much that it does not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from maestro_hub_services.workspaces.routes import ROUTES, openapi
from tests.workspaces_kit import ACCESS, API, running_world

schema = schemathesis.openapi.from_dict(openapi())
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service in a loop of its own: schemathesis asks from this thread."""
    loop, ready = asyncio.new_event_loop(), Future[str]()
    stop = asyncio.Event()
    state = tmp_path_factory.mktemp("openapi") / "state"

    async def serve() -> None:
        async with running_world(state) as world:
            scopes = [ACCESS, "access:servers!user=ann", *{route.scope for route in ROUTES if route.scope}]
            world.hub.tokens["all"] = {"kind": "user", "name": "ann", "scopes": scopes}
            async with world.client(token="all") as client:
                (await client.post("/workspaces", json={"name": "demo"})).raise_for_status()
            ready.set_result(world.address + API)
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ready.result(timeout=60)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=30)
        loop.close()


@schema.parametrize()
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_the_document_says(case: schemathesis.Case, address: str) -> None:
    answer = case.call(base_url=address, headers={"Authorization": "token all"})
    case.validate_response(answer, checks=CHECKS)


def test_the_document_names_every_route_with_its_scope_and_models() -> None:
    document = openapi()
    for route in ROUTES:
        operation = document["paths"][route.path][route.method.lower()]
        assert operation["summary"] == route.summary
        assert (route.scope or "") in operation.get("description", "")
        assert ("security" in operation) == (route.scope is not None)
        assert ("requestBody" in operation) == (route.request is not None)
    assert len({route.handler for route in ROUTES}) == len(ROUTES)
