"""Shadow variants: a copy of an endpoint's requests goes to a variant whose answers nobody gets.

Sources: docs.aws.amazon.com/sagemaker/latest/dg/shadow-tests.html ("Only the responses of the
production variant are returned to the calling application") and …/dg/model-shadow-deployment.html.

AWS logs a shadow's answers through data capture. Here a line for each copy is in the log stream
`{variant}/{instance}/data-log` of the shadow variant: it compares the two answers by status, size
and SHA-256, and has nothing of their content.
"""

import asyncio
import hashlib
import json
import logging
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from local_sagemaker.clock import Clock
from local_sagemaker.endpoints.fleet import Variant
from local_sagemaker.endpoints.traffic import Fleet
from local_sagemaker.errors import ServiceError
from local_sagemaker.http.client import Answer

_log = logging.getLogger(__name__)
MOST_COPIES: Final = 100
"""Copies that may be under way at once. One more is not sent, so that a slow shadow cannot fill the
memory. AWS documents no such limit."""
Ask = Callable[[Variant, dict[str, Any]], Awaitable[Answer]]


@dataclass(frozen=True)
class Told:
    """What a variant answered: the status, AWS's seconds until then, and the body of a success."""

    status: int
    seconds: float
    body: bytes | None

    def described(self) -> dict[str, Any]:
        """The answer without its content."""
        return {
            "status": self.status,
            "latencyMicroseconds": round(self.seconds * 1e6),
            "bytes": None if self.body is None else len(self.body),
            "sha256": None if self.body is None else hashlib.sha256(self.body).hexdigest(),
        }


class Shadows:
    """Sends the copies. `ask` asks a variant, and records the metrics of that."""

    def __init__(self, clock: Clock, ask: Ask) -> None:
        self._clock, self._ask = clock, ask
        self._copies: set[asyncio.Task[None]] = set()

    async def asked(self, variant: Variant, fleet: Fleet, params: dict[str, Any]) -> Answer:
        """Ask a production variant of `fleet`, and afterwards its shadow, for a sampled share of
        the requests. Raises ServiceError."""
        shadow = next((one for one in fleet.values() if one.document.get("Shadow")), None)
        if shadow is None:
            return await self._ask(variant, params)
        started = self._clock.ticks()
        try:
            answer = await self._ask(variant, params)
        except ServiceError as error:
            if error.code == "ModelError":  # else no container has seen the request
                self._copy(shadow, variant, params, self._failed(error, started))
            raise
        told = Told(answer.status, self._clock.ticks() - started, answer.body)
        self._copy(shadow, variant, params, told)
        return answer

    def _failed(self, error: ServiceError, started: float) -> Told:
        status = int(error.fields.get("OriginalStatusCode", 0))
        return Told(status, self._clock.ticks() - started, None)

    def _copy(
        self, shadow: Variant, production: Variant, params: dict[str, Any], told: Told
    ) -> None:
        """Begin a copy when this event ends, so that the answer is on its way before."""
        if random.random() >= sampled_share(shadow, production):  # noqa: S311 - no secret
            return
        if len(self._copies) >= MOST_COPIES:
            _report(shadow, production, params, told, None)
            return
        task = asyncio.create_task(self._send(shadow, production, params, told))
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)

    async def _send(
        self, shadow: Variant, production: Variant, params: dict[str, Any], told: Told
    ) -> None:
        started = self._clock.ticks()
        try:
            answer = await self._ask(shadow, params)
        except ServiceError as error:
            copied = self._failed(error, started)
        except Exception:  # noqa: BLE001 - a copy never fails its caller
            _log.exception("a copy to the shadow variant %s", shadow.name)
            return
        else:
            copied = Told(answer.status, self._clock.ticks() - started, answer.body)
        _report(shadow, production, params, told, copied)


def sampled_share(shadow: Variant, production: Variant) -> float:
    """The share of requests that is copied: the shadow's weight over the production variant's, at
    most 1."""
    whole: float = production.document["CurrentWeight"]
    part: float = shadow.document["CurrentWeight"]
    return min(part / whole, 1.0) if whole else 0.0


def _report(
    shadow: Variant, production: Variant, params: dict[str, Any], told: Told, copied: Told | None
) -> None:
    line = {
        "productionVariant": production.name,
        "shadowVariant": shadow.name,
        "production": told.described(),
        "shadow": None if copied is None else copied.described(),
        "agree": copied is not None and (told.status, told.body) == (copied.status, copied.body),
    }
    for instance in shadow.instances[:1]:
        instance.log_request(params.get("InferenceId") or str(uuid.uuid4()), json.dumps(line))
