"""AWS's bill for instances: seconds by usage, type and resource, kept across restarts, and USD
where prices are given.

AWS bills instances for each second that they are held (aws.amazon.com/sagemaker/pricing). Seconds
are AWS's, by the emulator's clock.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, Field, TypeAdapter

from local_sagemaker.account.state import Store
from local_sagemaker.clock import Clock

KIND = "billed"
_SECONDS_PER_HOUR = 3600.0
_Prices = TypeAdapter(dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]])


def read_prices(path: Path) -> dict[str, float]:
    """USD an hour by instance type, from a YAML or JSON file `{"ml.m5.large": 0.115}`.

    Raises ValueError (pydantic's names the wrong entry) and OSError.
    """
    try:
        return _Prices.validate_python(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {error}") from error


@dataclass(frozen=True)
class Account:
    """The account that instances are billed to: the usage, as AWS's quotas name it, the ARN of the
    holding resource, and the instance type."""

    usage: str
    resource: str
    instance_type: str

    @property
    def name(self) -> str:
        """The account's unique name in the store."""
        return f"{self.usage} {self.instance_type} {self.resource}"


class BillLine(BaseModel):
    """Billed seconds, times instances, of one instance type in one usage, for one resource or for
    all when `resource` is None."""

    usage: str
    instance_type: str
    resource: str | None = None
    instance_seconds: float
    usd: float | None = None


class Bill(BaseModel):
    """The answer of `GET /_local/bill`. `time_lapse` is the clock's. `usd` is None where no
    prices were given; `without_price` names the types without a price, which add nothing."""

    time_lapse: int
    instance_seconds: float
    usd: float | None
    usages: list[BillLine]
    resources: list[BillLine]
    without_price: list[str]


class Running:
    """Instances that are billed until `end`."""

    def __init__(self, meter: "Meter", clock: Clock, account: Account, rate: float) -> None:
        self._meter = meter
        self._clock = clock
        self.account = account
        self.rate = rate
        self.since = clock.ticks()

    def take(self) -> float:
        """The billed seconds since the last call."""
        now = self._clock.ticks()
        seconds, self.since = (now - self.since) * self.rate, now
        return seconds

    def end(self) -> None:
        """Return the instances. A second call does nothing."""
        self._meter.end(self)


class Meter:
    """All instances that are billed now, and the earlier bills. `prices` are in USD an hour by
    instance type."""

    def __init__(self, store: Store, clock: Clock, prices: Mapping[str, float] | None) -> None:
        self._store = store
        self._clock = clock
        self._prices = prices
        self._running: set[Running] = set()

    def begin(self, account: Account, count: int = 1, share: float = 1.0) -> Running:
        """Start billing `count` instances for `share` of their time."""
        running = Running(self, self._clock, account, count * share)
        self._running.add(running)
        return running

    def end(self, running: Running) -> None:
        """Stop billing these instances."""
        if running in self._running:
            self._running.discard(running)
            self._add(running.account, running.take())

    def settle(self) -> None:
        """Store the bills of running instances, so that a killed emulator loses only the time since
        then."""
        for running in self._running:
            self._add(running.account, running.take())

    def bill(self) -> Bill:
        """Everything up to now."""
        self.settle()
        resources, sums = [], Counter[tuple[str, str]]()
        for _, document in self._store.all(KIND):
            usage, kind, seconds = (
                document["usage"],
                document["instance_type"],
                document["seconds"],
            )
            resources.append(self._line(usage, kind, document["resource"], seconds))
            sums[usage, kind] += seconds
        usages = [
            self._line(usage, kind, None, seconds)
            for (usage, kind), seconds in sorted(sums.items())
        ]
        return Bill(
            time_lapse=self._clock.lapse,
            instance_seconds=sums.total(),
            usd=None if self._prices is None else sum(line.usd or 0.0 for line in usages),
            usages=usages,
            resources=resources,
            without_price=sorted({kind for _, kind in sums} - set(self._prices or {})),
        )

    def _line(
        self, usage: str, instance_type: str, resource: str | None, billed: float
    ) -> BillLine:
        price = (self._prices or {}).get(instance_type)
        return BillLine(
            usage=usage,
            instance_type=instance_type,
            resource=resource,
            instance_seconds=billed,
            usd=None if price is None else billed / _SECONDS_PER_HOUR * price,
        )

    def _add(self, account: Account, seconds: float) -> None:
        document = self._store.get(KIND, account.name) or {
            "usage": account.usage,
            "resource": account.resource,
            "instance_type": account.instance_type,
            "seconds": 0.0,
        }
        self._store.put(KIND, account.name, document | {"seconds": document["seconds"] + seconds})
