"""Archives are reproducible, and nothing in one can reach outside its folder or grow beyond its
limits."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.runtime.archives.archive import (
    ArchiveLimits,
    RefusedArchiveError,
    check_folder,
    digest_of,
    extract_archive,
    extract_tar,
    write_archive,
)
from tests.containers.runtime.tar_bombs import HEADER_BOMBS


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "weights").mkdir(parents=True)
    (folder / "b.json").write_text("{}")
    (folder / "weights" / "a.bin").write_bytes(os.urandom(5000))
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "extracted"
    folder.mkdir()
    return folder


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def plain(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


def special(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = link
    return member, b""


def test_what_is_written_is_read_back(model: Path, target: Path, tmp_path: Path) -> None:
    digest = write_archive(model, tmp_path / "a.tar.gz", {"card.json": b'{"format": 1}'})
    assert digest == digest_of(tmp_path / "a.tar.gz")
    extract_archive(tmp_path / "a.tar.gz", target)
    assert (target / "weights" / "a.bin").read_bytes() == (model / "weights" / "a.bin").read_bytes()
    assert (target / "card.json").read_bytes() == b'{"format": 1}'


def test_the_same_content_gives_the_same_bytes_whenever_and_wherever_it_is_written(
    model: Path, tmp_path: Path
) -> None:
    first = write_archive(model, tmp_path / "first.tar.gz")
    again = tmp_path / "elsewhere"
    (again / "weights").mkdir(parents=True)
    for name in ("weights/a.bin", "b.json"):
        (again / name).write_bytes((model / name).read_bytes())
        (again / name).chmod(0o600)
        os.utime(again / name, (1, 1))
    assert write_archive(again, tmp_path / "second.tar.gz") == first


def test_a_link_in_a_model_is_not_archived(model: Path, tmp_path: Path) -> None:
    (model / "link").symlink_to("/etc/passwd")
    with pytest.raises(RefusedArchiveError, match="'link' is not a plain file"):
        write_archive(model, tmp_path / "a.tar.gz")


def test_an_archive_made_with_tar_is_accepted(model: Path, target: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(model, ".")
    extract_archive(tmp_path / "a.tar.gz", target)
    assert (target / "b.json").read_text() == "{}"


@pytest.mark.parametrize(
    "member",
    [
        plain("/etc/cron.d/x"),
        plain("../x"),
        plain("a/../../x"),
        plain("a\\..\\x"),
        plain("x" * 300),
        plain("ü" * 200),
        plain("."),
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("link", tarfile.LNKTYPE, "b.json"),
        special("device", tarfile.CHRTYPE),
        special("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda member: ascii(member[0].name[:12]) + str(member[0].type),
)
def test_a_member_that_is_no_plain_file_inside_is_refused(
    member: tuple[tarfile.TarInfo, bytes], target: Path, tmp_path: Path
) -> None:
    archive = tar_of(tmp_path / "a.tar.gz", plain("b.json"), member)
    with pytest.raises(RefusedArchiveError):
        extract_archive(archive, target)
    assert [path.name for path in target.rglob("*")] in (["b.json"], [])
    (tmp_path / "a.tar").write_bytes(gzip.decompress(archive.read_bytes()))
    (tmp_path / "plain").mkdir()
    with pytest.raises(RefusedArchiveError):
        extract_tar(tmp_path / "a.tar", tmp_path / "plain")
    assert not (tmp_path / "x").exists()


def test_a_file_under_a_file_and_a_file_twice_are_refused(target: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedArchiveError, match="contradict"):
        extract_archive(tar_of(tmp_path / "a.tar.gz", plain("a"), plain("a/b")), target)
    with pytest.raises(RefusedArchiveError, match="contradict"):
        extract_archive(tar_of(tmp_path / "b.tar.gz", plain("c"), plain("c")), target)


def test_too_many_members_and_too_many_bytes_are_refused(target: Path, tmp_path: Path) -> None:
    limits = ArchiveLimits(extracted_bytes=1000, members=3)
    extract_archive(
        tar_of(tmp_path / "a.tar.gz", *[plain(f"a{i}") for i in range(3)]), target, limits
    )
    with pytest.raises(RefusedArchiveError, match="more than 3 members"):
        extract_archive(
            tar_of(tmp_path / "b.tar.gz", *[plain(f"b{i}") for i in range(4)]), target, limits
        )
    with pytest.raises(RefusedArchiveError, match="larger than 1000 bytes"):
        extract_archive(
            tar_of(tmp_path / "c.tar.gz", plain("c0", b"0" * 600), plain("c1", b"0" * 600)),
            target,
            limits,
        )


def test_a_stream_that_expands_without_end_is_refused(target: Path, tmp_path: Path) -> None:
    whole = gzip.decompress(tar_of(tmp_path / "a.tar.gz", plain("a")).read_bytes())
    bomb = tmp_path / "bomb.tar.gz"
    with gzip.open(bomb, "wb") as file:
        file.write(whole)
        for _ in range(20):
            file.write(bytes(1 << 20))
    with pytest.raises(RefusedArchiveError, match="expands to far more"):
        extract_archive(bomb, target)


def test_an_extended_header_without_end_is_refused(target: Path, tmp_path: Path) -> None:
    member = tarfile.TarInfo("a")
    member.pax_headers = {"comment": "x" * (20 << 20)}
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member)
    with pytest.raises(RefusedArchiveError, match="larger extended headers"):
        extract_archive(tmp_path / "a.tar.gz", target)


@pytest.mark.parametrize("bomb", HEADER_BOMBS)
def test_header_bombs_are_refused(bomb: str, target: Path, tmp_path: Path) -> None:
    """An effective bomb raises another error, or keeps the processor busy beyond the test's time
    limit."""
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(HEADER_BOMBS[bomb]))
    with pytest.raises(RefusedArchiveError):
        extract_archive(tmp_path / "bomb.tar.gz", target)


def test_a_thousand_small_files_are_accepted(target: Path, tmp_path: Path) -> None:
    names = [f"{'ü' * 60}{number}" for number in range(1000)]
    extract_archive(tar_of(tmp_path / "a.tar.gz", *[plain(name) for name in names]), target)
    assert len(list(target.iterdir())) == 1000


@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_truncated_archive_is_refused_wherever_it_was_cut(
    cut: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole = tar_of(
        folder / "whole.tar.gz", plain("a", b"abc" * 1000), plain("b", os.urandom(100))
    ).read_bytes()
    (folder / "cut.tar.gz").write_bytes(whole[: int(cut * len(whole))])
    (folder / "out").mkdir()
    with pytest.raises(RefusedArchiveError):
        extract_archive(folder / "cut.tar.gz", folder / "out")
    blocks = gzip.decompress(whole)[: 9 * tarfile.BLOCKSIZE]  # all but the end marker
    (folder / "cut.tar").write_bytes(blocks[: int(cut * len(blocks) + 1)])
    with pytest.raises(RefusedArchiveError, match="not a whole tar archive"):
        extract_tar(folder / "cut.tar", folder / "out")


@given(content=st.binary(max_size=2000))
def test_any_other_bytes_are_refused(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("noise")
    for name, noise in (("raw", content), ("zipped", gzip.compress(content))):
        (folder / name).write_bytes(noise)
        (folder / f"{name}.out").mkdir()
        with pytest.raises(RefusedArchiveError):
            extract_archive(folder / name, folder / f"{name}.out", ArchiveLimits(10_000, 10))


def test_an_archive_that_is_not_there_is_refused(target: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedArchiveError, match="no archive"):
        extract_archive(tmp_path / "nothing.tar.gz", target)


def test_a_folder_is_held_to_the_same_rules(model: Path, tmp_path: Path) -> None:
    check_folder(model)
    with pytest.raises(RefusedArchiveError, match="larger than 100 bytes"):
        check_folder(model, ArchiveLimits(extracted_bytes=100))
    with pytest.raises(RefusedArchiveError, match="more than 2 files"):
        check_folder(model, ArchiveLimits(members=2))
    with pytest.raises(RefusedArchiveError, match="no folder"):
        check_folder(tmp_path / "nothing")
    (model / "weights" / "link").symlink_to("../b.json")
    with pytest.raises(RefusedArchiveError, match="not a plain file"):
        check_folder(model)
