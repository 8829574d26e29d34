"""Runs Tenantry on this machine: the local cloud, Dagster, and tenants uploading their data.

It shows progress until every good tenant has a model, a first prediction from its endpoint and a
batch prediction. It also shows the notice to the owner of the spoiled upload. The Dagster UI stays
open until Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

UI_PORT: Final = 3000
TENANTS: Final = 12
STATE: Path = Path(__file__).resolve().parents[1] / ".tenantry"


def _whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an argument: it is refused with the numbers that it may be."""

    def parse(text: str) -> int:
        if text.isdecimal() and least <= int(text) <= (most or int(text)):
            return int(text)
        within = f"from {least} to {most}" if most else f"of at least {least}"
        raise argparse.ArgumentTypeError(f"it must be a whole number {within}, not {text!r}")

    return parse


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "--tenants",
        type=_whole_number(1),
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
    parser.add_argument(
        "--port",
        type=_whole_number(1, 65_535),
        default=UI_PORT,
        help="of the Dagster UI (%(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=1800,
        help="seconds without any progress to wait (%(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.data and not arguments.data.is_file():
        parser.error(f"--data: there is no file {arguments.data}")
    return arguments


def main() -> int:
    """Run the demo. Returns the exit status."""
    arguments = _arguments()
    # Imported only now: the libraries of Dagster and AWS take seconds, and help has to answer at
    # once.
    try:
        from demo.run import run
    except KeyboardInterrupt:
        print("Stopped before anything was started.", file=sys.stderr)
        return 130

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
