"""Every address of MLflow's server, and who may call it: the whole table on one page.

A request whose address is not in this table is refused, whatever MLflow would do with it. The table names the routes
of mlflow 3.17.2 exactly; ``tests/unit/test_tracking_routes.py`` compares it with MLflow's own route tables, so that an
upgrade which adds, renames or drops a route fails the test until somebody has decided about it.

An ``/api/`` row stands for its ``/ajax-api/`` twin (MLflow serves both); paths are below the service's prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule

from maestro_core.roles import Role


class Access(Enum):
    """Who may call a route. All but ``PUBLIC`` need a Hub identity; from ``LISTED`` on, a role in a workspace."""

    PUBLIC = "anybody: no data"
    SIGNED_IN = "everybody with an account; the answer holds nothing of a workspace"
    LISTED = "members of the workspace that the path names"
    READ = "viewers and up"
    EDIT = "editors and up"
    OWN = "owners, and editors for a run of their own"
    MANAGE = "owners"
    CLOSED = "nobody"

    @property
    def role(self) -> Role | None:
        """The least role in the request's workspace, or None where no workspace is needed."""
        return _ROLES.get(self)


_ROLES = {
    Access.LISTED: Role.VIEWER,
    Access.READ: Role.VIEWER,
    Access.EDIT: Role.EDITOR,
    Access.OWN: Role.EDITOR,
    Access.MANAGE: Role.OWNER,
}

PUBLIC, SIGNED_IN, LISTED = Access.PUBLIC, Access.SIGNED_IN, Access.LISTED
READ, EDIT, OWN, MANAGE, CLOSED = Access.READ, Access.EDIT, Access.OWN, Access.MANAGE, Access.CLOSED

#: why a closed route is closed: the sentence that a caller gets
REASONS = {
    "accounts": "MLflow keeps no accounts of its own here: people sign in at the Hub, and Maestro's workspaces say who "
    "may do what.",
    "workspaces": "MLflow's workspaces are Maestro's: create, change or archive one on the Hub's workspaces page.",
    "webhooks": "MLflow's webhooks are closed: they would let a member make this server call any address.",
    "gateway": "MLflow's AI gateway is closed: it would keep other services' keys here and spend them for everyone.",
    "jobs": "MLflow's server-side jobs are closed: this server runs nobody's code; run it in a notebook or as a job of "
    "the workspace.",
    "assistant": "MLflow's assistant is closed: it would run commands on this server.",
    "mcp": "MLflow's registry of MCP servers is closed: nothing in Maestro uses it.",
    "demo": "MLflow's demo data is closed: it would be written into everybody's workspace.",
    "absent": "MLflow names this address but does not answer it.",
}


@dataclass(frozen=True)
class Route:
    """One row.

    Attributes:
        method: HTTP method; GET stands for HEAD too.
        path: MLflow's own rule below the prefix, in Flask's notation.
        access: who may call it.
        why: of a closed route, a key of :data:`REASONS`.
        check: what the body is checked for besides, keys of ``rules.CHECKS`` with blanks between.
        confined: whether a viewer's server may call it, for its one experiment (``confine.py``).
        loads: whether a token that loads registered models may call it (``loading.py``).
        streamed: also served by MLflow's streaming router, which lies outside the prefix.
    """

    method: str
    path: str
    access: Access
    why: str = ""
    check: str = ""
    confined: bool = False
    loads: bool = False
    streamed: bool = False


def _under(prefix: str, *routes: Route) -> tuple[Route, ...]:
    """The same rows below a common prefix."""
    return tuple(Route(**{**vars(route), "path": prefix + route.path}) for route in routes)


def _closed(why: str, *rows: str) -> tuple[Route, ...]:
    """Closed rows, written ``"METHOD /path"``."""
    return tuple(Route(method, path, CLOSED, why) for method, _, path in (row.partition(" ") for row in rows))


R = Route

PAGES = (
    R("GET", "/", SIGNED_IN),
    R("GET", "/static-files/<path:path>", PUBLIC),
    R("GET", "/health", PUBLIC),
    R("GET", "/version", SIGNED_IN),
    R("GET", "/api/3.0/mlflow/server-info", SIGNED_IN, confined=True, loads=True),
    R("GET", "/ajax-api/3.0/mlflow/ui-telemetry", SIGNED_IN),
    R("POST", "/ajax-api/3.0/mlflow/ui-telemetry", SIGNED_IN),
    R("GET", "/ajax-api/2.0/mlflow/gateway-proxy", SIGNED_IN),  # asked by each page of runs; answers: no endpoints
    R("GET", "/graphql", READ),
    R("POST", "/graphql", READ),
)

