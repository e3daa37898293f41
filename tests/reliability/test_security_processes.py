"""What our processes do besides their work: nothing goes to a network, no program runs, nothing is left for others."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from colour_pictures import write_colour_pairs
from PIL import Image
from security_scene import Scene, new_scene
from test_security_formats import WRITTEN

from mmsearch.image_limits import DecodeLimits
from mmsearch.indexer.worker_process import WorkerConfig, WorkerProcess
from mmsearch.types import Preprocess

STRACE, UNSHARE = shutil.which("strace"), shutil.which("unshare")
# Everything that Python tells of programs, connections, and of objects that a pickle names. Not of "socket.bind": a
# library that LanceDB imports looks that way whether this computer has IPv6, and asks nobody.
WATCH = """
import sys
BAD = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request", "http.client.connect",
       "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "pickle.find_class", "pty.spawn")
def watch(event, arguments):
    if event in BAD or (event == "subprocess.Popen" and arguments[0] != sys.executable):
        sys.stderr.write(f"AUDIT {event} {arguments!r}\\n")
        sys.stderr.flush()
sys.addaudithook(watch)
from mmsearch.cli.main import main
main()
"""
COMMANDS = (
    ("index", "{photos}"),
    ("query", "red"),
    ("query", "{photos}/red.png", "--to", "texts"),
    ("tag", "{photos}", "--label", "red", "--label", "blue"),
    ("info",),
    ("check", "--read-data"),
    ("optimize",),
    ("eval", "{photos}/pairs.csv", "--no-rerank"),
    ("models", "list"),
)


@pytest.fixture
def scene(tmp_path: Path, tiny_itm_model_dir: Path) -> Scene:
    """Pictures, captions, and files that want some other program to be run, beside a trap of every such program."""
    made = new_scene(tmp_path, tiny_itm_model_dir)
    write_colour_pairs(made.photos, mixed=1)
    for number, data in enumerate(WRITTEN.values()):
        (made.photos / f"hostile{number}.jpg").write_bytes(data)
    return made


def all_commands(scene: Scene, prefix: list[str | bytes | Path]) -> str:
    """What every command says on stderr when it is started behind `prefix`."""
    said = ""
    for command in COMMANDS:
        outcome = scene.start([*prefix, *(part.format(photos=scene.photos) for part in command)])
        assert outcome.code == 0, f"{command}: {outcome.err}"
        said += outcome.err
    return said


@pytest.mark.case("S35", "S36", "F16")
@pytest.mark.promise("R9", "R10")
def test_no_command_opens_a_connection_runs_a_program_or_unpickles(scene: Scene) -> None:
    assert "AUDIT" not in all_commands(scene, [sys.executable, "-c", WATCH])


@pytest.mark.case("S36")
@pytest.mark.promise("R9")
@pytest.mark.full
def test_every_command_works_where_there_is_no_network(scene: Scene) -> None:
    if UNSHARE is None or subprocess.run([UNSHARE, "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare -n is not possible here")
    all_commands(scene, [UNSHARE, "-n", sys.executable, "-m", "mmsearch"])


@pytest.mark.case("S35", "S36")
@pytest.mark.promise("R9")
@pytest.mark.full
def test_the_kernel_sees_no_connection_and_no_other_program(scene: Scene, tmp_path: Path) -> None:
    """What native libraries do by themselves, too: Python does not hear of it."""
    if STRACE is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "calls"
    traced = [STRACE, "-f", "-qq", "-A", "-e", "trace=connect,sendto,sendmsg,execve", "-o", log]
    all_commands(scene, [*traced, sys.executable, "-m", "mmsearch"])
    calls = log.read_text()
    assert re.findall(r"sa_family=AF_INET6?.*", calls) == []
    programs = {Path(program).name for program in re.findall(r'execve\("([^"]+)"', calls)}
    assert all(name.startswith("python") for name in programs), programs


@pytest.mark.case("S36")
@pytest.mark.promise("R9")
def test_onnx_runtime_is_told_to_send_nothing_before_it_is_loaded(scene: Scene) -> None:
    """It would keep an identifier of this user in the cache directory, and tell its makers of each process."""
    assert scene.run("index", scene.photos).code == scene.run("query", "red").code == 0
    left = [path for path in Path(scene.environment["HOME"]).rglob("*") if "onnxruntime" in path.name]
    assert left == []
    told = scene.start([sys.executable, "-c", "import mmsearch, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"])
    assert told.out == b"1\n"


@pytest.mark.case("S37")
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_all_that_is_stored_is_private_whatever_the_umask(scene: Scene, umask: int) -> None:
    script = "import os, sys; os.umask(int(sys.argv.pop(1), 8)); from mmsearch.__main__ import main; main()"
    for command in (("index", str(scene.photos)), ("query", "red"), ("optimize",)):
        assert scene.start([sys.executable, "-c", script, oct(umask), *command]).code == 0
    cache = Path(scene.environment["XDG_CACHE_HOME"])
    assert scene.collection.is_dir() and cache.is_dir()
    for path in (scene.collection, *scene.collection.rglob("*"), *cache.rglob("*")):
        allowed = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.lstat().st_mode) == allowed, path


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    preprocess = Preprocess(height=8, width=8, resize="squash", interpolation="bicubic")
    started = WorkerProcess(WorkerConfig(preprocess, DecodeLimits(max_pixels=1 << 20, max_bytes=1 << 20), 20))
    yield started
    started.end()


@pytest.mark.case("S31")
@pytest.mark.skipif(sys.platform != "linux", reason="limits are read from /proc")
def test_a_decode_process_is_confined(worker: WorkerProcess, tmp_path: Path) -> None:
    from mmsearch.indexer.jobs import Job

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    worker.decode(Job(1, os.fsencode(tmp_path / "a.png"), "image", ".png"))
    lines = Path(f"/proc/{worker._process.pid}/limits").read_text().splitlines()
    soft = {line[:25].strip(): line[26:].split()[0] for line in lines}
    assert (soft["Max file size"], soft["Max core file size"], soft["Max open files"]) == ("0", "0", "64")
    assert int(soft["Max cpu time"]) < 60
    assert int(soft["Max address space"]) < 4 << 30


@pytest.mark.case("F42")
@pytest.mark.parametrize("seconds", [13_000_000_000, -9_000_000_000], ids=["the year 2381", "the year 1684"])
def test_a_time_that_the_tables_cannot_hold_costs_nothing(scene: Scene, seconds: int) -> None:
    path = scene.photos / "red.png"
    os.utime(path, (seconds, seconds))
    for expected in (9, 0):
        outcome = scene.run("index", scene.photos, "--json")
        assert outcome.code == 0, outcome.err
        assert outcome.json["indexed"] == expected + bool(expected)
    path.write_bytes((scene.photos / "blue.png").read_bytes() + b"changed")
    os.utime(path, (seconds, seconds))
    assert scene.run("index", scene.photos, "--json").json["indexed"] == 1


def test_the_watch_sees_what_it_watches_for(scene: Scene) -> None:
    bad = "import socket, pickle, collections; pickle.loads(pickle.dumps(collections.OrderedDict())); socket.socket()"
    bad += ".connect_ex(('127.0.0.1', 1))"
    outcome = scene.start([sys.executable, "-c", WATCH.replace("from mmsearch.cli.main import main\nmain()", bad)])
    assert "AUDIT pickle.find_class" in outcome.err and "AUDIT socket.connect" in outcome.err
