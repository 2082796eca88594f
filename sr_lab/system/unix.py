"""Functions that only Unix or only Linux has, and their replacements; no other module calls them directly.

Where there is no replacement, a run does without: a job keeps running when its sweep is killed, a renamed
file may be lost in a power cut, and the size of the memory is unknown.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

try:
    import fcntl as _fcntl
except ImportError:  # Windows
    _fcntl = None  # type: ignore[assignment]

# Ctrl-C, a closed terminal, a request from the scheduler or the user, Slurm's notice of a preemption; on
# Windows Ctrl-Break, which is how a sweep interrupts a job there.
_ASKING = ("SIGINT", "SIGHUP", "SIGTERM", "SIGUSR1", "SIGBREAK")
END_SIGNALS = tuple(getattr(signal, name) for name in _ASKING if hasattr(signal, name))
PREEMPTED: int | None = getattr(signal, "SIGUSR1", None)
KILL: int = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows ends a process at once in any case

SHARED_MEMORY = "/dev/shm"  # where Linux keeps the memory that processes share

# ``Popen`` arguments for a process that `signal_group` signals together with everything it starts.
OWN_GROUP: Mapping[str, Any] = (
    {"start_new_session": True}
    if hasattr(os, "killpg")
    else {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
)


def signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Signal a process started with `OWN_GROUP` and everything it has started; on Windows, only the process.

    Args:
        process: The process; nothing happens if it has ended.
        number: ``SIGINT`` asks it to end, `KILL` ends it.
    """
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
    elif number == signal.SIGINT:
        process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", number))
    else:
        process.kill()


def end_with_parent(parent: int, number: int) -> None:
    """Have a signal sent to this process when its parent ends; only Linux can do this.

    Args:
        parent: Id of the parent.
        number: The signal.

    Raises:
        KeyboardInterrupt: The parent has already ended.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (TypeError, AttributeError):  # Windows, macOS
        return
    prctl(1, number)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        raise KeyboardInterrupt


def obey_parent_only() -> None:
    """In a worker, ignore `END_SIGNALS`, except that ``SIGTERM`` from the parent ends the worker.

    On Linux, the worker is killed when its parent is.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid == os.getppid():  # not a process that only forks workers
        end_with_parent(os.getppid(), KILL)
    if not hasattr(signal, "sigwaitinfo"):  # who sent a signal is unknown on macOS and Windows
        for number in END_SIGNALS:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)

    def listen() -> None:
        while True:
            received = signal.sigwaitinfo(END_SIGNALS)
            if received.si_signo == signal.SIGTERM and received.si_pid == os.getppid():
                os._exit(0)

    threading.Thread(target=listen, daemon=True).start()


@contextlib.contextmanager
def locked(file: IO[Any], *, shared: bool = False, attempts: int = 1) -> Iterator[bool]:
    """Lock an open file against other processes until it is closed; a process that ends releases it.

    Windows keeps others from reading a locked file, so there a second file next to it is locked.

    Args:
        file: The file.
        shared: Whether others may have a shared lock too. Windows has no shared locks, and another reader may
            hold the lock for a moment, so at least two attempts are made there.
        attempts: How often to try, 0.1 s apart.

    Yields:
        Whether this process has the lock.
    """
    held = Path(f"{file.name}.held")
    if _fcntl is None and shared and not held.exists():  # nobody has locked it, and it may be read-only
        yield True
        return
    with contextlib.ExitStack() as stack:
        tries = attempts if _fcntl is not None or not shared else max(2, attempts)
        taken = False
        for attempt in range(tries):
            time.sleep(0.1 if attempt > 0 else 0)
            if taken := _flock(file, shared=shared) if _fcntl is not None else _filelock(held, stack):
                break
        yield taken


def _flock(file: IO[Any], *, shared: bool) -> bool:
    try:
        _fcntl.flock(file, (_fcntl.LOCK_SH if shared else _fcntl.LOCK_EX) | _fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _filelock(path: Path, stack: contextlib.ExitStack) -> bool:
    from filelock import FileLock, Timeout  # not needed on Unix

    try:
        stack.enter_context(FileLock(path, blocking=False))
    except Timeout:
        return False
    return True


def at_once(path: str, flags: int) -> int:
    """Opener for ``open`` with which a named pipe in an untrusted folder reads as empty and never blocks."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def not_elsewhere(path: str, flags: int) -> int:
    """Opener for ``open`` in an untrusted folder: follows no link, and does not block on a named pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut; Windows has no way to do this."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def is_only_ours(path: Path) -> bool:
    """Whether a file or folder belongs to this user and nobody else may write to it.

    On Windows the answer is always yes: a user's own folders are closed to others unless the user opens them.
    """
    status = path.stat()
    return not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpuinfo() -> str:
    """Linux's description of the CPU; empty on other systems."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def memory() -> int | None:
    """Bytes of memory of this machine; ``None`` if unknown, as on Windows."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        return None


def resident() -> int | None:
    """Bytes of memory that this process uses; ``None`` on systems other than Linux."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
