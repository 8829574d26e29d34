"""AWS's bill by line: what was used, of which resource, with the resource's tags, and its cost
where a price is known. It is kept across restarts.

AWS bills instances for each second that they are held, and serverless endpoints for each
millisecond of a request (aws.amazon.com/sagemaker/pricing). Seconds are AWS's, by the emulator's
clock.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from pydantic import BaseModel

from local_sagemaker.account.prices import Prices
from local_sagemaker.account.state import Document, Store
from local_sagemaker.clock import Clock

KIND = "bill-line"
INSTANCE = "instance"
STORAGE = "storage"
DATA_IN, DATA_OUT = "data in", "data out"
REQUESTS = "requests"
SERVERLESS_COMPUTE = "serverless compute"
PROVISIONED_COMPUTE = "serverless provisioned compute"
PROVISIONED_CONCURRENCY = "serverless provisioned concurrency"
SERVERLESS = "serverless"
"""The usage of serverless endpoints."""
BYTES_PER_GB = 1024**3
_SECONDS_PER_HOUR = 3600.0
_SECONDS_PER_MONTH = 30 * 24 * _SECONDS_PER_HOUR
"""A GB-month is a GB for 30 days, as in AWS's examples (aws.amazon.com/ebs/pricing)."""


@dataclass(frozen=True)
class Item:
    """What a line counts: `what`, its usage, the instance type or memory size in `kind`, the unit,
    and the ARN of the resource."""

    what: str
    usage: str
    kind: str
    unit: str
    resource: str

    @property
    def price_name(self) -> str:
        """The name that its price has."""
        return self.kind if self.what == INSTANCE else self.what


@dataclass(frozen=True)
class Account:
    """The account that instances are billed to: the usage, as AWS's quotas name it, the ARN of the
    holding resource, the instance type, and the volume of each instance, 0 where it is not
    known."""

    usage: str
    resource: str
    instance_type: str
    volume_gb: int = 0

    def items(self) -> dict[Item, float]:
        """What an instance counts in each second that it is held."""
        instance = Item(INSTANCE, self.usage, self.instance_type, "instance-hour", self.resource)
        found = {instance: 1 / _SECONDS_PER_HOUR}
        if self.volume_gb:
            storage = Item(STORAGE, self.usage, "", "GB-month", self.resource)
            found[storage] = self.volume_gb / _SECONDS_PER_MONTH
        return found


class Line(BaseModel):
    """One line of the bill. `price` is of one unit, after `discount`, a share. Without a price
    there is no cost, and `price_source` says so."""

    what: str
    usage: str
    kind: str
    unit: str
    quantity: float
    price: float | None
    price_source: str
    discount: float
    cost: float | None
    resource: str
    tags: dict[str, str]


class BillLine(BaseModel):
    """Billed seconds, times instances, of one instance type in one usage, for one resource or for
    all when `resource` is None."""

    usage: str
    instance_type: str
    resource: str | None = None
    instance_seconds: float
    cost: float | None = None


class TagShare(BaseModel):
    """The lines' sum for one value of a tag, None for resources without it. `without_price` counts
    the lines that have no cost."""

    value: str | None
    cost: float
    without_price: int


class Bill(BaseModel):
    """The answer of `GET /_local/bill`. `time_lapse` is the clock's.

    `lines` are the whole bill. `usages` and `resources` are its instances only. `cost` is the sum
    of the lines with a price, None where none has one; `without_price` names what has none.
    `by_tag` is there if the call names a tag.
    """

    time_lapse: int
    region: str
    currency: str
    cost: float | None
    lines: list[Line]
    instance_seconds: float
    usages: list[BillLine]
    resources: list[BillLine]
    without_price: list[str]
    by_tag: list[TagShare] | None = None


class Running:
    """Something that is billed by time until `end`; `rates` are the quantities of a second."""

    def __init__(self, meter: "Meter", clock: Clock, rates: Mapping[Item, float]) -> None:
        self._meter = meter
        self._clock = clock
        self._rates = rates
        self._since = clock.ticks()

    def take(self) -> dict[Item, float]:
        """What is billed since the last call."""
        now = self._clock.ticks()
        seconds, self._since = now - self._since, now
        return {item: rate * seconds for item, rate in self._rates.items()}

    def end(self) -> None:
        """Return what is held. A second call does nothing."""
        self._meter.end(self)


