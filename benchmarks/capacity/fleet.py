"""How to cut a multi-model fleet: few large or many small instances, a dedicated endpoint for a hot
tenant, and a plan for many tenants. All by simulation, request by request.

A request goes to the instance that its model hashes to. If the model is not loaded there, the
request waits for the load. An instance loads only a few models at a time, as disks and networks
throttle. The least recently used model gives way. Loaded, the request waits for a slot.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.capacity.simulator import Instance
from benchmarks.capacity.traces import SEED, SHARE
from tenantry.capacity.predictive import instances_for
from tenantry.capacity.reactive import EndpointProfile

SECONDS: Final = 900
"""Of demand that a simulation replays; the first third fills the memories and is not counted."""
SKEW: Final = 0.9
"""Exponent of Zipf's law, by which tenants ask."""
CUTS: Final = (1, 2, 4, 8, 16)
TOTAL_SLOTS: Final = 64
CUT_TENANTS: Final = 32_000
CUT_LOAD: Final = 0.4
HOT_SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FLEET_MOST: Final = 400
TAIL: Final = 5.0


@dataclass(frozen=True)
class Machine:
    """An instance of a multi-model endpoint.

    It does `slots` inferences at a time, each of `seconds_per_inference`, and holds `models`.
    It loads `loads` models at a time, each in `load_seconds`. The defaults are assumptions; put
    your own measurements in their place.
    """

    slots: int = 4
    seconds_per_inference: float = 0.5
    models: int = 1000
    loads: int = 2
    load_seconds: float = 0.25

    @property
    def rate(self) -> float:
        """The most requests a second that it serves."""
        return self.slots / self.seconds_per_inference


@dataclass(frozen=True)
class Waits:
    """Seconds from a request to its inference: quantiles, and the share that waited for a load."""

    p50: float
    p95: float
    p99: float
    cold: float


def zipf(tenants: int, rate: float, skew: float = SKEW) -> NDArray[np.float64]:
    """Requests a second of each tenant, the most active first."""
    weights = np.arange(1, tenants + 1, dtype=np.float64) ** -skew
    rates: NDArray[np.float64] = weights / weights.sum() * rate
    return rates


def replay(rates: NDArray[np.float64], count: int, machine: Machine, seed: int = SEED) -> Waits:
    """Waits of Poisson requests of many tenants on `count` machines."""
    random = np.random.default_rng((seed, count, len(rates)))
    total = float(rates.sum())
    number = int(random.poisson(total * SECONDS))
    moments = np.sort(random.uniform(0, SECONDS, number)).tolist()
    models = random.choice(len(rates), number, p=rates / total).tolist()
    homes = random.integers(0, count, len(rates)).tolist()
    loaded: list[OrderedDict[int, float]] = [OrderedDict() for _ in range(count)]
    loaders = [[0.0] * machine.loads for _ in range(count)]
    ready: list[tuple[float, int]] = []
    cold = 0
    counted_from = SECONDS / 3
    for place, (moment, model) in enumerate(zip(moments, models, strict=True)):
        home = homes[model]
        memory = loaded[home]
        there = memory.get(model)
        if there is None:
            begin = max(moment, heappop(loaders[home]))
            there = begin + machine.load_seconds
            heappush(loaders[home], there)
            memory[model] = there
            if len(memory) > machine.models:
                memory.popitem(last=False)
        else:
            memory.move_to_end(model)
        cold += there > moment >= counted_from
        ready.append((max(moment, there), place))
    heapify(ready)
    free = [[0.0] * machine.slots for _ in range(count)]
    waits = []
    while ready:
        moment, place = heappop(ready)
        slots = free[homes[models[place]]]
        start = max(moment, heappop(slots))
        heappush(slots, start + machine.seconds_per_inference)
        if moments[place] >= counted_from:
            waits.append(start - moments[place])
    p50, p95, p99 = np.quantile(waits, (0.5, SHARE, 0.99)).tolist() if waits else (0.0,) * 3
    return Waits(p50, p95, p99, cold / max(len(waits), 1))


