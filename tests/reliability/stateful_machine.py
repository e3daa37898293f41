"""What people, accidents and commands do to a collection and its folders, in any order."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from same_process import patch_the_world
from stateful_collection import CheckedCollection
from stateful_crashes import crash, crash_command
from stateful_disk import BROKEN, DIRECTORIES, NAMES, ROOTS, WORDS, Content, Disk, Place, captions, picture
from stateful_oracle import Run

from mmsearch.indexer.optimize import optimize
from mmsearch.indexer.repair import repair
from mmsearch.indexer.switch import Wish
from mmsearch.model import Model

PICK = st.integers(0, 1000)
PLACES = st.tuples(
    st.sampled_from(ROOTS),
    st.builds(lambda folder, name: os.path.join(folder, name), st.sampled_from(DIRECTORIES), st.sampled_from(NAMES)),
)
CONTENTS = st.one_of(
    st.integers(0, 9).map(picture),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(lambda words: captions(*words)),
)
SOME_ROOTS = st.sampled_from([("one",), ("two",), ROOTS, ROOTS])
STEPS = st.integers(0, 24)


class Life(RuleBasedStateMachine):
    """`models` are two models of the same dimension; set before the first example."""

    models: tuple[Model, Model]

    @initialize(contents=st.lists(st.tuples(PLACES, CONTENTS), min_size=2, max_size=8))
    def begin(self, contents: list[tuple[Place, Content]]) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="mmsearch-life-"))
        self.disk = Disk(self.base)
        self.collection = CheckedCollection(self.disk, self.models)
        self.patched = pytest.MonkeyPatch()
        patch_the_world(self.patched, self.disk.is_locked, self.disk.is_closed_directory)
        for place, content in contents:
            self._write(place, content)
        self.collection.index(Run(self.collection.active, ROOTS))

    def teardown(self) -> None:
        if hasattr(self, "base"):
            self.patched.undo()
            self.collection.handle.close()
            shutil.rmtree(self.base)

    # -- what happens to files -----------------------------------------------------------------------------------

    def _write(self, place: Place, content: Content) -> None:
        if self.disk.can_hold(place):
            self.collection.learn(content)
            self.disk.write(place, content)

    def _file(self, pick: int) -> Place:
        files = self.disk.reachable()
        return files[pick % len(files)]

    def _has_files(self) -> bool:
        return bool(self.disk.reachable())

    def _has_directories(self) -> bool:
        return bool(self.disk.directories())

    @rule(place=PLACES, content=CONTENTS)
    def add_or_replace(self, place: Place, content: Content) -> None:
        self._write(place, content)

    @precondition(_has_files)
    @rule(pick=PICK, content=CONTENTS)
    def change(self, pick: int, content: Content) -> None:
        self._write(self._file(pick), content)

    @precondition(_has_files)
    @rule(pick=PICK, seed=st.integers(0, 9))
    def change_without_a_trace(self, pick: int, seed: int) -> None:
        """Other bytes of the same size, under the same mtime."""
        place, content = self._file(pick), picture(seed)
        file = self.disk.files[place]
        if len(file.content.data) == len(content.data):
            self.collection.learn(content)
            self.disk.write(place, content, mtime_ns=file.mtime_ns)

    @precondition(_has_files)
    @rule(pick=PICK)
    def touch(self, pick: int) -> None:
        self.disk.touch(self._file(pick))

    @precondition(_has_files)
    @rule(pick=PICK, place=PLACES)
    def move(self, pick: int, place: Place) -> None:
        if self.disk.can_hold(place):
            self.disk.move(self._file(pick), place)

    @precondition(_has_files)
    @rule(pick=PICK, place=PLACES)
    def copy(self, pick: int, place: Place) -> None:
        if self.disk.can_hold(place):
            self.disk.copy(self._file(pick), place)

    @precondition(_has_files)
    @rule(first=PICK, second=PICK)
    def trade_places(self, first: int, second: int) -> None:
        one, other = self._file(first), self._file(second)
        if one != other:
            aside = one[0], "aside"
            self.disk.move(one, aside)
            self.disk.move(other, one)
            self.disk.move(aside, other)

    @precondition(_has_files)
    @rule(pick=PICK)
    def delete(self, pick: int) -> None:
        self.disk.delete(self._file(pick))

    @precondition(_has_directories)
    @rule(pick=PICK, root=st.sampled_from(ROOTS), below=st.sampled_from(DIRECTORIES[1:]))
    def move_directory(self, pick: int, root: str, below: str) -> None:
        directories = self.disk.directories()
        source, target = directories[pick % len(directories)], (root, below)
        into_itself = target[0] == source[0] and f"{below}/".startswith(f"{source[1]}/")
        if self.disk.can_hold(target) and not self.disk.path(target).exists() and not into_itself:
            self.disk.move_directory(source, target)

    @precondition(_has_directories)
    @rule(pick=PICK)
    def delete_directory(self, pick: int) -> None:
        directories = self.disk.directories()
        self.disk.delete_directory(directories[pick % len(directories)])

    @rule(root=st.sampled_from(ROOTS), pick=PICK)
    def swap_file_and_directory(self, root: str, pick: int) -> None:
        """A file becomes a directory with the file in it, or a directory one of its files."""
        name: Place = (root, "x.png")
        if name in self.disk.files and self.disk.is_there(name):
            aside = root, "aside"
            self.disk.move(name, aside)
            self.disk.move(aside, (root, "x.png/a.png"))
        elif self.disk.can_hold((root, "aside")) and self.disk.path(name).is_dir():
            inner = [place for place in self.disk.reachable() if place[0] == root and place[1].startswith("x.png/")]
            aside = root, "aside"
            if inner:
                self.disk.move(inner[pick % len(inner)], aside)
                self.disk.delete_directory(name)
                self.disk.move(aside, name)

    @precondition(_has_files)
    @rule(pick=PICK, content=st.sampled_from(BROKEN))
    def corrupt(self, pick: int, content: Content) -> None:
        self._write(self._file(pick), content)

    @precondition(_has_files)
    @rule(pick=PICK, content=CONTENTS)
    def mend(self, pick: int, content: Content) -> None:
        """A file that cannot be read is replaced by one that can."""
        broken = [place for place, known in self.collection.rows.items() if known.reason and self.disk.is_there(place)]
        if broken:
            place = sorted(broken)[pick % len(broken)]
            self.disk.lock(place, locked=False)
            self._write(place, content)

    @precondition(_has_files)
    @rule(pick=PICK)
    def lock_or_unlock(self, pick: int) -> None:
        place = self._file(pick)
        self.disk.lock(place, locked=not self.disk.files[place].locked)

    @precondition(_has_directories)
    @rule(pick=PICK)
    def close_or_open_directory(self, pick: int) -> None:
        directories = self.disk.directories()
        directory = directories[pick % len(directories)]
        self.disk.close(directory, closed=directory not in self.disk.closed)

    @rule(root=st.sampled_from(ROOTS), how=st.sampled_from(["gone", "empty"]))
    def unplug(self, root: str, how: Any) -> None:
        if root not in self.disk.away:
            self.disk.take_away(root, how)

    @precondition(lambda self: self.disk.away)
    @rule()
    def plug_in(self) -> None:
        for root in list(self.disk.away):
            self.disk.bring_back(root)

    # -- commands ------------------------------------------------------------------------------------------------

    def _run(self, roots: tuple[str, ...], **asked: bool) -> Run | None:
        """A run over those of `roots` that a command would take as an argument."""
        known = self.collection.registered
        usable = tuple(root for root in roots if root in known or self.disk.away.get(root) != "gone")
        return Run(self.collection.active, usable, **asked) if usable else None

    def _other(self) -> str:
        return next(model for model in self.collection.models if model != self.collection.active)

    @rule()
    def index_everything(self) -> None:
        run = self._run(ROOTS)
        if run is not None:
            self.collection.index(run)
            self.collection.does_nothing_again(run)

    @rule(roots=SOME_ROOTS, verify=st.booleans(), retry=st.booleans())
    def index(self, roots: tuple[str, ...], verify: bool, retry: bool) -> None:
        run = self._run(roots, verify=verify, retry_failed=retry)
        if run is not None:
            self.collection.index(run)

    @rule(roots=SOME_ROOTS, force=st.sampled_from([False, False, True]))
    def prune(self, roots: tuple[str, ...], force: bool) -> None:
        run = self._run(roots, prune=True, force=force)
        if run is not None:
            self.collection.index(run)

    @rule(roots=SOME_ROOTS, steps=STEPS, verify=st.booleans(), prune=st.booleans())
    def crash(self, roots: tuple[str, ...], steps: int, verify: bool, prune: bool) -> None:
        run = self._run(roots, verify=verify, prune=prune)
        if run is not None:
            crash(self.collection, run, steps)

    @precondition(lambda self: self.collection.published is not None)
    @rule(roots=SOME_ROOTS, keep=st.sampled_from([None, True, False]), steps=st.none() | STEPS)
    def switch(self, roots: tuple[str, ...], keep: bool | None, steps: int | None) -> None:
        """Another model, killed on the way or not."""
        run = self._run(roots)
        if run is not None:
            run = Run(self._other(), run.roots)
            wish = Wish(switch=True, keep_old=keep)
            if steps is None:
                self.collection.index(run, wish=wish)
            else:
                crash(self.collection, run, steps, wish=wish)

    @precondition(lambda self: self.collection.published is not None)
    @rule()
    def give_up_the_switch(self) -> None:
        run = self._run(ROOTS)
        if run is not None:
            self.collection.index(run, wish=Wish(keep_old=False))

    @precondition(lambda self: self.collection.published is not None)
    @rule()
    def run_repair(self) -> None:
        self.collection.repair()

    @precondition(lambda self: self.collection.published is not None)
    @rule()
    def compact(self) -> None:
        self.collection.compact()

    @precondition(lambda self: self.collection.published is not None)
    @rule(command=st.sampled_from([optimize, repair]), steps=STEPS)
    def crash_in_a_command(self, command: Any, steps: int) -> None:
        crash_command(self.collection, command, steps)

    @precondition(lambda self: self.collection.published is not None)
    @rule()
    def check(self) -> None:
        self.collection.check()

    @rule()
    def reopen(self) -> None:
        self.collection.reopen()

    # -- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def a_query_finds_what_was_published(self) -> None:
        if hasattr(self, "collection"):
            pixels = np.random.default_rng(self.collection.largest_id).integers(0, 256, (8, 8, 3), np.uint8)
            self.collection.check_answers(pixels)

    @invariant()
    def info_tells_its_counts(self) -> None:
        if hasattr(self, "collection"):
            self.collection.check_info()
