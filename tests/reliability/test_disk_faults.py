"""A disk that is full, refuses or fails: the run ends with a sentence, what was acknowledged stays, and the same
command goes on when the disk is well again.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from fault_scenes import assert_goes_on, assert_one_sentence, words
from fault_server import FaultServer
from kill_scenes import KillScene, Scenery
from small_mounts import mounted, needs_mount, resize
from straced import needs_strace, traced

QUICK = 3


@pytest.fixture
def scene(scenes: Scenery) -> KillScene:
    return scenes["run with changes"]


@pytest.mark.promise("R2", "R6")
@pytest.mark.parametrize(
    ("number", "calls"),
    [
        pytest.param(errno.EIO, ["fsync"], marks=pytest.mark.case("F28"), id="fsync fails"),
        pytest.param(errno.EIO, ["rename", "mkdir"], marks=pytest.mark.case("F21"), id="writing fails"),
        pytest.param(errno.ENOSPC, ["fsync", "rename", "mkdir"], marks=pytest.mark.case("F17"), id="full disk"),
        pytest.param(errno.EDQUOT, ["rename", "mkdir"], marks=pytest.mark.case("F19"), id="quota"),
    ],
)
def test_a_call_that_fails_for_ever_ends_the_run_and_nothing_else_is_acknowledged(
    server: FaultServer, scene: KillScene, tmp_path: Path, number: int, calls: list[str]
) -> None:
    for place in range(QUICK):
        collection = tmp_path / f"collection-{place}"
        scene.copy(collection)
        refuse = {"calls": calls, "errno": number, "from": 1 + 4 * place}
        ended = server.run(*words(scene, collection), refuse=refuse)
        assert_one_sentence(ended)
        assert os.strerror(number) in ended.err
        assert_goes_on(scene, collection, ended, server)


@pytest.mark.case("F28")
def test_after_a_single_failure_of_fsync_nothing_more_is_acknowledged(
    server: FaultServer, scene: KillScene, tmp_path: Path
) -> None:
    for place in (2, 30, 90):
        collection = tmp_path / f"collection-{place}"
        scene.copy(collection)
        refuse = {"calls": ["fsync"], "errno": errno.EIO, "from": place, "often": 1}
        ended = server.run(*words(scene, collection), refuse=refuse)
        assert_one_sentence(ended)
        assert_goes_on(scene, collection, ended, server)


@pytest.mark.case("F30")
@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_refused_in_one_sentence(
    server: FaultServer, scenes: Scenery, tmp_path: Path, number: int
) -> None:
    scene = scenes["first run"]
    ended = server.run(*words(scene, tmp_path / "new"), refuse={"calls": ["link"], "errno": number})
    assert_one_sentence(ended)
    assert "this file system has no hard links" in ended.err
    assert "put the collection on a local disk" in ended.err
    assert not (tmp_path / "new" / "items.lance").exists()


@pytest.mark.case("F18")
@pytest.mark.parametrize("size", [300, 1500, 6000])
def test_files_that_may_not_grow_any_more_end_the_run(
    server: FaultServer, scene: KillScene, tmp_path: Path, size: int
) -> None:
    collection = tmp_path / "collection"
    scene.copy(collection)
    ended = server.run(*words(scene, collection), limits={"RLIMIT_FSIZE": size})
    assert_one_sentence(ended)
    assert_goes_on(scene, collection, ended, server)


@pytest.mark.case("F17")
@needs_mount
@pytest.mark.parametrize("size", ["40k", "160k", "400k"])
def test_a_full_disk_ends_the_run_and_more_room_lets_it_go_on(
    server: FaultServer, scenes: Scenery, tmp_path: Path, size: str
) -> None:
    scene = scenes["first run"]
    with mounted(tmp_path / "disk", size) as disk:
        ended = server.run(*words(scene, disk / "collection"))
        assert_one_sentence(ended)
        resize(disk, "64m")
        assert_goes_on(scene, disk / "collection", ended, server)


@pytest.mark.case("F20")
@needs_strace
@pytest.mark.parametrize("when", ["1", "1+"])
def test_an_original_that_cannot_be_read_costs_itself_and_is_tried_again(
    server: FaultServer, scenes: Scenery, tmp_path: Path, when: str
) -> None:
    scene = scenes["first run"]
    collection, photo = tmp_path / "collection", scenes.photos / "1/13.png"
    fails = ("-P", str(photo), "-e", f"inject=read:error=EIO:when={when}")
    run = traced(server, *words(scene, collection), "--json", calls=("read",), options=fails)
    assert run.ended.code == 0, run.ended.err
    skipped = {Path(each["path"]).name: each["reason"] for each in run.ended.json["skipped"]}
    assert skipped == {"13.png": "permission", "cut.png": "truncated", "empty.jpg": "empty", "page.jpg": "unidentified"}
    assert_goes_on(scene, collection, run.ended, server)


@pytest.mark.full
@needs_strace
@pytest.mark.parametrize(
    ("error", "calls"),
    [
        pytest.param("ENOSPC", ("write", "pwrite64", "renameat", "linkat", "mkdir"), marks=pytest.mark.case("F17")),
        pytest.param("EDQUOT", ("write", "renameat", "linkat"), marks=pytest.mark.case("F19")),
        pytest.param("EIO", ("write", "fsync", "rename", "renameat", "unlinkat"), marks=pytest.mark.case("F21")),
    ],
)
@pytest.mark.parametrize("ever", ["", "+"], ids=["once", "for ever"])
def test_any_system_call_that_writes_may_fail(
    server: FaultServer, scene: KillScene, tmp_path: Path, error: str, calls: tuple[str, ...], ever: str
) -> None:
    for call in calls:
        for number in (1, 2, 4, 9, 20, 45):
            collection = tmp_path / f"{call}-{number}"
            scene.copy(collection)
            run = traced(
                server,
                *words(scene, collection),
                calls=(call,),
                options=("-e", f"inject={call}:error={error}:when={number}{ever}"),
            )
            assert run.ended.code in (0, 1), (call, number, run.ended.err)
            assert "Traceback" not in run.ended.err, (call, number)
            assert_goes_on(scene, collection, run.ended, server)