WORKSPACES = (
    R("GET", "/api/3.0/mlflow/workspaces", SIGNED_IN),
    R("GET", "/api/3.0/mlflow/workspaces/<workspace_name>", LISTED),
    *_closed(
        "workspaces",
        "POST /api/3.0/mlflow/workspaces",
        "PATCH /api/3.0/mlflow/workspaces/<workspace_name>",
        "DELETE /api/3.0/mlflow/workspaces/<workspace_name>",
    ),
)

EXPERIMENTS = (
    *_under(
        "/api/2.0/mlflow/experiments",
        R("POST", "/create", EDIT, check="new_experiment", confined=True),
        R("GET", "/get", READ, confined=True),
        R("GET", "/get-by-name", READ, confined=True),
        R("GET", "/search", READ),
        R("POST", "/search", READ),
        R("POST", "/update", EDIT),
        R("POST", "/set-experiment-tag", EDIT),
        R("POST", "/delete-experiment-tag", EDIT),
        R("POST", "/delete", MANAGE),
        R("POST", "/restore", MANAGE),
    ),
    R("POST", "/ajax-api/2.0/mlflow/experiments/search-datasets", READ),
    *_closed("absent", "POST /api/2.0mlflow/experiments/search-datasets"),
)

RUNS = (
    *_under(
        "/api/2.0/mlflow",
        R("POST", "/runs/create", EDIT, check="new_run", confined=True),
        R("GET", "/runs/get", READ, confined=True),
        R("POST", "/runs/search", READ, confined=True),
        R("POST", "/runs/update", EDIT, confined=True),
        R("POST", "/runs/log-metric", EDIT, check="references", confined=True),
        R("POST", "/runs/log-parameter", EDIT, confined=True),
        R("POST", "/runs/log-batch", EDIT, check="run_tags references", confined=True),
        R("POST", "/runs/log-inputs", EDIT, check="references", confined=True),
        R("POST", "/runs/outputs", EDIT, check="references", confined=True),
        R("POST", "/runs/log-model", EDIT, confined=True),
        R("POST", "/runs/set-tag", EDIT, check="run_tag", confined=True),
        R("POST", "/runs/delete-tag", EDIT, check="run_tag", confined=True),
        R("POST", "/runs/delete", OWN, check="own_run"),
        R("POST", "/runs/restore", OWN, check="own_run"),
        R("GET", "/metrics/get-history", READ, confined=True),
        R("GET", "/metrics/get-history-bulk-interval", READ),
        R("GET", "/artifacts/list", READ, confined=True),
        R("POST", "/artifacts/presigned-upload-url", EDIT),
        R("POST", "/artifacts/presigned-download-url", READ),
    ),
    R("GET", "/ajax-api/2.0/mlflow/metrics/get-history-bulk", READ),
    R("POST", "/ajax-api/2.0/mlflow/upload-artifact", EDIT),
    *_closed("gateway", "POST /ajax-api/2.0/mlflow/runs/create-promptlab-run"),
)

ARTIFACTS = (
    R("GET", "/get-artifact", READ),
    R("GET", "/model-versions/get-artifact", READ),
    *_under(
        "/api/2.0/mlflow-artifacts",
        R("GET", "/artifacts", READ, confined=True, loads=True),
        R("GET", "/artifacts/<path:artifact_path>", READ, confined=True, loads=True, streamed=True),
        R("PUT", "/artifacts/<path:artifact_path>", EDIT, confined=True, streamed=True),
        R("DELETE", "/artifacts/<path:artifact_path>", MANAGE),
        R("POST", "/mpu/create/<path:artifact_path>", EDIT),
        R("POST", "/mpu/complete/<path:artifact_path>", EDIT),
        R("POST", "/mpu/abort/<path:artifact_path>", EDIT),
        R("GET", "/presigned/<path:artifact_path>", READ),
    ),
)

LOGGED_MODELS = (
    *_under(
        "/api/2.0/mlflow/logged-models",
        R("POST", "", EDIT, check="author_tag references", confined=True),
        R("POST", "/search", READ),
        R("GET", "/<model_id>", READ, confined=True, loads=True),
        R("PATCH", "/<model_id>", EDIT, confined=True),
        R("DELETE", "/<model_id>", MANAGE),
        R("PATCH", "/<model_id>/tags", EDIT, confined=True),
        R("DELETE", "/<model_id>/tags/<tag_key>", EDIT),
        R("POST", "/<model_id>/params", EDIT, confined=True),
        R("GET", "/<model_id>/artifacts/directories", READ, confined=True, loads=True),
    ),
    R("GET", "/ajax-api/2.0/mlflow/logged-models/<model_id>/artifacts/files", READ),
)

