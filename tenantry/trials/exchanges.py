"""What became of each request during a trial, told by the key of its archived exchange.

The client writes the outcome into the key, and the verdict lists keys. So judging a trial takes one
call for a thousand requests, and reads no request and no answer.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast

from tenantry.aws import objects
from tenantry.hosting.invocation import EndpointBusyError, InvocationRefusedError
from tenantry.models.trial import Trial
from tenantry.names import ids, s3_keys

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

Side = Literal["champion", "trial"]
Outcome = Literal["answered", "kept", "failed", "failed-alone"]
"""``kept`` is an answer from the result cache, which asked no version. ``failed-alone`` is a
failure of the trial's version where the champion answered, so that the request is not to blame."""

_DAY: Final = timedelta(days=1)
_MOST: Final = 50_000  # exchanges that are looked at
_NAME: Final = re.compile(
    r"(?P<time>\d{6})-[0-9a-f]{12}"
    r"_(?P<version>[a-z0-9-]+)\.(?P<side>champion|trial)"
    r"\.(?P<outcome>answered|kept|failed|failed-alone)\.(?P<micros>\d{1,12})\.json"
)


@dataclass(frozen=True)
class Failure:
    """Why a version did not answer, without any of the request: ``refused`` by its container, with
    the HTTP ``status``, or ``busy``: overloaded, not loaded, or out of the request's time."""

    kind: Literal["refused", "busy"]
    status: int | None = None

    @classmethod
    def of(cls, error: InvocationRefusedError | EndpointBusyError) -> Self:
        """The failure that an error tells of."""
        if isinstance(error, InvocationRefusedError):
            return cls("refused", error.status)
        return cls("busy")


@dataclass(frozen=True)
class Exchange:
    """A request during a trial: which ``side`` it was drawn for, what became of it there, and after
    how many milliseconds. A key does not tell the ``failure``."""

    trial: ids.Version
    side: Side
    outcome: Outcome
    milliseconds: float
    failure: Failure | None = None

    @property
    def document(self) -> dict[str, Any]:
        """Its part in the archived exchange."""
        failure = {} if self.failure is None else {"failure": asdict(self.failure)}
        return {"version": self.trial, "side": self.side, "outcome": self.outcome, **failure}

    def answered_by_champion(self, milliseconds: float, asked: bool) -> Self:
        """Its end with the champion's answer, which was ``asked`` for or kept. A failure of the
        trial's version stays one."""
        if self.side == "trial":
            return self
        return replace(self, outcome="answered" if asked else "kept", milliseconds=milliseconds)

    def failed_by_champion(self, failure: Failure, milliseconds: float) -> Self:
        """Its end where the champion did not answer either."""
        if self.side == "trial":
            return replace(self, outcome="failed")
        return replace(self, outcome="failed", milliseconds=milliseconds, failure=failure)

    def key(self, workload: ids.WorkloadName, tenant: ids.ModelId, at: datetime) -> str:
        """A new key for its archived exchange."""
        outcome = f"{self.trial}.{self.side}.{self.outcome}.{round(self.milliseconds * 1000)}"
        name = f"{at:%H%M%S}-{uuid.uuid4().hex[:12]}"
        return s3_keys.archived_trial_request(workload, tenant, at, name, outcome)


def exchanges_of(
    deployment: Deployment,
    workload: ids.WorkloadName,
    tenant: ids.ModelId,
    trial: Trial,
    now: datetime,
) -> Iterator[Exchange]:
    """The requests of a trial until now, the oldest first, fifty thousand at most. Other keys of
    the archive are passed over."""
    left, day, today = _MOST, trial.since.astimezone(UTC).date(), now.astimezone(UTC).date()
    while day <= today and left > 0:
        prefix = s3_keys.archived_requests_prefix(workload, tenant, day)
        for key in objects.keys_under(deployment.s3, deployment.data_bucket, prefix):
            found = _parsed(key.removeprefix(prefix), day, trial)
            if found is not None:
                yield found
                left -= 1
                if left == 0:
                    return
        day += _DAY


def _parsed(name: str, day: date, trial: Trial) -> Exchange | None:
    found = _NAME.fullmatch(name)
    if found is None or found["version"] != trial.version:
        return None
    at = datetime.fromisoformat(f"{day.isoformat()}T{found['time']}Z")
    if at < trial.since.astimezone(UTC).replace(microsecond=0):
        return None  # of an earlier trial of the same version
    return Exchange(
        trial.version,
        cast("Side", found["side"]),
        cast("Outcome", found["outcome"]),
        int(found["micros"]) / 1000,
    )
