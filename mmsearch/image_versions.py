"""Which decoders may be fed with anybody's files: versions with known holes are refused."""

from __future__ import annotations

import functools
import re
from importlib import metadata

from mmsearch.errors import MMSearchError

# The same as in pyproject.toml, which an installer may be told to pass over.
MINIMUM = {"pillow": "12.3", "pillow-heif": "1.3"}


@functools.cache
def require_decoders() -> None:
    """Return when no installed decoder is older than it may be. One that is not installed decodes nothing.

    Raises:
        MMSearchError: one is; names it, and the command that installs a newer one.
    """
    for package, minimum in MINIMUM.items():
        try:
            installed = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        if _numbers(installed) < _numbers(minimum):
            raise MMSearchError(
                f"{package} {installed} is installed: versions before {minimum} can be taken over by the pictures that"
                f" they decode; run: pip install --upgrade '{package}>={minimum}'"
            )


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()
