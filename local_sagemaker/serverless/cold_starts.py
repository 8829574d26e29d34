"""How long AWS needs for a new execution environment, beyond the start of its container.

AWS gives no figures. "The cold start time depends on your model size, how long it takes to download
your model, and the start-up time of your container"
(docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html). The distribution and its
defaults are this emulator's assumption.
"""

import random
from dataclasses import dataclass, field

_GIBIBYTE = 1024**3


@dataclass
class ColdStarts:
    """Delays with a lognormal distribution. Its median is `base_seconds`, and `seconds_per_gib` for
    each GiB of image and model data. `sigma` is the standard deviation of the logarithm; at 0 each
    delay is the median. The same `seed` draws the same delays."""

    base_seconds: float
    seconds_per_gib: float
    sigma: float
    seed: int | None = None
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        for name in ("base_seconds", "seconds_per_gib", "sigma"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        self._random = random.Random(self.seed)  # noqa: S311 - no secret

    def draw(self, size_bytes: int) -> float:
        """A delay in AWS's seconds for an image and model data of so many bytes together."""
        median = self.base_seconds + self.seconds_per_gib * size_bytes / _GIBIBYTE
        return median * self._random.lognormvariate(0.0, self.sigma)
