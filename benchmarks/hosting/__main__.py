"""Hosting shapes beside each other: the same models and the same traffic through single-model,
multi-model, direct multi-container and serverless endpoints.

`python -m benchmarks.hosting` really runs on the local cloud, for each shape:

- endpoints for 10 tenants, brought into service by the product; for 4 in the shapes with a
  container for each tenant and one bill for all, where more change the bill little (`--few`);
- each tenant's first request, then Poisson traffic of all tenants, evenly, through `TenantClient`;
- the local cloud's own bill (`GET /_local/bill`) of that time, and the cold starts it counted;
- a new version of one model with another setting of its container, registered as a run of the
  product does, while the traffic goes on. No request may fail.

The multi-model endpoint then gets as much traffic of 10,000 tenants, one instance as before, with
memory for 32 models. Only tenants that the traffic asks have an archive. So nearly every request
loads its model, which is the worst case.

The figures at equal p95 are arithmetic on real times of single requests, by the simulation of
queues in `instances.py`. One is the shared instances whose p95 is no worse than that of an endpoint
for each tenant. The other is the fleet for 10,000 tenants beside one of 20 instances for 10. Both
multiply instances by one price, which cancels. They leave out data, which cost the same in any
shape.

All processes share this machine's cores. On AWS each instance has its own, so latencies of many
endpoints, and cold starts of several at once, are longer here.

The price of an instance is that of `workloads/energy.yaml`; the others are from the local cloud's
dated table. The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.hosting import instances, picture
from benchmarks.hosting.load import Answers, Traffic
from benchmarks.hosting.measured import TIERS, Billed, Measured, Site, measure
from benchmarks.hosting.products import PRODUCTS, Product
from benchmarks.processes import terminated
from infrastructure.deploy import deploy
from infrastructure.local_cloud import REGION, running
from tenantry.aws.deployment import Deployment
from tenantry.names import ids

ROOT: Final = Path(__file__).resolve().parents[2]
MANY: Final = 10_000
FEW: Final = ("multi_container", "serverless")
"""The shapes that have a container for each tenant and one price for all of them: more tenants at
the same traffic change their bill little, and cost this machine a start each."""
ERLANGS: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Traffic for the table of instances: the instances that it would keep busy."""


def tenants(first: int, last: int) -> list[ids.TenantId]:
    """Tenants by number, the last one left out."""
    return [ids.tenant_id(f"t-{number:05}") for number in range(first, last)]


class ManyTenants:
    """The multi-model endpoint's further measurements, between its window and its update."""

    def __init__(self, rate: float, seconds: float, pairs: int) -> None:
        self._rate, self._seconds, self._pairs = rate, seconds, pairs
        self.warm: list[float] = []
        self.cold: list[float] = []
        self.answers = Answers()
        self.billed: Billed
        self.loads = 0

    def __call__(self, site: Site) -> None:
        """Measure single requests, warm and cold in turns; then traffic of `MANY` tenants."""
        crowd = tenants(0, MANY)
        traffic = Traffic(self._rate, crowd)
        asked = {tenant for _, tenant in traffic.within(self._seconds)}
        fresh = [tenant for tenant in crowd[len(site.tenants) :] if tenant not in asked]
        fresh = fresh[: self._pairs]
        site.crown([*sorted(asked - set(site.tenants)), *fresh])
        for tenant in fresh:
            self.cold.append(site.service_seconds(tenant))
            self.warm.append(site.service_seconds(tenant))
        before = site.cold_starts()
        self.answers, self.billed = site.under_load(traffic, self._seconds)
        self.loads = site.cold_starts() - before


def row(found: Measured, count: int) -> dict[str, Any]:
    """A shape's figures for the report."""
    window, billed = found.window, found.billed
    return {
        "usd_per_hour": round(billed.usd_per_hour, 5),
        "usd_per_1000_requests": round(1000 * billed.cost / max(1, window.requests), 5),
        "bill": {what: float(f"{amount:.4g}") for what, amount in billed.quantities.items()},
        "without_price": list(billed.without_price),
        "requests": window.requests,
        "p50_ms": window.percentile_ms(50),
        "p95_ms": window.percentile_ms(95),
        "p99_ms": window.percentile_ms(99),
        "cold_starts": found.cold_starts,
        "containers": found.containers[0],
        "containers_gib": found.containers[1],
        "first_request_p50_ms": round(statistics.median(found.first_ms), 1),
        "seconds_to_service": round(found.deploy_seconds, 1),
        "update_seconds": round(found.update_seconds, 1),
        "requests_during_update": found.during_update.requests,
        "failed_during_update": len(found.during_update.failures),
        "failed_otherwise": len(window.failures),
        "tenants": count,
    }


