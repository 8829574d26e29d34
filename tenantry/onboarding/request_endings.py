"""How a request ends, failed or registered: its tenant hears of it, then its row says so.

Dagster hears first, the tenant second, and the row moves last. A process that dies in between leads
to a second notice, which is harmless, and never to none.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from tenantry.aws.notices import Notice, NoticeKind, tell_tenant, tell_tenants
from tenantry.names import ids
from tenantry.onboarding.registration import Registration
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import NotTheirTurnError, Request
from tenantry.shown.report import Report
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_ROWS_FOLLOW_SECONDS: Final = 1.0


class RequestEndings:
    """The endings of a pack's requests. Tenants hear of failures at once, and of registrations in
    batches of about a second each."""

    def __init__(
        self, deployment: Deployment, workload: Workload, queue: RequestQueue, report: Report
    ) -> None:
        self._deployment = deployment
        self._workload = workload
        self._queue = queue
        self._report = report
        self._registered: list[tuple[Request, ids.Version, Registration, bool]] = []
        self._told = time.monotonic()

    def failed(
        self,
        request: Request,
        reason: str,
        *,
        retryable: bool = True,
        tell: NoticeKind | None = None,
        new_version: bool = False,
        code: str | None = None,
    ) -> None:
        """Tell the tenant of a failed try, if ``tell`` is given, and move the row.

        Args:
            request: the row as it was read.
            reason: why it failed, as a sentence.
            retryable: whether trying the same data again can help; the queue tells the tenant when
                the last try failed.
            tell: the kind of notice that the tenant gets at once; None for no notice.
            new_version: whether the next try makes another version (``RequestQueue.fail``).
            code: names the kind of ``reason`` for programs.
        """
        self._report.flush()
        if tell is not None and request.notify_owner:
            blame = (
                "Your upload cannot be used"
                if tell == "upload_refused"
                else "No model could be made from your upload"
            )
            tell_tenant(self._deployment, _notice(request, tell, f"{blame}: {reason}", None, code))
        try:
            if not retryable:
                # Bring back first, refuse second: if this process dies in between, no run takes up
                # a refused row again.
                self._queue.bring_back_superseded(request)
            self._queue.fail(
                request,
                reason,
                attempts=self._workload.training.attempts,
                retryable=retryable,
                new_version=new_version,
                first_retry=timedelta(seconds=self._workload.scheduling.retry_seconds),
                code=code,
            )
        except NotTheirTurnError as error:
            self._report.info(str(error))
        except (
            ClientError,
            BotoCoreError,
        ) as error:  # its pack still has it, and the next run takes it up
            self._report.info(f"{request.tenant}: its request could not be moved: {error}")

    def registered(
        self, request: Request, version: ids.Version, done: Registration, *, owed: bool
    ) -> None:
        """Note that ``version`` was registered. The next batch tells its tenant, and then moves its
        row if it is owed."""
        self._registered.append((request, version, done, owed))
        if time.monotonic() - self._told > _ROWS_FOLLOW_SECONDS:
            self.tell_registered()

    def tell_registered(self) -> None:
        """Tell the tenants registered so far, and move their rows.

        Dagster's events are handed on in batches, so rows follow them in batches too.
        """
        self._report.flush()
        finished, self._registered = self._registered, []
        self._told = time.monotonic()
        tell_tenants(
            self._deployment,
            [
                self._outcome(request, version, done)
                for request, version, done, _ in finished
                if request.notify_owner
            ],
        )
        for request, _, done, owed in finished:
            if owed and request.status == "trained":
                try:
                    self._queue.move(request, "registered", why=done.decision)
                except (
                    NotTheirTurnError,
                    ClientError,
                    BotoCoreError,
                ) as error:  # the next run of its pack moves it
                    self._report.info(
                        f"{request.tenant}: its request did not become registered: {error}"
                    )

    def _outcome(self, request: Request, version: ids.Version, done: Registration) -> Notice:
        if done.crowned:
            return _notice(
                request, "model_ready", f"Your {self._workload.title.lower()} are ready.", version
            )
        kept = f"Your model stays as it was: {done.decision}."
        return _notice(request, "model_kept", kept, done.champion.version)


def _notice(
    request: Request,
    kind: NoticeKind,
    message: str,
    version: ids.Version | None,
    code: str | None = None,
) -> Notice:
    return Notice(
        kind,
        request.workload,
        request.tenant,
        message,
        request=request.request,
        version=version,
        code=code,
    )
