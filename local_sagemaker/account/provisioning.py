"""How long an endpoint waits for an instance, from asking for it to the start of its container."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class ProvisioningDelay:
    """The delay of every instance of the endpoints whose names match `endpoints`, a pattern with
    `*` and `?`: drawn evenly between `least` and `most` seconds."""

    endpoints: str
    least: float
    most: float

    @classmethod
    def parse(cls, text: str) -> "ProvisioningDelay":
        """From `240`, `200:280` or `portraits-*=200:280`. Raises ValueError."""
        pattern, equals, seconds = text.rpartition("=")
        least, _, most = seconds.partition(":")
        try:
            delay = cls(pattern if equals else "*", float(least), float(most or least))
        except ValueError:
            delay = cls("", 0.0, 0.0)
        if not delay.endpoints or not 0 <= delay.least <= delay.most < float("inf"):
            raise ValueError(
                f"{text!r} is no provisioning delay; write SECONDS, LEAST:MOST or "
                f"ENDPOINT=LEAST:MOST"
            )
        return delay


def seconds_for(delays: Iterable[ProvisioningDelay], endpoint: str) -> float:
    """The delay of one more instance of an endpoint: drawn from the last of `delays` that matches
    its name, or 0."""
    matching = [delay for delay in delays if fnmatchcase(endpoint, delay.endpoints)]
    if not matching:
        return 0.0
    return random.uniform(matching[-1].least, matching[-1].most)  # noqa: S311 - no secret
