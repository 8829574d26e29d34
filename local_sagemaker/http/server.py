"""The HTTP server's protocol, with a feature that ASGI lacks: to close a connection without an
answer."""

from starlette.requests import Request
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from local_sagemaker.clock import MACHINE

_EXTENSION = "local_sagemaker.abandon"


class AbandoningProtocol(HttpToolsProtocol):
    """uvicorn's protocol; its requests can be abandoned."""

    def on_message_begin(self) -> None:
        """Add a function to the new request's scope that aborts the connection."""
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"abort": self.transport.abort}}


async def abandon(request: Request) -> Response:
    """Close the request's connection at once, like a network failure; the returned answer is never
    sent."""
    request.scope["extensions"][_EXTENSION]["abort"]()
    await MACHINE.sleep(0.01)  # until the server notices the closed connection
    return Response(status_code=503)
