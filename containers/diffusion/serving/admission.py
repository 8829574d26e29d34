"""A queue of pictures that wait to be drawn; it shares the machine fairly between tenants, however
much each asks for.

Start-time fair queueing (Goyal, Vin and Cheng 1996, https://doi.org/10.1145/248157.248171): a
picture's turn is the time at which its tenant's earlier pictures would end if every tenant had an
equal share of the machine. It is never earlier than the turn of the picture taken last. A burst
waits behind itself; a tenant that has asked for little, or for the first time, comes next. When
nothing waits, every tenant has received its pictures, and the queue forgets their earlier shares.
"""

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from containers.runtime.errors import ContainerError

TenantT = TypeVar("TenantT", bound=Hashable)
ItemT = TypeVar("ItemT")


class QueueFullError(ContainerError):
    """The queue is full: for this tenant when ``of_tenant``, else for all tenants together.
    ``waiting`` items already wait."""

    def __init__(self, waiting: int, *, of_tenant: bool) -> None:
        super().__init__(f"{waiting} are waiting")
        self.waiting = waiting
        self.of_tenant = of_tenant


@dataclass
class _Line(Generic[ItemT]):
    """One tenant's items with their costs, and the turn of the first item, in units of cost."""

    turn: float
    arrived: int
    items: deque[tuple[ItemT, float]] = field(default_factory=deque)


class FairQueue(Generic[TenantT, ItemT]):
    """Items of many tenants: first in, first out for each, and an equal share of cost between those
    that wait."""

    def __init__(self, most: int, max_of_tenant: int) -> None:
        """Let at most ``most`` items wait, of one tenant at most ``max_of_tenant``."""
        self._most = most
        self._max_of_tenant = max_of_tenant
        self._lines: dict[TenantT, _Line[ItemT]] = {}
        # The turns of tenants that wait for nothing, until their last item's share is over.
        self._served: dict[TenantT, float] = {}
        self._now = 0.0
        self._arrivals = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def waiting_of(self, tenant: TenantT) -> int:
        """How many items of a tenant wait."""
        line = self._lines.get(tenant)
        return len(line.items) if line else 0

    def put(self, tenant: TenantT, items: list[ItemT], cost: float) -> None:
        """Let ``items`` wait, each with the positive ``cost``. Raises `QueueFullError`, and then
        queues none of them."""
        if self.waiting_of(tenant) + len(items) > self._max_of_tenant:
            raise QueueFullError(self.waiting_of(tenant), of_tenant=True)
        if self._count + len(items) > self._most:
            raise QueueFullError(self._count, of_tenant=False)
        line = self._lines.get(tenant)
        if line is None:
            self._arrivals += 1
            turn = max(self._now, self._served.pop(tenant, 0.0))
            line = self._lines[tenant] = _Line(turn, self._arrivals)
        line.items.extend((item, cost) for item in items)
        self._count += len(items)

    def next(self) -> tuple[TenantT, ItemT] | None:
        """The tenant with the next turn and its first item, which stays; None when nothing
        waits."""
        if not self._lines:
            return None
        tenant = min(
            self._lines, key=lambda name: (self._lines[name].turn, self._lines[name].arrived)
        )
        return tenant, self._lines[tenant].items[0][0]

    def take(self) -> tuple[TenantT, ItemT]:
        """Remove and return the item that `next` names. Raises `IndexError` when nothing waits."""
        chosen = self.next()
        if chosen is None:
            raise IndexError("nothing waits")
        tenant, item = chosen
        line = self._lines[tenant]
        _, cost = line.items.popleft()
        self._now = line.turn
        line.turn += cost
        self._count -= 1
        self._settle(tenant)
        return tenant, item

    def remove(
        self, tenant: TenantT, unwanted: Callable[[ItemT], bool] = lambda _: True
    ) -> list[ItemT]:
        """Remove a tenant's unwanted items, by default all of them. They cost the tenant nothing.

        Returns the removed items, in their order.
        """
        line = self._lines.get(tenant)
        if line is None:
            return []
        removed = [item for item, _ in line.items if unwanted(item)]
        line.items = deque((item, cost) for item, cost in line.items if not unwanted(item))
        self._count -= len(removed)
        self._settle(tenant)
        return removed

    def forget(self, tenant: TenantT) -> list[ItemT]:
        """Forget a tenant; returns its items that waited."""
        removed = self.remove(tenant)
        self._served.pop(tenant, None)
        return removed

    def _settle(self, tenant: TenantT) -> None:
        """Forget each tenant that does not wait, once its last item's share is over."""
        if not self._lines[tenant].items:
            self._served[tenant] = self._lines.pop(tenant).turn
        if not self._lines:
            self._served.clear()
            self._now = 0.0
        for name in [name for name, turn in self._served.items() if turn <= self._now]:
            del self._served[name]