REGISTRY = (
    *_under(
        "/api/2.0/mlflow/registered-models",
        R("POST", "/create", EDIT),
        R("GET", "/get", READ, loads=True),
        R("GET", "/search", READ),
        R("GET", "/get-latest-versions", READ, loads=True),
        R("POST", "/get-latest-versions", READ, loads=True),
        R("POST", "/rename", MANAGE),  # whoever loads it by its name finds it gone
        R("PATCH", "/update", EDIT),
        R("DELETE", "/delete", MANAGE),
        R("POST", "/set-tag", EDIT),
        R("DELETE", "/delete-tag", EDIT),
        R("GET", "/alias", READ, loads=True),
        R("POST", "/alias", EDIT),
        R("DELETE", "/alias", EDIT),
    ),
    *_under(
        "/api/2.0/mlflow/model-versions",
        R("POST", "/create", EDIT, check="model_source"),
        R("GET", "/get", READ, loads=True),
        R("GET", "/search", READ),
        R("GET", "/get-download-uri", READ, loads=True),
        R("PATCH", "/update", EDIT),
        R("POST", "/transition-stage", EDIT),
        R("DELETE", "/delete", MANAGE),
        R("POST", "/set-tag", EDIT),
        R("DELETE", "/delete-tag", EDIT),
    ),
)

TRACES = (
    R("POST", "/v1/traces", EDIT),
    R("GET", "/ajax-api/2.0/mlflow/get-trace-artifact", READ),
    R("GET", "/ajax-api/3.0/mlflow/get-trace-artifact", READ),
    *_under(
        "/api/2.0/mlflow/traces",
        R("POST", "", EDIT, check="trace_body"),
        R("GET", "", READ),
        R("PATCH", "/<request_id>", EDIT, check="trace_body"),
        R("GET", "/<request_id>/info", READ),
        R("PATCH", "/<request_id>/tags", EDIT, check="trace_tag"),
        R("DELETE", "/<request_id>/tags", EDIT, check="trace_tag"),
        R("POST", "/link-to-run", EDIT),
        R("POST", "/link-prompts", EDIT),
        R("POST", "/delete-traces", MANAGE),
    ),
    *_under(
        "/api/3.0/mlflow/traces",
        R("POST", "", EDIT, check="trace_body"),
        R("POST", "/search", READ),
        R("GET", "/get", READ),
        R("GET", "/batchGet", READ),
        R("POST", "/batchGetInfos", READ),
        R("POST", "/metrics", READ),
        R("POST", "/calculate-filter-correlation", READ),
        R("POST", "/delete-traces", MANAGE),
        R("GET", "/<trace_id>", READ),
        R("PATCH", "/<trace_id>/tags", EDIT, check="trace_tag"),
        R("DELETE", "/<trace_id>/tags", EDIT, check="trace_tag"),
        R("POST", "/<trace_id>/assessments", EDIT),
        R("GET", "/<trace_id>/assessments/<assessment_id>", READ),
        R("PATCH", "/<trace_id>/assessments/<assessment_id>", EDIT),
        R("DELETE", "/<trace_id>/assessments/<assessment_id>", MANAGE),
    ),
    *_closed("absent", "GET /api/2.0/mlflow/unified-traces", "GET /api/2.0/mlflow/get-online-trace-details"),
)

EVALUATION = (
    *_under(
        "/api/3.0/mlflow/datasets",
        R("POST", "/create", EDIT),
        R("GET", "/search", READ),
        R("POST", "/search", READ),
        R("GET", "/<dataset_id>", READ),
        R("DELETE", "/<dataset_id>", MANAGE),
        R("PATCH", "/<dataset_id>/tags", EDIT),
        R("DELETE", "/<dataset_id>/tags/<key>", EDIT),
        R("GET", "/<dataset_id>/records", READ),
        R("POST", "/<dataset_id>/records", EDIT),
        R("DELETE", "/<dataset_id>/records", MANAGE),
        R("GET", "/<dataset_id>/experiment-ids", READ),
        R("POST", "/<dataset_id>/add-experiments", EDIT),
        R("POST", "/<dataset_id>/remove-experiments", MANAGE),
    ),
    *_under(
        "/api/3.0/mlflow/issues",
        R("POST", "", EDIT, check="references"),
        R("POST", "/search", READ),
        R("GET", "/<issue_id>", READ),
        R("PATCH", "/<issue_id>", EDIT),
    ),
    *_under(
        "/api/3.0/mlflow/label-schemas",
        R("POST", "/create", EDIT),
        R("GET", "/get", READ),
        R("GET", "/get-by-name", READ),
        R("GET", "/list", READ),
        R("PATCH", "/update", EDIT),
        R("DELETE", "/delete", MANAGE),
    ),
    *_under(
        "/api/3.0/mlflow/review-queues",
        R("POST", "/create", EDIT),
        R("POST", "/get-or-create-user", EDIT),
        R("GET", "/get", READ),
        R("GET", "/get-by-name", READ),
        R("GET", "/list", READ),
        R("POST", "/update", EDIT),
        R("POST", "/delete", MANAGE),
        R("POST", "/items/add", EDIT),
        R("POST", "/items/remove", EDIT),
        R("GET", "/items/list", READ),
        R("POST", "/items/set-status", EDIT),
    ),
    *_under(
        "/api/3.0/mlflow/scorers",
        R("POST", "/register", EDIT),
        R("GET", "/list", READ),
        R("GET", "/versions", READ),
        R("GET", "/get", READ),
        R("DELETE", "/delete", MANAGE),
        R("GET", "/online-configs", READ),
        *_closed("jobs", "PUT /online-config"),
    ),
)

