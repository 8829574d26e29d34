"""The state that the stages of a pack share, and how one member moves along, fails or is put off
while the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from tenantry.aws.notices import NoticeKind
from tenantry.models.registry import ModelRegistry
from tenantry.names import ids, tiers
from tenantry.onboarding.member import Member
from tenantry.onboarding.request_endings import RequestEndings
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import NotTheirTurnError, Status
from tenantry.shown.report import ONBOARDING, AssetName, Report
from tenantry.tracing import spans
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_AT_ONCE: Final = 4
_Made = TypeVar("_Made")


@dataclass
class PackAtWork:
    """A pack that a run works on.

    ``stages`` are the assets it is to make. ``by`` is the author of the changes to the rows, for
    their history.
    """

    deployment: Deployment
    workload: Workload
    pack: ids.PackId
    tier: tiers.Tier
    report: Report
    stages: frozenset[AssetName]
    by: str = "tenantry"

    def __post_init__(self) -> None:
        self.queue = RequestQueue(self.deployment, by=self.by)
        self.registry = ModelRegistry(self.deployment)
        self.endings = RequestEndings(self.deployment, self.workload, self.queue, self.report)

    def span(
        self, name: str, member: Member, *, began: int | None = None
    ) -> AbstractContextManager[str]:
        """A span of the work for a member, in its upload's trace; ``began`` is that of
        ``spans.span``."""
        request = member.request
        return spans.span(
            name,
            request.traceparent,
            began=began,
            workload=request.workload,
            tenant=request.tenant,
            request=request.request,
            pack=self.pack,
        )

    def side_by_side(
        self, work: Callable[[PackAtWork, Member], _Made], members: Sequence[Member]
    ) -> Iterator[tuple[Member, Future[_Made]]]:
        """Work for members, several at a time; yields each with what it comes to, in their order.
        One's fault is in its own future."""
        # Made once here rather than by each thread.
        self.deployment.s3, self.deployment.dynamodb  # noqa: B018
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            yield from [
                (member, pool.submit(copy_context().run, work, self, member)) for member in members
            ]

    def move(
        self, member: Member, to: Status, *, why: str, changes: Mapping[str, Any] | None = None
    ) -> bool:
        """Move a member's row along.

        Returns False when the row is no longer this pack's (cancelled, or taken over by another
        run) or could not be written. This run then does nothing more for the member.
        """
        try:
            member.request = self.queue.move(member.request, to, why=why, changes=changes)
        except NotTheirTurnError as error:
            member.left_training = True
            self.report.info(str(error))
            return False
        # Its neighbours go on; its pack's next run takes it up.
        except (ClientError, BotoCoreError) as error:
            member.left_training = True
            member.failure = f"its request could not be moved: {error}"
            self.report.info(f"{member.tenant}: {member.failure}")
            return False
        return True

    def fail(
        self,
        member: Member,
        asset: AssetName,
        reason: str,
        *,
        retryable: bool = True,
        tell: NoticeKind | None = None,
        new_version: bool = False,
        code: str | None = None,
    ) -> None:
        """End a member's try: its asset shows as failed, and its row says why and when it is tried
        again. The arguments are those of ``RequestEndings.failed``."""
        spans.mark_failed(code or "failed")
        member.left_training = True
        member.failure = reason
        member.refused = not retryable
        self._show_failed(member, asset, reason)
        if member.owed:
            self.endings.failed(
                member.request,
                reason,
                retryable=retryable,
                tell=tell,
                new_version=new_version,
                code=code,
            )

    def postpone(self, member: Member, asset: AssetName, reason: str) -> None:
        """Leave a member to a later pack, without counting a try."""
        member.left_training = True
        member.failure = reason
        self._show_failed(member, asset, reason)
        if not member.owed:
            return
        try:
            self.queue.postpone(member.request, reason)
        # Its pack still has it, and the next run takes it up.
        except (ClientError, BotoCoreError) as error:
            self.report.info(f"{member.tenant}: its request could not be put off: {error}")

    def _show_failed(self, member: Member, asset: AssetName, reason: str) -> None:
        """Show an asset as failed, and those that wait for it.

        - A refused upload that is not its tenant's first leaves those others as they are: the
          tenant's champion serves on.
        """
        waiting = ONBOARDING[ONBOARDING.index(asset) :]
        alone = member.refused and not member.request.first
        for shown in waiting[:1] if alone else waiting:
            if shown == asset or shown in self.stages:
                self.report.failed(shown, member.tenant, reason)
