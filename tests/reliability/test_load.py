"""Memory, descriptors, threads and room on the disk over a run of 20,000 files, measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figures import tell
from load_photos import write_pictures

FILES = 20_000
WARM_FILES = 5_000
MIB = 1 << 20
CHECKOUT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel says nothing of memory here"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a first run over 20,000 files took, and one that finds nothing new."""
    base = tmp_path_factory.mktemp("load")
    photos = write_pictures(base / "photos", FILES)
    arguments = [str(base / "collection"), str(tiny_model_dir), str(photos)]
    first, second = indexed(arguments), indexed(arguments)
    assert (first["indexed"], second["unchanged"]) == (FILES, FILES)
    return first, second


def indexed(arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, str(CHECKOUT / "tests/reliability/load_child.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@pytest.mark.case("L4")
def test_memory_is_flat_over_twenty_thousand_files(
    runs: tuple[dict[str, Any], dict[str, Any]], pytestconfig: pytest.Config
) -> None:
    samples = [each for each in runs[0]["samples"] if each["files"] >= WARM_FILES]
    files, memory = (np.array([each[name] for each in samples], float) for name in ("files", "own"))
    slope = float(np.polyfit(files, memory, 1)[0])
    peak = runs[0]["peak"] / MIB
    tell(pytestconfig, f"L4: {slope:.0f} bytes a file from {files[0]:.0f} to {files[-1]:.0f} files, peak {peak:.0f} MB")
    assert len(samples) >= 10
    assert slope <= 1024
    assert peak <= 600


@pytest.mark.case("L4")
def test_descriptors_and_threads_do_not_grow(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    samples = [each for each in runs[0]["samples"] if each["files"] >= WARM_FILES]
    for name in ("descriptors", "threads", "tasks"):
        counts = [each[name] for each in samples]
        # A look may fall into the moment in which a table is read, or a decode process gives way to a fresh one.
        assert max(counts[len(counts) // 2 :]) <= max(counts[: len(counts) // 2]) + 2, (name, counts)


@pytest.mark.case("L1")
def test_a_rescan_of_a_hundred_thousand_files_would_fit_into_its_memory(
    runs: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path, tiny_model_dir: Path, pytestconfig: pytest.Config
) -> None:
    few = 500
    photos = write_pictures(tmp_path / "photos", few)
    arguments = [str(tmp_path / "collection"), str(tiny_model_dir), str(photos)]
    indexed(arguments)
    small, large = indexed(arguments)["peak"], runs[1]["peak"]
    whole = (small + (large - small) * (100_000 - few) / (FILES - few)) / MIB
    tell(pytestconfig, f"L1: rescans of {few} and {FILES} files peak at {small / MIB:.0f} and {large / MIB:.0f} MB;")
    tell(pytestconfig, f"L1: one of 100,000, drawn on, at {whole:.0f}")
    assert whole <= 400


@pytest.mark.case("L7")
def test_the_disk_never_holds_three_times_the_finished_collection(
    runs: tuple[dict[str, Any], dict[str, Any]], pytestconfig: pytest.Config
) -> None:
    most, finished = runs[0]["most_disk"], runs[1]["disk"]
    tell(pytestconfig, f"L7: at most {most / 1e6:.1f} MB on the disk during a run, {finished / 1e6:.1f} MB after it")
    assert most <= 3 * finished
