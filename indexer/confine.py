"""What a decode process may do to the machine, and how it makes sure not to outlive its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

_MIB = 1024 * 1024
_SPARE_BYTES = 256 * _MIB  # for plug-ins loaded later, passages, and what the allocator keeps
_OPEN_FILES = 64
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Arrange to be killed when the process `parent` ends, where the kernel can do that (Linux).

    Elsewhere the end of standard input is what ends a worker, as soon as it waits for its next file.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before the arrangement stood
        os._exit(1)


def ignore_terminal_signals() -> None:
    """Leave Ctrl-C and the like, which reach the whole process group, to the parent: it commits first, then ends us."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)


def limit_memory(extra: int) -> None:
    """Let this process take `extra` bytes of address space beyond what it has. More raises MemoryError."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + extra + _SPARE_BYTES)


def limit_files() -> None:
    """Let this process write to no regular file, dump no core, and open few files."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _lower(resource.RLIMIT_FSIZE, 0)
        _lower(resource.RLIMIT_CORE, 0)
        _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)


def limit_cpu(seconds: float) -> None:
    """Let this process compute for `seconds` more; called again before each file, it bounds every one of them."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        usage = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        soft = int(usage.ru_utime + usage.ru_stime + seconds) + 2  # whole seconds, rounded so that none is cut short
        resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _lower(kind: int, limit: int) -> None:
    import resource

    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(kind, (limit, limit))
