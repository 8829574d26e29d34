"""The requests table: the models owed to tenants, and each request's history. The queue is the
source of truth for unfinished work.

A request goes pending → claimed → training → trained → registered. After a failed try it is failed:
it waits for its next try and is pending again. When its tries are spent, it is dead-lettered. It
may also end in other ways:

- appended: it brought new data for the next predictions, and makes no model;
- refused: its data cannot become a model;
- superseded: the tenant uploaded again before it was claimed;
- cancelled: an operator took it out.

Every change of status is one conditional write, which also appends the author, moment and reason to
the row's history. The second of two writers finds the row changed, and writes nothing.
``docs/concepts.md`` has the picture.

A row keeps its latest changes. Older ones move to items of their own (``RequestQueue.history_of``),
so that no row grows to the 400 KB that DynamoDB allows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from boto3.dynamodb.conditions import Attr
from botocore.exceptions import BotoCoreError, ClientError

from tenantry.aws.notices import Notice, tell_tenant
from tenantry.aws.tables import MISSING, ConditionNotMetError, ItemTooLargeError
from tenantry.names import ids, table_keys, tiers
from tenantry.names.purposes import Purpose
from tenantry.requests.history import LONGEST_HISTORY, move_history_out
from tenantry.requests.newest import (
    Moment,
    came_after,
    newest_of,
    uploaded_again_since,
    uploaded_before,
)
from tenantry.requests.reader import RequestReader
from tenantry.requests.rows import (
    CAME_TO_NOTHING,
    INDEXED,
    NEXT,
    OPEN,
    NotTheirTurnError,
    Request,
    Status,
    afresh,
    key_of,
    now,
    request_of,
)
from tenantry.requests.uploaded_again import uploaded_again

FIRST_RETRY: Final = timedelta(seconds=20)  # doubles with each attempt
# between two tries to give SageMaker a job
LONGEST_PAUSE: Final = timedelta(minutes=10)
# about 16 hours; a row's history, and so its item, stays far below DynamoDB's 400 KB
MAX_POSTPONEMENTS: Final = 100
TOO_MANY_UPLOADS: Final = "too_many_uploads"
"""The code of the notice to a tenant with more uploads in a day than models may be made from."""
_MAX_REASON: Final = 1000  # characters kept of a reason
_CLAIMED_AT_ONCE: Final = 8
_OF_AN_UPLOAD: Final = ("manifest_key", "version", "uploaded", "tier")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RequestQueue(RequestReader):
    """The requests of all workloads.

    ``by`` is the author of the changes, for their history: ``sensor fine_tuning_launcher``, ``run
    3f2a…``, ``operator ann``.
    """

    by: str = "tenantry"

    # ---- in --------------------------------------------------------------------------------------

    def accept(
        self,
        workload: ids.WorkloadName,
        tenant: ids.ModelId,
        request: ids.RequestId,
        manifest_key: str,
        tier: tiers.Tier,
        *,
        first: bool,
        why: str = "uploaded",
        uploaded: datetime | None = None,
        group: str = "",
        notify_owner: bool = True,
        nth: int = 1,
        traceparent: str = "",
        purpose: Purpose = "training",
    ) -> bool:
        """Add a request, once.

        Args:
            workload: of the request.
            tenant: of the request.
            request: its id.
            manifest_key: of the upload it is made from.
            tier: where its model will be made and served.
            first: whether the tenant has no model yet.
            why: for the history.
            uploaded: when S3 took the manifest; now, if it is not given. The version is named after
                it.
            group: requests of different groups never share a pack.
            notify_owner: whether the tenant's owner is told the result.
            nth: which of the tenant's uploads of its day it is (``count_upload``).
            traceparent: the trace of its upload.
            purpose: of its upload.

        Returns:
            Whether there is something new to do.
            - False for a repeated event, in any state of the request.
            - False for a later upload of the same content.
            - True for such an upload if the request had come to nothing.
            - True for such an upload if the tenant had uploaded something else in between that is
              made or on its way.
        """
        at = now()
        row = {
            "manifest_key": manifest_key,
            "version": ids.version_of(request, uploaded or at),
            "uploaded": (uploaded or at).isoformat(),
            "tier": tier,
            "first": first,
            "attempt": 1,
            "queue": table_keys.queue_key(workload, "pending"),
            **({"group": group} if group else {}),
            **({} if notify_owner else {"notify_owner": False}),
            **({"nth": nth} if nth > 1 else {}),
            **({"traceparent": traceparent} if traceparent else {}),
            **({} if purpose == "training" else {"purpose": purpose}),
        }
        if self.put(workload, tenant, request, "pending", at, row, why=why):
            return True
        if purpose == "inference":
            return self._append_after_all(workload, tenant, request, row, uploaded or at)
        if uploaded is None or not notify_owner:
            return False
        return uploaded_again(self, workload, tenant, request, row, uploaded)

    def _append_after_all(
        self,
        workload: ids.WorkloadName,
        tenant: ids.ModelId,
        request: ids.RequestId,
        row: Mapping[str, Any],
        uploaded: datetime,
    ) -> bool:
        """Take data in again that came to nothing before, as without a model. Data that were
        appended, or will be, are known. So is a repeated event."""
        known = self.get(workload, tenant, request, "inference")
        if known is None or known.status not in CAME_TO_NOTHING:
            return False
        if not uploaded_before(known, uploaded):
            return False
        changes = {**afresh(known, now()), **{name: row[name] for name in _OF_AN_UPLOAD}}
        return self.try_move(known, "pending", why="uploaded again", changes=changes) is not None

    def refuse_at_the_door(
        self,
        workload: ids.WorkloadName,
        tenant: ids.ModelId,
        request: ids.RequestId,
        manifest_key: str,
        reason: str,
        code: str,
        purpose: Purpose = "training",
    ) -> bool:
        """Record an upload that was refused before it became a request, with the code of the
        refusal. Returns whether that is new."""
        row = {
            "manifest_key": manifest_key,
            "reason": reason[:_MAX_REASON],
            "reason_code": code,
            **({} if purpose == "training" else {"purpose": purpose}),
        }
        return self.put(workload, tenant, request, "refused", now(), row, why=reason)

    def put(
        self,
        workload: ids.WorkloadName,
        tenant: ids.ModelId,
        request: ids.RequestId,
        status: Status,
        at: datetime,
        row: Mapping[str, Any],
        why: str,
    ) -> bool:
        """Write a new row. Returns False if a row of its id is there."""
        try:
            self.deployment.requests.put(
                table_keys.request_item(tenant, workload, request, row.get("purpose", "training")),
                {
                    "status": status,
                    "accepted": at.isoformat(),
                    "due": at.isoformat(),
                    "history": [self._change(status, why, at, row.get("reason_code"))],
                    **row,
                },
                only_if=MISSING,
            )
        except ConditionNotMetError:
            return False
        return True

    # ---- changes ---------------------------------------------------------------------------------

    def move(
        self,
        request: Request,
        to: Status,
        *,
        why: str,
        changes: Mapping[str, Any] | None = None,
        code: str | None = None,
    ) -> Request:
        """Change a request's status, if it still has the status, the pack and the due time that
        ``request`` shows.

        The due time tells a row that went back to the queue from its earlier state.

        Args:
            request: the row as it was read.
            to: the new status.
            why: a sentence for the history.
            changes: further attributes to set; None removes one.
            code: names the kind of ``why`` for programs, in the history; ``reason_code`` among the
                changes, if not given.

        Raises:
            NotTheirTurnError: it has moved on since it was read, or the change is not one a request
                can make.
        """
        if to not in NEXT[request.status]:
            raise NotTheirTurnError(
                f"request {request.request} of {request.tenant} is {request.status}; it cannot "
                f"become {to}"
            )
        change = self._change(to, why, now(), code or (changes or {}).get("reason_code"))
        try:
            moved = self._write_move(request, to, change, changes or {})
        except ItemTooLargeError:
            # The row has reached DynamoDB's limit: its history moves out, and the change is written
            # again.
            row = self.get(request.workload, request.tenant, request.request, request.purpose)
            if row is None or not move_history_out(self.deployment, row):
                raise
            moved = self._write_move(request, to, change, changes or {})
        if len(moved.history) > LONGEST_HISTORY:
            with suppress(ClientError, BotoCoreError):  # the next change does it
                move_history_out(self.deployment, moved)
        return moved

    def _write_move(
        self, request: Request, to: Status, change: Mapping[str, Any], changes: Mapping[str, Any]
    ) -> Request:
        values: dict[str, Any] = {"status": to, **changes}
        if "reason" in values:
            values.setdefault("reason_code", None)  # a code belongs to the reason it came with
        values["queue"] = table_keys.queue_key(request.workload, to) if to in INDEXED else None
        its_pack = Attr("pack")
        as_it_was = (
            Attr("status").eq(request.status)
            & Attr("due").eq(request.due.isoformat())
            & (its_pack.not_exists() if request.pack is None else its_pack.eq(request.pack))
        )
        try:
            row = self.deployment.requests.update(
                key_of(request), values, appending={"history": [change]}, only_if=as_it_was
            )
        except ConditionNotMetError as error:
            # An answer can be lost, and the call be repeated: then the row has this very change
            # already.
            if (
                error.found
                and (found := request_of(error.found)).status == to
                and found.history[-1] == change
            ):
                return found
            raise NotTheirTurnError(
                f"request {request.request} of {request.tenant} is no longer {request.status}"
            ) from error
        return request_of(row)

    def try_move(
        self,
        request: Request,
        to: Status,
        *,
        why: str,
        changes: Mapping[str, Any] | None = None,
        code: str | None = None,
    ) -> Request | None:
        """``move``, or None when it was no longer this caller's to move."""
        try:
            return self.move(request, to, why=why, changes=changes, code=code)
        except NotTheirTurnError:
            return None

    def _alone(
        self, request: Request, to: Status, *, why: str, changes: Mapping[str, Any] | None = None
    ) -> Request | None:
        """``try_move`` for one of many: an error goes to the log, and affects this request
        alone."""
        try:
            return self.try_move(request, to, why=why, changes=changes)
        except (ClientError, BotoCoreError):
            _LOG.exception(
                "request %s of %s could not become %s", request.request, request.tenant, to
            )
            return None

    def claim(self, requests: Sequence[Request], pack: ids.PackId) -> list[Request]:
        """Take requests for a pack. Returns those that were still free, in the order given; one
        that cannot be changed is left out."""

        def take(request: Request) -> Request | None:
            changes: dict[str, str] = {"pack": pack}
            if uploaded_again_since(request):
                # A version is as new as its upload.
                changes["version"] = ids.version_of(f"{request.request}/{pack}", request.uploaded)
            return self._alone(request, "claimed", why=f"pack {pack}", changes=changes)

        if len(requests) == 1:
            claimed: Iterable[Request | None] = [take(requests[0])]
        else:
            with ThreadPoolExecutor(_CLAIMED_AT_ONCE) as pool:
                claimed = list(pool.map(take, requests))
        return [request for request in claimed if request is not None]

    def fail(
        self,
        request: Request,
        reason: str,
        *,
        attempts: int,
        retryable: bool = True,
        new_version: bool = False,
        first_retry: timedelta = FIRST_RETRY,
        code: str | None = None,
    ) -> Request:
        """Note that a try failed. The request waits for its next one. When its tries are spent, it
        is dead-lettered and its tenant is told.

        Args:
            request: the row as it was read.
            reason: why it failed, as a sentence.
            attempts: how many tries the workload gives.
            retryable: whether trying the same data again can help; when it cannot, the request is
                refused.
            new_version: whether the next try makes another version, because this one's archive is
                unusable. An endpoint may have loaded it under its name.
            first_retry: how long it waits after its first try; twice as long after each further
                one.
            code: names the kind of ``reason`` for programs.

        Raises:
            NotTheirTurnError: it has moved on since it was read.
        """
        reason = reason[:_MAX_REASON]
        if not retryable:
            refused = {"reason": reason, "reason_code": code, "pack": None}
            return self.move(request, "refused", why=reason, changes=refused)
        if request.attempt >= attempts:
            return self._dead_letter(request, reason, code)
        due, attempt = now() + first_retry * 2 ** (request.attempt - 1), request.attempt + 1
        changes = {
            "reason": reason,
            "reason_code": code,
            "attempt": attempt,
            "due": due.isoformat(),
            "pack": None,
            "job": None,
        }
        if new_version:
            changes["version"] = ids.version_of(f"{request.version}/{attempt}", request.uploaded)
        return self.move(request, "failed", why=reason, changes=changes)

    def _dead_letter(self, request: Request, reason: str, code: str | None = None) -> Request:
        """Give a request up. Tell its tenant first, move its row second: a process that dies in
        between leads to a second notice, never to none."""
        if request.notify_owner:
            said = f"No model could be made from your upload: {reason}"
            tell_tenant(
                self.deployment,
                Notice(
                    "model_not_made",
                    request.workload,
                    request.tenant,
                    said,
                    request=request.request,
                    code=code,
                ),
            )
        changes = {"reason": reason, "reason_code": code, "pack": None}
        return self.move(request, "dead_lettered", why=reason, changes=changes)

    def wake(self, workload: ids.WorkloadName) -> list[Request]:
        """Make failed requests pending again if their next try is due. Returns them."""
        rows = [
            self._alone(row, "pending", why=f"try {row.attempt}")
            for row in self._with_status(workload, "failed", until=now())
        ]
        return [row for row in rows if row is not None]

    def postpone(
        self, request: Request, why: str, until: datetime | None = None, *, code: str | None = None
    ) -> None:
        """Put a request back for a later moment without counting a try: nothing was wrong with it.

        It may have moved on within its pack since it was read. If it has moved to another pack, it
        is left to that pack. Without ``until`` it waits longer each time, up to ten minutes. After
        a hundred times it is dead-lettered, and its tenant is told. ``code`` names the kind of
        ``why``, in the history.
        """
        for row in self.get_many([request.key], request.workload):
            if row.pack != request.pack:
                continue
            if row.postponements >= MAX_POSTPONEMENTS:
                reason = f"put off {row.postponements} times, at last because: {why}"[:_MAX_REASON]
                with suppress(NotTheirTurnError):
                    self._dead_letter(row, reason, "put_off_too_often")
                continue
            pause = min(FIRST_RETRY * 2 ** min(row.postponements, 10), LONGEST_PAUSE)
            changes = {
                "due": (until or now() + pause).isoformat(),
                "pack": None,
                "job": None,
                "postponements": row.postponements + (until is None),
            }
            self.try_move(row, "pending", why=why, changes=changes, code=code)

    def set_apart(self, request: Request, apart: str, *, why: str, due: datetime) -> Request | None:
        """Put back a request of a pack that keeps killing its runs. From now on it shares packs
        only with requests that have the same ``apart``.

        No try is counted: it may be innocent. None when it has moved on since it was read, or
        cannot be changed.
        """
        changes = {
            "due": due.isoformat(),
            "pack": None,
            "job": None,
            "apart": apart,
            "postponements": request.postponements + 1,
        }
        return self._alone(request, "pending", why=why, changes=changes)

    def supersede(self, request: Request, newer: Request) -> Request | None:
        """Give up an unclaimed request for a newer one of its tenant. None when it has moved on, or
        cannot be changed."""
        return self._alone(request, "superseded", why=f"a newer upload is request {newer.request}")

    def cancel(self, request: Request, *, why: str) -> Request:
        """Take a request out of the queue, or out of its pack, whose other requests go on.

        Raises:
            NotTheirTurnError: it is finished, or has moved on since it was read.
        """
        return self.move(
            request, "cancelled", why=why, changes={"reason": why[:_MAX_REASON], "pack": None}
        )

    def retry(self, request: Request, *, why: str) -> Request:
        """Give a request that is out of the queue, or waits for its next try, all its tries again,
        from now on.

        Its next version has a name of its own.

        Raises:
            NotTheirTurnError: it is open or done already, has moved on since it was read, or was
                refused before it ever was a request: then only another upload helps.
        """
        if request.version is None:
            raise NotTheirTurnError(
                f"request {request.request} of {request.tenant} was refused when it came in "
                f"({request.reason}); upload again"
            )
        if request.status not in {"failed", "refused", "cancelled", "dead_lettered"}:
            raise NotTheirTurnError(
                f"request {request.request} of {request.tenant} is {request.status}; there is "
                f"nothing to retry"
            )
        return self.move(request, "pending", why=why, changes=afresh(request, now()))

    def bring_back_superseded(self, refused: Request) -> Request | None:
        """Bring back the request that a refused one superseded: without the newer upload it is
        worth making after all.

        Returns:
            The request that is pending again; None when there is none, or the tenant has a model
            from a later upload.
        """
        rows = [
            row
            for row in self.of_tenant(refused.workload, refused.tenant)
            if row.request != refused.request
        ]
        newest = newest_of(
            row for row in rows if row.status == "superseded" and not came_after(row, refused)
        )
        if newest is None:
            return None
        # A registered version is as new as the upload it was made from, even if that content was
        # uploaded again.
        made = [
            row.version for row in rows if row.status == "registered" and row.version is not None
        ]
        if any(Moment.of(version) >= Moment.of_request(newest) for version in made):
            return None
        if any(row.status in OPEN and not came_after(newest, row) for row in rows):
            return None
        why = f"request {refused.request}, which superseded it, was refused"
        return self.try_move(newest, "pending", why=why, changes=afresh(newest, now()))

    def _change(
        self, status: Status, why: str, at: datetime, code: str | None = None
    ) -> dict[str, str]:
        change = {"at": at.isoformat(), "by": self.by[:100], "status": status, "why": why[:300]}
        return {**change, "code": code} if code is not None else change
