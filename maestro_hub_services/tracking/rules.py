"""What is checked in a request besides its address: run inside MLflow's Flask application, before its view.

Bodies are read with MLflow's own parser, so that a second spelling of a field cannot pass here and count there. Which
route gets which check stands in the table (``routes.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from flask import Response, g, request
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes
from mlflow.protos.model_registry_pb2 import CreateModelVersion
from mlflow.protos.service_pb2 import CreateExperiment, DeleteRun, DeleteTag, RestoreRun, SetTag
from mlflow.server import handlers

from maestro_core.experiments import (
    TAG_DIRTY,
    TAG_MLFLOW_USER,
    TAG_NOTE,
    TAG_NOTEBOOK,
    TAG_SNAPSHOT,
    TAG_USER,
    version_note,
)
from maestro_core.roles import Role

from .caller import CALLER, Caller
from .confine import check_confined
from .given_ids import take_id
from .places import PLACE_TAGS

#: tags that say who did it; a client cannot choose them
AUTHOR_TAGS = frozenset({TAG_MLFLOW_USER, TAG_USER})
#: fields, in any spelling that MLflow reads, that name something besides what the request is about
MODEL_FIELDS = frozenset({"modelid", "modelids"})
RUN_FIELDS = frozenset({"sourcerunid"})
#: tags that a model version takes over from its run
VERSION_TAGS = (TAG_NOTEBOOK, TAG_SNAPSHOT, TAG_DIRTY)


@handlers.catch_mlflow_exception
def before_request() -> Response | None:
    """Flask's hook: nothing reaches a view without an admitted caller, and only the view that the table means."""
    caller = CALLER.get()
    if request.url_rule is None:
        return None  # Flask answers 404 by itself
    rule = request.url_rule.rule
    if caller is None:
        if rule in _public_rules():
            return None
        raise refused("Nobody was admitted for this request; open MLflow through the Hub.")
    if rule != _static_prefix() + caller.match.rule:
        raise refused("This address is not what it seems; use MLflow's own client or pages.")
    g.mlflow_authenticated_user = caller.user
    if caller.match.rule.endswith("/mlflow/workspaces"):
        return _own_workspaces(caller)
    if caller.experiment is not None:
        check_confined(caller)
    for check in caller.match.route.check.split():
        if (answer := CHECKS[check](caller)) is not None:
            return answer
    return None


def refused(sentence: str) -> MlflowException:
    """A refusal that MLflow's own clients show as it is (status 403)."""
    return MlflowException(sentence, error_code=codes.PERMISSION_DENIED)


def _static_prefix() -> str:
    prefix: str = handlers._add_static_prefix("")
    return prefix


def _public_rules() -> set[str]:
    return {_static_prefix() + path for path in ("/static-files/<path:path>", "/health")}


def _own_workspaces(caller: Caller) -> Response:
    """MLflow's list of workspaces, as Maestro has it for this caller."""
    from flask import jsonify

    return jsonify(
        workspaces=[
            {"name": name, "description": f"You are {one.role.value} here."}
            for name, one in sorted(caller.memberships.items())
        ]
    )


def json_body() -> dict[str, Any]:
    """The body that MLflow's view will read: the same object, so that what is changed here counts there."""
    body = request.get_json(force=True, silent=True)
    if not isinstance(body, dict):
        raise MlflowException.invalid_parameter_value("The body must be one JSON object; use MLflow's own client.")
    return body


def _message(message: Any) -> Any:
    return handlers._get_request_message(message)


def check_new_experiment(caller: Caller) -> None:
    """Artifacts lie where the workspace keeps them: a place of one's own choice could be another workspace's."""
    if _message(CreateExperiment()).artifact_location:
        raise refused(
            "An experiment's artifacts are kept by its workspace; leave artifact_location out and create it again."
        )


def check_new_run(caller: Caller) -> Response | None:
    """Whatever the client says, a run is its caller's; one that there is already is the answer."""
    body = json_body()
    body.pop("userId", None)
    body["user_id"] = caller.user
    check_author_tag(caller)
    tags = {str(tag.get("key")): str(tag.get("value")) for tag in _tag_list(body)}
    if not tags.get(TAG_NOTE) and (note := _note(tags, caller)):
        body["tags"].append({"key": TAG_NOTE, "value": note})
    return take_id(caller, body)


def check_author_tag(caller: Caller) -> None:
    """The author tags of something new are its caller's."""
    body = json_body()
    tags = [tag for tag in _tag_list(body) if tag.get("key") not in AUTHOR_TAGS]
    body["tags"] = [*tags, *({"key": key, "value": caller.user} for key in sorted(AUTHOR_TAGS))]


def check_run_tags(caller: Caller) -> None:
    """A batch does not change who began a run; the rest of it is logged."""
    body = json_body()
    if "tags" in body:
        body["tags"] = [tag for tag in _tag_list(body) if tag.get("key") not in AUTHOR_TAGS]


def check_run_tag(caller: Caller) -> None:
    """Nor does a single tag."""
    message = _message(SetTag() if caller.match.rule.endswith("/set-tag") else DeleteTag())
    if message.key in AUTHOR_TAGS:
        raise refused(f"The tag {message.key} says who began the run, and stays as it is.")


