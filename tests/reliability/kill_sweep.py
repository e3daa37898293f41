"""Kills a command at many points, a few side by side, and adds up what that has cost."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from fault_server import Ended, FaultServer
from kill_scenes import KillScene, Scenery
from kill_verdict import Tally, judge
from straced import traced

AT_ONCE = 2

Point = TypeVar("Point")
# The name of a system call, its number in a thread, and how many calls there are in a run that nobody disturbs.
Call = tuple[str, int, int]
# A point -> how the command ended, and how far into its run that was, from 0 to 1.
Kill = Callable[[FaultServer, KillScene, Path, Point], tuple[Ended, float]]


@dataclass(frozen=True)
class Sweeper:
    """Scenes, and servers to run their commands side by side in the directory `base`."""

    base: Path
    servers: Sequence[FaultServer]
    scenes: Scenery

    def sweep(self, name: str, points: Sequence[Point], kill: Kill[Point]) -> Tally:
        """What it costs to `kill` the command of the scene `name` at each of `points`."""
        scene = self.scenes[name]
        shares = [points[start :: len(self.servers)] for start in range(len(self.servers))]
        total = Tally()
        with ThreadPoolExecutor(len(self.servers)) as pool:
            for tally in pool.map(lambda server, share: self._sweep(server, scene, share, kill), self.servers, shares):
                total.add(tally)
        return total

    def _sweep(self, server: FaultServer, scene: KillScene, points: Sequence[Point], kill: Kill[Point]) -> Tally:
        tally = Tally()
        collection = server.scratch / "collection"
        for point in points:
            scene.copy(collection)
            ended, where = kill(server, scene, collection, point)
            assert ended.code in (0, -signal.SIGKILL), ended.err
            if ended.code == 0:
                tally.ended_before += 1
            else:
                tally.points += 1
                tally.where.append(where)
            judge(scene, collection, ended, server, tally)
            shutil.rmtree(collection)
        return tally


@contextmanager
def sweeper(base: Path) -> Iterator[Sweeper]:
    """Scenes below `base`, and as many servers as there are to be processes at once."""
    with ExitStack() as stack:
        servers = [stack.enter_context(FaultServer(base / f"server-{number}")) for number in range(AT_ONCE)]
        yield Sweeper(base, servers, Scenery(base, servers[0]))


def at_event(server: FaultServer, scene: KillScene, collection: Path, point: int) -> tuple[Ended, float]:
    """Kills before the event number `point`."""
    ended = server.run(*_words(scene, collection), environment=scene.settings, kill_at=point)
    return ended, len(ended.events) / scene.events


def in_call(server: FaultServer, scene: KillScene, collection: Path, point: Call) -> tuple[Ended, float]:
    """Kills in a system call."""
    name, number, calls = point
    inject = ("-e", f"inject={name}:signal=KILL:when={number}")
    run = traced(server, *_words(scene, collection), options=inject, environment=scene.settings)
    return run.ended, min(len(run.calls) / calls, 1.0)


def spread(events: int, count: int) -> list[int]:
    """`count` different events, evenly from the first to the last."""
    return sorted({int(event) for event in np.linspace(1, events, count)})


def events_of(sweeper: Sweeper, name: str) -> list[str]:
    """The events of the command of a scene that nobody kills."""
    server, scene = sweeper.servers[0], sweeper.scenes[name]
    collection = server.scratch / "measured"
    scene.copy(collection)
    ended = server.run(*_words(scene, collection), environment=scene.settings)
    assert ended.code == 0, ended.err
    shutil.rmtree(collection)
    return ended.events


def calls_to_kill(server: FaultServer, scene: KillScene, count: int) -> list[Call]:
    """About `count` points for `in_call`: of every kind of call that writes, more of those there are more of."""
    collection = server.scratch / "measured"
    scene.copy(collection)
    run = traced(server, *_words(scene, collection), environment=scene.settings)
    assert run.ended.code == 0, run.ended.err
    shutil.rmtree(collection)
    most = run.most_in_a_thread()
    # What a thread does hundreds of times is mostly the main thread writing to its pipes.
    shares = {name: number**0.5 for name, number in most.items()}
    whole = sum(shares.values())
    return [
        (name, number, len(run.calls))
        for name, share in shares.items()
        for number in spread(most[name], max(round(count * share / whole), 1))
    ]


def _words(scene: KillScene, collection: Path) -> tuple[str, ...]:
    return (*scene.command, "--collection", str(collection))
