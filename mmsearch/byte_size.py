"""How sizes are shown, everywhere the same: in powers of ten, as disks are sold and hubs state files."""

from __future__ import annotations

MEGABYTE = 1_000_000
GIGABYTE = 1_000_000_000


def size_text(count: int) -> str:
    """`count` bytes in words: 1 GB is 1,000,000,000 bytes, 1 MB is 1,000,000.

    >>> size_text(1_500_800_000), size_text(605_200_000), size_text(900)
    ('1.5 GB', '605 MB', '900 bytes')
    """
    # What would be rounded up to a thousand of the smaller unit is one of the larger.
    if count >= GIGABYTE - MEGABYTE // 2:
        return f"{count / GIGABYTE:.1f} GB"
    return f"{count / MEGABYTE:,.0f} MB" if count >= MEGABYTE else f"{count:,} bytes"
