"""Taking protections away, one at a time, in a copy of the tree, and running the test that must miss each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from protection import Protection

ROOT = Path(__file__).resolve().parents[2]
_SOURCES = ("mmsearch", "indexer", "eval", "tests", "docs", ".ci")
_FILES = ("pyproject.toml", "README.md", "CHANGELOG.md")
_TIMEOUT_S = 600


@dataclass(frozen=True)
class Ran:
    """How tests ended in a copy of the tree: pytest's exit code, None for no end in time, and the end of its output."""

    code: int | None
    printed: str

    @property
    def passed(self) -> bool:
        """Tests ran, and all passed."""
        return self.code == 0

    @property
    def failed(self) -> bool:
        """Tests ran, and some failed. Other codes tell of a run that did not happen."""
        return self.code == 1


@contextmanager
def copied_tree() -> Iterator[Path]:
    """A copy of the tree to change, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mmsearch-protections-") as place:
        tree = Path(place)
        for name in _SOURCES:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", ".hypothesis", "*.pyc")
                shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
        for name in _FILES:
            if (ROOT / name).is_file():
                shutil.copy(ROOT / name, tree / name)
        yield tree


def without(protection: Protection, source: str) -> str:
    """`source` with the protection taken away.

    Raises:
        ValueError: what stands for the protection is not there exactly once, or nothing would change.
    """
    found = source.count(protection.old)
    if found != 1 or protection.old == protection.new:
        raise ValueError(
            f"{protection.name}: expected this exactly once in {protection.file}, found it {found} times; "
            f"describe the change anew: {protection.old!r}"
        )
    return source.replace(protection.old, protection.new)


def run_without(protection: Protection, tree: Path) -> Ran:
    """What the protection's test says in `tree` without it. The file is put back."""
    path = tree / protection.file
    source = path.read_text(encoding="utf-8")
    path.write_text(without(protection, source), encoding="utf-8")
    try:
        return run_tests([protection.test], tree)
    finally:
        path.write_text(source, encoding="utf-8")


def run_tests(tests: Sequence[str], tree: Path) -> Ran:
    """Runs tests of `tree` with its own sources, those of the full tier too, up to the first that fails."""
    # Without byte code: a changed file may have the size and the second of the one before it.
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--full", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Ran(None, f"no end within {_TIMEOUT_S} s")
    return Ran(done.returncode, (done.stdout + done.stderr)[-4000:])


def run_all(protections: Sequence[Protection]) -> int:
    """Prints a line for each; 1 when a test does not pass with its protection, or does not fail without it."""
    with copied_tree() as tree:
        whole = run_tests(sorted({each.test for each in protections}), tree)
        if not whole.passed:
            sys.stdout.write(f"with every protection in its place not all tests pass:\n{whole.printed}\n")
            return 1
        kept = 0
        for each in protections:
            failed = run_without(each, tree).failed
            kept += failed
            sys.stdout.write(f"{each.name}: {'missed by' if failed else 'NOT MISSED BY'} {each.test}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{kept} of {len(protections)} protections are missed when they are taken away\n")
    return 0 if kept == len(protections) else 1
