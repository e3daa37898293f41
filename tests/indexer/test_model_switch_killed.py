"""Whatever kills a run that changes the model, and wherever: one model answers in full, the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from killed_commits import Killed
from model_switches import assert_answers, assert_tables_are_true, embeddings_made, switch, tables, wide_model
from photo_library import Library
from switch_kills import ONE_BY_ONE, killed_at, restored

from mmsearch.indexer import pipeline
from mmsearch.indexer.repair import repair
from mmsearch.model import Model
from mmsearch.search import Query, search_collection

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def wide(tmp_path: Path) -> Model:
    return wide_model(tmp_path / "wide", itm=True)


@pytest.fixture
def changed(library: Library, monkeypatch: pytest.MonkeyPatch) -> Library:
    """A collection whose files have changed since: one is new, one other, one moved, one gone, and a caption more."""
    for place in range(4):
        library.photo(f"{place}.png", place)
    library.captions("notes.csv", "a dog", "a cat")
    library.index()
    library.photo("1.png", 11)
    library.photo("new.png", 12)
    (library.photos / "2.png").rename(library.photos / "moved.png")
    (library.photos / "3.png").unlink()
    library.captions("notes.csv", "a bird", "a dog", "a cat")
    # A kill is no power cut, and every file is a group of its own.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(pipeline, "_GROUP_FILES", 1)
    return library


def answering(library: Library) -> tuple[str, int]:
    """The model that answers when nobody names one, and how many items it finds."""
    hits = [
        search_collection(library.collection, Query("red", to=to, k=50, rerank=False), threads=1)
        for to in ("images", "texts")
    ]
    assert hits[0].model == hits[1].model
    return hits[0].model, sum(len(each.hits) for each in hits)


@pytest.mark.case("F5")
@pytest.mark.promise("R2")
@pytest.mark.parametrize("in_between", ["nothing", "a plain run", "a repair"])
def test_the_same_command_goes_on_wherever_a_switch_was_killed(changed: Library, wide: Model, in_between: str) -> None:
    tiny = changed.model
    before = changed.collection.with_name("before")
    ids = {key: item.id for key, item in changed.items().items()}
    changed.collection.rename(before)
    # Every second place is enough where another run comes in between: what that run does is tested elsewhere.
    step, stride = (0, 1) if in_between == "nothing" else (1, 2)
    answered = set()
    while True:
        changed.model = tiny
        restored(changed, before)
        with embeddings_made() as made:
            killed = _killed_switch(changed, wide, step)
        name, count = answering(changed)
        answered.add(name)
        # The old one finds what it found; the new one what there is.
        assert (name, count) in {("tiny", 6), ("wide", 7)}, step
        if killed and in_between == "a plain run" and name == "tiny":
            changed.index(options=ONE_BY_ONE)
            assert_answers(changed, tiny)
            assert_tables_are_true(changed, tiny, *([wide] if len(tables(changed)) > 1 else []))
        if killed and in_between == "a repair":
            repair(changed.collection)
            assert answering(changed)[0] == name
        with embeddings_made() as rest:
            switch(changed, wide, options=ONE_BY_ONE)
        changed.model = wide
        assert_answers(changed, wide)
        assert tables(changed) == [wide.fingerprint], step
        assert changed.manifest.format == 1
        assert not (changed.collection / "quarantine").exists(), "half of a table was taken for a damaged one"
        stayed = {key: item.id for key, item in changed.items().items() if key in ids}
        assert stayed.items() <= ids.items()
        # What was killed between embedding and writing is one file: three captions at most.
        assert sum((made + rest).values()) <= 7 + 3, step
        if not killed:
            break
        step += stride
    assert answered == {"tiny", "wide"}
    assert step > 10


def _killed_switch(library: Library, model: Model, step: int) -> bool:
    """Whether a switch that is killed after `step` steps came to that."""
    try:
        with killed_at(step):
            switch(library, model, options=ONE_BY_ONE)
    except Killed:
        return True
    return False


SCRIPT = """
import os, signal, sys
from pathlib import Path
from mmsearch.indexer.pipeline import IndexOptions, index
from mmsearch.indexer.switch import Wish
from mmsearch.indexer.write import BatchLimits
from mmsearch.model import load_model
from mmsearch.store import Store

real, calls = Store.embed, []

def embed(self, *arguments):
    real(self, *arguments)
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

Store.embed = embed
options = IndexOptions(batch=BatchLimits(files=1), models=Wish(switch=True))
index(Path(sys.argv[1]), None, load_model(sys.argv[2], threads=1), options)
"""


@pytest.mark.case("F5", "F14")
@pytest.mark.promise("R2")
def test_a_process_that_is_killed_leaves_the_old_model_answering_and_its_work_done(
    library: Library, wide: Model
) -> None:
    for place in range(5):
        library.photo(f"{place}.png", place)
    library.index()
    arguments = [sys.executable, "-c", SCRIPT, str(library.collection), str(wide.manifest.directory)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(arguments, env=environment, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert answering(library) == ("tiny", 5)
    with embeddings_made() as rest:
        switch(library, wide)
    assert rest == {"images": 3}
    library.model = wide
    assert_answers(library, wide)
