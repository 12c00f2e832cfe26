"""The notebook templates: every ``*.ipynb`` of the template folder, with the title and description it carries.

A template's name is the slug of its file's name (``Start here.ipynb`` is ``start-here``); its ``metadata.maestro`` may
hold ``title`` and ``description``. The notebook server puts the file into the workspace under its own name.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from maestro_core.errors import MaestroError
from maestro_core.launches import TemplateView
from maestro_core.names import slug, valid_name
from maestro_hub_services.installation import data_path


class Templates:
    """The templates of one folder, read once.

    Args:
        folder: None: the project's own.

    Raises:
        SettingsError: the project's own is not installed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        files = sorted((folder or data_path("templates", "notebooks")).glob("*.ipynb"))
        self._files = {slug(path.stem, 30): path for path in files}
        self._known = {name: _view(name, path) for name, path in self._files.items() if valid_name(name)}

    def all(self) -> tuple[TemplateView, ...]:
        """Every template, by name."""
        return tuple(self._known.values())

    def check(self, name: str) -> str:
        """Return ``name`` if there is such a template.

        Raises:
            MaestroError: ``unknown_template``.
        """
        if name not in self._known:
            known = ", ".join(self._known) or "none is installed"
            raise MaestroError(
                "unknown_template",
                f"There is no notebook template {name[:40]!r}; take one of: {known}.",
                {"template": name[:40], "known": list(self._known)},
            )
        return name

    def file(self, name: str) -> str:
        """The name of a template's file: ``Start here.ipynb``.

        Raises:
            MaestroError: ``unknown_template``.
        """
        return self._files[self.check(name)].name


def _view(name: str, path: Path) -> TemplateView:
    own: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, AttributeError):  # an unreadable one is listed under its name
        own = json.loads(path.read_text(encoding="utf-8")).get("metadata", {}).get("maestro", {})
    title = str(own.get("title") or path.stem)
    return TemplateView(name=name, title=title, description=str(own.get("description") or ""))
