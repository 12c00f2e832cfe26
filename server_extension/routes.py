"""What our part of JupyterLab asks this server: notices, "Keep it running", and a viewer's copy.

A request here is signed in as all of Jupyter's are: by token, or by cookie with the XSRF token.
"""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado import web

from .life import Life
from .service import NotAnswered

NOTICES = r"/maestro/notices"
NOTICE = r"/maestro/notices/(?P<notice_id>[^/]{1,300})"
KEEP = r"/maestro/keep"
SCAN = r"/maestro/scan"
COPY_HOME = r"/maestro/copy-home"
NOT_KEPT = "Maestro does not answer, so the server is not kept yet; press the button again in a moment."


class _Handler(APIHandler):
    """A handler with what the server's extension does.

    Args:
        life: of this server.
    """

    auth_resource = "maestro"

    def initialize(self, life: Life, **rest: Any) -> None:
        """Called by tornado."""
        super().initialize(**rest)
        self.life = life


class NoticesHandler(_Handler):
    """``GET /maestro/notices``: ``{"viewer", "notices"}``, the notices as in :class:`maestro_core.usage.Notices`."""

    # An open window asks by itself: that is nobody at work.
    _track_activity = False

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """All that the user is to be told now, and whether they are a viewer here."""
        self.finish(self.life.shown())


class NoticeHandler(_Handler):
    """``DELETE /maestro/notices/<id>``: the user has read it."""

    @web.authenticated
    @authorized
    async def delete(self, notice_id: str) -> None:
        """It is not shown again; one that is gone already is no mistake."""
        self.life.dismiss(notice_id)
        self.set_status(204)
        self.finish()


class KeepHandler(_Handler):
    """``POST /maestro/keep``: the button "Keep it running"."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Ask the service.

        Raises:
            web.HTTPError: 502, it does not answer.
        """
        try:
            await self.life.keep()
        except NotAnswered as error:
            self.log.info("Maestro's service: %s", error)
            raise web.HTTPError(502, NOT_KEPT) from None
        self.finish(self.life.shown())


class CopyHomeHandler(_Handler):
    """``POST /maestro/copy-home`` ``{"path", "type"?, "format"?, "content"?}``: ``{"path"}`` of the copy.

    With content, that is what is in the user's window; without, what is on disk.
    """

    auth_resource = "contents"

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Copy a document of the workspace into the viewer's home.

        Raises:
            web.HTTPError: 400, the body is none; 404, this is no viewer's server; as the contents manager's ``save``.
        """
        copy_home = getattr(self.contents_manager, "copy_home", None)
        if copy_home is None:
            raise web.HTTPError(404, "You are no viewer here: save the file where it is.")
        body = self.get_json_body()
        if not isinstance(body, dict) or not isinstance(body.get("path"), str) or not body["path"].strip("/"):
            raise web.HTTPError(400, "A copy needs the path of a file.")
        model = {name: body.get(name) for name in ("type", "format", "content")} if "content" in body else None
        self.finish({"path": await copy_home(body["path"], model)})


class ScanHandler(_Handler):
    """``POST /maestro/scan``: ``{"report"}``, a ``ScanReport``; with ``?sbom=1`` also ``sbom``, a CycloneDX one."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Scan the workspace; takes seconds to minutes.

        Raises:
            web.HTTPError: 500, it did not end well.
        """
        from maestro_core.errors import MaestroError

        try:
            report = await self.life.scan()
        except MaestroError as error:
            raise web.HTTPError(500, error.message) from None
        answer: dict[str, Any] = {"report": report.model_dump(mode="json")}
        if self.get_argument("sbom", ""):
            from .scan.sbom import cyclonedx

            answer["sbom"] = await asyncio.to_thread(cyclonedx, report)
        self.finish(answer)


def rules(base: str, life: Life) -> list[tuple[Any, ...]]:
    """Tornado's rules.

    Args:
        base: the server's base URL.
    """
    handlers = {
        NOTICES: NoticesHandler,
        NOTICE: NoticeHandler,
        KEEP: KeepHandler,
        COPY_HOME: CopyHomeHandler,
        SCAN: ScanHandler,
    }
    return [(base.rstrip("/") + path, handler, {"life": life}) for path, handler in handlers.items()]