def check_own_run(caller: Caller) -> None:
    """Editors delete and restore their own runs; owners any."""
    if caller.role is Role.OWNER:
        return
    message = _message(DeleteRun() if caller.match.rule.endswith("/delete") else RestoreRun())
    run = handlers._get_tracking_store().get_run(message.run_id)
    if run.info.user_id != caller.user:
        raise refused(
            f"This run is {run.info.user_id}'s; only they or an owner of {caller.workspace!r} may delete or restore it."
        )


def check_model_source(caller: Caller) -> None:
    """A model version comes from a run, a logged model or a model version of the same workspace.

    MLflow checks that ``mlflow-artifacts:`` lies within the run or model that is named besides; it takes a bucket's
    address from anybody, and does not look whether a ``runs:`` source exists.
    """
    message = _message(CreateModelVersion())
    source = message.source
    if source in handlers._PROMPT_SOURCE_PLACEHOLDERS:
        return
    if urlsplit(source).scheme not in ("runs", "models", "mlflow-artifacts"):
        raise refused(
            "The source of a model version must be a run or a logged model of this workspace "
            "(runs:/<run id>/<path> or models:/<model id>); log the model there first."
        )
    store = handlers._get_tracking_store()  # looks in the request's workspace only
    tags: dict[str, str] = {}
    if message.model_id:
        tags = dict(store.get_logged_model(message.model_id).tags)
    if message.run_id:
        tags = dict(store.get_run(message.run_id).data.tags)
    _same_workspace_path(source, caller)
    _name_version(tags, caller)


def _name_version(tags: dict[str, str], caller: Caller) -> None:
    """A model version names the notebook's version that made it, whoever registers it: from its run, not the client."""
    body = json_body()
    kept = [tag for tag in _tag_list(body) if tag.get("key") not in VERSION_TAGS]
    body["tags"] = [*kept, *({"key": key, "value": tags[key]} for key in VERSION_TAGS if tags.get(key))]
    if not body.get("description") and (note := _note(tags, caller)):
        body["description"] = note


def _note(tags: dict[str, str], caller: Caller) -> str | None:
    services = _static_prefix().rpartition("/")[0] + "/"
    return version_note(tags, services, caller.workspace or "")


def _same_workspace_path(source: str, caller: Caller) -> None:
    plain = handlers._iteratively_unquote(urlsplit(source).path)
    parts = [part for part in plain.split("/") if part]
    elsewhere = urlsplit(source).scheme == "mlflow-artifacts" and parts[:2] != ["workspaces", caller.workspace]
    if elsewhere or "\\" in plain or ".." in parts:
        raise refused(f"The source of a model version must lie in the workspace {caller.workspace!r} itself.")


def check_references(_caller: Caller) -> None:
    """Models and runs that a request names besides lie in its workspace: MLflow takes others' ids there.

    Raises:
        MlflowException: RESOURCE_DOES_NOT_EXIST, as for one that is not there at all.
    """
    store = handlers._get_tracking_store()  # looks in the request's workspace only
    named = set(_named(json_body()))
    for field, value in sorted(named):
        if field in MODEL_FIELDS:
            store.get_logged_model(value)
        else:
            store.get_run(value)


def _named(value: Any) -> Iterator[tuple[str, str]]:
    """The ids of models and runs, wherever they stand."""
    if isinstance(value, list):
        for inner in value:
            yield from _named(inner)
    elif isinstance(value, dict):
        for name, inner in value.items():
            field = name.replace("_", "").lower()
            if field not in MODEL_FIELDS | RUN_FIELDS:
                if isinstance(inner, (dict, list)):
                    yield from _named(inner)
                continue
            for one in inner if isinstance(inner, list) else [inner]:
                if isinstance(one, str) and one:
                    yield field, one


def check_trace_tag(caller: Caller) -> None:
    """Tags that name a place are MLflow's own to set: the server reads files from there for whoever asks."""
    keys = {request.args.get("key"), json_body().get("key") if request.get_data(cache=True) else None}
    if keys & PLACE_TAGS:
        raise refused("This tag says where a trace's data lies, and only the server sets it.")


def check_trace_body(caller: Caller) -> None:
    """The same for the tags that a whole trace brings: they are left out, the server sets its own."""
    body = json_body()
    if "tags" in body:  # protocol 2
        body["tags"] = [tag for tag in _tag_list(body) if tag.get("key") not in PLACE_TAGS]
    for spelling in ("trace_info", "traceInfo"):
        tags = _dig(body, "trace", spelling, "tags")
        for key in PLACE_TAGS:
            tags.pop(key, None)


def _dig(body: dict[str, Any], *names: str) -> dict[str, Any]:
    found: Any = body
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _tag_list(body: dict[str, Any]) -> list[dict[str, Any]]:
    tags = body.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, dict) for tag in tags):
        raise MlflowException.invalid_parameter_value("tags must be a list of objects with key and value.")
    return tags


#: what a check returns is the answer, and MLflow's view is not asked
CHECKS: dict[str, Callable[[Caller], Response | None]] = {
    "new_experiment": check_new_experiment,
    "new_run": check_new_run,
    "author_tag": check_author_tag,
    "run_tags": check_run_tags,
    "run_tag": check_run_tag,
    "own_run": check_own_run,
    "model_source": check_model_source,
    "references": check_references,
    "trace_tag": check_trace_tag,
    "trace_body": check_trace_body,
}