class Meter:
    """All that is billed now, and the earlier bills. `discounts` are shares of the price of
    instances, by usage, as Savings Plans give them."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        prices: Prices,
        region: str = "",
        currency: str = "USD",
        discounts: Mapping[str, float] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._prices = prices
        self._region = region
        self._currency = currency
        self._discounts = discounts or {}
        self._running: set[Running] = set()
        self._counted: dict[Item, float] = {}

    def begin(self, account: Account, count: int = 1, share: float = 1.0) -> Running:
        """Start billing `count` instances for `share` of their time."""
        return self._begin({item: rate * count * share for item, rate in account.items().items()})

    def hold(self, item: Item, quantity: float) -> Running:
        """Start billing so much of an item in each second."""
        return self._begin({item: quantity})

    def _begin(self, rates: Mapping[Item, float]) -> Running:
        running = Running(self, self._clock, rates)
        self._running.add(running)
        return running

    def count(self, item: Item, quantity: float) -> None:
        """Bill so much of an item once. It is stored by the next `settle`."""
        self._counted[item] = self._counted.get(item, 0.0) + quantity

    def end(self, running: Running) -> None:
        """Stop billing this."""
        if running in self._running:
            self._running.discard(running)
            self._add(running.take())

    def settle(self) -> None:
        """Store what was billed until now, so that a killed emulator loses only what is billed
        after it. Call it before the tags of a resource change or go, because a line has the tags of
        its time."""
        for running in self._running:
            self._add(running.take())
        counted, self._counted = self._counted, {}
        self._add(counted)

    def bill(self, tag: str | None = None) -> Bill:
        """Everything up to now; with `tag`, also its sum by the values of this tag."""
        self.settle()
        lines = [self._line(document) for _, document in self._store.all(KIND)]
        instances = [line for line in lines if line.what == INSTANCE]
        return Bill(
            time_lapse=self._clock.lapse,
            region=self._region,
            currency=self._currency,
            cost=_cost(lines),
            lines=lines,
            instance_seconds=sum(line.quantity for line in instances) * _SECONDS_PER_HOUR,
            usages=_sums(instances, by_resource=False),
            resources=_sums(instances, by_resource=True),
            without_price=sorted(
                {
                    line.kind if line.what == INSTANCE else line.what
                    for line in lines
                    if line.price is None
                }
            ),
            by_tag=None if tag is None else _by_tag(lines, tag),
        )

    def _line(self, document: Document) -> Line:
        item = Item(**document["item"])
        price = self._prices.of(item.price_name, item.usage)
        discount = self._discounts.get(item.usage, 0.0) if item.what == INSTANCE else 0.0
        amount = None if price is None else price.amount * (1 - discount)
        return Line(
            **asdict(item),
            quantity=document["quantity"],
            price=amount,
            price_source="no price is known" if price is None else price.source,
            discount=discount,
            cost=None if amount is None else document["quantity"] * amount,
            tags=document["tags"],
        )

    def _add(self, quantities: Mapping[Item, float]) -> None:
        for item, quantity in quantities.items():
            tagged = self._store.get("tags", item.resource) or {"Tags": []}
            tags = {tag["Key"]: tag["Value"] for tag in tagged["Tags"]}
            name = json.dumps([*asdict(item).values(), tags], sort_keys=True)
            known = self._store.get(KIND, name) or {"quantity": 0.0}
            document = {
                "item": asdict(item),
                "tags": tags,
                "quantity": known["quantity"] + quantity,
            }
            self._store.put(KIND, name, document)


def _sums(lines: list[Line], *, by_resource: bool) -> list[BillLine]:
    """The lines of instances, summed by usage and type, and by resource too."""
    groups: dict[tuple[str, str, str | None], list[Line]] = {}
    for line in lines:
        key = (line.usage, line.kind, line.resource if by_resource else None)
        groups.setdefault(key, []).append(line)
    return [
        BillLine(
            usage=usage,
            instance_type=kind,
            resource=resource,
            instance_seconds=sum(line.quantity for line in mine) * _SECONDS_PER_HOUR,
            cost=_cost(mine),
        )
        for (usage, kind, resource), mine in groups.items()
    ]


def _cost(lines: Iterable[Line]) -> float | None:
    """The sum of the costs; None where no line has one."""
    costs = [line.cost for line in lines if line.cost is not None]
    return sum(costs) if costs else None


def _by_tag(lines: list[Line], tag: str) -> list[TagShare]:
    groups: dict[str | None, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.tags.get(tag), []).append(line)
    return [
        TagShare(
            value=value,
            cost=_cost(mine) or 0.0,
            without_price=sum(line.cost is None for line in mine),
        )
        for value, mine in groups.items()
    ]
