"""Which execution environment answers a request: one request in an environment at a time, and no
more environments than invocations at once.

Source: docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html ("Concurrent
invocations").
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from local_sagemaker.errors import LocalSageMakerError

E = TypeVar("E")


class TooManyInvocationsError(LocalSageMakerError):
    """As many requests are in progress as the variant may have at once."""


class Pool(Generic[E]):
    """The environments of a variant. A request may `take` one that is idle, also one that is still
    starting. Only when none is idle does `new` make another. So there are never more than `limit`,
    and a lower limit holds as soon as requests have ended.

    `keep_warm` environments are kept, however long they are idle.
    """

    def __init__(self, limit: int, keep_warm: int, new: Callable[[], E]) -> None:
        self._new = new
        self.limit, self.keep_warm = limit, keep_warm
        self.idle: list[E] = []
        self.busy: list[E] = []

    @property
    def all(self) -> list[E]:
        """The idle and the busy environments."""
        return [*self.idle, *self.busy]

    def take(self) -> E:
        """An environment for one request: the one that was used last, as the others may then end.
        Raises TooManyInvocationsError at the limit."""
        if len(self.busy) >= self.limit:
            raise TooManyInvocationsError(f"{self.limit} invocations are in progress")
        environment = self.idle.pop() if self.idle else self._new()
        self.busy.append(environment)
        return environment

    def give_back(self, environment: E) -> bool:
        """End a request. Returns False if the environment is one too many, and no longer in the
        pool."""
        self.busy.remove(environment)
        if len(self.idle) + len(self.busy) >= self.limit:
            return False
        self.idle.append(environment)
        return True

    def lose(self, environment: E) -> None:
        """Remove an environment that ended, busy or idle."""
        for some in (self.busy, self.idle):
            if environment in some:
                some.remove(environment)

    def expire(self, environment: E) -> bool:
        """Remove an environment that was idle for long. Returns False if it stays: it is not idle,
        or it is kept warm."""
        if environment not in self.idle or len(self.idle) + len(self.busy) <= self.keep_warm:
            return False
        self.idle.remove(environment)
        return True

    def warm_up(self) -> list[E]:
        """Add the environments that are missing to those that are kept warm; returns them."""
        fresh = [self._new() for _ in range(self.keep_warm - len(self.idle) - len(self.busy))]
        self.idle = [*fresh, *self.idle]
        return fresh

    def resize(self, limit: int, keep_warm: int) -> list[E]:
        """Change the limits. Returns the idle environments that are too many, and no longer in the
        pool."""
        self.limit, self.keep_warm = limit, keep_warm
        excess = min(max(len(self.idle) + len(self.busy) - limit, 0), len(self.idle))
        gone, self.idle = self.idle[:excess], self.idle[excess:]
        return gone
