"""Who registers the tables of batch results, and who queries them.

A table holds the answers of all tenants, so no tenant's session has anything of it: it reads its
own predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from tests.isolation.template import ACCOUNT, REGION

RESULT_TABLES: Final[Mapping[str, str]] = {
    "glue:CreateTable glue:GetTable glue:UpdateTable": "catalog results-database results-table"
}
QUERY: Final[Mapping[str, str]] = {
    "athena:GetQueryExecution athena:GetQueryResults athena:StartQueryExecution "
    "athena:StopQueryExecution": "workgroup",
    "glue:GetDatabase glue:GetPartitions glue:GetTable glue:GetTables": "catalog "
    "results-database results-table",
    "s3:GetBucketLocation": "list",
    "s3:ListBucket": "list:tables",
    "s3:GetObject": "tables query-results",
    "s3:PutObject s3:AbortMultipartUpload s3:ListMultipartUploadParts": "query-results",
    "cloudformation:DescribeStacks": "stack",
}


def query_targets(data: str) -> Iterator[tuple[str, str, str, dict[str, str | list[str]]]]:
    """Label, whose, resource and context of the tables, of the catalog that has them, and of what
    lies near."""
    glue = f"arn:aws:glue:{REGION}:{ACCOUNT}"
    athena = f"arn:aws:athena:{REGION}:{ACCOUNT}"
    for label, resource in (
        ("catalog", f"{glue}:catalog"),
        ("results-database", f"{glue}:database/tenantry"),
        ("results-table", f"{glue}:table/tenantry/energy_nightly"),
        ("workgroup", f"{athena}:workgroup/primary"),
        ("query-results", f"{data}/tables/_results/0123.csv"),
        ("tables", f"{data}/tables/_results-2/0123.csv"),
        ("tables", f"{data}/tables/energy/_results/0123.csv"),
    ):
        yield label, "all", resource, {}
    for foreign in (
        f"{glue}:catalog/another",
        f"{glue}:database/tenantry_2",
        f"{glue}:database/another",
        f"{glue}:table/tenantry_2/energy_nightly",
        f"{glue}:table/another/energy_nightly",
        f"{athena}:workgroup/primary-2",
        f"{athena}:workgroup/another",
    ):
        yield "foreign", "nobody", foreign, {}
