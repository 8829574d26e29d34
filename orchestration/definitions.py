"""Everything Dagster loads: the assets, jobs, sensors, schedules and checks of all workloads.

A workload whose file cannot be used is left out and reported; the others load. Where definitions
are only checked, as by ``dg check defs``, such a file is an error.
"""

import logging
import os

from orchestration.private_dagster.json_logs import write_dagsters_logs
from orchestration.workload_definitions import all_definitions
from tenantry.tracing.export import export_spans
from tenantry.workloads.schema import read_workloads

write_dagsters_logs()
export_spans()
_WORKLOADS = read_workloads()
if os.environ.get("DAGSTER_IS_DEFS_VALIDATION_CLI"):  # which those commands set
    _WORKLOADS.all_readable()
for _fault in _WORKLOADS.unreadable.values():
    logging.getLogger(__name__).error("Left out, as its file cannot be used: %s", _fault)

defs = all_definitions(_WORKLOADS)
