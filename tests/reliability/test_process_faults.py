"""What befalls the processes of a run: stopped, out of memory or of file descriptors, asked to fork."""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from fault_scenes import assert_goes_on, assert_one_sentence, words
from fault_server import CHECKOUT, FaultServer
from kill_scenes import Scenery
from kill_verdict import found_rows

STOPPED_S = 2.5
DEADLINE = {"MMSEARCH_DECODE_TIMEOUT": "1"}
# A file of ours that starts a process must not fork this one: threads of LanceDB and ONNX Runtime would be gone in it.
FORKS = {"os.fork", "os.forkpty", "multiprocessing", "concurrent.futures.ProcessPoolExecutor"}


@pytest.mark.case("F9")
def test_a_run_that_is_stopped_for_longer_than_its_deadlines_loses_no_file(
    server: FaultServer, scenes: Scenery, tmp_path: Path
) -> None:
    scene = scenes["first run"]
    collection = tmp_path / "collection"
    pid = server.start(*words(scene, collection), "--json", environment=DEADLINE)
    while not (collection / "items.lance").exists():
        time.sleep(0.01)
    os.killpg(pid, signal.SIGSTOP)
    time.sleep(STOPPED_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGCONT)
    ended = server.wait()
    assert ended.code == 0, ended.err
    assert "timeout" not in ended.out
    assert_goes_on(scene, collection, ended, server)


@pytest.mark.case("F15")
@pytest.mark.parametrize("descriptors", [32, 40, 56])
def test_without_file_descriptors_it_ends_with_a_sentence_and_goes_on(
    server: FaultServer, scenes: Scenery, tmp_path: Path, descriptors: int
) -> None:
    scene = scenes["run with changes"]
    collection = tmp_path / "collection"
    scene.copy(collection)
    ended = server.run(*words(scene, collection), limits={"RLIMIT_NOFILE": descriptors})
    if ended.code != 0:
        assert_one_sentence(ended)
    assert_goes_on(scene, collection, ended, server)


@pytest.mark.case("F14")
@pytest.mark.parametrize("spare_mb", [1, 64, 512])
def test_a_main_process_without_memory_loses_nothing(
    server: FaultServer, scenes: Scenery, tmp_path: Path, spare_mb: int
) -> None:
    scene = scenes["run with changes"]
    collection = tmp_path / "collection"
    scene.copy(collection)
    before = found_rows(collection).keys()
    ended = server.run(*words(scene, collection), spare_memory=spare_mb << 20)
    # What allocates in Rust or C++ may end the process on the spot: that is a kill.
    assert ended.code in (0, 1, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS), ended.err
    assert found_rows(collection).keys() & before
    assert_goes_on(scene, collection, ended, server)


@pytest.mark.case("F16")
def test_no_command_forks(server: FaultServer, scenes: Scenery, tmp_path: Path) -> None:
    """In all runs of these tests `os.fork` raises; here the sources are looked through for other ways."""
    assert server.run(*words(scenes["first run"], tmp_path / "collection")).code == 0
    for folder in ("mmsearch", "indexer", "eval"):
        for path in sorted((CHECKOUT / folder).rglob("*.py")):
            used = _names(ast.parse(path.read_bytes())) & FORKS
            assert not used, f"{path}: {used}"


def _names(tree: ast.Module) -> set[str]:
    """What a module imports, and the attributes it asks modules for."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.name.split(".")[0] for each in node.names} | {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names.add(f"{node.value.id}.{node.attr}")
    return names
