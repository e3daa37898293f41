"""What one bench found: a table, ratios, and the conditions under which both hold; as text and as JSON."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mmsearch.eval.bench.timing import Ratio
from mmsearch.settings import available_cpus

Cell = str | float | int | None

_LIBRARIES = ("mmsearch", "numpy", "onnxruntime", "faiss-cpu", "lancedb", "pillow", "tokenizers", "typer")
_VECTOR_UNITS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd")


@dataclass(frozen=True, slots=True)
class BenchResult:
    """`rows` under `columns`; `ratios` say how many times as long ours took as what the name says after "/".

    `notes` are sentences that a reader must know beside the numbers.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    ratios: dict[str, Ratio]
    notes: tuple[str, ...] = ()

    def as_json(self, machine: dict[str, Any]) -> dict[str, Any]:
        """Return everything as one JSON object, rows as objects."""
        return {
            "schema_version": 1,
            "bench": self.name,
            "rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows],
            "ratios": {name: asdict(ratio) for name, ratio in self.ratios.items()},
            "notes": list(self.notes),
            "machine": machine,
        }

    def lines(self, machine: dict[str, Any]) -> Iterator[str]:
        """Yield the result as a Markdown table with what belongs to it."""
        cells = [[_shown(cell) for cell in row] for row in (self.columns, *self.rows)]
        widths = [max(len(row[place]) for row in cells) for place in range(len(self.columns))]
        for number, row in enumerate(cells):
            yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
            if number == 0:
                yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        yield ""
        for name, ratio in self.ratios.items():
            yield f"ratio {name}: {ratio.value:.3g} (95 % of the time within {ratio.low:.3g} to {ratio.high:.3g})"
        for note in self.notes:
            yield f"note: {note}"
        yield "machine: " + ", ".join(f"{name} {value}" for name, value in machine.items())


def machine_facts() -> dict[str, Any]:
    """Return what a reader needs to judge absolute times: processor, cores, load, versions, commit."""
    processor, units = _processor()
    return {
        "processor": processor,
        "vector units": "+".join(units) or "unknown",
        "cores": available_cpus(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in _LIBRARIES},
        "commit": _commit(),
    }


def _processor() -> tuple[str, tuple[str, ...]]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown", ()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    flags = facts.get("flags", facts.get("Features", "")).split()
    return facts.get("model name", "unknown"), tuple(unit for unit in _VECTOR_UNITS if unit in flags)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _commit() -> str:
    """The commit of the source tree this runs from, "none" for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return done.stdout.strip()


def _shown(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"
    return str(cell)
