"""Was a table refused by the operating system, or is it damaged? And is what stands at its place a table at all?"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from mmsearch.errors import CollectionDamaged

# LanceDB tells of the operating system in words only.
_NUMBER = re.compile(r"\(os error (\d+)\)")
# What a file answers that is gone, or is no file any more. Every other refusal may pass, or is for a person to mend.
_DAMAGE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})


def refusal(error: BaseException) -> str | None:
    """Why the operating system did not let a table be read, in its words; None when what the table holds is damaged.

    A refusal, for want of file descriptors, of permission, or of a disk that answers, says nothing about the content.
    """
    cause: BaseException | None = error
    while cause is not None:
        number = _number(cause)
        if number is not None:
            return None if number in _DAMAGE else os.strerror(number)
        cause = cause.__cause__
    return None


def require_directories(*places: Path) -> None:
    """Returns when each of `places` is a directory, or not there at all.

    Raises:
        CollectionDamaged: one is something else.
    """
    for place in places:
        try:
            mode = place.stat().st_mode
        except OSError:
            # Whoever opens what is in it is told why that cannot be had.
            continue
        if not stat.S_ISDIR(mode):
            raise CollectionDamaged(f"{place}: is not a directory, as it should be; run `mmsearch repair`")


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _NUMBER.findall(str(error))
    return int(found[-1]) if found else None


def first_line(error: BaseException) -> str:
    """The first line of a LanceDB error without the place in its sources."""
    return str(error).split(", /")[0].splitlines()[0][:300] if str(error) else type(error).__name__
