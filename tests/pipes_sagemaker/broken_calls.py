"""Makes calls to AWS fail for a test."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from typing import Any

from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders


class Body(io.BytesIO):
    """The body of an answer, in the form that botocore reads from the network."""

    def stream(self) -> Iterator[bytes]:
        yield self.read()


def break_calls(
    client: Any, operation: str, times: int, code: str, status: int, message: str = "broken"
) -> None:
    """Answer the first calls of an operation with an error, instead of the network."""
    left = threading.Semaphore(times)

    def answer(request: Any, **_: Any) -> AWSResponse | None:
        if not left.acquire(blocking=False):
            return None
        service = client.meta.service_model.service_name
        error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        if service == "s3":
            body = error.encode()
        elif service == "iam":
            body = f"<ErrorResponse>{error}</ErrorResponse>".encode()
        else:
            body = json.dumps({"__type": code, "message": message}).encode()
        return AWSResponse(request.url, status, HTTPHeaders(), Body(body))

    client.meta.events.register(
        f"before-send.{client.meta.service_model.service_name}.{operation}", answer
    )
