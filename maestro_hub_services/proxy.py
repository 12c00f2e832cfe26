"""The Hub's proxy, with its extra routes back as soon as a crashed proxy is."""

from __future__ import annotations

from jupyterhub.proxy import ConfigurableHTTPProxy


class MaestroProxy(ConfigurableHTTPProxy):
    """configurable-http-proxy under the Hub.

    When the proxy dies the Hub starts it anew and restores the routes of users and services, but not ``extra_routes``:
    those come back with the next check of all routes only (``last_activity_interval``; seen with JupyterHub 6.1).
    """

    async def restore_routes(self) -> None:
        """Called by the Hub after it had to start the proxy again."""
        await super().restore_routes()
        for routespec, target in self.extra_routes.items():
            await self.add_route(routespec, target, {"extra": True})
