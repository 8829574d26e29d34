"""Which tenants' models were asked in which hours, told from the archived requests.

The keys of a tenant's archive tell the moments, so nothing is read but lists of keys. A day that is
over is counted once, and kept in S3 as a Parquet file (docs/contracts.md, "Demand").
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

from tenantry.capacity.parquet_rows import read_rows, write_rows
from tenantry.names import ids, s3_keys

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_LOG: Final = logging.getLogger(__name__)
_DAY: Final = timedelta(days=1)
_AT_ONCE: Final = 16
_LISTED: Final = 1000
"""Keys in an answer of ListObjectsV2, at most."""
_SAID_EVERY: Final = 1000  # tenants

AskedHours = Mapping[ids.ModelId, Mapping[datetime, int]]
"""The requests of each tenant by the hour's beginning, UTC."""


def asked_hours(
    deployment: Deployment,
    workload: ids.WorkloadName,
    tenants: Sequence[ids.ModelId],
    now: datetime,
    days: int,
) -> AskedHours:
    """The requests of the last whole days (UTC), by tenant and hour.

    A day that is not kept yet is counted now, at one call of ListObjectsV2 for each tenant, and
    for each further thousand of its requests. An hour with more than some thousand requests is
    told as those at least.

    Args:
        deployment: where.
        workload: the models'.
        tenants: whose archives are looked at.
        now: with a time zone.
        days: how many days are looked back.
    """
    found: dict[ids.ModelId, dict[datetime, int]] = {}
    today = now.astimezone(UTC).date()
    for ago in range(1, days + 1):
        day = today - ago * _DAY
        rows = _kept(deployment, workload, day)
        if rows is None:
            rows = _counted(deployment, workload, tenants, day)
            _keep(deployment, workload, day, rows)
        for tenant, hours in rows.items():
            found.setdefault(tenant, {}).update(hours)
    return found


def _counted(
    deployment: Deployment, workload: ids.WorkloadName, tenants: Sequence[ids.ModelId], day: date
) -> AskedHours:
    def count(tenant: ids.ModelId) -> Counter[datetime]:
        return Counter(_hours(deployment, workload, tenant, day))

    found = dict[ids.ModelId, Mapping[datetime, int]]()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for place, (tenant, hours) in enumerate(
            zip(tenants, pool.map(count, tenants), strict=True), start=1
        ):
            if hours:
                found[tenant] = hours
            if place % _SAID_EVERY == 0:
                _LOG.info("%s: counted requests of %d of %d tenants", day, place, len(tenants))
    return found


def _hours(
    deployment: Deployment, workload: ids.WorkloadName, tenant: ids.ModelId, day: date
) -> Iterator[datetime]:
    """The hour of each archived request of a day. Where an hour fills an answer, the rest of it is
    left out."""
    prefix = s3_keys.archived_requests_prefix(workload, tenant, day)
    midnight = datetime.combine(day, datetime.min.time(), UTC)
    after = prefix
    while True:
        listed = deployment.s3.list_objects_v2(
            Bucket=deployment.data_bucket, Prefix=prefix, StartAfter=after, MaxKeys=_LISTED
        ).get("Contents", [])
        hour = -1
        for entry in listed:
            # Any other name was not written by a client.
            if (written := entry["Key"].removeprefix(prefix)[:2]).isdigit() and int(written) < 24:
                hour = int(written)
                yield midnight + timedelta(hours=hour)
        if len(listed) < _LISTED or hour < 0:
            return
        after = f"{prefix}{hour:02}~"  # behind all names of that hour


def _kept(deployment: Deployment, workload: ids.WorkloadName, day: date) -> AskedHours | None:
    rows = read_rows(deployment, s3_keys.asked_file(workload, day))
    if rows is None:
        return None
    found: dict[ids.ModelId, dict[datetime, int]] = {}
    for row in rows:
        found.setdefault(ids.model_id(row["tenant"]), {})[row["hour"]] = row["requests"]
    return found


def _keep(deployment: Deployment, workload: ids.WorkloadName, day: date, found: AskedHours) -> None:
    write_rows(
        deployment,
        s3_keys.asked_file(workload, day),
        {"tenant": "text", "hour": "hour", "requests": "integer"},
        [
            (tenant, hour, requests)
            for tenant in sorted(found)
            for hour, requests in sorted(found[tenant].items())
        ],
    )
