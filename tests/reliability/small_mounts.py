"""Small file systems of their own, in memory, where the machine lets tests mount them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@functools.cache
def can_mount() -> bool:
    """Whether this process may mount."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory() as directory:
        if _mount(Path(directory), "size=64k") != 0:
            return False
        unmount(Path(directory))
    return True


needs_mount = pytest.mark.skipif("not __import__('small_mounts').can_mount()", reason="mounting needs root")


def mount(directory: Path, size: str) -> None:
    """Mounts an empty file system of `size` ("300k") on `directory`, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    assert _mount(directory, f"size={size}") == 0


def resize(directory: Path, size: str) -> None:
    """Gives a mounted file system another size."""
    assert _mount(directory, f"remount,size={size}") == 0


def unmount(directory: Path) -> None:
    """Takes a file system away, used or not."""
    subprocess.run(["umount", "--lazy", str(directory)], check=True, capture_output=True)


@contextmanager
def mounted(directory: Path, size: str) -> Iterator[Path]:
    """`directory` with a small file system on it, for as long as the block runs."""
    mount(directory, size)
    try:
        yield directory
    finally:
        unmount(directory)


def _mount(directory: Path, options: str) -> int:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    return subprocess.run(command, check=False, capture_output=True).returncode