CLOSED_FAMILIES = (
    *_closed(
        "webhooks",
        "POST /api/2.0/mlflow/webhooks",
        "GET /api/2.0/mlflow/webhooks",
        "GET /api/2.0/mlflow/webhooks/<webhook_id>",
        "PATCH /api/2.0/mlflow/webhooks/<webhook_id>",
        "DELETE /api/2.0/mlflow/webhooks/<webhook_id>",
        "POST /api/2.0/mlflow/webhooks/<webhook_id>/test",
    ),
    *_under(
        "/api/3.0/mlflow/gateway",
        *_closed(
            "gateway",
            "POST /secrets/create",
            "GET /secrets/get",
            "POST /secrets/update",
            "DELETE /secrets/delete",
            "GET /secrets/list",
            "POST /endpoints/create",
            "GET /endpoints/get",
            "POST /endpoints/update",
            "DELETE /endpoints/delete",
            "GET /endpoints/list",
            "POST /endpoints/models/attach",
            "POST /endpoints/models/detach",
            "POST /endpoints/bindings/create",
            "DELETE /endpoints/bindings/delete",
            "GET /endpoints/bindings/list",
            "POST /endpoints/set-tag",
            "DELETE /endpoints/delete-tag",
            "POST /model-definitions/create",
            "GET /model-definitions/get",
            "GET /model-definitions/list",
            "POST /model-definitions/update",
            "DELETE /model-definitions/delete",
            "POST /budgets/create",
            "GET /budgets/get",
            "POST /budgets/update",
            "DELETE /budgets/delete",
            "GET /budgets/list",
            "GET /budgets/windows",
            "POST /guardrails/create",
            "GET /guardrails/get",
            "DELETE /guardrails/delete",
            "GET /guardrails/list",
            "POST /guardrails/add-to-endpoint",
            "DELETE /guardrails/remove-from-endpoint",
            "GET /guardrails/list-for-endpoint",
            "PATCH /guardrails/update-config",
        ),
    ),
    *_closed(
        "gateway",
        "POST /ajax-api/2.0/mlflow/gateway-proxy",
        "GET /ajax-api/3.0/mlflow/gateway/provider-config",
        "GET /ajax-api/3.0/mlflow/gateway/secrets/config",
        "GET /ajax-api/3.0/mlflow/gateway/supported-models",
        "GET /ajax-api/3.0/mlflow/gateway/supported-providers",
        "POST /gateway/<endpoint_name>/mlflow/invocations",
        "POST /gateway/mlflow/v1/chat/completions",
        "GET /gateway/mlflow/v1/models",
        "POST /gateway/openai/v1/chat/completions",
        "POST /gateway/openai/v1/embeddings",
        "POST /gateway/openai/v1/responses",
        "POST /gateway/openai/v1/responses/compact",
        "POST /gateway/typesafe/v1/systemone",
        "POST /gateway/anthropic/v1/messages",
        "POST /gateway/gemini/v1beta/models/<endpoint_name>:generateContent",
        "POST /gateway/gemini/v1beta/models/<endpoint_name>:streamGenerateContent",
        "POST /gateway/proxy/<endpoint_name>/<path:path>",
    ),
    *_closed(
        "jobs",
        "POST /api/3.0/mlflow/prompt-optimization/jobs",
        "GET /api/3.0/mlflow/prompt-optimization/jobs/search",
        "POST /api/3.0/mlflow/prompt-optimization/jobs/search",
        "GET /api/3.0/mlflow/prompt-optimization/jobs/<job_id>",
        "DELETE /api/3.0/mlflow/prompt-optimization/jobs/<job_id>",
        "POST /api/3.0/mlflow/prompt-optimization/jobs/<job_id>/cancel",
        "GET /ajax-api/3.0/mlflow/jobs/<job_id>",
        "PATCH /ajax-api/3.0/mlflow/jobs/cancel/<job_id>",
        "POST /ajax-api/3.0/jobs/",
        "POST /ajax-api/3.0/jobs/search",
        "GET /ajax-api/3.0/jobs/<job_id>",
        "PATCH /ajax-api/3.0/jobs/cancel/<job_id>",
        "POST /ajax-api/3.0/mlflow/genai/evaluate/invoke",
        "POST /ajax-api/3.0/mlflow/issues/invoke",
        "POST /ajax-api/3.0/mlflow/scorer/invoke",
    ),
    *_closed("demo", "POST /ajax-api/3.0/mlflow/demo/generate", "POST /ajax-api/3.0/mlflow/demo/delete"),
    *_under(
        "/ajax-api/3.0/mlflow/assistant",
        *_closed(
            "assistant",
            "POST /message",
            "GET /sessions/<session_id>/stream",
            "PATCH /sessions/<session_id>",
            "POST /sessions/<session_id>/permission",
            "POST /sessions/<session_id>/tool-result",
            "GET /providers",
            "GET /providers/<provider>/health",
            "GET /providers/<provider>/models",
            "GET /config",
            "PUT /config",
            "POST /skills/install",
        ),
    ),
    *_under(
        "/api/3.0/mlflow/mcp-servers",
        *_closed(
            "mcp",
            "POST ",
            "GET ",
            "GET /endpoints",
            "GET /<path:name>",
            "PATCH /<path:name>",
            "DELETE /<path:name>",
            "POST /<path:name>/versions",
            "GET /<path:name>/versions",
            "GET /<path:name>/versions/<path:version>",
            "PATCH /<path:name>/versions/<path:version>",
            "DELETE /<path:name>/versions/<path:version>",
            "POST /<path:name>/versions/<path:version>/tags",
            "DELETE /<path:name>/versions/<path:version>/tags/<path:key>",
            "POST /<path:name>/endpoints",
            "GET /<path:name>/endpoints",
            "GET /<path:name>/endpoints/<endpoint_id>",
            "PATCH /<path:name>/endpoints/<endpoint_id>",
            "DELETE /<path:name>/endpoints/<endpoint_id>",
            "POST /<path:name>/tags",
            "DELETE /<path:name>/tags/<path:key>",
            "POST /<path:name>/aliases",
            "GET /<path:name>/aliases/<path:alias>",
            "DELETE /<path:name>/aliases/<path:alias>",
        ),
    ),
)