def cuts(
    tenants: int, load: float, machine: Machine, counts: Sequence[int] = CUTS
) -> dict[int, Waits]:
    """The same slots and memory at the same price, cut into ever more instances.

    `load` is the share of the slots that is busy. `machine` tells how fast one instance loads,
    whatever its size.
    """
    whole = replace(
        machine, slots=TOTAL_SLOTS, models=machine.models * TOTAL_SLOTS // machine.slots
    )
    rates = zipf(tenants, whole.rate * load)
    # A model that one small instance could not serve would need an endpoint of its own.
    rates = np.minimum(rates, 0.25 * whole.rate / max(CUTS))
    return {
        count: replay(
            rates, count, replace(whole, slots=whole.slots // count, models=whole.models // count)
        )
        for count in counts
    }


def fewest(rates: NDArray[np.float64], slo: float, machine: Machine) -> tuple[int, Waits]:
    """The fewest machines on which 95 % of the requests wait for `slo` seconds at most, and 99 %
    for `TAIL` times that: a single overloaded machine shows only there.

    Raises:
        RuntimeError: more than `FLEET_MOST` would be needed.
    """
    low = max(math.floor(float(rates.sum()) / machine.rate), 1) - 1
    count, step = low + 1, 1

    def keeps(waits: Waits) -> bool:
        return waits.p95 <= slo and waits.p99 <= TAIL * slo

    while not keeps(found := replay(rates, count, machine)):
        low, count, step = count, count + step, step * 2
        if count > FLEET_MOST:
            raise RuntimeError(f"more than {FLEET_MOST} instances would be needed")
    while count - low > 1:
        middle = (low + count) // 2
        tried = replay(rates, middle, machine)
        if keeps(tried):
            count, found = middle, tried
        else:
            low = middle
    return count, found


def hot_share(tenants: int, slo: float, machine: Machine) -> tuple[float, dict[float, list[int]]]:
    """From which share of an instance's rate on a hot tenant should have its own endpoint.

    For each share: instances of one shared fleet, and of a fleet without the hot tenant with its
    own endpoint. The share is the smallest from which on sharing never needs fewer.
    """
    others = zipf(tenants, 8 * machine.rate, 0.5)
    alone, _ = fewest(others, slo, machine)
    found = {}
    for share in HOT_SHARES:
        shared, _ = fewest(np.append(others, share * machine.rate), slo, machine)
        found[share] = [shared, alone + dedicated(share * machine.rate, slo, machine)]
    worth = 1.0
    for share in reversed(HOT_SHARES):
        shared, apart = found[share]
        if shared < apart:
            break
        worth = share
    return worth, found


def dedicated(rate: float, slo: float, machine: Machine) -> int:
    """Instances of a tenant's own endpoint."""
    instance = Instance()
    return instances_for(
        EndpointProfile(
            machine.slots,
            machine.seconds_per_inference,
            instance.start_seconds,
            slo,
            least=1,
            most=FLEET_MOST,
        ),
        rate,
    )


def plan(tenants: int, rate: float, slo: float, share: float, machine: Machine) -> dict[str, float]:
    """Instances for many tenants: those above a share of an instance's rate have their own
    endpoint, and the rest share a fleet."""
    rates = zipf(tenants, rate)
    hot = rates >= share * machine.rate
    own = [dedicated(float(one), slo, machine) for one in rates[hot]]
    shared, waits = fewest(rates[~hot], slo, machine)
    return {
        "tenants": tenants,
        "requests_a_second": rate,
        "dedicated_tenants": len(own),
        "dedicated_instances": sum(own),
        "shared_instances": shared,
        "instances": shared + sum(own),
        "load": round(rate / machine.rate / (shared + sum(own)), 3),
        "cold_share": round(waits.cold, 4),
        "p50_wait_s": round(waits.p50, 3),
        "p95_wait_s": round(waits.p95, 3),
        "p99_wait_s": round(waits.p99, 3),
    }


def measure(tenants: int, rates: Sequence[float], slo: float) -> Mapping[str, object]:
    """All of it, printed on the way."""
    machine = Machine()
    result: dict[str, object] = {"slo_p95_s": slo, "machine": machine.__dict__}
    by_cut: dict[str, object] = {}
    for name, load_seconds in (("quick", 0.02), ("slow", machine.load_seconds)):
        print(
            f"\n{TOTAL_SLOTS} slots, {CUT_LOAD:.0%} busy, cut into instances; "
            f"a load takes {load_seconds} s"
        )
        print("instances    p50 s    p95 s    p99 s   cold")
        found = cuts(CUT_TENANTS, CUT_LOAD, replace(machine, load_seconds=load_seconds))
        for count, waits in found.items():
            print(f"{count:9} {waits.p50:8.3f} {waits.p95:8.3f} {waits.p99:8.3f} {waits.cold:6.1%}")
        by_cut[name] = {str(count): waits.__dict__ for count, waits in found.items()}
    result["cuts"] = by_cut
    share, shares = hot_share(2000, slo, machine)
    print("\nhot tenant's share of an instance: instances shared, and with an endpoint of its own")
    for one, (shared, apart) in shares.items():
        print(f"{one:6.0%} {shared:4} {apart:4}")
    print(f"an endpoint of its own from {share:.0%} on")
    result["dedicated_from_share"] = share
    plans = [plan(tenants, rate, slo, share, machine) for rate in rates]
    for planned in plans:
        print(planned)
    result["plans"] = plans
    return result
