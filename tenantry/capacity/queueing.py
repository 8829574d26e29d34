"""How long requests wait, by formula."""

import math


def late_by_chance(
    rate: float,
    capacity: float,
    seconds_per_inference: float,
    slo: float,
    dispersion: float = 1.0,
) -> float:
    """The share of requests that wait for longer than `slo` seconds although capacity suffices.

    Kingman's heavy-traffic formula for inferences that all take the same time: the wait is
    exponential with mean `dispersion * seconds_per_inference / (2 * slots * (1 - load))`, where
    `slots` is `capacity * seconds_per_inference` and `load` is `rate / capacity` (Kingman 1961,
    "The single server queue in heavy traffic"). An upper estimate, because not every request waits.

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
    return math.exp(-2 * (capacity - rate) * slo / dispersion)
