"""Deployments: an update of an endpoint shifts its traffic from the blue fleet to a green one, step
by step, and rolls back when something goes wrong.

Sources: docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-blue-green.html,
…/dg/deployment-guardrails-rolling.html, …/dg/deployment-guardrails-configuration.html, and
…/APIReference/API_AutoRollbackConfig.html ("If any alarms are tripped during a deployment,
SageMaker rolls back the deployment").
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Literal

from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.state import Document
from local_sagemaker.endpoints.deployment_configs import Plan
from local_sagemaker.endpoints.serving_containers import InstanceFailedError
from local_sagemaker.endpoints.traffic import Fleet, Shift
from local_sagemaker.errors import LocalSageMakerError, ServiceError
from local_sagemaker.monitoring.alarms import Alarms

_log = logging.getLogger(__name__)
Stage = Literal["Creating", "Updating", "ActivatingTraffic", "Baking", "Deleting"]
"""AWS's names (…/APIReference/API_ProductionVariantStatus.html)."""


class RolledBackError(LocalSageMakerError):
    """The deployment was rolled back: the blue fleet serves alone, and the green one is gone."""


class RollbackFailedError(LocalSageMakerError):
    """The rollback failed too: both fleets serve."""


class Deployment:
    """One update of an endpoint, by a plan.

    `config_name` is the new endpoint configuration. `hold` holds so many instances of the blue and
    of the green fleet, which a rollback may need; it raises ResourceLimitExceeded.
    """

    def __init__(
        self,
        cloud: Cloud,
        alarms: Alarms,
        config_name: str,
        plan: Plan,
        shift: Shift,
        hold: Callable[[Mapping[str, int], Mapping[str, int]], None],
    ) -> None:
        self._cloud, self._alarms = cloud, alarms
        self._plan, self._hold = plan, hold
        self.config_name = config_name
        self.shift = shift
        self.started = cloud.clock.now()
        self.status: Document = {}
        self._enter("Creating", "Creating the instances of the new fleet.")

    async def run(self) -> None:
        """Carry out the plan; the green fleet then serves alone, and the blue one still exists.

        Raises RolledBackError and RollbackFailedError.
        """
        try:
            try:
                await self._within_limits()
            except RolledBackError as reason:
                await self._roll_back(str(reason))
                raise
        except (RolledBackError, RollbackFailedError):
            raise
        except BaseException:
            self._end_shift()
            await close(self.shift.green, drain=False)
            raise
        self._end_shift()

    def _end_shift(self) -> None:
        """Let all instances of either fleet take requests, if any come."""
        for fleet in (self.shift.blue, self.shift.green):
            for variant in fleet.values():
                variant.active = None

    async def _within_limits(self) -> None:
        """Go forward until the end, an alarm, a failure or the time limit. Raises
        RolledBackError."""
        plan = self._plan
        forward = asyncio.create_task(self._forward())
        tripped = asyncio.create_task(self._alarms.in_alarm(plan.alarms))
        limit = plan.timeout_seconds
        try:
            async with asyncio.timeout(
                None if limit is None else self._cloud.clock.machine_seconds(limit)
            ):
                await asyncio.wait({forward, tripped}, return_when=asyncio.FIRST_COMPLETED)
            if tripped.done():
                raise RolledBackError(
                    f"The deployment was rolled back because an alarm of its "
                    f"AutoRollbackConfiguration is in the ALARM state: {tripped.result()}."
                )
            forward.result()
        except InstanceFailedError as failure:
            raise RolledBackError(str(failure)) from failure
        except TimeoutError as error:
            raise RolledBackError(
                f"The deployment was rolled back because it took longer than its "
                f"MaximumExecutionTimeoutInSeconds, {limit}."
            ) from error
        finally:
            for task in (forward, tripped):
                task.cancel()
            await asyncio.gather(forward, tripped, return_exceptions=True)

    async def _forward(self) -> None:
        for number, step in enumerate(self._plan.steps):
            if number:
                self._enter("Updating", "Updating the capacity of the new fleet.")
            await scale(self.shift.green, step.green)
            self._enter("ActivatingTraffic", "Turning on traffic for the new fleet.")
            self.shift.move(step.shares)
            wait = self._plan.wait_seconds
            self._enter("Baking", f"Watching the alarms for {wait} seconds.")
            await self._cloud.clock.sleep(wait)
            await scale(self.shift.blue, step.blue)
        await self._cloud.clock.sleep(self._plan.termination_seconds)

    async def _roll_back(self, reason: str) -> None:
        """Bring the blue fleet back, with all requests. Raises RollbackFailedError."""
        _log.warning("deployment of %s: %s", self.config_name, reason)
        self._enter("Deleting", reason[:1024])
        shift = self.shift
        shares = dict(shift.shares)
        for name in (*shift.blue, *shift.green):
            shares.setdefault(name, Fraction(0))
        while True:
            now = {
                name: max(share - self._plan.rollback, Fraction(0))
                for name, share in shares.items()
            }
            blue = {
                name: math.ceil((1 - now[name]) * variant.document["DesiredInstanceCount"])
                for name, variant in shift.blue.items()
            }
            try:
                self._hold(blue, {name: len(one.instances) for name, one in shift.green.items()})
                await scale(shift.blue, blue)
            except (InstanceFailedError, ServiceError) as failure:
                raise RollbackFailedError(
                    f"{reason} The rollback failed too: {failure}"
                ) from failure
            shift.move(now)
            if not any(now.values()):
                break
            await scale(
                shift.green,
                {
                    name: math.ceil(now[name] * one.document["DesiredInstanceCount"])
                    for name, one in shift.green.items()
                },
            )
            shares = now
        self._end_shift()
        await close(shift.green, drain=True)

    def _enter(self, stage: Stage, message: str) -> None:
        now = self._cloud.clock.now()
        self.status = {"Status": stage, "StatusMessage": message, "StartTime": now}


async def scale(fleet: Fleet, counts: Mapping[str, int], *, provision: bool = True) -> None:
    """Bring all variants to their counts. Raises InstanceFailedError; the failed variants then have
    the counts from before."""
    try:
        async with asyncio.TaskGroup() as group:
            for name, count in counts.items():
                group.create_task(fleet[name].scale(count, provision=provision))
    except BaseExceptionGroup as errors:
        failed, _ = errors.split(InstanceFailedError)
        if failed is None:
            raise
        names = ", ".join(fleet)
        raise InstanceFailedError(f"Production variant {names}: {failed.exceptions[0]}") from errors


async def close(fleet: Fleet, *, drain: bool) -> None:
    """Stop all instances of a fleet; with `drain`, first let them finish their requests."""
    await asyncio.gather(*(variant.close(drain=drain) for variant in fleet.values()))
