"""Every command may be killed at any of its steps on the disk: nothing acknowledged is lost, nothing comes twice, and
the same command goes on.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from figures import tell
from kill_scenes import NAMES
from kill_sweep import Sweeper, at_event, calls_to_kill, events_of, in_call, spread
from kill_verdict import Tally
from straced import needs_strace

CASES = {
    "first run": ("F1", "F2"),
    "run with changes": ("F1", "F2"),
    "other index": ("F4",),
    "compaction": ("F3",),
    "repair": ("F1",),
    "self-heal": ("F7",),
    "switch of the model": ("F5",),
    "repair without photos": ("F1", "F24"),
    "self-heal without photos": ("F7", "F23"),
}
SCENES = [pytest.param(name, marks=pytest.mark.case(*CASES[name])) for name in NAMES]
QUICK, EVENTS, CALLS = 5, 30, 40
RENAMES = 6
REACHED_TENTHS = 7


@pytest.fixture(scope="module")
def total(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """The sum over all tests of this module, printed after the last one."""
    tally = Tally()
    yield tally
    if tally.points:
        tell(request.config, f"kill sweep: {tally}")


@pytest.mark.promise("R2")
@pytest.mark.parametrize("name", SCENES)
def test_killed_between_any_two_of_its_steps_a_command_goes_on(commands: Sweeper, total: Tally, name: str) -> None:
    tally = commands.sweep(name, spread(commands.scenes[name].events, QUICK), at_event)
    total.add(tally)
    tally.assert_clean(QUICK - 1)


@pytest.mark.case("F2")
@pytest.mark.promise("R2")
def test_killed_in_the_moment_of_publishing_the_old_or_the_new_one_answers(commands: Sweeper, total: Tally) -> None:
    """Files that are replaced get their names by a rename, and CURRENT is the last of each publication."""
    name = "run with changes"
    renames = [place for place, event in enumerate(events_of(commands, name), start=1) if event == "rename"]
    tally = commands.sweep(name, renames[-RENAMES:], at_event)
    total.add(tally)
    tally.assert_clean(RENAMES)


@pytest.mark.case("L10")
@pytest.mark.full
@pytest.mark.promise("R2")
@pytest.mark.parametrize("name", SCENES)
def test_killed_at_many_of_its_steps_a_command_goes_on(commands: Sweeper, total: Tally, name: str) -> None:
    points = [event + 1 for event in spread(commands.scenes[name].events - 1, EVENTS)]
    tally = commands.sweep(name, points, at_event)
    total.add(tally)
    tally.assert_clean(min(EVENTS, len(points)) - 2)


@pytest.mark.case("L10")
@pytest.mark.full
@needs_strace
@pytest.mark.promise("R2")
@pytest.mark.parametrize("name", SCENES)
def test_killed_in_any_system_call_that_writes_a_command_goes_on(commands: Sweeper, total: Tally, name: str) -> None:
    points = calls_to_kill(commands.servers[0], commands.scenes[name], CALLS)
    tally = commands.sweep(name, points, in_call)
    total.add(tally)
    # Which thread makes which call differs from run to run, so some points are never reached.
    tally.assert_clean(len(points) * 2 // 3)
    reached = sum(points > 0 for points in tally.by_tenth())
    assert reached >= REACHED_TENTHS or commands.scenes[name].events < 100, tally.by_tenth()
