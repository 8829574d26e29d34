"""The moment that a prediction is about, for workloads whose requests name one.

A forecast covers the days after a start. A request without a start means now, and now is another
moment in an hour. So the request gets its moment before it is asked, kept or put into a batch. The
workload's container family knows the form of moments. In a model's card it also tells until when
that model can be asked.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Protocol, cast

from tenantry.hosting.invocation import InvocationRefusedError
from tenantry.workloads.batches import Batch
from tenantry.workloads.schema import Workload
from tenantry.workloads.sections import Moment


class MomentModule(Protocol):
    """A module that a workload names as its ``moment.module``."""

    def resolve(
        self, request: Mapping[str, Any], card: Mapping[str, Any], now: datetime
    ) -> dict[str, Any]:
        """The request with its moment as an absolute one. Raises ``ValueError`` if the request's
        moment is invalid."""
        ...

    def check(self, request: Mapping[str, Any], card: Mapping[str, Any]) -> None:
        """Raise ``ValueError``, with a sentence for the model's owner, where the model does not
        reach a resolved moment."""
        ...


@dataclass(frozen=True)
class DataAge:
    """The age of a model's data, and until when the model can be asked.

    ``end`` is the end of its data. ``usable_until`` is the first moment it cannot be asked about.
    Both are in UTC.
    """

    end: datetime
    usable_until: datetime

    def days(self, at: datetime) -> float:
        """Days from the end of the data to ``at``."""
        return round((at - self.end).total_seconds() / 86_400, 2)


def at_its_moment(
    workload: Workload, card: Mapping[str, Any], request: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """The request with the absolute moment it asks about; unchanged where the workload's requests
    name none.

    Args:
        workload: its ``moment`` section has the settings.
        card: the asked model's.
        request: as the app gave it.
        now: the moment it is asked at.

    Raises:
        InvocationRefusedError: it is no mapping, or names something that is no moment.
    """
    given: object = request  # an app's Python need not be typed
    if not isinstance(given, Mapping):
        raise InvocationRefusedError(
            f"a request is a mapping of names to values, not a {type(given).__name__}"
        )
    if workload.moment is None or not card:
        # the container knows its model, and gives the request its moment itself
        return dict(request)
    try:
        return _module(workload.moment).resolve(request, card, now)
    except ValueError as error:
        raise InvocationRefusedError(str(error)) from error


def of_the_day(workload: Workload, batch: Batch, day: date, fresh: Any = None) -> dict[str, Any]:
    """The batch's request, asking about the batch's own day where requests name a moment.
    ``fresh`` are the tenant's own newest data; None where the request carries none."""
    request = dict(batch.request)
    if workload.moment is not None:
        request[workload.moment.field] = day.isoformat()
    if workload.inference is not None and fresh is not None:
        request[workload.inference.field] = fresh
    return request


def data_age(card: Mapping[str, Any]) -> DataAge | None:
    """The age of a model's data; None for a model whose card does not tell."""
    try:
        end, until = _instant(card["data"]["end"]), _instant(card["usable_until"])
    except (KeyError, TypeError, ValueError):
        return None
    return DataAge(end, until)


def too_old_for(
    workload: Workload,
    card: Mapping[str, Any],
    day: date,
    batch: Batch | None = None,
    fresh: Any = None,
) -> str | None:
    """Why a model's data are too old to predict a day, as a sentence for its owner; None when they
    are not, or their age is unknown.

    Args:
        workload: whose model.
        card: the model's.
        day: the predicted day.
        batch: which of the workload's batches predicts; the first, if it is not given.
        fresh: the tenant's data, where the request carries them.
    """
    if workload.moment is None or data_age(card) is None:
        return None
    module = _module(workload.moment)
    try:
        asked = of_the_day(workload, batch or workload.batches[0], day, fresh)
        module.check(module.resolve(asked, card, datetime.now(UTC)), card)
    except ValueError as error:
        return str(error)
    return None


def _module(moment: Moment) -> MomentModule:
    return cast("MomentModule", importlib.import_module(moment.module))


def _instant(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no offset")
    return found.astimezone(UTC)
