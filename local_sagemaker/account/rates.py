"""Request rates and instance quotas, the two limits that an account meets."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from local_sagemaker.errors import ServiceError

TRAINING = "training job"
SPOT_TRAINING = "spot training job"
WARM_POOL = "training warm pool"
ENDPOINT = "endpoint"
TRANSFORM = "transform job"
PROCESSING = "processing job"
USAGES = (TRAINING, SPOT_TRAINING, WARM_POOL, ENDPOINT, TRANSFORM, PROCESSING)
"""The usages in the names of AWS's quotas: `ml.c5.xlarge for training job usage`
(docs.aws.amazon.com/general/latest/gr/sagemaker.html)."""


class TokenBucket:
    """AWS's usual throttle: `burst` requests at once, refilled at `rate` requests per second.

    `clock` returns seconds that never run backwards. Source of the scheme:
    docs.aws.amazon.com/AWSEC2/latest/APIReference/throttling.html.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled = clock()

    def take(self) -> None:
        """Use one token. Raises ThrottlingException when there is none."""
        now = self._clock()
        self._tokens = min(float(self._burst), self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens < 1:
            raise ServiceError("ThrottlingException", "Rate exceeded")
        self._tokens -= 1


@dataclass(frozen=True)
class TypeQuota:
    """How many instances of one type one usage may hold."""

    usage: str
    instance_type: str
    limit: int

    @classmethod
    def parse(cls, text: str) -> "TypeQuota":
        """From `ml.c5.xlarge for training job usage=4`, AWS's name of the quota and its value.
        Raises ValueError."""
        found = re.fullmatch(r"(ml\.\S+) for (.+) usage\s*=\s*(\d+)", text.strip())
        if found is None or found[2] not in USAGES:
            raise ValueError(
                f"{text!r} is no quota; write 'TYPE for USAGE usage=NUMBER' with a usage of "
                f"{', '.join(USAGES)}"
            )
        return cls(found[2], found[1], int(found[3]))


class Machine:
    """The most instances of all types that the quotas made `within` it may hold together, because
    each instance is a process on this machine."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.quotas: list[InstanceQuota] = []

    @property
    def used(self) -> int:
        """Instances held now."""
        return sum(quota.used for quota in self.quotas)


class InstanceQuota:
    """How many instances one usage may hold at once: of each type, as on AWS, and of all types
    together.

    `types` are quotas of any usage. `others` is the limit of a type without a quota; None means no
    limit. `within` is the machine that it shares.
    """

    def __init__(
        self,
        usage: str,
        types: Iterable[TypeQuota] = (),
        *,
        others: int | None = None,
        within: Machine | None = None,
    ) -> None:
        self.usage = usage
        self._limits = {quota.instance_type: quota.limit for quota in types if quota.usage == usage}
        self._others = others
        self._machine = within
        self._held: dict[str, Counter[str]] = {}
        if within is not None:
            within.quotas.append(self)

    @property
    def used(self) -> int:
        """Instances held now."""
        return sum(held.total() for held in self._held.values())

    def hold(self, owner: str, instances: Mapping[str, int]) -> None:
        """Make `owner` hold this many instances of each type. Raises ResourceLimitExceeded, and
        changes nothing, when that exceeds a limit."""
        before = self._held.get(owner, Counter())
        for instance_type, count in instances.items():
            delta = count - before[instance_type]
            limit = self._limits.get(instance_type, self._others)
            used = sum(held[instance_type] for held in self._held.values())
            if limit is not None and delta > 0 and used + delta > limit:
                raise self._exceeded(instance_type, limit, used, delta)
        delta = sum(instances.values()) - before.total()
        if (
            self._machine is not None
            and delta > 0
            and self._machine.used + delta > self._machine.limit
        ):
            raise self._exceeded(
                next(iter(instances)), self._machine.limit, self._machine.used, delta
            )
        self._held[owner] = Counter(instances)

    def _exceeded(self, instance_type: str, limit: int, used: int, delta: int) -> ServiceError:
        return ServiceError(
            "ResourceLimitExceeded",
            f"The account-level service limit '{instance_type} for {self.usage} usage' is {limit} "
            f"Instances, "
            f"with current utilization of {used} Instances and a request delta of {delta} "
            f"Instances. "
            "Please use AWS Service Quotas to request an increase for this quota. "
            "If AWS Service Quotas is not available, contact AWS support to request an increase "
            "for this quota.",
        )

    def release(self, owner: str) -> None:
        """Release all instances of `owner`."""
        self._held.pop(owner, None)

    def clear(self) -> None:
        """Release all instances."""
        self._held.clear()
