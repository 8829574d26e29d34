"""Which model an instance unloads when its memory or disk is full.

The policy is LRFU, with one value a model (D. Lee et al., "LRFU: A Spectrum of Policies that
Subsumes the Least Recently Used and Least Frequently Used Policies", IEEE Transactions on
Computers 50(12), 2001): each use counts one, and half of that after a half-life, which is a number
of calls. A sweep over all models gives each a use or a few, so it takes no room from models that
are asked again and again. `python -m benchmarks.hot_models` compares it with LRU, SIEVE and
S3-FIFO.
"""

import heapq
import math
from collections.abc import Iterable
from typing import Final

CALLS_IN_A_HALF_LIFE: Final = 20
"""For each loaded model. With fewer, a sweep unloads hot models; with more, yesterday's hot models
keep today's out. Of 1, 2, 5, 10, 20 and 40, this was best in the benchmark's simulation."""
_REMEMBERED: Final = 100_000


class DecayingUses:
    """How much each model was used lately, also of models that are not loaded now."""

    def __init__(self) -> None:
        self._ranks: dict[str, float] = {}
        self._half_lives = 0.0

    def use(self, model: str, loaded: int) -> None:
        """One use of a model, while so many models are loaded."""
        self._half_lives += 1 / (CALLS_IN_A_HALF_LIFE * max(loaded, 1))
        # The rank is log2 of the sum of 2 ** moment over the model's uses, with moments in
        # half-lives. These sums keep their order as time passes, so they are not computed again.
        before = 2 ** (self._ranks.get(model, -math.inf) - self._half_lives)
        self._ranks[model] = self._half_lives + math.log2(1 + before)
        if len(self._ranks) > _REMEMBERED:
            kept = heapq.nlargest(_REMEMBERED // 2, self._ranks, key=self.rank)
            self._ranks = {name: self._ranks[name] for name in kept}

    def rank(self, model: str) -> float:
        """A model's place: those with the lowest are unloaded first."""
        return self._ranks.get(model, -math.inf)

    def victim(self, models: Iterable[str]) -> str:
        """The model to unload. Raises ValueError when there is none."""
        return min(models, key=self.rank)
