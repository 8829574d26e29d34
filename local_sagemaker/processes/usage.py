"""What containers use of this machine: CPU time, memory, disk and GPUs."""

import contextlib
import os
import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from local_sagemaker.processes.watcher import CONTAINER_VARIABLE

_NVIDIA_SMI_SECONDS = 10.0


@dataclass
class Usage:
    """What the processes of one container use: CPU seconds since they began, and memory now."""

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    process_ids: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Gpu:
    """One GPU: its utilization in percent, its memory and each process's part of it in MiB."""

    utilization: float
    memory: float
    memory_of: dict[int, float]


def usage_by_container() -> dict[str, Usage]:
    """The use of every running container, by its token. The call reads all processes.

    CPU time of processes that ended counts if their parent, which waited for them, still runs.
    Memory that processes share is counted once (the kernel's proportional set size).
    """
    found: defaultdict[str, Usage] = defaultdict(Usage)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            token = process.environ().get(CONTAINER_VARIABLE)
            if token is None:
                continue
            times, memory = process.cpu_times(), _memory_bytes(process)
            usage = found[token]
            usage.cpu_seconds += sum(times[:4])  # user, system, and both of ended children
            usage.memory_bytes += memory
            usage.process_ids.add(process.pid)
    return found


def _memory_bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    return int(getattr(memory, "pss", memory.uss))


def folder_bytes(folder: Path) -> int:
    """The bytes of all files below a folder, which may change meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118 - faster
    return total


def gpus() -> list[Gpu]:
    """This machine's GPUs, as nvidia-smi tells them; none where it is missing or fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        machine = _ask(tool, "--query-gpu=uuid,utilization.gpu,memory.total")
        processes = _ask(tool, "--query-compute-apps=gpu_uuid,pid,used_gpu_memory")
        return [
            Gpu(
                float(utilization),
                float(memory),
                {int(pid): float(used) for gpu, pid, used in processes if gpu == uuid},
            )
            for uuid, utilization, memory in machine
        ]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def _ask(tool: str, query: str) -> list[list[str]]:
    said = subprocess.run(
        [tool, query, "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        timeout=_NVIDIA_SMI_SECONDS,
        check=True,
    ).stdout
    return [[part.strip() for part in line.split(",")] for line in said.splitlines() if line]
