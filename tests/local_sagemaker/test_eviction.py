"""Which models are unloaded, and the simulation that compares policies."""

from __future__ import annotations

import pytest

from benchmarks.hot_models import SWEEPS, Lru, S3Fifo, Sieve, Sweep, Traffic, simulate
from local_sagemaker.endpoints.eviction import CALLS_IN_A_HALF_LIFE, DecayingUses

TRAFFIC = Traffic(tenants=300, hot=15, rate=5.0, quiet=1_200.0, sweep_rate=0.5)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_leaves_the_hot_models_loaded(sweep: Sweep) -> None:
    ours, lru, sieve, s3_fifo = (
        simulate(policy, sweep, TRAFFIC, 30)
        for policy in (DecayingUses(), Lru(), Sieve(), S3Fifo())
    )
    assert ours["hot_hits"] > max(lru["hot_hits"], sieve["hot_hits"], s3_fifo["hot_hits"])
    assert ours["hot_hits"] > 0.95
    assert ours["hot_p95_over_quiet"] <= 1.1


def test_a_model_that_was_hot_gives_way_to_those_that_are_hot_now() -> None:
    uses = DecayingUses()
    for _ in range(100):
        uses.use("yesterday", 2)
    for _ in range(10 * 2 * CALLS_IN_A_HALF_LIFE):  # ten half-lives of two models
        uses.use("today", 2)
    uses.use("now", 2)
    assert uses.victim(["now", "today", "yesterday"]) == "yesterday"
    assert uses.victim(["today", "now"]) == "now"
    assert uses.victim(["now", "never used"]) == "never used"


def test_of_models_that_were_used_as_often_the_least_recently_used_goes() -> None:
    uses = DecayingUses()
    for model in ("a", "b", "c", "b", "a", "c"):
        uses.use(model, 3)
    assert uses.victim(["a", "b", "c"]) == "b"


def test_what_was_used_least_is_forgotten_first() -> None:
    uses = DecayingUses()
    for _ in range(3):
        uses.use("hot", 100_000)
    for number in range(100_000):
        uses.use(f"t{number}", 100_000)
    assert uses.victim(["hot", "t99999", "t0"]) == "t0"
    assert uses.rank("t0") < uses.rank("t99999") < uses.rank("hot")
