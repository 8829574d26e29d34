"""Runs seeds of the chaos test, each in a separate process, and prints their tally.

    python -m benchmarks.chaos --seeds 1-20 --tenants 200 --jobs 1

A seed that does not add up keeps its folder (logs, Dagster's storage, the local cloud's state) and
its output. The benchmark prints their names. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import terminated
from tests.chaos.world import ROOT, command_of

_running: Final[set[subprocess.Popen[bytes]]] = set()


def seeds(text: str) -> list[int]:
    """``1-20`` or ``3,5,8-9``. Raises ``argparse.ArgumentTypeError``."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            raise argparse.ArgumentTypeError(f"{part!r} is neither a number nor a range like 1-20")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def run(seed: int, tenants: int, base: Path, rest_seconds: float) -> dict[str, Any]:
    """One seed. ``held`` says whether everything added up; an aborted seed has ``broke`` instead of
    figures."""
    folder, output = base / f"seed-{seed}", base / f"seed-{seed}.txt"
    command = command_of(seed, tenants, folder, rest_seconds)
    with (
        output.open("w") as sink,
        subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT) as process,
    ):
        _running.add(process)
        status = process.wait()
        _running.discard(process)
    lines = output.read_text().splitlines()
    try:
        summary: dict[str, Any] = json.loads(lines[-1])
    except (ValueError, IndexError):
        summary = {"seed": seed, "broke": lines[-1] if lines else "no output"}
    summary["held"] = status == 0
    if summary["held"]:
        shutil.rmtree(folder, ignore_errors=True)
    counts, kills = summary.get("counts", {}), summary.get("kills", {})
    print(
        f"seed {seed}: {'held' if summary['held'] else f'DID NOT HOLD, see {output}'}; "
        f"{summary.get('seconds', '?')} s, "
        f"{summary.get('uploads', '?')} uploads, {sum(kills.values())} kills, "
        f"{sum(summary.get('faults', {}).values())} faults; "
        f"registered {counts.get('requests registered', 0)}, superseded "
        f"{counts.get('requests superseded', 0)}, "
        f"refused {counts.get('requests refused', 0)}, dead-lettered "
        f"{counts.get('requests dead_lettered', 0)}",
        flush=True,
    )
    return summary


def tally(summaries: Sequence[dict[str, Any]], tenants: int) -> dict[str, Any]:
    """The figures of all seeds together."""
    totals: dict[str, Counter[str]] = {
        name: Counter() for name in ("kills", "faults", "events", "counts")
    }
    for summary in summaries:
        for name, total in totals.items():
            total.update(summary.get(name, {}))
    seconds = sorted(float(summary["seconds"]) for summary in summaries if "seconds" in summary)
    requests = {
        name.removeprefix("requests "): count
        for name, count in totals["counts"].items()
        if name.startswith("requests ")
    }
    return {
        "seeds": len(summaries),
        "held": sum(summary["held"] for summary in summaries),
        "did_not_hold": [summary["seed"] for summary in summaries if not summary["held"]],
        "tenants": tenants,
        "seconds_median": seconds[len(seconds) // 2] if seconds else None,
        "seconds_most": seconds[-1] if seconds else None,
        "uploads": sum(summary.get("uploads", 0) for summary in summaries),
        "requests": dict(sorted(requests.items())),
        "kills": dict(sorted(totals["kills"].items())),
        "faults": dict(sorted(totals["faults"].items())),
        "events": dict(sorted(totals["events"].items())),
        "notices": totals["counts"]["notices"],
        "notices_given_again": totals["counts"]["notices given again"],
        "left_over_processes": sum(len(summary.get("left_over", [])) for summary in summaries),
    }


def main() -> int:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seeds", type=seeds, default=seeds("1-20"), help="such as 1-20 or 3,7 (1-20)"
    )
    parser.add_argument("--tenants", type=int, default=200)
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="seeds at the same time; each keeps two cores busy (%(default)s)",
    )
    parser.add_argument(
        "--rest-seconds",
        type=float,
        default=600,
        help="how long rest may take to come (%(default)s)",
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, terminated)
    base = Path(tempfile.mkdtemp(prefix="tenantry-chaos-"))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        asked = [
            pool.submit(run, seed, arguments.tenants, base, arguments.rest_seconds)
            for seed in arguments.seeds
        ]
        try:
            summaries = [one.result() for one in asked]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(_running):
                process.terminate()
            raise
    figures = tally(summaries, arguments.tenants)
    if not figures["did_not_hold"]:
        shutil.rmtree(base, ignore_errors=True)
    print(json.dumps(figures))
    return 0 if not figures["did_not_hold"] else 1


if __name__ == "__main__":
    sys.exit(main())
