"""Power cuts, simulated: what a real run wrote is replayed up to some moment, and all that was not pushed to the disk
by then is lost. The collection opens as it was last acknowledged or later, and the same command goes on.

The disk itself keeps its word here. Real power cuts are not tested.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from fault_scenes import words
from fault_server import Ended, FaultServer
from figures import tell
from kill_scenes import KillScene, Scenery
from kill_verdict import Tally, judge
from lost_writes import CALLS, LOSSES, OPTIONS, UNREAD, Call, Disk, Loss, calls_in
from straced import needs_strace, traced

pytestmark = [needs_strace, pytest.mark.case("F29"), pytest.mark.promise("R3")]
QUICK, FULL = 3, 30


def record(server: FaultServer, scene: KillScene, collection: Path) -> tuple[Disk, list[Call]]:
    """The disk before the run, and what the run did to it."""
    scene.copy(collection)
    disk = Disk.of(collection) if scene.start else Disk(str(collection))
    calls = (*CALLS, *UNREAD)
    run = traced(server, *words(scene, collection), calls=calls, options=OPTIONS, environment=scene.settings)
    assert run.ended.code == 0, run.ended.err
    made = list(calls_in(run.lines))
    assert not [call for call in made if call.name in UNREAD and str(collection) in "".join(call.paths)]
    return disk, made


@pytest.mark.parametrize(
    ("name", "moments", "losses"),
    [
        ("run with changes", QUICK, LOSSES),
        ("first run", QUICK, ("all",)),
        *(
            pytest.param(name, FULL, LOSSES, marks=pytest.mark.full)
            for name in (
                *("first run", "run with changes", "switch of the model", "self-heal"),
                *("repair without photos", "self-heal without photos"),
            )
        ),
    ],
)
def test_what_was_acknowledged_survives_a_power_cut_at_any_moment(
    server: FaultServer,
    scenes: Scenery,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    name: str,
    moments: int,
    losses: tuple[Loss, ...],
) -> None:
    scene = scenes[name]
    disk, calls = record(server, scene, tmp_path / "collection")
    cuts = {int(place) for place in np.linspace(1, len(calls), moments + 1)[:-1]} | {len(calls)}
    tally = Tally()
    for place, call in enumerate(calls, start=1):
        disk.apply(call)
        for loss in losses if place in cuts else ():
            left = tmp_path / f"{place}-{loss}"
            disk.left_by_a_power_cut(loss, left)
            ended = Ended(-signal.SIGKILL, "", "", [], set(disk.acknowledged))
            wrong = len(tally.wrong)
            judge(scene, left, ended, server, tally)
            tally.wrong[wrong:] = [f"cut at {place} of {len(calls)} ({loss}): {each}" for each in tally.wrong[wrong:]]
            tally.points += 1
            tally.where.append(place / len(calls))
            shutil.rmtree(left)
    tally.assert_clean(len(losses) * (moments - 1))
    tell(pytestconfig, f"power loss, {name}: {tally}")


@pytest.mark.parametrize("scene", ["run with changes", "first run"])
def test_the_record_is_true_to_the_disk(server: FaultServer, scenes: Scenery, tmp_path: Path, scene: str) -> None:
    """Without a cut, what was replayed is what stands there, byte for byte, and all of it has been pushed."""
    collection = tmp_path / "collection"
    disk, calls = record(server, scenes[scene], collection)
    for call in calls:
        disk.apply(call)
    there = {str(path): path for path in collection.rglob("*")}
    assert disk.names.keys() - {disk.top} == there.keys()
    for name, path in there.items():
        file = disk.names[name]
        assert (file is None) == path.is_dir()
        if file is not None:
            assert bytes(file.data) == path.read_bytes(), name
            if "_transactions" not in name and path.name not in ("lock", "latest_version_hint.json"):
                assert file.safe == bytes(file.data), name


def test_what_is_acknowledged_has_been_pushed_to_the_disk(server: FaultServer, scenes: Scenery, tmp_path: Path) -> None:
    """Each time a snapshot is said to be safe, so is every file of the tables that it was made of."""
    disk, calls = record(server, scenes["run with changes"], tmp_path / "collection")
    said = 0
    for call in calls:
        disk.apply(call)
        if call.paths and call.paths[0].endswith("-published"):
            said += 1
            files = {name: file for name, file in disk.names.items() if file is not None and ".lance/" in name}
            assert files.keys() <= disk.safe_names.keys()
            assert [name for name, file in files.items() if file.safe != bytes(file.data)] == []
    assert said > 1
