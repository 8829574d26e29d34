"""How much memory the models of one server may take."""

from pathlib import Path
from typing import Final

# The interpreter, the libraries, requests in flight and the loading of models need the rest.
SHARE: Final = 0.6

_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def default_budget() -> int:
    """60 % of the memory this container or machine has, in bytes."""
    return int(SHARE * memory_limit())


def memory_limit(
    cgroup_limits: tuple[Path, ...] = _CGROUP_LIMITS, meminfo: Path = Path("/proc/meminfo")
) -> int:
    """The memory of this container (control groups 2 and 1), or of the machine where it has no
    limit, in bytes."""
    machine = next(
        1024 * int(line.split()[1])
        for line in meminfo.read_text().splitlines()
        if line.startswith("MemTotal:")
    )
    for path in cgroup_limits:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        # "max", and in version 1 a number near 2^63, mean that there is no limit.
        if text.isdigit():
            return min(int(text), machine)
    return machine
