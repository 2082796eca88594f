"""Hides from sr_lab and filelock what Windows lacks; tests copy this file to a ``sitecustomize.py``.

Other libraries still see the hidden modules and functions, since they use them unconditionally on Linux.
`ENVIRONMENT` makes ASCII the default encoding of text files, since the default of Windows is not UTF-8
either.
"""

import builtins
import ctypes
import io
import multiprocessing
import os
import signal
import sys
import types

MODULES = {"fcntl", "resource", "pwd", "grp", "termios"}
NAMES = {
    "signal": (
        *("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGCHLD"),
        *("pthread_sigmask", "sigwaitinfo", "sigwait", "pthread_kill"),
    ),
    "os": (
        *("fork", "forkpty", "killpg", "setsid", "getpgid", "geteuid", "getuid", "sysconf", "uname"),
        *("sched_getaffinity", "O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY", "mkfifo", "posix_fadvise"),
    ),
}
PLACES = ("/proc", "/dev/shm")


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in ("sr_lab", "__main__", "__mp_main__", "filelock")


def _without(module: types.ModuleType, names: tuple[str, ...]) -> types.ModuleType:
    copy = types.ModuleType(module.__name__)
    copy.__dict__.update({key: value for key, value in vars(module).items() if key not in names})
    return copy


_COPIES = {"os": _without(os, NAMES["os"]), "signal": _without(signal, NAMES["signal"])}
_import, _open = builtins.__import__, io.open


def _hidden_import(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and _is_ours(str((globals or {}).get("__name__"))):
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name in _COPIES:
            return _COPIES[name]
    return _import(name, globals, locals, fromlist, level)


def _hidden_open(file, *rest, **named):
    caller, depth = sys._getframe(1), 0
    while caller.f_globals.get("__name__") in ("pathlib", "io") and caller.f_back and depth < 9:
        caller, depth = caller.f_back, depth + 1
    places = isinstance(file, str | os.PathLike) and os.fspath(file).startswith(PLACES)
    if places and _is_ours(caller.f_globals.get("__name__", "")):
        raise FileNotFoundError(2, "No such file or directory", os.fspath(file))
    return _open(file, *rest, **named)


class _Library(ctypes.CDLL):
    def __init__(self, name, *rest, **named):
        if name is None and _is_ours(sys._getframe(1).f_globals.get("__name__", "")):
            raise TypeError("LoadLibrary() argument 1 must be str, not None")
        super().__init__(name, *rest, **named)


ENVIRONMENT = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

if __name__ == "sitecustomize":
    builtins.__import__ = _hidden_import
    builtins.open = io.open = _hidden_open
    ctypes.CDLL = _Library
    multiprocessing.set_start_method("spawn")
