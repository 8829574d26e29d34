"""What stands in the asset graph in the place of a workload whose file cannot be used."""

import re
from collections.abc import Mapping

from dagster import AssetSpec

GROUP = "unreadable_workloads"


def unreadable_workload_assets(unreadable: Mapping[str, str]) -> list[AssetSpec]:
    """An asset for each such workload, that nothing makes; its description is what is wrong."""
    return [
        AssetSpec(
            [GROUP, re.sub(r"[^A-Za-z0-9_-]", "_", name)],
            group_name=GROUP,
            description=f"The file of this workload cannot be used:\n\n```\n{fault}\n```\n\n"
            f"Mend the file, and reload the code location.",
        )
        for name, fault in unreadable.items()
    ]
