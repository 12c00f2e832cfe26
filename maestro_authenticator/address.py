"""Whose address a request came from, where the browser's own word for it does not count.

JupyterHub lets tornado read ``X-Real-Ip``, which the proxy passes on as any client sent it. The proxy appends the
address it saw to ``X-Forwarded-For``, so the last entry that is no proxy of ours is the truth.
"""

from __future__ import annotations

from tornado.httputil import HTTPServerRequest
from tornado.netutil import is_valid_ip


def client_address(request: HTTPServerRequest) -> str:
    """The address that sign-ins are counted under.

    Proxies in front of Maestro's own are named in ``JupyterHub.trusted_downstream_ips``.
    """
    context = getattr(request.connection, "context", None)
    peer = str(getattr(context, "_orig_remote_ip", None) or request.remote_ip or "")
    trusted = set(getattr(context, "trusted_downstream", None) or ())
    for entry in reversed(",".join(request.headers.get_list("X-Forwarded-For")).split(",")):
        hop = entry.strip()
        if hop not in trusted:
            return hop if is_valid_ip(hop) else peer
    return peer
