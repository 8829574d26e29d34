"""Request rates and instance quotas, the two things an account runs into."""

from collections.abc import Callable

from local_sagemaker.errors import ServiceError


class TokenBucket:
    """AWS's usual throttle: `burst` requests at once, refilled at `rate` requests per second.

    `clock` returns seconds that never run backwards. Source of the scheme: docs.aws.amazon.com/AWSEC2/latest/APIReference/throttling.html.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled = clock()

    def take(self) -> None:
        """Use one token; ThrottlingException when there is none."""
        now = self._clock()
        self._tokens = min(float(self._burst), self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens < 1:
            raise ServiceError("ThrottlingException", "Rate exceeded")
        self._tokens -= 1


class InstanceQuota:
    """How many instances one usage ("training job", "endpoint", "transform job") may hold at once.

    AWS keeps such a quota per instance type (docs.aws.amazon.com/general/latest/gr/sagemaker.html); here one number bounds each usage,
    whatever the types, because every instance is a process on the same machine.
    """

    def __init__(self, usage: str, limit: int) -> None:
        self.usage = usage
        self.limit = limit
        self._held: dict[str, int] = {}

    @property
    def used(self) -> int:
        """Instances held now."""
        return sum(self._held.values())

    def hold(self, owner: str, count: int, instance_type: str) -> None:
        """Make `owner` hold `count` instances; ResourceLimitExceeded, and no change, when that passes the limit."""
        delta = count - self._held.get(owner, 0)
        if delta > 0 and self.used + delta > self.limit:
            raise ServiceError(
                "ResourceLimitExceeded",
                f"The account-level service limit '{instance_type} for {self.usage} usage' is {self.limit} Instances, "
                f"with current utilization of {self.used} Instances and a request delta of {delta} Instances. "
                "Please use AWS Service Quotas to request an increase for this quota. "
                "If AWS Service Quotas is not available, contact AWS support to request an increase for this quota.",
            )
        self._held[owner] = count

    def release(self, owner: str) -> None:
        """`owner` holds nothing any more."""
        self._held.pop(owner, None)

    def clear(self) -> None:
        """Nobody holds anything."""
        self._held.clear()
