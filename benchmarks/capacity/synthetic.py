"""Bursty hours that are made up, to see how policies do on demand that nobody tuned them for."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.capacity.simulator import Bounds
from benchmarks.capacity.traces import HOUR, MOST, Trace, poisson

Rates = NDArray[np.float64]


def modulated(random: np.random.Generator) -> Rates:
    """1 request a second for five minutes in the mean, then 60 for half a minute: a Poisson process
    whose rate a Markov chain switches."""
    return _switched(
        lambda: random.exponential(300), lambda: random.exponential(30), lambda: 60.0, quiet=1.0
    )


def heavy_tailed(random: np.random.Generator) -> Rates:
    """Nothing for a while, then 40 a second; both times have Pareto's distribution with exponent
    1.5, from 30 and from 5 seconds on."""
    return _switched(
        lambda: 30 * (1 + random.pareto(1.5)),
        lambda: 5 * (1 + random.pareto(1.5)),
        lambda: 40.0,
        quiet=0.0,
    )


def log_normal(random: np.random.Generator) -> Rates:
    """A rate for each minute, the median 3 a second and the logarithm's standard deviation 1."""
    return np.repeat(np.exp(random.normal(np.log(3), 1, HOUR // 60)), 60)


def volleys(random: np.random.Generator) -> Rates:
    """Every seven minutes in the mean, 20 to 200 requests a second for 5 to 60 seconds."""
    return _switched(
        lambda: random.exponential(420),
        lambda: random.uniform(5, 60),
        lambda: np.exp(random.uniform(np.log(20), np.log(200))),
        quiet=0.5,
    )


def _switched(
    off: Callable[[], float], on: Callable[[], float], rate: Callable[[], float], quiet: float
) -> Rates:
    rates = np.full(HOUR, quiet)
    moment = off()
    while moment < HOUR:
        end = moment + on()
        rates[int(moment) : int(end) + 1] = rate()
        moment = end + off()
    return rates


HOURS: Final[Mapping[str, Callable[[np.random.Generator], Rates]]] = {
    "modulated": modulated,
    "heavy_tailed": heavy_tailed,
    "log_normal": log_normal,
    "volleys": volleys,
}


def bursty(name: str, seed: int, slo: float) -> Trace:
    """A made-up hour with a service level in seconds."""
    random = np.random.default_rng((seed, sorted(HOURS).index(name)))
    rates = HOURS[name](random)
    arrivals = poisson(rates, 1, random)
    return Trace(f"{name}_{seed}_{slo:g}s", arrivals, float(HOUR), slo, Bounds(1, MOST))
