"""Files are written as a whole or not at all: rights and links are kept, what a killed process left does not stay."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from openlstm import _files
from openlstm._files import folder_beside, writable, write_whole
from openlstm.errors import ArgumentError

LEFT = ".openlstm-0123.part"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_whole(path, b"new")
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_nobody_else_reads_a_private_file_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o600)
    seen: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda n: (seen.append(stat.S_IMODE(os.fstat(n).st_mode)), fsync(n))[1])
    write_whole(path, b"new")
    assert seen[0] == 0o600


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed_and_kept(tmp_path: Path, there: bool) -> None:
    (tmp_path / "far").mkdir()
    target, link, chain = tmp_path / "far" / "target", tmp_path / "link", tmp_path / "chain"
    link.symlink_to(Path("far") / "target")  # relative to the link, not to where we are
    chain.symlink_to(link)
    if there:
        target.write_bytes(b"old")
        target.chmod(0o600)
    writable(chain)
    write_whole(chain, b"new")
    assert chain.is_symlink() and link.is_symlink() and os.readlink(link) == "far/target"
    assert (
        target.read_bytes() == b"new" and names(tmp_path) == ["chain", "far", "link"] and names(tmp_path / "far") == ["target"]
    )
    assert not there or stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ArgumentError, match="cannot be written"):
        writable(tmp_path / "a")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").is_symlink() and names(tmp_path) == ["a", "b"]


KILLED = """
import os, signal, sys
from openlstm import _files
os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)
_files.write_whole(sys.argv[1], b"half")
"""


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")])
    assert ran.returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(".openlstm-") and left.endswith(".part")
    (tmp_path / ".b.part").write_bytes(b"another program's")
    write_whole(tmp_path / "c", b"whole")  # any file of that folder
    assert names(tmp_path) == [".b.part", "c"]


def test_the_parts_of_a_killed_process_are_removed_by_the_next_one_and_no_others(tmp_path: Path) -> None:
    enter = "beside = _files.folder_beside(sys.argv[1]); beside.__enter__(); os.fsync(0)"
    code = KILLED.replace('_files.write_whole(sys.argv[1], b"half")', enter)
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")])
    assert ran.returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    with folder_beside(tmp_path / "a") as one, folder_beside(tmp_path / "b") as other:
        assert names(tmp_path) == sorted([one.name, other.name]) and left not in names(tmp_path)
        write_whole(other / "part", b"whole")  # beside the lock
    assert names(tmp_path) == []


def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    part, number = _files._begin(tmp_path, 0o600)
    write_whole(tmp_path / "a", b"whole")
    assert part.exists()
    os.close(number)
    writable(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_a_file_that_is_taken_for_a_left_one_before_its_lock_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, taken = _files._lock, []

    def late(number: int, wait: bool = True) -> None:
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()
        lock(number, wait)

    monkeypatch.setattr(_files, "_lock", late)
    write_whole(tmp_path / "a", b"whole")
    assert len(taken) == 1 and names(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"whole"


def refused(path: Path, text: str) -> None:
    with pytest.raises(ArgumentError) as e:
        writable(path)
    assert str(e.value) == text


def test_places_that_cannot_be_written_are_refused_with_this_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    refused(
        tmp_path / "no" / "a",
        f"{tmp_path}/no/a: its folder does not exist\n  got       {tmp_path}/no\n  expected  an existing folder\n"
        f"  hint      mkdir -p {tmp_path}/no",
    )
    refused(
        tmp_path / "file" / "a",
        f"{tmp_path}/file/a: its folder is a file\n  got       {tmp_path}/file\n  expected  an existing folder\n"
        "  hint      choose another place",
    )
    refused(
        tmp_path,
        f"{tmp_path}: is a folder\n  got       {tmp_path}\n  expected  the name of a file\n"
        f"  hint      for example {tmp_path}/new",
    )
    os.mkfifo(tmp_path / "pipe")
    refused(
        tmp_path / "pipe",
        f"{tmp_path}/pipe: is not a file\n  got       a device or a pipe\n  expected  the name of a file\n"
        "  hint      choose another place",
    )
    with pytest.raises(ArgumentError, match="is not a file"):
        write_whole(tmp_path / "pipe", b"")
    refused(
        tmp_path / ("a" * 300),
        f"{tmp_path}/{'a' * 300}: cannot be written\n  got       File name too long\n"
        "  expected  a place where files can be written\n"
        "  hint      choose another folder, or have this one made writable",
    )
    (tmp_path / "link").symlink_to("no/target")
    refused(
        tmp_path / "link",
        f"{tmp_path}/link: its folder does not exist\n  got       {tmp_path}/no\n  expected  an existing folder\n"
        f"  hint      mkdir -p {tmp_path}/no",
    )
    assert names(tmp_path) == ["file", "link", "pipe"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody may make files")
def test_a_folder_without_files_of_ours_is_found_by_trying() -> None:
    """Root may write everywhere, so that rights alone tell nothing; /proc takes no file from anybody."""
    with pytest.raises(ArgumentError, match="/proc/a.csv: cannot be written\n  got       (No such|Permission)"):
        writable("/proc/a.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_files_without_the_right_to_write_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "a").chmod(0o400)
    with pytest.raises(ArgumentError, match="cannot be written\n  got       Permission denied"):
        writable(tmp_path / "a")
    tmp_path.chmod(0o500)
    with pytest.raises(ArgumentError, match="cannot be written\n  got       Permission denied"):
        writable(tmp_path / "b")


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 255)
    writable(path)
    write_whole(path, b"whole")
    assert names(tmp_path) == [path.name]


READ_ONLY = """
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && cd "$1" || exit 77
exec "$2" -c 'from openlstm._files import writable; writable("a")'
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a mount of its own")
def test_a_read_only_mount_is_found(tmp_path: Path) -> None:
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", READ_ONLY, "sh", str(tmp_path), sys.executable]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode == 77 or ran.stderr.startswith("unshare"):
        pytest.skip(f"no mount allowed here: {ran.stderr}")
    assert "a: cannot be written\n  got       Read-only file system" in ran.stderr


def test_a_try_may_be_removed_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the end of its lock and its own removal it looks like a left file."""
    close = os.close

    def late(number: int) -> None:
        close(number)
        for part in tmp_path.glob("*.part"):
            part.unlink()

    monkeypatch.setattr(os, "close", late)
    writable(tmp_path / "a")
    assert names(tmp_path) == []
