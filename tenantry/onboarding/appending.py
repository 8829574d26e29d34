"""In the place of making a model: the data of uploads for inference are appended to their tenants'
data, from which the next predictions start. Then the batches that are made on such uploads predict
for these tenants. A fault in one upload does not stop its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from tenantry.batch.periods import Period
from tenantry.names import ids
from tenantry.onboarding.member import Member
from tenantry.onboarding.pack import PackAtWork
from tenantry.onboarding.preparing import prepared, refuse, report_prepared
from tenantry.requests.rows import OPEN, Request
from tenantry.uploads.current_data import CurrentData, current_data, note_extension
from tenantry.uploads.intake import NO_MODEL_YET
from tenantry.uploads.manifests import RefusedUploadError
from tenantry.uploads.training_data import TrainingData, extend_data

Predict = Callable[[Period, Sequence[ids.ModelId]], object]
"""Predicts a period for some tenants, and reports each."""


def append(at_work: PackAtWork, members: Sequence[Member], predict: Predict, now: datetime) -> None:
    """Append each member's upload to its tenant's data, make the batches ``on: inference_upload``
    for these tenants, and end the requests.

    A process that dies in between leaves the requests to the pack's next run. That finds the data
    appended, and makes the predictions again.
    """
    appended = list(_each_appended(at_work, members))
    if appended:
        tenants = [member.tenant for member in appended]
        for batch in at_work.workload.batches:
            if batch.on == "inference_upload":
                predict(Period(batch, now.astimezone(ZoneInfo(batch.timezone)).date()), tenants)
    at_work.report.flush()
    for member in appended:
        _end(at_work, member)


def _each_appended(at_work: PackAtWork, members: Sequence[Member]) -> Iterator[Member]:
    for member, future in at_work.side_by_side(_appended, members):
        try:
            member.data = future.result()
        except RefusedUploadError as error:
            refuse(at_work, member, error)
        except Exception as error:  # noqa: BLE001 - any error is this tenant's alone
            at_work.fail(
                member,
                "training_data",
                f"appending it failed: {type(error).__name__}: {error}",
                code="appending_failed",
            )
        else:
            if member.data is None:
                reason = "its tenant's first data are not prepared yet"
                at_work.postpone(member, "training_data", reason)
                continue
            report_prepared(at_work, member, member.data)
            yield member


def _appended(at_work: PackAtWork, member: Member) -> TrainingData | None:
    """The data with the member's; None where the first ones are still to be prepared."""
    request = member.request
    if request.purpose != "inference":
        return prepared(at_work, member)
    with at_work.span("append", member):
        known = current_data(at_work.deployment, request.workload, request.tenant)
        if known is None:
            if any(
                row.status in OPEN
                for row in at_work.queue.of_tenant(request.workload, request.tenant)
            ):
                return None
            raise RefusedUploadError(
                "there is no model yet that could predict from these data; upload a history for "
                "training first",
                NO_MODEL_YET,
            )
        return _with(at_work, request, known)


def _with(at_work: PackAtWork, request: Request, known: CurrentData) -> TrainingData:
    if known.data.version == request.version:
        return known.data  # by a run that died before it said so
    data = extend_data(at_work.deployment, at_work.workload, request, known.data)
    note_extension(at_work.deployment, request, known, data)
    return data


def _end(at_work: PackAtWork, member: Member) -> None:
    data = member.data
    if data is not None and member.owed and member.request.status == "claimed":
        at_work.move(
            member,
            "appended",
            why=f"{data.rows} rows with it, in {data.version}",
            changes={"facts": {"training_data": data.to_json()}},
        )
