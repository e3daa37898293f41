"""How benches take times: in turns, in processes of their own, and as ratios with honest intervals."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from mmsearch.errors import MMSearchError
from mmsearch.eval.bench.timing import Sample, alternate, command, in_process, median_ms, paired_ratio, ratio_of


def test_contestants_take_turns_and_the_warm_up_does_not_count() -> None:
    calls: list[str] = []

    def contestant(name: str) -> Sample:
        calls.append(name)
        return Sample(wall=len(calls), cpu=0)

    samples = alternate({"a": lambda: contestant("a"), "b": lambda: contestant("b")}, 2, warm_up=1)
    assert calls == ["a", "b"] * 3
    assert [sample.wall for sample in samples["a"]] == [3, 5]


def test_ratio_is_the_median_over_pairs_not_of_medians() -> None:
    ours, other = [1.0, 10.0, 100.0], [2.0, 5.0, 200.0]
    ratio = paired_ratio([Sample(wall, 0) for wall in ours], [Sample(wall, 0) for wall in other])
    assert (ratio.value, ratio.low, ratio.high) == (0.5, 0.5, 2.0)
    assert median_ms([Sample(wall, 0) for wall in ours]) == 10_000


@pytest.mark.parametrize(("count", "dropped"), [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (20, 5), (100, 39)])
def test_interval_drops_as_many_values_as_the_binomial_allows(count: int, dropped: int) -> None:
    # The tables of order statistics for the median: ranks 2 and 8 of 9, 6 and 15 of 20, 40 and 61 of 100.
    ratio = ratio_of(list(range(count)))
    assert (ratio.low, ratio.high) == (dropped, count - 1 - dropped)


def test_interval_holds_the_true_median_often_enough() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        ratio = ratio_of(list(random.lognormal(0, 1, 15)))
        held += ratio.low <= 1 <= ratio.high
    assert held >= 0.93 * 400


def test_command_reports_its_own_memory_and_not_ours(tmp_path: Path) -> None:
    ballast = np.ones(30_000_000)
    sample = command([sys.executable, "-S", "-c", "print('x' * 10)"], os.environ, output=tmp_path / "out")()
    assert (tmp_path / "out").read_text() == "x" * 10 + "\n"
    assert 0 < sample.peak_mib < 100 < ballast.nbytes / 2**20
    assert sample.wall > 0


def test_command_that_fails_ends_the_bench_with_its_words() -> None:
    script = "import sys; sys.stderr.write('no such photo'); sys.exit(3)"
    with pytest.raises(MMSearchError, match=r"failed with 3: no such photo"):
        command([sys.executable, "-c", script], os.environ)()


def test_command_that_is_not_there_ends_the_bench() -> None:
    with pytest.raises(MMSearchError, match="failed with 127"):
        command(["/no/such/program"], os.environ)()
    assert command(["true"], os.environ)().wall > 0


def test_work_in_this_process_is_done_once_a_sample() -> None:
    done: list[int] = []
    alternate({"a": in_process(lambda: done.append(1))}, 3, warm_up=0)
    assert len(done) == 3
