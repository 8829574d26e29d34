"""Model archives from S3 that are made to do harm, without a process."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from local_sagemaker.account.storage import DataError
from local_sagemaker.endpoints.archives import extract
from tests.containers.runtime.tar_bombs import HEADER_BOMBS


@pytest.mark.parametrize("bomb", HEADER_BOMBS)
def test_header_bombs_are_refused(bomb: str, tmp_path: Path) -> None:
    """An effective bomb raises another error, or keeps the processor busy beyond the test's time
    limit."""
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(HEADER_BOMBS[bomb]))
    with pytest.raises(DataError):
        extract(tmp_path / "bomb.tar.gz", tmp_path / "model", 1 << 20)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_many_files_are_extracted(form: int, tmp_path: Path) -> None:
    names = [f"{'ü' * 100}/{number}" for number in range(1000)]
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=form) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.mtime = 1.5  # PAX stores a fraction in its extended header
            tar.addfile(member, io.BytesIO())
    extract(tmp_path / "a.tar.gz", tmp_path / "model", 1 << 20)
    assert len(list((tmp_path / "model" / ("ü" * 100)).iterdir())) == 1000
