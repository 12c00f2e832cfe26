"""The pages of the ``workspaces`` service: workspaces as cards, a workspace with its members, the admin's page.

They work as plain forms; htmx, where it is, only keeps the cards' states fresh. Who looks is the Hub's word
(``HubOAuth``), what happens is the domain's (:class:`Desk`), how it looks is ``templates/pages``.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from tornado.web import RedirectHandler

from maestro_hub_services.installation import data_path

from ..authority import Authority
from ..identity import Identity
from . import handlers, jobs, lifecycle, quotas, requests, sweeps, versions
from .base import PageFiles, SignInCallback, Site, UnknownPage, environment
from .desk import Desk
from .links import Links

__all__ = ["Desk", "Links", "Site", "page_routes", "site_of"]

_NAME = "([^/]{1,200})"
_PAGES = (
    ("", handlers.LandingPage),
    ("new", handlers.LandingPage),
    ("cards", handlers.CardsPage),
    (f"w/{_NAME}", handlers.WorkspacePage),
    (f"w/{_NAME}/about", handlers.AboutForm),
    (f"w/{_NAME}/capture", handlers.CaptureForm),
    (f"w/{_NAME}/versions", versions.VersionsPage),
    (f"w/{_NAME}/versions/{_NAME}", versions.VersionPage),
    (f"w/{_NAME}/members", handlers.MembersForm),
    (f"w/{_NAME}/members/remove", handlers.RemoveMemberForm),
    (f"w/{_NAME}/archive", handlers.ArchiveForm),
    (f"w/{_NAME}/restore", lifecycle.RestoreForm),
    (f"w/{_NAME}/purge", lifecycle.PurgeForm),
    (f"purged/{_NAME}", lifecycle.PurgedPage),
    (f"w/{_NAME}/transfer", lifecycle.TransferForm),
    (f"w/{_NAME}/invitations", lifecycle.InviteForm),
    (f"w/{_NAME}/invitations/withdraw", lifecycle.WithdrawForm),
    ("invitations/accept", lifecycle.AcceptForm),
    ("invitations/decline", lifecycle.DeclineForm),
    (f"stop/{_NAME}", handlers.StopForm),
    (f"scale/{_NAME}", handlers.ScaleForm),
    ("requests", requests.RequestsPage),
    (f"requests/{_NAME}", requests.RequestPage),
    (f"requests/{_NAME}/approve", requests.ApproveForm),
    (f"requests/{_NAME}/deny", requests.DenyForm),
    (f"requests/{_NAME}/withdraw", requests.WithdrawForm),
    ("jobs", jobs.JobsPage),
    (f"jobs/{_NAME}", jobs.JobPage),
    (f"jobs/{_NAME}/live", jobs.JobLivePage),
    (f"jobs/{_NAME}/notebook", jobs.JobNotebook),
    (f"jobs/{_NAME}/cancel", jobs.CancelJobForm),
    (f"jobs/{_NAME}/schedule", jobs.EndScheduleForm),
    (f"sweeps/{_NAME}", sweeps.SweepPage),
    (f"sweeps/{_NAME}/cancel", sweeps.CancelSweepForm),
    ("admin", handlers.AdminPage),
    ("admin/quotas", quotas.QuotasPage),
    ("admin/quotas/remove", quotas.RemoveQuotaForm),
)


def site_of(authority: Authority, identity: Identity) -> Site:
    """The pages of this service, on its own settings.

    ``JUPYTERHUB_HOST`` (set by the Hub where services have a domain of their own) precedes links to the Hub.

    Raises:
        SettingsError: when the templates are not installed.
    """
    settings = authority.settings
    links = Links(os.environ.get("JUPYTERHUB_HOST", "") + settings.base_url, settings.prefix)
    return Site(data_path("templates", "pages"), identity, links, partial(Desk, authority), bool(settings.accounts_url))


def page_routes(site: Site) -> list[tuple[str, type, dict[str, Any]]]:
    """Tornado's rules of everything below the service's prefix: pages, the sign-in's callback, static files.

    They come after the API's rules: the last one answers every other address with a page that says so. The
    application needs ``cookie_secret``, and leaves ``xsrf_cookies`` off: ``HubOAuth`` checks XSRF itself.
    """
    arguments = {"site": site, "jinja": environment(site.templates)}
    prefix = site.links.prefix
    return [
        (prefix.rstrip("/"), RedirectHandler, {"url": prefix, "permanent": False}),
        (f"{prefix}oauth_callback", SignInCallback, arguments),
        (f"{prefix}static/(.*)", PageFiles, {"path": str(site.templates / "static")}),
        *((prefix + path, handler, arguments) for path, handler in _PAGES),
        (f"{prefix}(.*)", UnknownPage, arguments),
    ]
