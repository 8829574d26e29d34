"""One seed of the chaos test: ``python -m tests.chaos --seed 1 --tenants 24``.

Tenants upload to a real local cloud with a real Dagster, while processes are killed, calls fail,
and events are lost or repeated. When the queue is at rest, the reckoning checks everything. The
exit status is 0 when everything adds up.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from dagster import DagsterInstance

from tenantry.aws.deployment import Deployment
from tenantry.workloads.schema import read_workloads
from tests.chaos.mischief import Mischief, Victim
from tests.chaos.reckoning import Reckoning
from tests.chaos.tenants import Upload, Uploader, planned
from tests.chaos.world import World, world

_UPLOADS_AT_ONCE: Final = 4
_PATIENCE_SECONDS: Final = 90.0  # the wait until a process to kill exists
_FEW: Final[Mapping[Victim, int]] = {
    "run": 1,
    "daemon": 1,
    "code_server": 1,
    "sagemaker": 1,
    "training": 1,
    "serving": 1,
}
_MANY: Final[Mapping[Victim, int]] = {
    "run": 4,
    "daemon": 2,
    "code_server": 2,
    "sagemaker": 2,
    "training": 3,
    "serving": 2,
}


class NotAtRestError(RuntimeError):
    """Work is still in progress long after the last fault."""


class Chaos:
    """One seed, from the first upload to the reckoning."""

    def __init__(self, here: World, seed: int, tenants: int) -> None:
        self._world, self._tenants = here, tenants
        self._uploads = planned(seed, tenants)
        self._uploader = Uploader(here.deployment)
        self.mischief = Mischief(here, seed, tenants)
        workload = read_workloads(here.workloads)["energy"]
        self.reckoning = Reckoning(here.deployment, workload, self._uploads, self._uploader)
        self._began = time.monotonic()
        self.phases: dict[str, float] = {}
        self._kills = _MANY if tenants >= 100 else _FEW
        self.not_killed: list[Victim] = []

    def run(self, rest_seconds: float) -> None:
        """Run the whole seed. Raises ``NotAtRestError``."""
        self.mischief.faults_on()
        left = [victim for victim, times in self._kills.items() for _ in range(times)]
        # The last kills come after all uploads, the release before the last uploads.
        upload_waves = -(-len(left) // 2)
        waves = [*_parts(self._uploads, upload_waves), *([[]] * (len(left) // 2))]
        for number, wave in enumerate(waves):
            if number == upload_waves - 1:
                self._release()
            waiting = deque(wave)
            killed = self.mischief.strike(left, partial(self._go_on, waiting), _PATIENCE_SECONDS)
            while waiting:
                self._go_on(waiting)
            if killed is None:
                self._say(f"none of these is there to be killed: {', '.join(left)}")
            else:
                left.remove(killed)
                self._say(f"{killed} killed")
        self.not_killed = left
        self._mark("kills")
        self._until_rest(rest_seconds / 4, late=False)
        self.mischief.faults_off()
        self._mark("faults")
        self._until_rest(rest_seconds, late=True)
        self._mark("rest")
        rested = datetime.now(UTC)
        self.reckoning.settle(DagsterInstance.get(), _messages(self._world.deployment), rested)
        self._mark("reckoning")

    def _release(self) -> None:
        """Deploy another version once an endpoint exists; its first update fails."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        # While SageMaker is down, a call would retry for a minute and keep this thread from
        # restarting it.
        while time.monotonic() < deadline and not (
            self.mischief.is_all_up() and self._world.serves()
        ):
            self._go_on(deque())
            time.sleep(1.0)
        self._world.release()
        self._say("another version was released")

    def _go_on(self, left: deque[Upload]) -> None:
        for _ in range(min(len(left), _UPLOADS_AT_ONCE)):
            self._uploader.make(left.popleft())
        self._uploader.meddle_with_events()
        self.mischief.bring_back()

    def _until_rest(self, seconds: float, *, late: bool) -> None:
        """Wait until no work is in progress; ``late``: with faults off, when that must happen."""
        instance, deadline, shown = DagsterInstance.get(), time.monotonic() + seconds, 0.0
        while True:
            self.mischief.bring_back()
            self._uploader.meddle_with_events() if not late else None
            waiting = self.reckoning.unsettled()
            waiting["runs"] = 0 if waiting else len(self.reckoning.open_runs(instance))
            if not waiting.total():
                return
            if time.monotonic() > deadline:
                if late:
                    raise NotAtRestError(
                        f"{seconds:.0f} s after the last fault there are {dict(waiting)}"
                    )
                return
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                self._say(", ".join(f"{count} {what}" for what, count in waiting.items() if count))
            time.sleep(1.0)

    def _mark(self, phase: str) -> None:
        self.phases[phase] = round(time.monotonic() - self._began, 1)

    def _say(self, what: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {what}", flush=True)

    def summary(self, left_over: list[str]) -> dict[str, Any]:
        """The figures of this seed."""
        return {
            "seed": self.mischief.seed,
            "tenants": self._tenants,
            "seconds": round(time.monotonic() - self._began, 1),
            "phases": self.phases,
            "uploads": len(self._uploads),
            "kills": dict(self.mischief.done),
            "not_found_to_kill": dict(Counter(self.not_killed)),
            "events": dict(self._uploader.happened),
            "faults": dict(sorted(self.mischief.faults.items())),
            "counts": dict(sorted(self.reckoning.counts.items())),
            "reasons": dict(self.reckoning.reasons),
            "left_over": left_over,
            "wrong": {who: said for who, said in self.reckoning.wrong.items() if said},
        }


def _parts(uploads: list[Upload], count: int) -> list[list[Upload]]:
    size = -(-len(uploads) // count)
    return [uploads[start * size : (start + 1) * size] for start in range(count)]


def _messages(deployment: Deployment) -> Iterator[str]:
    """Everything in the app's queue of notices."""
    while True:
        answer = deployment.sqs.receive_message(
            QueueUrl=deployment.notices_queue_url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=0,
            VisibilityTimeout=600,
        )
        if not answer.get("Messages"):
            return
        for message in answer["Messages"]:
            yield message["Body"]


def _table(summary: Mapping[str, Any]) -> str:
    lines = []
    for section in ("kills", "not_found_to_kill", "events", "faults", "counts", "reasons"):
        lines.append(section.replace("_", " "))
        lines += [f"  {count:6}  {what}" for what, count in summary[section].items()]
    return "\n".join(lines)


def main() -> int:
    """Command line of one seed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tenants", type=int, default=24)
    parser.add_argument(
        "--rest-seconds",
        type=float,
        default=240,
        help="how long rest may take to come (%(default)s)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="where state and logs go; kept. Without it a temporary one is removed",
    )
    arguments = parser.parse_args()
    # end it and all its processes, as on Ctrl-C
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="tenantry-chaos-"))
    left_over: list[str] = []
    with world(folder, arguments.seed, tenants=arguments.tenants) as here:
        os.environ["DAGSTER_HOME"] = str(here.dagster_home)
        chaos = Chaos(here, arguments.seed, arguments.tenants)
        try:
            chaos.run(arguments.rest_seconds)
        except NotAtRestError as error:
            chaos.reckoning.wrong[""].append(str(error))
            chaos.reckoning.settle(
                DagsterInstance.get(), _messages(here.deployment), datetime.now(UTC)
            )
        summary = chaos.summary(left_over)
        for tenant in list(summary["wrong"])[:10]:
            if tenant:
                print(chaos.reckoning.story(tenant))
        left_over += here.stop()
    print(_table(summary))
    for who, said in summary["wrong"].items():
        print("\n".join(f"WRONG {who}: {sentence}" for sentence in said))
    for process in left_over:
        print(f"WRONG left over: {process}")
    print(json.dumps(summary))
    bad = bool(summary["wrong"] or left_over)
    if arguments.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
