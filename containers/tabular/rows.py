"""Reads prepared rows, of one tenant or of many, in blocks of a bounded size.

A folder holds `rows.parquet` of one tenant, or `{tenant}/{version}/rows.parquet` of each tenant of
a shared model. All files below it are read, in order of their paths. Rows whose target is not known
are left out.

A customer is held out, or learned from, with all its months: rows of one customer resemble each
other, and a model that knew some would look better on the rest than it is. A hash of the tenant's
folder and the customer's id decides, so a customer stays on its side as its tenant's data grow. It
also decides which customers are left out where there are more rows than memory shall hold.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from containers.tabular.preparation import ROW_GROUP_ROWS, SPLIT
from containers.tabular.table import TABLE, Column

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float32]

BLOCK_ROWS: Final = ROW_GROUP_ROWS
"""Rows of one block: of 10 columns, 2.6 MB."""


@dataclass(frozen=True)
class Block:
    """Features of some rows, as models see them, and their targets, 0 or 1."""

    features: Floats
    target: Floats


@dataclass(frozen=True)
class Survey:
    """What the rows below a folder are, before anything is learned from them.

    `learned` and `held_out` count rows, `positives` those of the learned whose target is true.
    `held_out_of` has, for each tenant with rows, how many of its rows are held out, in the order of
    the blocks. `left_out` counts rows that are on neither side.
    """

    learned: int
    positives: int
    held_out: int
    left_out: int
    held_out_of: Sequence[int]
    first: date | None
    last: date | None


@dataclass(frozen=True)
class Rows:
    """The rows below a folder, which stay there. `share` of the customers are held out. Of these
    and of the others, only the share `kept` counts."""

    folder: Path
    share: float
    kept: float = 1.0

    def at_most(self, rows: int) -> tuple["Rows", Survey]:
        """About as many rows at most, of fewer customers if need be, and their survey."""
        survey = self.survey()
        known = survey.learned + survey.held_out
        if known <= rows:
            return self, survey
        fewer = replace(self, kept=rows / known)
        return fewer, fewer.survey()

    def survey(self) -> Survey:
        """Count the rows, without reading their features."""
        from pyarrow import compute

        learned = positives = left_out = 0
        held_out_of: dict[str, int] = {}
        first: date | None = None
        last: date | None = None
        for tenant, batch in self._batches([TABLE.period]):
            held, others = self._sides(tenant, batch)
            target = _floats(batch.column(TABLE.target))
            learned += int(others.sum())
            positives += int(target[others].sum())
            left_out += int((~held & ~others).sum())
            held_out_of[tenant] = held_out_of.get(tenant, 0) + int(held.sum())
            least, most = compute.min_max(batch.column(TABLE.period)).as_py().values()
            first = min(first or least, least)
            last = max(last or most, most)
        counts = list(held_out_of.values())
        return Survey(learned, positives, sum(counts), left_out, counts, first, last)

    def blocks(self, *, held_out: bool) -> Iterator[Block]:
        """The rows that are held out, or those that are learned from."""
        buffer = np.empty((BLOCK_ROWS, len(TABLE.features)), np.float32)
        target = np.empty(BLOCK_ROWS, np.float32)
        filled = 0
        for tenant, batch in self._batches([column.name for column in TABLE.features]):
            held, others = self._sides(tenant, batch)
            chosen = np.flatnonzero(held if held_out else others)
            features = encoded(batch)[chosen]
            truth = _floats(batch.column(TABLE.target))[chosen]
            while len(truth):
                count = min(len(truth), BLOCK_ROWS - filled)
                buffer[filled : filled + count] = features[:count]
                target[filled : filled + count] = truth[:count]
                filled += count
                features, truth = features[count:], truth[count:]
                if filled == BLOCK_ROWS:
                    yield Block(buffer, target)
                    filled = 0
        if filled:
            yield Block(buffer[:filled], target[:filled])

    def _batches(self, columns: Sequence[str]) -> Iterator[tuple[str, "pa.RecordBatch"]]:
        """Rows with a known target, each batch with its tenant's folder."""
        from pyarrow import parquet

        for path in sorted(self.folder.rglob("*.parquet")):
            tenant = path.relative_to(self.folder).parts[0] if path.parent != self.folder else ""
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(
                    BLOCK_ROWS, columns=[SPLIT, *columns, TABLE.target], use_threads=False
                ):
                    known = batch.filter(batch.column(TABLE.target).is_valid())
                    if len(known):
                        yield tenant, known

    def _sides(
        self, tenant: str, batch: "pa.RecordBatch"
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which rows are held out, and which are learned from."""
        digest = hashlib.blake2b(tenant.encode(), digest_size=8).digest()
        salt = np.uint64(int.from_bytes(digest, "big"))
        mixed = _mixed(batch.column(SPLIT).to_numpy() ^ salt)
        held = mixed < _mark(self.share * self.kept)
        end = _mark(self.share + (1 - self.share) * self.kept)
        return held, (mixed >= _mark(self.share)) & (mixed <= end)


def _mark(share: float) -> np.uint64:
    """The hash that this share of all hashes lies below."""
    return np.uint64(min(int(share * 2**64), 2**64 - 1))


def encoded(batch: "pa.RecordBatch | pa.Table") -> Floats:
    """The features of rows as models see them: a category's number, 0 and 1, NaN where missing."""
    columns = [_encoded(column, batch.column(column.name)) for column in TABLE.features]
    return np.column_stack(columns)


def _encoded(column: Column, cells: Any) -> Floats:
    import pyarrow as pa

    if column.kind != "category":
        return _floats(cells)
    if isinstance(cells, pa.ChunkedArray):
        cells = cells.combine_chunks()
    codes = column.codes
    names = [codes[name] for name in cells.dictionary.to_pylist()]
    return _floats(pa.array(names, pa.float32()).take(cells.indices))


def _floats(cells: Any) -> Floats:
    import pyarrow as pa

    if pa.types.is_boolean(cells.type):
        cells = cells.cast(pa.uint8())
    values: Floats = cells.cast(pa.float32()).to_numpy(zero_copy_only=False)
    return values


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer (https://prng.di.unimi.it/splitmix64.c): each bit of the result
    depends on all bits of the value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
