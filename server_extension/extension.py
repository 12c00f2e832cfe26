"""The Jupyter Server extension: what it does when the server starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_server.utils import url_path_join

from . import kernels, routes
from .life import Life
from .templates import find_template, place_template


def load(server: Any, environ: Mapping[str, str]) -> None:
    """Add our routes, and put the launch's template into the workspace.

    Args:
        server: the ``jupyter_server.serverapp.ServerApp``.
    """
    base = server.web_app.settings["base_url"]
    life = server.web_app.settings["maestro_life"] = Life(server, environ)
    server.web_app.add_handlers(".*$", [(url_path_join(base, kernels.PATH), kernels.KernelHandler)])
    server.web_app.add_handlers(".*$", routes.rules(base, life))
    if name := environ.get("MAESTRO_TEMPLATE"):
        _bring_template(name, Path(server.root_dir), server.log)


def _bring_template(name: str, workspace: Path, log: Any) -> None:
    """A server without its template is better than none: whatever is wrong is a line in the log."""
    template = find_template(name)
    if template is None:
        log.warning("Maestro: there is no notebook template %r here.", name)
        return
    try:
        if place_template(template, workspace):
            log.info("Maestro: the template %s is now %s in the workspace.", name, template.name)
    except OSError as error:
        log.info("Maestro: the template %s was not copied: %s.", name, error.strerror)
