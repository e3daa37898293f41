"""Fixtures and oracles for commands that something befalls."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_server import Ended, FaultServer
from kill_scenes import KillScene, Scenery
from kill_sweep import Sweeper, sweeper
from kill_verdict import Tally, judge


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweeper]:
    """Scenes, and servers to run their commands side by side."""
    with sweeper(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.fixture(scope="session")
def server(commands: Sweeper) -> FaultServer:
    """Runs commands one after the other."""
    return commands.servers[0]


@pytest.fixture(scope="session")
def scenes(commands: Sweeper) -> Scenery:
    """Folders, collections, and what must become of them. Shared, so only read them."""
    return commands.scenes


def words(scene: KillScene, collection: Path) -> tuple[str, ...]:
    """The command of `scene` on `collection`."""
    return (*scene.command, "--collection", str(collection))


def assert_goes_on(scene: KillScene, collection: Path, ended: Ended, server: FaultServer) -> None:
    """What was acknowledged is there, the same command now ends well, and the collection is what it should be."""
    tally = Tally()
    judge(scene, collection, ended, server, tally)
    tally.assert_clean(0)
    shutil.rmtree(collection, ignore_errors=True)


def assert_one_sentence(ended: Ended) -> None:
    """It failed, with a sentence about it for a person."""
    assert ended.code == 1, ended.err
    assert ended.err.splitlines()[-1].startswith("mmsearch: "), ended.err
    assert "unexpected" not in ended.err
    assert "Traceback" not in ended.err
