"""A small world that no photo model knows: symbols drawn in several fonts, with their Unicode names as captions.

    python -m mmsearch.training.glyphs --out DIR

Writes DIR/train.csv, DIR/val.csv and their pictures: every symbol in the fonts that come with matplotlib, the last font
held out. Something to try `mmsearch train` on; the same arguments write the same files.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mmsearch.errors import MissingExtra

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Oblique")
SYMBOLS = range(0x2100, 0x2C00)  # arrows, mathematics, technical signs, dingbats, weather, chess ...
SIDE = 224  # pixels
_COLOURS = (
    ("black", "white"),
    ("white", "black"),
    ("navy", "white"),
    ("darkred", "lightyellow"),
    ("black", "lightblue"),
    ("darkgreen", "white"),
)


def font_files() -> list[Path]:
    """Return the files of `FONTS`.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise MissingExtra("the fonts come with matplotlib; run: pip install 'mmsearch[train]'") from None
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [folder / f"{name}.ttf" for name in FONTS]


def drawable(files: Sequence[Path]) -> list[int]:
    """Return the code points of `SYMBOLS` that are symbols and that every font of `files` has, ascending."""
    from fontTools.ttLib import TTFont  # comes with matplotlib

    covered = set.intersection(*(set(TTFont(file).getBestCmap()) for file in files))
    return [code for code in SYMBOLS if code in covered and unicodedata.category(chr(code)).startswith("S")]


def draw(code: int, file: Path, rng: random.Random) -> Image.Image:
    """Return a picture of one symbol in one font, its size, place and colours drawn from `rng`."""
    ink, paper = rng.choice(_COLOURS)
    font = ImageFont.truetype(str(file), rng.randint(110, 180))
    picture = Image.new("RGB", (SIDE, SIDE), paper)
    place = (SIDE // 2 + rng.randint(-15, 15), SIDE // 2 + rng.randint(-15, 15))
    ImageDraw.Draw(picture).text(place, chr(code), font=font, fill=ink, anchor="mm")
    return picture


def write_glyphs(out: Path, *, symbols: int = 200, seed: int = 0) -> tuple[int, int]:
    """Write pictures and tables into `out`; return how many pairs there are to learn from and to measure on.

    Raises:
        MissingExtra: the fonts are not installed.
    """
    rng, files = random.Random(seed), font_files()
    chosen = rng.sample(drawable(files), symbols)
    out.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[tuple[str, str]]] = {"train": [], "val": []}
    for code in chosen:
        for number, file in enumerate(files):
            name = f"{code:04x}-{number}.png"
            draw(code, file, rng).save(out / name)
            split = "val" if number == len(files) - 1 else "train"
            tables[split].append((name, unicodedata.name(chr(code)).lower()))
    for split, rows in tables.items():
        with (out / f"{split}.csv").open("w", newline="", encoding="utf-8") as table:
            writer = csv.writer(table)
            writer.writerow(("image", "caption"))
            writer.writerows(rows)
    return len(tables["train"]), len(tables["val"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pictures; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mmsearch.training.glyphs", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory to write into")
    asked = parser.parse_args(arguments)
    try:
        learned, measured = write_glyphs(asked.out)
    except MissingExtra as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{asked.out}: {learned} pairs in train.csv, {measured} in val.csv\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
