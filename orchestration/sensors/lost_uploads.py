"""Finds uploads whose events never came, by listing."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, NamedTuple

from dagster import (
    DefaultSensorStatus,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from orchestration.partitions import add_tenants
from orchestration.sensors.observed_uploads import observe_uploads
from orchestration.sensors.ticks import RECONCILE_SECONDS
from resources.tenantry_resource import TenantryResource
from tenantry.uploads import intake
from tenantry.workloads.schema import Workload

# a listing costs one call for a thousand objects of all tenants
_GRACES_BETWEEN_LISTINGS: Final = 4
_LISTING_SECONDS: Final = 3.0  # of one tick; a listing goes on in the next


class _Look(NamedTuple):
    """The task of a tick of ``lost_uploads``: list uploads of these moments, after this key. The
    sensor's cursor is the next look.

    ``again`` tells that an upload of this listing could not be taken in, so that all of it is
    listed once more.
    """

    since: datetime
    until: datetime
    after: str
    again: bool = False

    @classmethod
    def parse(cls, cursor: str | None, grace: timedelta) -> "_Look":
        """From the cursor; the very first look is at all uploads."""
        if not cursor:
            return cls(datetime.min.replace(tzinfo=UTC), datetime.now(UTC) - grace, "")
        found = json.loads(cursor)
        until = (
            datetime.fromisoformat(found["until"]) if found["until"] else datetime.now(UTC) - grace
        )
        return cls(
            datetime.fromisoformat(found["since"]), until, found["after"], found.get("again", False)
        )

    def followed_by(self, after: str | None, grace: timedelta, *, failed: bool) -> str:
        """The cursor of the next look: further on in this listing, or, after its end, at newer
        uploads.

        Args:
            after: where this look ended; None at the end of the listing.
            grace: the time by which listings overlap.
            failed: whether an upload could not be taken in.
        """
        again = self.again or failed
        if after is not None:
            return json.dumps(
                {
                    "since": self.since.isoformat(),
                    "until": self.until.isoformat(),
                    "after": after,
                    "again": again,
                }
            )
        since = self.since if again else self.until - grace
        return json.dumps({"since": since.isoformat(), "until": "", "after": ""})


def lost_uploads_sensor(
    workloads: Mapping[str, Workload], lost_uploads_grace: timedelta
) -> SensorDefinition:
    """``lost_uploads``.

    Args:
        workloads: those that the product offers.
        lost_uploads_grace: how long an event may take before its upload counts as lost. Listings
            overlap by as much.
    """

    @sensor(
        name="lost_uploads",
        minimum_interval_seconds=min(RECONCILE_SECONDS, int(lost_uploads_grace.total_seconds())),
        default_status=DefaultSensorStatus.RUNNING,
        target=None,
        description="Lists the uploads since the last look, for those whose event never came.",
    )
    def lost_uploads(context: SensorEvaluationContext, tenantry: TenantryResource) -> SkipReason:
        look = _Look.parse(context.cursor, lost_uploads_grace)
        if (
            not look.after
            and look.until - look.since < _GRACES_BETWEEN_LISTINGS * lost_uploads_grace
        ):
            return SkipReason(
                f"uploads were listed up to {look.since + lost_uploads_grace:%H:%M:%S}; not yet "
                f"again"
            )
        listing = intake.find_lost_uploads(
            tenantry.deployment,
            workloads,
            partial(add_tenants, context.instance),
            since=look.since,
            until=look.until,
            after=look.after,
            max_seconds=_LISTING_SECONDS,
        )
        done = listing.done
        observe_uploads(context.instance, done)
        context.update_cursor(
            look.followed_by(listing.after, lost_uploads_grace, failed=done.failed > 0)
        )
        return SkipReason(
            f"{done.messages} uploads looked at: {done.accepted} had been lost, "
            f"{len(done.refused)} refused"
            + (f", {done.failed} could not be taken in and are listed again" if done.failed else "")
            + (f"; goes on after {listing.after}" if listing.after else "")
        )

    return lost_uploads
