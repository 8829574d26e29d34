"""Runs Tenantry on this machine: the local cloud, Dagster, and tenants uploading their data.

It shows progress until every good tenant has a model, a first prediction from its endpoint and a
batch prediction. It also shows the notice to the owner of the spoiled upload. The Dagster UI stays
open until Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

UI_PORT: Final = 3000
TENANTS: Final = 12
STATE: Path = Path(__file__).resolve().parents[1] / ".tenantry"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "--tenants",
        type=int,
        help=f"how many energy tenants: {TENANTS} made-up ones, the last with a spoiled file, or "
        f"all of --data; "
        "three portraits tenants come along",
    )
    parser.add_argument(
        "--data", type=Path, help="CSV or Parquet with columns customer_id, timestamp, consumption"
    )
    parser.add_argument(
        "--once", action="store_true", help="end when all has happened: status 0 only if it has"
    )
    parser.add_argument("--port", type=int, default=UI_PORT, help="of the Dagster UI (%(default)s)")
    parser.add_argument(
        "--timeout",
        type=float,
        default=1800,
        help="seconds without any progress to wait (%(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.tenants is not None and arguments.tenants < 1:
        parser.error("--tenants must be at least 1")
    if not 0 < arguments.port < 65_536:
        parser.error("--port must be between 1 and 65535")
    if arguments.data and not arguments.data.is_file():
        parser.error(f"--data: there is no file {arguments.data}")
    return arguments


def main() -> int:
    """Run the demo. Returns the exit status."""
    arguments = _arguments()
    # Imported only now: the libraries of Dagster and AWS take seconds, and help has to answer at
    # once.
    from demo.run import run

    return run(
        STATE,
        data=arguments.data,
        tenants=arguments.tenants or (None if arguments.data else TENANTS),
        once=arguments.once,
        port=arguments.port,
        timeout=arguments.timeout,
    )


if __name__ == "__main__":
    sys.exit(main())
