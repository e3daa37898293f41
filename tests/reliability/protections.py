"""Every protection that is tested by taking it away: `PROTECTIONS`, gathered from the `protections_*.py` beside this.

`python tests/reliability/protections.py [NAME...]` takes each away in a copy of the tree, runs its test there, and
prints the list. Exit code 1 if a test passes without what it is there to prove.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from protection import Protection

HERE = Path(__file__).resolve().parent


def gathered() -> list[Protection]:
    """The `PROTECTIONS` of each area, in the order of the areas' names."""
    areas = [importlib.import_module(path.stem) for path in sorted(HERE.glob("protections_*.py"))]
    return [each for area in areas for each in area.PROTECTIONS]


PROTECTIONS: list[Protection] = gathered()


def main(names: list[str]) -> int:
    """Exit code of `python tests/reliability/protections.py [NAME...]`."""
    from protection_runs import run_all

    unknown = sorted(set(names) - {each.name for each in PROTECTIONS})
    if unknown:
        sys.stderr.write(f"no such protection: {', '.join(unknown)}\n")
        return 2
    return run_all([each for each in PROTECTIONS if not names or each.name in names])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
