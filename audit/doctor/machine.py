"""The machine: memory, cores, disk, clock, words on the terminal, sockets, git."""

import locale
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from audit.doctor.base import Finding, Probe, said

GROUP = "Machine"
MEMORY = 3_000_000_000
"""Bytes: 1.75 GB were measured at the peak of the quickstart's reduced form (docs/supply-chain.md), and room above."""
_TEMPORARY = "set TMPDIR to a folder that you can write, with 1 GB free"
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def probes() -> list[Probe]:
    """Everything that needs no package."""
    return [
        Probe(GROUP, "memory", "models and attacks; the quickstart wants about 2 GB", _memory),
        Probe(GROUP, "cores", "attacks and training use all of them", _cores),
        Probe(GROUP, "temporary folder", "files are made there and renamed", _temporary, needed=True, mend=_TEMPORARY),
        Probe(GROUP, "this folder", "results are written below it by default", _here),
        Probe(GROUP, "loopback socket", "the quickstart's wire: client and server on one machine", _loopback,
              needed=True, mend="let programs open 127.0.0.1: look at the sandbox's or the firewall's rules"),
        Probe(GROUP, "clock", "dates of records; TLS of the package index", _clock),
        Probe(GROUP, "text encoding", "signs of reports on the terminal", _encoding),
        Probe(GROUP, "git", "the commit in every record, where the code runs from a checkout", _git),
    ]  # fmt: skip


def writable(folder: Path) -> str | None:
    """Why nothing can be written into a folder, which may not be there yet; None where it can. Leaves no trace."""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        return f"{there} is a file"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"delaudit")
    except OSError as error:
        return error.strerror or said(error)
    return None


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk that holds a folder, which may not be there yet."""
    return shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free


def _memory() -> Finding:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    limit = _CGROUP.read_text(encoding="ascii").strip() if _CGROUP.is_file() else "max"
    total = min(total, int(limit)) if limit.isdigit() else total
    if not total:
        return Finding("note", "cannot be read on this system")
    if total < MEMORY:
        return Finding("note", f"{total / 1e9:.1f} GB; the quickstart may run out of it",
                       "close other programs, or try: delaudit quickstart --set data.windows=4")  # fmt: skip
    return Finding("ok", f"{total / 1e9:.0f} GB")


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("ok", f"{usable} usable of {os.cpu_count()}")


def _temporary() -> Finding:
    folder = Path(tempfile.gettempdir())  # raises where there is none that can be written
    if (refusal := writable(folder)) is not None:
        return Finding("broken", f"{folder}: {refusal}", _TEMPORARY)
    free = free_bytes(folder)
    if free < 200_000_000:
        return Finding("broken", f"{folder}: {free / 1e6:.0f} MB free", _TEMPORARY)
    return Finding("ok", f"{folder}, {free / 1e9:.0f} GB free")


def _here() -> Finding:
    if (refusal := writable(Path.cwd())) is not None:
        return Finding("note", f"{Path.cwd()}: {refusal}", "name another with --out, or change the folder")
    return Finding("ok", f"writable, {free_bytes(Path.cwd()) / 1e9:.0f} GB free")


def _loopback() -> Finding:
    """A byte there and back."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        with socket.create_connection(server.getsockname(), timeout=5) as client:
            peer, _ = server.accept()
            with peer:
                client.sendall(b"!")
                peer.settimeout(5)
                if peer.recv(1) != b"!":
                    raise OSError("what was sent did not arrive")
    return Finding("ok", "127.0.0.1 answers")


def _clock() -> Finding:
    """A clock that stands before the code's own files were written is wrong."""
    now, written = time.time(), Path(__file__).stat().st_mtime
    shown = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    if now < written - 86_400:
        return Finding("note", f"{shown}, before delaudit's files were written", "set the clock")
    return Finding("ok", shown)


def _encoding() -> Finding:
    out = (sys.__stdout__.encoding if sys.__stdout__ is not None else None) or "none"
    wanted = locale.getpreferredencoding(do_setlocale=False)
    if {one.lower().replace("-", "") for one in (out, wanted)} != {"utf8"}:
        return Finding("note", f"terminal {out}, files {wanted}", "export PYTHONUTF8=1")
    return Finding("ok", "UTF-8")


def _git() -> Finding:
    git = shutil.which("git")
    if git is None:
        return Finding("note", "not found; records of a checkout name no commit",
                       "install git, for example: apt install git")  # fmt: skip
    done = subprocess.run([git, "--version"], capture_output=True, text=True, timeout=20, check=True)  # noqa: S603 - fixed
    return Finding("ok", done.stdout.strip().removeprefix("git version "))
