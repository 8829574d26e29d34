"""The best batch of a serving container: it is raised until throughput falls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from contracts import variables
from contracts.limits import BATCH_REQUESTS
from tenantry.errors import TenantryError
from tenantry.tuning.container import serving_container
from tenantry.tuning.load import Load, put_load

NOISE: Final = 0.05
"""Throughputs that differ by a smaller share count as the same."""
FALLS: Final = 2


class TakesNoBatchesError(TenantryError, RuntimeError):
    """The container's family takes no batches; the message says how it could."""


@dataclass(frozen=True)
class Measured:
    """A batch's size, the load that it bore, and how many requests a call had on average."""

    max_batch: int
    load: Load
    mean_batch: float


def sizes(clients: int) -> list[int]:
    """The sizes to try: 1, 2, 4 and so on. While a call answers one half of the clients, the other
    half gathers, so no larger batch would fill."""
    most = min(clients // 2, BATCH_REQUESTS)
    return [1 << power for power in range(most.bit_length())]


def until_it_falls(tried: Iterable[int], measure: Callable[[int], Measured]) -> Iterator[Measured]:
    """Measure one size after another, until throughput falls: two in a row are below the highest.

    One alone may be a busy machine, or a size for which the model's code is no faster.
    """
    highest, falls = 0.0, 0
    for size in tried:
        measured = measure(size)
        yield measured
        falls = falls + 1 if measured.load.per_second < (1 - NOISE) * highest else 0
        if falls == FALLS:
            return
        highest = max(highest, measured.load.per_second)


def best_of(measured: Sequence[Measured]) -> Measured:
    """The smallest batch with the highest throughput: a larger one would cost latency alone."""
    highest = max(one.load.per_second for one in measured)
    return min(
        (one for one in measured if one.load.per_second >= (1 - NOISE) * highest),
        key=lambda one: one.max_batch,
    )


@dataclass(frozen=True)
class Trial:
    """A container with the archive of a model, and the load on it: ``clients`` ask ``request`` for
    ``seconds``. ``max_wait_ms`` is the wait that is measured with each batch."""

    container: str
    environment: Mapping[str, str]
    archive: Path
    request: Mapping[str, Any]
    clients: int
    seconds: float
    max_wait_ms: int

    def measure(self, max_batch: int) -> Measured:
        """Start the container with batches of a size, and put load on it.

        Raises:
            ContainerFailedError: it does not start, or does not answer.
            TakesNoBatchesError: its family takes none.
        """
        environment = dict(self.environment)
        if max_batch > 1:
            environment[variables.MAX_BATCH] = str(max_batch)
            environment[variables.MAX_WAIT_MS] = str(self.max_wait_ms)
        with serving_container(self.container, environment) as running:
            self._check(running.batching()["family"])
            running.load(self.archive)
            running.ask(self.request)
            load = put_load(
                running.port, running.path, self.request, clients=self.clients, seconds=self.seconds
            )
            calls = {int(size): n for size, n in running.batching().get("calls", {}).items()}
        requests = sum(size * count for size, count in calls.items())
        return Measured(max_batch, load, requests / sum(calls.values()) if calls else 1.0)

    def _check(self, family: str) -> None:
        if family == "predict_batch":
            return
        if family == "by itself":
            raise TakesNoBatchesError(
                f"the family of containers/{self.container} batches the requests in flight by "
                f"itself, so there is nothing to tune; its own variables set its limits, as "
                f"TENANTRY_BATCH does for portraits"
            )
        raise TakesNoBatchesError(
            f"the predictor that containers/{self.container}/serve starts has no predict_batch; "
            f"docs/adding-a-workload.md tells how to write it"
        )
