"""The answers of a batch as a table that Athena reads: Parquet files in S3, by day, and their
description in Glue.

The day is the partition, the tenant a column. With a partition for each tenant and day, a year of
ten thousand tenants would be 3.65 million files of a few kilobytes each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from tenantry.aws import objects
from tenantry.batch.parquet_tables import (
    AnswerRows,
    in_columns_of,
    parquet_of,
    rows_of_answer,
    texts_in,
    without_rows,
)
from tenantry.batch.periods import Period
from tenantry.batch.transform import MAX_SHOWN_BYTES, TenantPrediction
from tenantry.batch.unchanged import KeptPrediction
from tenantry.names import ids, s3_keys
from tenantry.shown.report import Report
from tenantry.shown.table_columns import ColumnType
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

MAX_JOB_BYTES: Final = 256 * 1024 * 1024
"""Of the answers of one transform job that become rows; they are in memory together."""
_MOST_COLUMNS: Final = 200
_AT_ONCE: Final = 8
_READ_AHEAD: Final = 32  # answers, of 8 MB at most
_TOO_MANY: Final = f"columns of answers beyond the table's {_MOST_COLUMNS}"
_OF_ANOTHER_TYPE: Final = "values of another type than their column's"
_OWN: Final[Mapping[str, ColumnType]] = {"tenant": "string", "version": "string"}
_PARQUET: Final = "org.apache.hadoop.hive.ql.io.parquet"


@dataclass(frozen=True)
class TableWritten:
    """A table after a run wrote to it: its name with its database's, its columns with their types
    in Glue, and the rows that this run wrote."""

    name: str
    columns: Mapping[str, str]
    rows: int


class ResultTable:
    """The table of one of a workload's batches, to which a run writes a day.

    A tenant's rows of a day are those that were written last: other files of the day lose them.
    """

    def __init__(
        self, deployment: Deployment, workload: Workload, period: Period, report: Report
    ) -> None:
        self._deployment, self._workload, self._period = deployment, workload, period
        self._report = report
        self._name = ids.workload_name(workload.name)
        self._table = f"{self._name}_{period.cadence}"
        self._rows = 0
        self._registered: dict[str, Any] | None = None
        self._columns: dict[str, ColumnType] | None = None
        self._files: dict[str, set[str]] | None = None

    @property
    def name(self) -> str:
        """The table's name, with its database's."""
        return f"{self._deployment.results_database}.{self._table}"

    @property
    def written(self) -> TableWritten | None:
        """What this run wrote; None for nothing yet."""
        if self._columns is None or not self._rows:
            return None
        return TableWritten(self.name, {**self._columns, "day": "string"}, self._rows)

    def add_kept(self, kept: Sequence[KeptPrediction]) -> None:
        """Write the rows of predictions that hold for another day, too.

        Raises:
            ClientError: AWS refused.
        """
        there = set[str]().union(*self._day_files().values()) if kept else set()
        missing = [
            one.prediction
            for one in kept
            if one.day != self._period.day or one.prediction.tenant not in there
        ]
        most = self._period.batch.tenants_per_job
        for some in (missing[at : at + most] for at in range(0, len(missing), most)):
            members = [f"{one.tenant} {one.version}" for one in some]
            self.add(f"kept-{ids.batch_name_of(members)}", some)

    def add(self, job: str, predictions: Sequence[TenantPrediction]) -> None:
        """Write the rows of the tenants that a transform job answered, in place of any they have of
        the day, and register the table if it is not as it should be.

        Raises:
            ClientError: AWS refused.
            objects.ObjectMissingError: an answer is gone.
            KeyError: a file of the day is not one of these.
            ValueError: a file of the day is no Parquet file.
        """
        answered = [one for one in predictions if one.key is not None]
        if not answered:
            return
        found, left_out = self._read(answered)
        columns = self._grown_by(found.values(), left_out)
        parts, rows = [], 0
        for one in answered:
            if (answer := found.get(one.tenant)) is not None:
                cells, emptied = in_columns_of(answer, columns)
                left_out[_OF_ANOTHER_TYPE] = left_out.get(_OF_ANOTHER_TYPE, 0) + emptied
                own = {"tenant": str(one.tenant), "version": str(one.version)}
                parts.append((own, answer.count, cells))
                rows += answer.count
        for what, count in left_out.items():
            if count:
                self._report.info(f"the table {self.name} leaves out {count} {what}")
        tenants = {str(one.tenant) for one in answered}
        key = s3_keys.result_table_file(self._name, self._period.cadence, self._period.day, job)
        for other, theirs in list(self._day_files().items()):
            if (other != key or not parts) and theirs & tenants:
                self._take_out(other, theirs, tenants)
        if parts:
            self._put(key, parquet_of(parts))
            self._day_files()[key] = {own["tenant"] for own, _, _ in parts}
            self._rows += rows
            self._register()

    def _grown_by(
        self, answers: Iterable[AnswerRows], left_out: dict[str, int]
    ) -> Mapping[str, ColumnType]:
        """The table's columns, with those that are new in some answers."""
        columns = self._known_columns()
        for answer in answers:
            for name, kind in answer.types.items():
                if name in columns or len(columns) < _MOST_COLUMNS:
                    columns.setdefault(name, kind)
                else:
                    left_out[_TOO_MANY] = left_out.get(_TOO_MANY, 0) + 1
        return columns

    def _read(
        self, answered: Sequence[TenantPrediction]
    ) -> tuple[dict[ids.ModelId, AnswerRows], dict[str, int]]:
        """The rows of each answer that can be a table's, and how many cannot, by reason."""
        s3, bucket = self._deployment.s3, self._deployment.data_bucket
        found, left_out, size = dict[ids.ModelId, AnswerRows](), dict[str, int](), 0

        def read(one: TenantPrediction) -> tuple[str, AnswerRows | None, int]:
            try:
                content = objects.read_bytes(s3, bucket, str(one.key), MAX_SHOWN_BYTES)
            except objects.ObjectTooLargeError:
                return "answers of more than 8 MB", None, 0
            try:
                return "", rows_of_answer(content), len(content)
            except (ValueError, RecursionError):
                return "answers that are no JSON", None, 0

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for at in range(0, len(answered), _READ_AHEAD):
                some = answered[at : at + _READ_AHEAD]
                for one, (reason, answer, length) in zip(some, pool.map(read, some), strict=True):
                    size += length
                    if answer is not None and size <= MAX_JOB_BYTES:
                        found[one.tenant] = answer
                        continue
                    reason = reason or "answers beyond 256 MB of one job"
                    left_out[reason] = left_out.get(reason, 0) + 1
        return found, left_out

    # ---- files of the day ------------------------------------------------------------------------

    def _day_files(self) -> dict[str, set[str]]:
        """The tenants in each file of the day; listed once."""
        if self._files is None:
            prefix = s3_keys.result_table_day_prefix(
                self._name, self._period.cadence, self._period.day
            )
            keys = objects.keys_under(self._deployment.s3, self._deployment.data_bucket, prefix)
            self._files = {key: texts_in(self._get(key), "tenant") for key in keys}
        return self._files

    def _take_out(self, key: str, theirs: set[str], tenants: set[str]) -> None:
        """Write a file anew without the rows of some tenants."""
        left = theirs - tenants
        if left:
            self._put(key, without_rows(self._get(key), "tenant", tenants))
            self._day_files()[key] = left
        else:
            self._deployment.s3.delete_object(Bucket=self._deployment.data_bucket, Key=key)
            del self._day_files()[key]

    def _get(self, key: str) -> bytes:
        s3, bucket = self._deployment.s3, self._deployment.data_bucket
        return objects.read_bytes(s3, bucket, key, MAX_JOB_BYTES)

    def _put(self, key: str, content: bytes) -> None:
        s3, bucket = self._deployment.s3, self._deployment.data_bucket
        objects.write_bytes(s3, bucket, key, content, "application/vnd.apache.parquet")

    # ---- the table in Glue -----------------------------------------------------------------------

    def _known_columns(self) -> dict[str, ColumnType]:
        """The columns that the table has, and those that this run added."""
        if self._columns is None:
            self._registered = self._find()
            storage = (self._registered or {}).get("StorageDescriptor", {})
            theirs = {one["Name"]: one["Type"] for one in storage.get("Columns", ())}
            self._columns = {**_OWN, **theirs}
        return self._columns

    def _find(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._deployment.glue.get_table(
                DatabaseName=self._deployment.results_database, Name=self._table
            )["Table"]
        except ClientError as error:
            if objects.error_code(error) == "EntityNotFoundException":
                return None
            raise
        return found

    def _register(self) -> None:
        """Create the table, or change it, unless it is as it should be."""
        wanted, found = self._definition(), self._registered
        if found is not None and _is_in(wanted, found):
            return
        glue, database = self._deployment.glue, self._deployment.results_database
        call = glue.create_table if found is None else glue.update_table
        if found is not None:  # what others noted stays
            wanted["Parameters"] = {**found.get("Parameters", {}), **wanted["Parameters"]}
        try:
            call(DatabaseName=database, TableInput=wanted)
        except ClientError:  # another run may have made or changed it: the next job looks again
            self._columns = None
            raise
        self._registered = wanted

    def _definition(self) -> dict[str, Any]:
        """The table as Glue is told it, with partition projection: Athena works out the days by
        itself, and no partition is ever added
        (https://docs.aws.amazon.com/athena/latest/ug/partition-projection.html)."""
        root = s3_keys.result_table_root(self._name, self._period.cadence)
        location = f"s3://{self._deployment.data_bucket}/{root}"
        return {
            "Name": self._table,
            "Description": f"Answers of the batch {self._period.cadence} of {self._name}.",
            "TableType": "EXTERNAL_TABLE",
            "PartitionKeys": [{"Name": "day", "Type": "string"}],
            "Parameters": {
                "EXTERNAL": "TRUE",
                "classification": "parquet",
                "projection.enabled": "true",
                "projection.day.type": "date",
                "projection.day.format": "yyyy-MM-dd",
                "projection.day.range": "2020-01-01,NOW+1MONTHS",
                "storage.location.template": f"{location}day=${{day}}/",
            },
            "StorageDescriptor": {
                "Columns": [
                    {"Name": name, "Type": kind} for name, kind in self._known_columns().items()
                ],
                "Location": location,
                "InputFormat": f"{_PARQUET}.MapredParquetInputFormat",
                "OutputFormat": f"{_PARQUET}.MapredParquetOutputFormat",
                "SerdeInfo": {"SerializationLibrary": f"{_PARQUET}.serde.ParquetHiveSerDe"},
            },
        }


def _is_in(wanted: Any, found: Any) -> bool:
    """Whether all that is wanted stands in what was found, which may say more."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            name in found and _is_in(value, found[name]) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(wanted) == len(found)
            and all(map(_is_in, wanted, found))
        )
    return bool(wanted == found)
