"""The corpus through the real command: three runs of `mmsearch index`, and what the collection holds after each.

The first run meets the corpus, the second meets it again, and before the third everything that could be repaired is.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus import REPAIRED_COLOUR, Placed, all_cases, tree_state, write_colour, write_corpus
from corpus_names import SPECIAL_NAMES, raise_deep

from mmsearch import manifest as manifests
from mmsearch.indexer.discover import join_path
from mmsearch.passages import TEXT_EXTENSIONS
from mmsearch.store import Item, Store

CHECKOUT = Path(__file__).resolve().parents[2]
BOUND_S = 300  # for one command over the whole corpus, on any machine
ALL_HITS = "1000"
Rows = dict[bytes, list[Item]]


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command left: its exit code, the bytes on stdout, the text on stderr."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Round:
    """One run over the corpus: what it reported, the rows afterwards, what can be found, and what stands as unreadable.

    `hits` holds the similarity to the colour asked for, by path and part; `skipped` and `errors` the reasons by path.
    """

    ran: Ran
    rows: Rows
    skipped: dict[bytes, list[str]]
    errors: dict[bytes, list[str]]
    hits: dict[tuple[bytes, int], list[float]]


class Machine:
    """The commands, in an environment where warnings are errors and Ghostscript is a trap."""

    def __init__(self, base: Path, model: str) -> None:
        self.collection = base / "collection"
        self.trapped = base / "trap" / "ran"
        self.trapped.parent.mkdir()
        for name in ("gs", "gswin64c", "magick", "convert"):
            trap = self.trapped.with_name(name)
            trap.write_text(f"#!/bin/sh\ntouch '{self.trapped}'\n", encoding="utf-8")
            trap.chmod(0o755)
        own = {name: value for name, value in os.environ.items() if not name.startswith("MMSEARCH_")}
        homes = {f"XDG_{name}_HOME": str(base / name.lower()) for name in ("CONFIG", "DATA", "CACHE")}
        search = f"{self.trapped.parent}{os.pathsep}{own.get('PATH', '')}"
        told = {"MMSEARCH_COLLECTION": str(self.collection), "MMSEARCH_MODEL": model, "PATH": search}
        self.environment = {**own, **homes, **told, "PYTHONPATH": str(CHECKOUT), "PYTHONWARNINGS": "error"}

    def run(self, *arguments: str | Path) -> Ran:
        """`python -m mmsearch`. Fails when it takes longer than `BOUND_S`."""
        command = [sys.executable, "-m", "mmsearch", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, env=self.environment, timeout=BOUND_S, check=False)
        return Ran(done.returncode, done.stdout, done.stderr.decode())

    def round(self, corpus: Path, colour: str, *options: str) -> Round:
        """Index `corpus`, and look at what came of it."""
        ran = self.run("index", corpus, "--json", *options)
        failed = self.run("info", "--errors", "--json")
        hits: dict[tuple[bytes, int], list[float]] = {}
        for kind in ("images", "texts"):
            found = self.run("query", "--text", colour, "--to", kind, "-k", ALL_HITS, "--json")
            for each in found.json["hits"]:
                hits.setdefault((_exact(each), each["part"]), []).append(each["similarity"])
        return Round(ran, self.rows(), _reasons(ran.json["skipped"]), _reasons(failed.json["errors"]), hits)

    def rows(self) -> Rows:
        """Every row of the tables, by absolute path."""
        manifest = manifests.read(self.collection)
        roots = {root.id: root.path for root in manifest.roots}
        assert manifest.model is not None
        found: Rows = {}
        with Store.open(self.collection, manifest.model, read_only=True) as store:
            for item in store.items(store.known_files().ids):
                found.setdefault(join_path(roots[item.root_id], item.path), []).append(item)
        return found


@dataclass(slots=True)
class Batch:
    """All that the tests of the corpus look at. `before` and `after` are the tree around the first two runs."""

    machine: Machine
    corpus: Path
    unmade: dict[str, str] = field(default_factory=dict)
    before: dict[bytes, tuple[object, ...]] = field(default_factory=dict)
    after: dict[bytes, tuple[object, ...]] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    shown: list[Ran] = field(default_factory=list)
    repaired: dict[str, Path] = field(default_factory=dict)

    def path(self, placed: Placed) -> bytes:
        """The exact path of a case."""
        return os.fsencode(placed.path(self.corpus))

    def outcome(self, placed: Placed, round: Round) -> str:
        """What became of a file: one word of those in `CorpusCase.expected`, or what is wrong."""
        path = self.path(placed)
        rows = round.rows.get(path)
        if rows is None:
            beneath = any(each == path or each.startswith(path + b"/") for each in round.skipped)
            return "folder" if beneath else "ignored"
        said = {f"error:{row.reason}" if row.status == "error" else row.status for row in rows}
        parts = [row.part for row in rows]
        if len(said) != 1 or sorted(parts) != list(range(len(parts))):
            return f"{len(rows)} rows: {Counter(said)}"
        return said.pop()


def run_batch(base: Path, model: str) -> Batch:
    """The corpus, written below `base` and run three times."""
    batch = Batch(Machine(base, model), base / "corpus")
    machine, corpus = batch.machine, batch.corpus
    batch.unmade = write_corpus(corpus)
    batch.before = tree_state(corpus)
    batch.rounds.append(machine.round(corpus, "red"))
    batch.rounds.append(machine.round(corpus, "red", "--strict"))
    batch.shown = [
        machine.run("query", "red", "-k", ALL_HITS, "--under", corpus / "names"),
        machine.run("query", "red", "--to", "texts", "-k", ALL_HITS, "--under", corpus / "metadata"),
        machine.run("info", "--errors"),
        machine.run("index", corpus),
    ]
    batch.after = tree_state(corpus)
    batch.repaired = _repair(batch, [each for each in all_cases() if each.case.label not in batch.unmade])
    batch.rounds.append(machine.round(corpus, REPAIRED_COLOUR, "--strict"))
    return batch


def _repair(batch: Batch, cases: Sequence[Placed]) -> dict[str, Path]:
    """Put something good in the place of whatever was no whole picture, and of names that a pattern would confuse."""
    repaired = {}
    for placed in cases:
        path, outcome = placed.path(batch.corpus), batch.outcome(placed, batch.rounds[0])
        if outcome == "folder":
            repaired[placed.case.label] = raise_deep(path)
        elif outcome == "partial" or outcome.startswith("error:") or placed.case.name in SPECIAL_NAMES:
            path.unlink()
            if path.suffix in TEXT_EXTENSIONS:
                path.write_text(f"caption\n{REPAIRED_COLOUR}\n" if path.suffix == ".csv" else REPAIRED_COLOUR)
            else:
                write_colour(path, REPAIRED_COLOUR)
            repaired[placed.case.label] = path
    return repaired


def _exact(entry: dict[str, str]) -> bytes:
    return base64.b64decode(entry["path_b64"])


def _reasons(entries: Sequence[dict[str, str]]) -> dict[bytes, list[str]]:
    reasons: dict[bytes, list[str]] = {}
    for each in entries:
        reasons.setdefault(_exact(each), []).append(each["reason"])
    return reasons