#: families that MLflow adds with its basic-auth app, which Maestro does not run: named, so that a caller learns why
ACCOUNTS = ("/users/", "/roles/", "/permissions/", "/signup")

ROUTES: tuple[Route, ...] = (
    *PAGES,
    *WORKSPACES,
    *EXPERIMENTS,
    *RUNS,
    *ARTIFACTS,
    *LOGGED_MODELS,
    *REGISTRY,
    *TRACES,
    *EVALUATION,
    *CLOSED_FAMILIES,
)


def addresses(route: Route) -> Iterator[str]:
    """The paths of a row: its own, and for ``/api/`` the ``/ajax-api/`` twin."""
    yield route.path
    if route.path.startswith("/api/"):
        yield "/ajax-api/" + route.path.removeprefix("/api/")


@dataclass(frozen=True)
class Match:
    """A request's row, MLflow's rule that it must match, and the values in its path."""

    route: Route
    rule: str
    values: dict[str, str]


class Table:
    """Finds the row of a request, by the router that MLflow's Flask application uses: the two cannot disagree."""

    def __init__(self, routes: tuple[Route, ...] = ROUTES) -> None:
        rules = [
            Rule(path, methods=[route.method], endpoint=(route, path)) for route in routes for path in addresses(route)
        ]
        self._map = Map(rules, merge_slashes=False)
        self._adapter = self._map.bind("mlflow")

    def find(self, method: str, path: str) -> Match | None:
        """The row for a request, or None.

        Args:
            method: the HTTP method.
            path: decoded path below the prefix, with a leading slash.
        """
        if path.startswith("//"):
            return None  # the router would drop the first slash
        try:
            (route, rule), values = self._adapter.match(path, method=method.upper())
        except HTTPException:
            return None
        return Match(route, rule, dict(values))
