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
BEGINS_S = 120
DEADLINE = {"MMSEARCH_DECODE_TIMEOUT": "1"}
# A file of ours that starts a process must not fork this one: threads of LanceDB and ONNX Runtime would be gone in it.
FORKS = {"os.fork", "os.forkpty", "pty", "multiprocessing", "concurrent.futures.ProcessPoolExecutor"}


@pytest.mark.case("F9")
def test_a_run_that_is_stopped_for_longer_than_its_deadlines_loses_no_file(
    server: FaultServer, scenes: Scenery, tmp_path: Path
) -> None:
    scene = scenes["first run"]
    collection = tmp_path / "collection"
    pid = server.start(*words(scene, collection), "--json", environment=DEADLINE)
    for _ in range(BEGINS_S * 100):
        if (collection / "items.lance").exists():
            break
        time.sleep(0.01)
    else:
        pytest.fail(f"no table after {BEGINS_S} s")
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


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.fork()",
        "import os as system\nsystem.forkpty()",
        "from os import fork as split\nsplit()",
        "import pty",
        "import multiprocessing as mp\nmp.Process()",
        "import multiprocessing.pool",
        "from multiprocessing import Pool",
        "from multiprocessing.pool import Pool",
        "from concurrent.futures import ProcessPoolExecutor",
        "import concurrent.futures\nconcurrent.futures.ProcessPoolExecutor()",
        "import concurrent.futures as futures\nfutures.ProcessPoolExecutor()",
        "from concurrent import futures\nfutures.ProcessPoolExecutor()",
        "def later():\n    import os\n    return os.fork",
    ],
)
def test_a_source_that_forks_would_be_found(source: str) -> None:
    assert _names(ast.parse(source)) & FORKS


def test_a_source_that_starts_threads_and_programs_is_none_that_forks() -> None:
    source = (
        "import os, subprocess\nfrom concurrent.futures import ThreadPoolExecutor\nsubprocess.run(['x'], cwd=os.sep)"
    )
    assert not _names(ast.parse(source)) & FORKS


def _names(tree: ast.Module) -> set[str]:
    """What a module imports, with all that holds it, and the attributes it asks modules for, under their real names."""
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {each.asname or each.name: each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    names = set(modules.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            names.add(f"{modules.get(first, first)}.{rest}")
    return {".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 2)}
