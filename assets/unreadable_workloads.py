"""The asset graph's entries for workloads whose files cannot be used."""

import re
from collections.abc import Mapping

from dagster import AssetSpec

GROUP = "unreadable_workloads"


def unreadable_workload_assets(unreadable: Mapping[str, str]) -> list[AssetSpec]:
    """An asset for each such workload, which nothing makes; its description names the fault."""
    return [
        AssetSpec(
            [GROUP, re.sub(r"[^A-Za-z0-9_-]", "_", name)],
            group_name=GROUP,
            description=f"The file of this workload cannot be used:\n\n```\n{fault}\n```\n\n"
            f"Mend the file, and reload the code location.",
        )
        for name, fault in unreadable.items()
    ]
