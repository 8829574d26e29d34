"""What a shadow answers beside the variant that it stands behind: compared by the digests that
both variants' containers log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from tenantry.aws.objects import error_code
from tenantry.hosting.shapes.catalogue import real_time_shape
from tenantry.hosting.shapes.shape import SHADOW, VARIANT
from tenantry.names import ids
from tenantry.workloads.hosting import SHADOWED
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_LINE: Final = re.compile(r"answer_digest request=([0-9a-f]{64}) answer=([0-9a-f]{64}|-)")
_MOST_LINES: Final = 20_000
"""Of each variant, so that a busy hour does not take all memory."""


@dataclass(frozen=True)
class ShadowReport:
    """The answers of a shadow in a stretch of time.

    ``compared`` are requests that both answered; ``differing`` are those whose answers are not the
    same bytes. ``failed`` are requests that the shadow alone could not answer. ``unmatched`` are
    requests without a copy that the log has.
    """

    endpoint: str
    compared: int
    differing: int
    failed: int
    unmatched: int

    @property
    def disagreement(self) -> float | None:
        """The share of requests that the shadow answered otherwise, or not; None without any."""
        seen = self.compared + self.failed
        return (self.differing + self.failed) / seen if seen else None


def shadow_report(
    deployment: Deployment, endpoint: str, since: datetime, until: datetime
) -> ShadowReport:
    """Compare what an endpoint's variant and its shadow logged in a stretch of time.

    Args:
        deployment: whose logs.
        endpoint: its name.
        since: the beginning, with a time zone.
        until: the end.
    """
    served, copied = (
        _digests(deployment, endpoint, variant, since, until) for variant in (VARIANT, SHADOW)
    )
    compared = differing = failed = 0
    for request, answer in copied.items():
        expected = served.get(request, "-")
        if expected == "-":
            continue
        if answer == "-":
            failed += 1
        else:
            compared += 1
            differing += answer != expected
    return ShadowReport(endpoint, compared, differing, failed, len(served.keys() - copied.keys()))


def has_shadow(workload: Workload) -> bool:
    """Whether the shared endpoint that answers at once has a shadow."""
    tier = workload.shared_machines.tier
    shape = getattr(workload.hosting, tier).shape
    return workload.hosting.shadow is not None and shape in SHADOWED


def report_of_shared(
    deployment: Deployment, workload: Workload, since: datetime, until: datetime
) -> ShadowReport:
    """``shadow_report`` of the endpoint that the workload's tenants share."""
    machines = workload.shared_machines
    shape = real_time_shape(workload, machines.tier)
    name = shape.endpoint_name(deployment.prefix, ids.workload_name(workload.name), machines)
    return shadow_report(deployment, name, since, until)


def _digests(
    deployment: Deployment, endpoint: str, variant: str, since: datetime, until: datetime
) -> dict[str, str]:
    """The answers' digests by the requests' own; ``-`` for one that failed."""
    pages: Any = deployment.logs.get_paginator("filter_log_events").paginate(
        logGroupName=f"/aws/sagemaker/Endpoints/{endpoint}",
        logStreamNamePrefix=f"{variant}/",
        filterPattern="answer_digest",
        startTime=int(since.timestamp() * 1000),
        endTime=int(until.timestamp() * 1000),
    )
    found = dict[str, str]()
    try:
        for page in pages:
            for event in page["events"]:
                match = _LINE.search(event["message"])
                # Not every emulator of CloudWatch looks at the prefix.
                if match and event["logStreamName"].startswith(f"{variant}/"):
                    found[match[1]] = match[2]
            if len(found) >= _MOST_LINES:
                break
    except ClientError as error:
        if error_code(error) != "ResourceNotFoundException":  # it has answered nobody yet
            raise
    return found
