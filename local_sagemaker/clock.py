"""The emulator's clock, the only module that asks the machine for the time.

AWS's seconds pass `lapse` times as fast as the machine's, so that tests need not wait for minutes.
AWS's are the seconds that a request, a limit, a metric or a bill counts: limits of invocations and
jobs, the minutes of metrics and alarms, cooldowns, kept pools, delays of provisioning, latencies,
rates, and what is billed.

The machine's own are:

- moments, which clients compare with their own clocks: times of creation, of datapoints and of
  messages, scheduled actions; and the period of a request for datapoints, the distance of moments;
- waits for real processes to do real work: pings, health checks, loads of models, the grace before
  a kill, pauses between attempts, planned faults;
- the pace at which the emulator looks and writes, and idle connections.

`MACHINE` is the clock of the latter two.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

LAPSES: Final = range(1, 61)
"""The lapses that a clock may have. At 60, a minute of metrics lasts a second of the machine, in
which the emulator can just sample all instances."""


class Clock:
    """AWS's time, which passes `lapse` times as fast as the machine's.

    Moments are the machine's time, in seconds since 1970.
    """

    def __init__(self, lapse: int = 1) -> None:
        if lapse not in LAPSES:
            raise ValueError(f"the lapse is {lapse}; it must be from {LAPSES[0]} to {LAPSES[-1]}")
        self.lapse = lapse

    def now(self) -> float:
        """This moment."""
        return time.time()

    def since(self, moment: float, until: float | None = None) -> float:
        """AWS's seconds from a moment until another, by default this one."""
        return ((self.now() if until is None else until) - moment) * self.lapse

    def ticks(self) -> float:
        """AWS's seconds since an unknown moment; they never run backwards."""
        return time.monotonic() * self.lapse

    def aws_time(self, moment: float) -> float:
        """A moment as AWS's seconds since 1970, on which the minutes of metrics are counted."""
        return moment * self.lapse

    def moment(self, aws_time: float) -> float:
        """The moment of an `aws_time`."""
        return aws_time / self.lapse

    def machine_seconds(self, seconds: float) -> float:
        """How long so many of AWS's seconds last on this machine."""
        return seconds / self.lapse

    async def sleep(self, seconds: float) -> None:
        """Wait so many of AWS's seconds."""
        await asyncio.sleep(self.machine_seconds(seconds))

    def call_later(
        self, seconds: float, callback: Callable[..., object], *arguments: Any
    ) -> asyncio.TimerHandle:
        """Call back in the event loop after so many of AWS's seconds."""
        loop = asyncio.get_running_loop()
        return loop.call_later(self.machine_seconds(seconds), callback, *arguments)


MACHINE: Final = Clock()
"""The machine's own time."""
