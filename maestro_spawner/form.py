"""The spawn form: what the service says a person may have, as HTML, and what fills it in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from maestro_core.errors import MaestroError
from maestro_core.launches import FormView, ProfileView, SpawnAsk, parse_ask
from maestro_core.resources import parse_cpu, parse_gpu, parse_memory

TEMPLATE = "spawn_form.html"
#: what a form or link may fill in, amounts flat
FIELDS = (*(name for name in SpawnAsk.model_fields if name != "resources"), "cpu", "memory", "gpu", "gpu_type")
MAX_CHOICE = 250
_AMOUNTS: dict[str, Callable[[Any], Any]] = {
    "cpu": parse_cpu,
    "memory": parse_memory,
    "gpu": parse_gpu,
    "gpu_type": str,
}


def template_folders() -> list[str]:
    """Where the pages' templates lie: beside the sources, else where an installed wheel put them."""
    places = (Path(__file__).parent.parent / "templates/pages", Path(sys.prefix) / "share/maestro/templates/pages")
    return [str(place) for place in places if (place / TEMPLATE).is_file()]


def render(
    folders: Iterable[str],
    view: FormView,
    chosen: Mapping[str, Any],
    notice: str | None = None,
    limits_note: str | None = None,
) -> str:
    """The inner part of the Hub's spawn page, every value escaped.

    Args:
        folders: where the template is looked for, first match wins.
        view: from the service.
        chosen: what fills it in.
        notice: a sentence above it, or None.
        limits_note: a sentence beside the amounts where nothing enforces them, or None.

    Raises:
        jinja2.TemplateError: when the template is missing or broken.
    """
    template = _environment(tuple(folders)).get_template(TEMPLATE)
    return template.render(form=view, chosen=dict(chosen), notice=notice, limits_note=limits_note)


@lru_cache(maxsize=8)
def _environment(folders: tuple[str, ...]) -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.FileSystemLoader(folders), autoescape=True, trim_blocks=True)


def refused(error: MaestroError) -> FormView:
    """The form when there is none: the sentence alone, and no Start."""
    return FormView(workspace=None, role=None, refusal=error.message)


def fitting(view: FormView, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What of an earlier choice or a link can still be had: a profile that is refused now takes its amounts and image
    with it, amounts beyond what may be asked for are the profile's again, an image or template that is gone is left
    out."""
    kept = dict(chosen)
    amounts = dict(kept.pop("resources", None) or {}) | {name: kept.pop(name) for name in _AMOUNTS if name in kept}
    allowed = {profile.name: profile for profile in view.profiles if profile.allowed}
    asked = kept.get("profile")
    profile = allowed.get(asked) if asked else next(iter(allowed.values()), None)
    if profile is None:
        kept.pop("profile", None)
        kept.pop("image", None)
        return kept
    if kept.get("image") not in [image.name for image in profile.images]:
        kept.pop("image", None)
    if kept.get("template") not in [template.name for template in view.templates]:
        kept.pop("template", None)
    return kept | {name: value for name, value in amounts.items() if _fits(profile, name, value)}


def filled(view: FormView, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The choice, with the workspace's own amounts where it names neither a profile nor amounts."""
    kept, own = dict(chosen), view.own
    if own is None or own.profile is None or own.resources is None or {"profile", "resources", *_AMOUNTS} & kept.keys():
        return kept
    of = next((profile for profile in view.profiles if profile.name == own.profile), None)
    if of is None:
        return kept
    amounts = own.resources.model_dump(exclude_none=True)
    return kept | {
        "profile": own.profile,
        **{name: value for name, value in amounts.items() if value != getattr(of, name)},
    }


def _fits(profile: ProfileView, name: str, value: Any) -> bool:
    if name == "gpu_type":
        return bool(value == profile.gpu_type)
    most = {
        "cpu": profile.cpu if profile.max_cpu is None else profile.max_cpu,
        "memory": profile.memory if profile.max_memory is None else profile.max_memory,
        "gpu": profile.gpu if profile.max_gpu is None else profile.max_gpu,
    }
    try:
        return _AMOUNTS[name](value) <= most[name]
    except MaestroError:
        return False


def chosen_before(user_options: object) -> dict[str, Any]:
    """What was asked for last time, if it can still be read."""
    try:
        return parse_ask(user_options).as_user_options()
    except MaestroError:
        return {}


def chosen_in(fields: Mapping[str, Iterable[str | bytes]]) -> dict[str, str]:
    """The known fields of a submitted form or of a link's query (with or without ``opt-``), the last value of each."""
    chosen = {}
    for key, values in fields.items():
        name = key.removeprefix("opt-")
        texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
        if name in FIELDS and texts and texts[-1].strip():
            chosen[name] = texts[-1].strip()[:MAX_CHOICE]
    return chosen
