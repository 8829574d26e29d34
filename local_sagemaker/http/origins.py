"""Access control: programs that name this address may call; pages of other sites in a browser on
this machine may not.

A browser also sends a page's requests to loopback, with the name of the page's server (DNS
rebinding) or with the page's `Origin`. AWS's clients name their configured address and send no
`Origin`.
"""

import ipaddress
import json
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

_OWN_SITE = ("same-origin", "none")
"""A browser's `Sec-Fetch-Site` for requests that no other site made; `same-site` means another port
of this machine."""


class KnownCallersOnly:
    """ASGI middleware that answers 403 to a foreign `Host` or `Origin`, and to requests that a
    browser marks as another site's.

    A host's port does not matter, because a tunnel or proxy on this machine has its own port and a
    page never chooses its `Host`. `allowed_hosts` are further names of this address: `NAME` for any
    port, or `NAME:PORT`. Below `/_local/` no request may have an `Origin`, because no page needs
    these calls.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._allowed = {host.lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it before a byte of its body is read."""
        refusal = (
            self._refusal(Headers(scope=scope), scope["path"]) if scope["type"] == "http" else None
        )
        if refusal is None:
            await self._app(scope, receive, send)
            return
        body = json.dumps(
            {"__type": "AccessDeniedException", "message": refusal, "Message": refusal}
        ).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-amzn-errortype", b"AccessDeniedException"),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _refusal(self, headers: Headers, path: str) -> str | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_own(hosts[0].lower()):
            return (
                "The Host header names no loopback address. Call it by one, or start "
                "local_sagemaker with --allow-host."
            )
        origins = headers.getlist("origin")
        own = f"http://{hosts[0]}".lower()
        if any(origin.lower() != own for origin in origins) or (
            origins and path.startswith("/_local/")
        ):
            return (
                "A page of a browser made this request, and local_sagemaker answers programs only."
            )
        if any(site.lower() not in _OWN_SITE for site in headers.getlist("sec-fetch-site")):
            return (
                "A page of another site made this request, and local_sagemaker answers "
                "programs only."
            )
        return None

    def _is_own(self, host: str) -> bool:
        name, colon, port = host.rpartition(":")
        if not colon or host.endswith("]"):
            name, port = host, ""
        if host in self._allowed or name in self._allowed:
            return True
        return ((port.isascii() and port.isdigit()) or not port) and _is_loopback(name)


def _is_loopback(name: str) -> bool:
    if name in ("localhost", "localhost."):
        return True
    bracketed = name.startswith("[") and name.endswith("]")
    try:
        address = ipaddress.ip_address(name[1:-1] if bracketed else name)
    except ValueError:
        return False
    return address.is_loopback and bracketed == (address.version == 6)
