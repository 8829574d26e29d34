"""Everything Dagster loads: the assets, jobs, sensors, schedules and checks of all workloads.

A workload whose file cannot be used is left out and reported; the others load.
"""

import logging

from orchestration.workload_definitions import all_definitions
from tenantry.workloads.schema import read_workloads

_WORKLOADS = read_workloads()
for _fault in _WORKLOADS.unreadable.values():
    logging.getLogger(__name__).error("Left out, as its file cannot be used: %s", _fault)

defs = all_definitions(_WORKLOADS)
