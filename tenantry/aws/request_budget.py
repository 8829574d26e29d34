"""A rate limit that all processes of a deployment share: AWS counts an operation's calls for the
whole account.

The limit is a bucket of ``burst`` tokens, refilled by ``rate`` tokens a second. One number holds
its state: the moment at which it will be full again. This is the generic cell rate algorithm (ITU-T
I.371, "Traffic control and congestion control in B-ISDN", annex A).

A caller takes the next free moment by a conditional write and waits for it. Callers are served in
order, and none has to ask twice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from boto3.dynamodb.conditions import Attr

from tenantry.aws.tables import ConditionNotMetError
from tenantry.errors import TenantryError
from tenantry.names import table_keys

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_MICROSECONDS: Final = 1_000_000
_LONGEST_PAUSE: Final = 0.02  # seconds, after another caller was faster


class BudgetSpentError(TenantryError, RuntimeError):
    """Too many calls are waiting, so this one's turn would come too late. It took no turn and may
    be tried again later."""


@dataclass(frozen=True)
class RequestBudget:
    """The calls of one operation that all processes together may make.

    Args:
        deployment: its requests table holds the bucket; the clocks of its machines should agree to
            well under a second.
        operation: the operation's name, as ``CreateTrainingJob``.
        rate: calls a second. AWS publishes no figure for CreateTrainingJob; its quota L-21A1652A
            shows an account's own.
        burst: calls that may be made at once after a quiet time.
        longest_wait: seconds that a call may have to wait for its turn.
        clock: seconds since the epoch.
    """

    deployment: Deployment
    operation: str
    rate: float
    burst: int
    longest_wait: float = 300.0
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.burst >= 1):
            raise ValueError(
                f"rate is {self.rate} and burst {self.burst}; a rate above 0 and a burst of at "
                f"least 1 are needed"
            )

    def wait(self) -> None:
        """Wait for the next call's turn. Raises ``BudgetSpentError`` at once when it would take
        longer than ``longest_wait``."""
        left = self.take() - self.clock()
        if left > 0:
            time.sleep(left)

    def take(self) -> float:
        """Take the next call's turn. Returns its moment in seconds since the epoch, which may be
        now.

        Raises:
            BudgetSpentError: the turn would come later than ``longest_wait`` from now; none was
                taken.
        """
        interval = round(_MICROSECONDS / self.rate)
        while True:
            full = self._full_at()
            now = round(self.clock() * _MICROSECONDS)
            turn = now if full is None else max(now, full - (self.burst - 1) * interval)
            if turn - now > self.longest_wait * _MICROSECONDS:
                raise BudgetSpentError(
                    f"{self.operation} is called {self.rate:g} times a second, and "
                    f"{(turn - now) / _MICROSECONDS:.0f} s of calls"
                    " are waiting; try again later, or raise the rate if AWS's quota allows it"
                )
            if self._set_full_at(full, max(now, full or 0) + interval):
                return turn / _MICROSECONDS
            # Not a secret: the jitter only keeps colliding callers apart.
            time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311

    def _full_at(self) -> int | None:
        row = self.deployment.requests.get(table_keys.request_budget_item(self.operation))
        return int(row["full_at"]) if row is not None else None

    def _set_full_at(self, before: int | None, after: int) -> bool:
        """Replace the moment ``before`` by ``after``. Returns False when another caller took a turn
        in between."""
        full_at = Attr("full_at")
        try:
            self.deployment.requests.update(
                table_keys.request_budget_item(self.operation),
                {"full_at": after},
                only_if=full_at.not_exists() if before is None else full_at.eq(before),
            )
        except ConditionNotMetError:
            return False
        return True
