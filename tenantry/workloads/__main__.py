"""``python -m tenantry.workloads check``, ``… schema`` and ``… hosting``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tenantry.workloads.folder import FOLDER_VARIABLE
from tenantry.workloads.hosting_rules import tables
from tenantry.workloads.json_schema import FILE, schema_text
from tenantry.workloads.schema import InvalidWorkloadError, read_workloads


def main() -> None:
    """Check all files, write their JSON Schema anew, or print the rules of hosting."""
    parser = argparse.ArgumentParser(
        prog="python -m tenantry.workloads", description="The workloads' YAML files."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="check every file; status 1 if one cannot be used")
    check.add_argument(
        "folder", nargs="?", type=Path, help=f"by default what {FOLDER_VARIABLE} names, or ours"
    )
    schema = commands.add_parser("schema", help="write the JSON Schema of the files anew")
    schema.add_argument("file", nargs="?", type=Path, default=FILE)
    commands.add_parser("hosting", help="print which shapes can serve what, as Markdown")
    asked = parser.parse_args()
    if asked.command == "hosting":
        sys.stdout.write(tables())
        return
    if asked.command == "schema":
        asked.file.write_text(schema_text(), encoding="utf-8")
        return
    try:
        workloads = read_workloads(asked.folder).all_readable()
    except InvalidWorkloadError as error:
        sys.exit(str(error))
    count = "1 workload" if len(workloads) == 1 else f"{len(workloads)} workloads"
    sys.stdout.write(f"{count} can be used: {', '.join(workloads)}\n")


if __name__ == "__main__":
    main()
