"""Checks a built wheel and a clean installation of it: one top-level name, sizes, a search that works without torch.

Usage: check_wheel.py WHEEL VENV
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL_MB = 60
MODEL_MB = 48
# 700 is the aim. With bytecode the dependencies alone take about 715 (lancedb 189, pyarrow 178, onnxruntime 82,
# numpy 77, faiss 69), so this only keeps it from growing.
INSTALLED_MB = 780
FORBIDDEN = ("torch", "torchvision", "transformers", "open_clip", "sklearn", "skimage")


def size_mb(folder: Path) -> float:
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6


def check(name: str, value: float, limit: float) -> bool:
    good = value <= limit
    sys.stdout.write(f"{'ok  ' if good else 'FAIL'} {name}: {value:.1f} MB (limit {limit} MB)\n")
    return good


def check_names(wheel: Path) -> bool:
    names = {n.split("/")[0] for n in zipfile.ZipFile(wheel).namelist()}
    extra = {n for n in names if n != "mmsearch" and not n.endswith(".dist-info")}
    sys.stdout.write(f"{'FAIL' if extra else 'ok  '} top-level names in the wheel: {sorted(names)}\n")
    return not extra


def check_search(venv: Path) -> bool:
    """Index and query two generated pictures with the installed command, from an unrelated directory."""
    python, command = venv / "bin" / "python", venv / "bin" / "mmsearch"
    with tempfile.TemporaryDirectory() as tmp:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MMSEARCH"))}
        env["MMSEARCH_COLLECTION"] = f"{tmp}/collection"
        paint = "from PIL import Image; import os; os.mkdir('p'); " + "; ".join(
            f"Image.new('RGB', (64, 64), {name!r}).save('p/{name}.png')" for name in ("red", "blue")
        )
        subprocess.run([python, "-c", paint], cwd=tmp, check=True)
        subprocess.run([command, "index", "p"], cwd=tmp, env=env, check=True)
        out = subprocess.run(
            [command, "query", "--paths", "a red square"], cwd=tmp, env=env, check=True, capture_output=True, text=True
        ).stdout
    good = len(out.splitlines()) == 2
    sys.stdout.write(f"{'ok  ' if good else 'FAIL'} index and query in a clean environment\n")
    return good


def main() -> int:
    wheel, venv = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    site = next((venv / "lib").glob("python3*/site-packages"))
    absent = [name for name in FORBIDDEN if (site / name).exists()]
    sys.stdout.write(f"{'FAIL' if absent else 'ok  '} not installed by the base package: {', '.join(FORBIDDEN)}\n")
    good = [
        check_names(wheel),
        check("wheel", wheel.stat().st_size / 1e6, WHEEL_MB),
        check("bundled model", size_mb(site / "mmsearch" / "models" / "mini"), MODEL_MB),
        # pip and setuptools come with the environment, not with mmsearch
        check("installed", size_mb(site) - size_mb(site / "pip") - size_mb(site / "setuptools"), INSTALLED_MB),
        check_search(venv),
        not absent,
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
