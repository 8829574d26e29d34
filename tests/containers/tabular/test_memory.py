"""What training takes of memory as the rows grow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from containers.tabular.synthetic import generate
from tests.containers.tabular.churn import prepared_tenants

MOST_BYTES_A_ROW: Final = 130
"""Of resident memory: XGBoost keeps a row's bins, target, gradient and place. As 64-bit numbers,
the columns alone would take 88 bytes in each place that holds them whole."""
MOST_BYTES_MORE: Final = 64 << 20
"""For more rows than `most_rows`, of which none is kept."""

PROGRAM = """
import json, resource, sys
from pathlib import Path
from containers.runtime.training.packed_training import Task
from containers.tabular.trainer import TabularTrainer
task = Task("t-1", "acme", "v1", "pool", Path(sys.argv[1]))
told = {"rounds": "10", **json.loads(sys.argv[3])}
*_, result = TabularTrainer().train([task], told, Path(sys.argv[2]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"peak": peak, "rows": result.card["rows"]}))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_grows_by_a_few_bytes_a_row_up_to_a_bound(tmp_path: Path) -> None:
    """One million rows, four, and one million of four."""
    prepared_tenants(tmp_path / "some", generate(1, 25_000, 11, 1))
    (made,) = (tmp_path / "some").iterdir()
    for name, tenants in (("million", 8), ("millions", 32)):
        for number in range(tenants):
            shutil.copytree(made, tmp_path / name / f"tenant-{number:02}")
    less = _trained(tmp_path, "million")
    more = _trained(tmp_path, "millions")
    bound = _trained(tmp_path, "millions", most_rows=str(_used(less)))
    assert _used(less) > 1_000_000
    assert _used(more) == 4 * _used(less)
    assert _used(bound) == pytest.approx(_used(less), rel=0.02)
    assert _used(bound) + bound["rows"]["left_out"] == _used(more)
    a_row = (more["peak"] - less["peak"]) / (_used(more) - _used(less))
    assert a_row < MOST_BYTES_A_ROW
    assert bound["peak"] < less["peak"] + MOST_BYTES_MORE


def _trained(base: Path, rows: str, **hyperparameters: str) -> dict[str, Any]:
    """Peak memory in bytes, and rows by what became of them, of a training in its own process."""
    workspace = base / f"{rows}-{len(hyperparameters)}-workspace"
    workspace.mkdir()
    arguments = [str(base / rows), str(workspace), json.dumps(hyperparameters)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _used(found: dict[str, Any]) -> int:
    rows = found["rows"]
    return int(rows["learned"] + rows["held_out"])
