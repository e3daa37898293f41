"""A small library with hostile names and captions, and commands that are run over it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from running import CHECKOUT, Outcome

# Controls of a terminal: its title, its clipboard, the screen, the cursor; C1 as UTF-8 and as bytes; DEL; what turns
# text around; line ends of every kind; what is not UTF-8; and half of a surrogate pair, which no encoding allows.
HOSTILE_TEXTS = (
    "\x1b]0;owned\x07",
    "\x1b]52;c;ZWNobyBvd25lZA==\x07",
    "\x1b[2J\x1b[H",
    "\x1bP+q544e\x1b\\",
    "\x9b31mred",
    "\x90dcs\x9c",
    "a\x7f\x08b",
    "gnp\u202egpj",
    "\u2066iso\u2069",
    "\u200f\u061cmark",
    "one\r\ntwo\u2028three\u2029four\x0bfive\x0csix\x85seven",
    "\x00nul"[1:],
)
HOSTILE_NAMES = (*(text.encode() for text in HOSTILE_TEXTS), b"\xff\xfe", b"\xed\xa0\x80", b"\x9b31m", b"-rf", b"$(id)")
# What may stand in the output beside text that can be printed.
_ALLOWED = "\n\t"
_FORBIDDEN = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0))} - set(_ALLOWED)
_FORBIDDEN |= {*"\u061c\u200e\u200f", *map(chr, range(0x2028, 0x202F)), *map(chr, range(0x2066, 0x206A))}


@dataclass(frozen=True)
class Scene:
    """`photos` holds the library, `collection` is where its index goes; commands run in `environment`."""

    photos: Path
    collection: Path
    environment: dict[str, str]

    def run(self, *arguments: str | bytes | Path, input: bytes = b"") -> Outcome:
        return self.start([sys.executable, "-m", "mmsearch", *arguments], input=input)

    def start(self, command: list[str | bytes | Path], *, input: bytes = b"") -> Outcome:
        """Runs any program in this scene."""
        done = subprocess.run(
            command, input=input, capture_output=True, env=self.environment, timeout=120, check=False, cwd=CHECKOUT
        )
        return Outcome(done.returncode, done.stdout, done.stderr.decode("utf-8", "surrogateescape"))


def new_scene(base: Path, model: Path) -> Scene:
    """An empty library; the commands know their collection and their model."""
    (base / "photos").mkdir()
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MMSEARCH_", "ORT_"))}
    homes = {f"XDG_{name}_HOME": str(base / name.lower()) for name in ("CONFIG", "DATA", "CACHE")}
    told = {"MMSEARCH_COLLECTION": str(base / "collection"), "MMSEARCH_MODEL": str(model)}
    told |= {"PYTHONPATH": str(CHECKOUT), "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8", "HOME": str(base)}
    # Its presence keeps some libraries from what they do elsewhere.
    own.pop("CI", None)
    return Scene(base / "photos", base / "collection", {**own, **homes, **told})


def write_hostile_library(photos: Path) -> list[bytes]:
    """A good and a broken picture of each hostile name, and a file of hostile captions; the names of the good ones."""
    good = []
    for name in HOSTILE_NAMES:
        path = os.fsencode(photos) + b"/" + name
        Image.new("RGB", (20, 16), "red").save(os.fsdecode(path + b".png"))
        Path(os.fsdecode(path + b"-broken.png")).write_bytes(b"\x89PNG\r\n\x1a\n" + name)
        good.append(path + b".png")
    # A form feed would end a paragraph, and a line end the line: quoted cells of a table keep all of it.
    rows = "".join('"{}"\n'.format(text.replace('"', '""')) for text in HOSTILE_TEXTS)
    (photos / "captions.csv").write_text("caption\n" + rows, encoding="utf-8")
    return good


def write_hostile_dataset(folder: Path) -> None:
    """Pictures of hostile names with sidecars of hostile captions, to be measured on."""
    folder.mkdir()
    for number, (name, text) in enumerate(zip(HOSTILE_NAMES, HOSTILE_TEXTS, strict=False)):
        path = os.fsdecode(os.fsencode(folder) + b"/" + name)
        Image.new("RGB", (20, 16), (number, 200, 20 * number)).save(f"{path}.png")
        Path(f"{path}.txt").write_text(f"picture {number} {text.splitlines()[0]}", encoding="utf-8")


def unsafe(text: str) -> list[str]:
    """The characters of `text` that could do something to a terminal, or that no encoding has."""
    return sorted({c for c in text if c in _FORBIDDEN or 0xD800 <= ord(c) <= 0xDFFF})
