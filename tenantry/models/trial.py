"""A trial: a second version of a tenant's model that answers a share of its requests beside the
champion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self

from tenantry.errors import TenantryError
from tenantry.hosting.route import Route
from tenantry.names import ids

MOST_PERCENT: Final = 50
"""The largest share of a trial: the champion answers half of the requests at least."""
_POINTS: Final = 10_000  # the hash tells shares apart by a hundredth of a percent


class MalformedTrialError(TenantryError, ValueError):
    """A champion's row has a trial that this release cannot read."""


@dataclass(frozen=True)
class Trial:
    """A version that answers ``percent`` of its tenant's requests, along ``route``.

    ``card`` and ``traceparent`` are the version's; the card is empty if it is large. ``by`` and
    ``why`` tell who started it at ``since``, and the reason.
    """

    version: ids.Version
    route: Route
    percent: int
    since: datetime
    by: str
    why: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    traceparent: str = ""

    @classmethod
    def parse(cls, text: str, tenant: ids.ModelId) -> Self:
        """From a champion's row, as ``text`` wrote it. Raises ``MalformedTrialError``."""
        try:
            row = json.loads(text)
            version = ids.version_name(row["version"])
            return cls(
                version=version,
                route=Route(str(row["shape"]), str(row["endpoint"]), tenant, version),
                percent=share(int(row["percent"])),
                since=datetime.fromisoformat(row["since"]),
                by=str(row["by"]),
                why=str(row["why"]),
                card=dict(row["card"]),
                traceparent=str(row["traceparent"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise MalformedTrialError(f"the trial of {tenant} cannot be read: {error}") from error

    @property
    def text(self) -> str:
        """The trial as a champion's row keeps it."""
        return json.dumps(
            {
                "version": self.version,
                "shape": self.route.shape,
                "endpoint": self.route.endpoint,
                "percent": self.percent,
                "since": self.since.isoformat(),
                "by": self.by,
                "why": self.why,
                "card": dict(self.card),
                "traceparent": self.traceparent,
            }
        )

    def takes(self, request: Mapping[str, Any]) -> bool:
        """Whether its version answers this request.

        A hash of the tenant, the version and the request decides, so that the same question gets
        the same version as long as the trial lasts. A request that is no JSON document is the
        champion's.
        """
        try:
            content = json.dumps(dict(request), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            return False
        asked = f"{self.route.tenant}\n{self.version}\n{content}".encode()
        drawn = int.from_bytes(hashlib.sha256(asked).digest()[:8]) % _POINTS
        return drawn < self.percent * _POINTS // 100


def share(percent: int) -> int:
    """A trial's share in percent, checked. Raises ``ValueError``."""
    if not 1 <= percent <= MOST_PERCENT:
        raise ValueError(f"a trial's share is 1 to {MOST_PERCENT} percent, not {percent}")
    return percent
