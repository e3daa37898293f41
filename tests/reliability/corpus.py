"""The corpus of bad inputs as a tree of files: `python tests/reliability/corpus.py DIRECTORY` writes it for a person.

Every group of cases has a folder of its own, and good neighbours in it that a run must find whatever lies between.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from corpus_bombs import bomb_cases
from corpus_case import CorpusCase, UnmakeableError
from corpus_metadata import metadata_cases
from corpus_names import name_cases
from corpus_pixels import pixel_cases
from corpus_structure import structure_cases
from PIL import Image
from tiny_model import COLOURS, SIDE

GROUPS = {
    "structure": structure_cases,
    "bombs": bomb_cases,
    "pixels": pixel_cases,
    "metadata": metadata_cases,
    "names": name_cases,
}
NEIGHBOUR_COLOUR, REPAIRED_COLOUR = "red", "magenta"
NEIGHBOURS = ("0 before.png", "zzz after.png")  # the first and about the last that a run meets in a folder
NEIGHBOUR_TEXT = "zzz after.csv"
_LONG_AGO_NS = 1_500_000_000 * 10**9
_WHOLE_BYTES = 256 * 1024 * 1024  # a file beyond is sparse: its beginning tells as much as all of it


@dataclass(frozen=True, slots=True)
class Placed:
    """A case and the group that it belongs to."""

    group: str
    case: CorpusCase

    def path(self, corpus: Path) -> Path:
        """Where it lies in a corpus."""
        return corpus / self.group / self.case.name


def all_cases() -> list[Placed]:
    """Every file of the corpus, by number."""
    placed = [Placed(group, case) for group, cases in GROUPS.items() for case in cases()]
    return sorted(placed, key=lambda each: int(each.case.id[1:]))


def notes() -> dict[str, list[str]]:
    """What is documented other than the design has it, by the number of the case."""
    found: dict[str, list[str]] = {}
    for each in all_cases():
        if each.case.note and each.case.note not in found.setdefault(each.case.id, []):
            found[each.case.id].append(each.case.note)
    return {id: told for id, told in found.items() if told}


def write_corpus(directory: Path) -> dict[str, str]:
    """Write the whole corpus to `directory`, which is created. Return why a file could not be made here, by label."""
    unmade: dict[str, str] = {}
    for group in GROUPS:
        (directory / group).mkdir(parents=True)
        write_neighbours(directory / group)
    for placed in all_cases():
        path = placed.path(directory)
        if os.path.lexists(path):
            unmade[placed.case.label] = "this file system holds a file of a name that it takes for the same"
            continue
        try:
            placed.case.make(path)
        except (OSError, UnmakeableError) as error:
            unmade[placed.case.label] = f"this machine cannot make it: {error}"
    _age(directory)
    return unmade


def write_neighbours(folder: Path) -> None:
    """Good pictures of one colour, and a table with its name as a caption."""
    for name in NEIGHBOURS:
        write_colour(folder / name, NEIGHBOUR_COLOUR)
    (folder / NEIGHBOUR_TEXT).write_text(f"caption\n{NEIGHBOUR_COLOUR}\n", encoding="utf-8")


def _age(directory: Path) -> None:
    """Files of the last seconds are read twice, since they may still be written; these are of long ago."""
    for _, _, names, handle in os.fwalk(directory):
        for name in names:
            os.utime(name, ns=(_LONG_AGO_NS, _LONG_AGO_NS), dir_fd=handle, follow_symlinks=False)


def write_colour(path: Path, colour: str) -> None:
    """A picture of one colour as a PNG, whatever the name says."""
    with path.open("wb") as file:
        Image.new("RGB", (SIDE * 4, SIDE * 4), COLOURS[colour]).save(file, "PNG")


def tree_state(directory: Path) -> dict[bytes, tuple[object, ...]]:
    """What must stay as it is: by path the kind and mode, mtime, size and content of everything in `directory`."""
    state: dict[bytes, tuple[object, ...]] = {}
    for folder, _, names, handle in os.fwalk(os.fsencode(directory)):
        status = os.fstat(handle)
        state[folder] = (status.st_mode, status.st_mtime_ns)
        for name in names:
            status = os.lstat(name, dir_fd=handle)
            state[folder + b"/" + name] = (status.st_mode, status.st_mtime_ns, status.st_size, _digest(name, handle))
    return state


def _digest(name: bytes, folder: int) -> str:
    status = os.lstat(name, dir_fd=folder)
    if not stat.S_ISREG(status.st_mode):
        return ""
    digest = hashlib.sha256(str(status.st_blocks).encode() if status.st_size > _WHOLE_BYTES else b"")
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        for chunk in _chunks(file, min(status.st_size, _WHOLE_BYTES)):
            digest.update(chunk)
    finally:
        os.close(file)
    return digest.hexdigest()


def _chunks(file: int, most: int) -> Iterator[bytes]:
    while most > 0 and (chunk := os.read(file, min(most, 1 << 24))):
        most -= len(chunk)
        yield chunk


def main(arguments: list[str]) -> int:
    """Exit code of `python tests/reliability/corpus.py DIRECTORY`."""
    if len(arguments) != 1 or Path(arguments[0]).exists():
        sys.stderr.write("usage: python tests/reliability/corpus.py DIRECTORY, which must not exist yet\n")
        return 2
    directory = Path(arguments[0])
    unmade = write_corpus(directory)
    for placed in all_cases():
        label = placed.case.label
        told = unmade.get(label) or ", ".join(sorted(placed.case.expected))
        sys.stdout.write(f"{placed.group:<10} {label}: {told}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
