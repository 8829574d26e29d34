"""The HTTP server's protocol, with one thing that ASGI lacks: a connection that is closed without
an answer."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_EXTENSION = "local_sagemaker.abandon"


class AbandoningProtocol(HttpToolsProtocol):
    """uvicorn's protocol; its requests can be abandoned."""

    def on_message_begin(self) -> None:
        """A request begins: its scope gets the means to abort the connection."""
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"abort": self.transport.abort}}


async def abandon(request: Request) -> Response:
    """Close the request's connection at once, as a network does; what is returned goes nowhere."""
    request.scope["extensions"][_EXTENSION]["abort"]()
    await asyncio.sleep(0.01)  # until the server knows that nobody listens
    return Response(status_code=503)