def compare(
    product: Product, counts: dict[str, int], rate: float, seconds: float, pairs: int
) -> dict[str, Any]:
    """Measure the shapes one after another, and put the report together."""
    served = product.workload().serving
    prices = {served.instance_type: served.usd_per_hour}
    rows: dict[str, dict[str, Any]] = {}
    failures: list[str] = []
    many = ManyTenants(rate, seconds, pairs)
    with tempfile.TemporaryDirectory(prefix="hosting-") as scratch:
        file = Path(scratch) / "prices.yaml"
        file.write_text(yaml.safe_dump(prices))
        arguments = {
            "--prices": str(file),
            "--region": REGION,
            "--serverless-setup-seed": "7",
            "--instance-quota": "100",
        }
        flat = tuple(itertools.chain.from_iterable(arguments.items()))
        with running(Path(scratch) / "cloud", ROOT / "containers", flat) as cloud:
            os.environ.update(cloud.environment)
            deploy()
            deployment = Deployment.from_stack()
            for shape, count in counts.items():
                site = Site(deployment, cloud.sagemaker_url, product, shape, tenants(0, count))
                further = many if shape == "multi_model" else None
                found = measure(site, rate, seconds, further)
                failures += found.during_update.failures
                rows[shape] = row(found, count)
                print(f"{shape:16} {json.dumps(rows[shape])}", flush=True)
    report: dict[str, Any] = {
        "benchmark": "hosting",
        "product": product.name,
        "requests_a_second": rate,
        "prices": prices,
        "shapes": rows,
        "failed_requests_during_updates": len(failures),
        "failures": failures[:5],
    }
    if "multi_model" in rows:
        report |= of_many(many, rows, counts["multi_model"], rate)
    return report


def of_many(
    many: ManyTenants, rows: dict[str, dict[str, Any]], count: int, rate: float
) -> dict[str, Any]:
    """What follows from the multi-model endpoint's figures."""
    multi = rows["multi_model"]
    work = statistics.median(many.warm)
    extra = statistics.median(cold - warm for warm, cold in zip(many.warm, many.cold, strict=True))
    queues = instances.Simulation(work, work + max(0.0, extra))
    shared = queues.shared_instances(rate, count)
    fleet_rate, fleet = queues.fleets()
    single = rows.get("single_model")
    return {
        f"single_over_multi_model_cost_at_{count}": (
            round(single["usd_per_hour"] / multi["usd_per_hour"], 3) if single else None
        ),
        f"single_over_multi_model_cost_at_{count}_at_equal_p95": round(count / shared, 3),
        f"multi_model_cost_{MANY}_over_{count}": round(
            many.billed.usd_per_hour / multi["usd_per_hour"], 3
        ),
        f"multi_model_cost_{MANY}_over_{count}_at_equal_p95": (
            None if fleet is None else round(fleet / instances.FLEET, 3)
        ),
        "many": {
            "tenants": MANY,
            "requests": many.answers.requests,
            "failed": len(many.answers.failures),
            "loads": many.loads,
            "p50_ms": many.answers.percentile_ms(50),
            "p95_ms": many.answers.percentile_ms(95),
            "p99_ms": many.answers.percentile_ms(99),
            "usd_per_hour": round(many.billed.usd_per_hour, 5),
        },
        "simulated": {
            "warm_request_ms": round(1000 * queues.warm, 1),
            "cold_request_ms": round(1000 * queues.cold, 1),
            "warm_ms": [round(1000 * one, 1) for one in many.warm],
            "cold_ms": [round(1000 * one, 1) for one in many.cold],
            "shared_instances_at_equal_p95": shared,
            "shared_instances_by_busy_instances": {
                str(busy): queues.shared_instances(busy / work, count) for busy in ERLANGS
            },
            "fleet_requests_a_second": round(fleet_rate, 2),
            "fleet_for_10": instances.FLEET,
            "fleet_for_10000": fleet,
        },
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hosting",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--product", choices=PRODUCTS, help="portraits; energy with --quick")
    parser.add_argument("--tenants", type=int, default=10)
    parser.add_argument("--few", type=int, default=4, help=f"tenants of {', '.join(FEW)}")
    parser.add_argument("--shapes", nargs="+", choices=TIERS, default=list(TIERS))
    parser.add_argument("--rate", type=float, default=1.0, help="requests a second, in all")
    parser.add_argument("--seconds", type=float, default=25.0, help="of each measured window")
    parser.add_argument("--quick", action="store_true", help="3 tenants for a few seconds each")
    parser.add_argument("--picture", type=Path, help="draw cost against latency into this PNG")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, terminated)
    count, seconds, pairs = options.tenants, options.seconds, 20
    if options.quick:
        count, seconds, pairs = min(count, 3), min(seconds, 3.0), 4
    name = options.product or ("energy" if options.quick else "portraits")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hosting-models-") as scratch:
        product = PRODUCTS[name](Path(scratch))
    few = min(count, options.few)
    counts = {shape: few if shape in FEW else count for shape in options.shapes}
    report = compare(product, counts, options.rate, seconds, pairs)
    if options.picture is not None:
        title = f"{name}: {options.rate:g} requests a second in all, on shared cores"
        picture.draw(report["shapes"], title, options.picture)
    print(json.dumps({**report, "seconds": round(time.perf_counter() - began, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
