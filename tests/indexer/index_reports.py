"""Reading reports in tests."""

from __future__ import annotations

from mmsearch.types import IndexReport

_COUNTS = ("indexed", "unchanged", "moved", "missing", "removed", "ignored", "failed_before", "items")


def counts(report: IndexReport) -> dict[str, int]:
    """The counts of `report` that are not zero, and under "skipped" how many files could not be read."""
    every = {name: getattr(report, name) for name in _COUNTS} | {"skipped": len(report.skipped)}
    return {name: count for name, count in every.items() if count}
