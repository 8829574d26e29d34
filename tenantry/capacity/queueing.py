"""How long requests wait, by formula."""

import math


def late_by_chance(
    rate: float, capacity: float, seconds_per_inference: float, slo: float, dispersion: float = 1.0
) -> float:
    """The share of requests that wait for longer than `slo` seconds although capacity suffices.

    The share that waits at all, of many slots near full load (Halfin, Whitt 1981, "Heavy-traffic
    limits for queues with many exponential servers"), times Kingman's exponential wait, for
    inferences that all take the same time: its mean is `dispersion / (2 * (capacity - rate))`
    (Kingman 1961, "The single server queue in heavy traffic").

    Args:
        rate: requests a second.
        capacity: the most requests a second that all instances serve.
        seconds_per_inference: of one slot.
        slo: seconds.
        dispersion: variance of the number of arrivals over its mean; 1 for Poisson arrivals.

    Returns:
        1 where the capacity does not suffice.
    """
    if rate <= 0:
        return 0.0
    if rate >= capacity:
        return 1.0
    slots = capacity * seconds_per_inference
    spare = (1 - rate / capacity) * math.sqrt(slots)
    if spare > 6:
        return 0.0
    below = (1 + math.erf(spare / math.sqrt(2))) / 2  # the normal distribution
    waits = 1 / (1 + spare * math.sqrt(2 * math.pi) * below * math.exp(spare**2 / 2))
    return waits * math.exp(-2 * (capacity - rate) * slo / dispersion)


def late_by_drift(rate: float, room: float, seconds: float, dispersion: float = 1.0) -> float:
    """The chance that within so many seconds more requests than expected came than `room` holds.

    The bound of a sum of independent increments (Hoeffding's form for a Gaussian one).

    Args:
        rate: requests a second.
        room: requests.
        seconds: since the queue was seen.
        dispersion: variance of the number of arrivals over its mean.
    """
    variance = dispersion * rate * seconds
    return math.exp(-(room**2) / (2 * variance)) if variance > 0 else 0.0
