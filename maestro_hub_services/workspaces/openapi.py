"""The OpenAPI 3.1 document, made from the routes and their pydantic models."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from apispec import APISpec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from tornado.web import RequestHandler

from maestro_core import __version__
from maestro_core.errors import ERRORS

if TYPE_CHECKING:
    from .http import Route

_REF = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "details"],
            "properties": {
                "code": {"type": "string", "enum": list(ERRORS)},
                "message": {"type": "string", "description": "one sentence for a person"},
                "details": {"type": "object"},
            },
        }
    },
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The document of these routes; paths are below ``servers``."""
    routes = list(routes)
    spec = APISpec(
        title="Maestro",
        version=__version__,
        openapi_version="3.1.0",
        info={"description": "Workspaces, launches and what the other parts of Maestro ask."},
        servers=[{"url": "."}],
    )
    spec.components.security_scheme("token", {"type": "apiKey", "in": "header", "name": "Authorization"})
    for name, schema in _schemas(routes).items():
        spec.components.schema(name, schema)
    spec.components.schema("Error", _ERROR)
    for path in dict.fromkeys(route.path for route in routes):
        operations = {route.method.lower(): _operation(route) for route in routes if route.path == path}
        spec.path(path=path, operations=operations)
    return spec.to_dict()


def _schemas(routes: list[Route]) -> dict[str, Any]:
    asked = {route.request for route in routes if route.request}
    given = {route.response for route in routes if route.response}
    wanted: list[tuple[type[BaseModel], Any]] = [(model, "validation") for model in asked]
    wanted += [(model, "serialization") for model in given]
    wanted.sort(key=lambda pair: (pair[0].__name__, pair[1]))
    _, found = models_json_schema(wanted, ref_template=_REF)
    return dict(found["$defs"])


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.handler.__name__,
        "responses": _responses(route),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    parameters += [
        {"name": query.name, "in": "query", "description": query.description, "schema": {"type": "string"}}
        for query in route.query
    ]
    if parameters:
        operation["parameters"] = parameters
    if route.scope is not None:
        operation["security"] = [{"token": []}]
        operation["description"] = f"Needs the scope `{route.scope}`."
    if route.request is not None:
        operation["requestBody"] = {"required": True, "content": _json(route.request.__name__)}
    return operation


def _responses(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status in route.statuses:
        found[str(status)] = {"description": "Done"}
        if route.response is not None:
            found[str(status)]["content"] = _json(route.response.__name__)
    for status in sorted({kind.status for kind in ERRORS.values()}):
        found[str(status)] = {"description": "Refused, or failed", "content": _json("Error")}
    return found


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(model=name)}}}


class OpenApiHandler(RequestHandler):
    """``openapi.json``: for everyone, it holds no secret."""

    def initialize(self, description: dict[str, Any], base: str) -> None:
        """Called by tornado with the route's arguments."""
        self._description = {**description, "servers": [{"url": base}]}

    def get(self) -> None:
        """The document."""
        self.clear_header("Server")
        self.finish(self._description)
