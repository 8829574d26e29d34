"""The kills and faults of a world, by the seed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, Literal

import psutil

from local_sagemaker.faults.client import FaultsClient
from local_sagemaker.faults.plan import Rule
from tests.chaos.world import World, kill

Victim = Literal["run", "daemon", "code_server", "sagemaker", "training", "serving"]
# they come and go; the others are always there
_WORKERS: Final = frozenset({"run", "training", "serving"})


def fault_rules(tenants: int) -> Sequence[Rule]:
    """Every kind of fault of local_sagemaker that can affect this workload; costly ones happen a
    few times at most."""
    few = max(1, tenants // 60)
    return [
        Rule(kind="throttle", probability=0.05),
        Rule(kind="server_error", probability=0.03),
        Rule(kind="lost_answer", probability=0.03),
        Rule(kind="resource_limit", probability=0.2, most=few),
        # spot jobs wait; others would fail
        Rule(kind="capacity", probability=0.2, most=few, seconds=3.0),
        Rule(kind="slow_provisioning", probability=0.2, most=few, after_seconds=(0.5, 3.0)),
        Rule(kind="spot_interruption", probability=0.2, most=few, after_seconds=(0.5, 3.0)),
        Rule(kind="kill_container", probability=0.1, most=few, job="*", after_seconds=(0.5, 3.0)),
        Rule(
            kind="kill_container",
            probability=0.2,
            most=few,
            endpoint="*",
            after_seconds=(2.0, 20.0),
        ),
        Rule(
            kind="hang_container",
            probability=0.1,
            most=few,
            job="*",
            after_seconds=(0.5, 3.0),
            seconds=3.0,
        ),
        Rule(
            kind="hang_container",
            probability=0.2,
            most=few,
            endpoint="*",
            after_seconds=(2.0, 20.0),
            seconds=5.0,
        ),
        Rule(kind="slow_container", probability=0.2, seconds=0.3),
        Rule(kind="s3_error", probability=0.05),
        Rule(kind="failed_update", most=1),
    ]


@dataclass
class Mischief:
    """Strikes a world, and counts the strikes."""

    world: World
    seed: int
    tenants: int
    done: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    _down_until: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fate = Random(f"{self.seed}/kills")

    # ---- faults ----------------------------------------------------------------------------------

    def faults_on(self) -> None:
        """Make calls fail from now on, in the proxies and in local_sagemaker."""
        for proxy in self.world.proxies.values():
            proxy.faults_on = True
        self._plan_faults()

    def faults_off(self) -> None:
        """End all planned failures."""
        for name, proxy in self.world.proxies.items():
            proxy.faults_on = False
            self.faults.update(
                {f"{kind} (calls to {name})": count for kind, count in proxy.happened.items()}
            )
        self._count_faults()
        self._client().end()

    def _client(self) -> FaultsClient:
        return FaultsClient(self.world.cloud.sagemaker_url)

    def _plan_faults(self) -> None:
        # Use another seed after a restart, because local_sagemaker then counts the names of calls
        # anew.
        self._client().plan(
            fault_rules(self.tenants), seed=self.seed + 1000 * self.done["sagemaker"]
        )

    def _count_faults(self) -> None:
        for rule in self._client().report().rules:
            if rule.happened:
                whose = " of an endpoint" if rule.endpoint else " of a job" if rule.job else ""
                self.faults[f"{rule.kind}{whose} (local_sagemaker)"] += rule.happened

    # ---- kills -----------------------------------------------------------------------------------

    def strike(
        self, victims: Sequence[Victim], meanwhile: Callable[[], None], patience: float
    ) -> Victim | None:
        """Wait until a pack is in progress, and a moment longer; then kill one of the existing
        victims.

        Args:
            victims: the kinds of process that may be killed.
            meanwhile: called repeatedly while waiting.
            patience: seconds to wait for a victim.

        Returns:
            The victim; None when there was none.
        """
        deadline, pause = time.monotonic() + patience, self._fate.uniform(0.0, 3.0)
        order = self._fate.sample(list(victims), len(victims))
        working_since: float | None = None
        while time.monotonic() < deadline:
            meanwhile()
            time.sleep(0.1)
            if not self.world.run_processes():
                working_since = None
                continue
            working_since = working_since or time.monotonic()
            if time.monotonic() - working_since < pause or self._down_until:
                continue
            # Prefer short-lived processes while they exist.
            for victim in sorted(order, key=lambda who: who not in _WORKERS):
                found = self._processes(victim)
                if found and self._kill(victim, self._fate.choice(found)):
                    self.done[victim] += 1
                    return victim
        return None

    def _kill(self, victim: Victim, process: psutil.Process) -> bool:
        if victim == "sagemaker":
            self._count_faults()  # its tally dies with it
        if not kill(process):
            return False
        if victim not in _WORKERS:
            self._down_until[victim] = time.monotonic() + self._fate.uniform(0.0, 2.0)
        return True

    def _processes(self, victim: Victim) -> list[psutil.Process]:
        if victim in {"training", "serving"}:
            return self.world.containers("train" if victim == "training" else "serve")
        if victim == "run":
            return self.world.run_processes()
        process = (
            self.world.cloud.processes["sagemaker"]
            if victim == "sagemaker"
            else self.world.processes[victim]
        )
        return [psutil.Process(process.pid)] if process.poll() is None else []

    def is_all_up(self) -> bool:
        """Whether all killed processes have been restarted."""
        return not self._down_until

    def bring_back(self) -> None:
        """Restart killed processes that have been down for long enough."""
        now = time.monotonic()
        if any(until > now for until in self._down_until.values()):
            return
        self._down_until.clear()
        if "sagemaker" in self.world.bring_back() and self.world.proxies["aws"].faults_on:
            self._plan_faults()
