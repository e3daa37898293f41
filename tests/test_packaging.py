"""What is installed is what is on disk, and what README promises is what is run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

pytestmark = pytest.mark.skipif(not (ROOT / ".ci").is_dir(), reason="needs the source tree")


def packages_on_disk() -> set[str]:
    """Every directory with an `__init__.py`, under the name it is installed as. The two links are not followed."""
    found = set()
    for folder, name in (("mmsearch", "mmsearch"), ("indexer", "mmsearch.indexer"), ("eval", "mmsearch.eval")):
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder)
            if not any((ROOT / folder / parent).is_symlink() for parent in [inner, *inner.parents]):
                found.add(".".join([name, *inner.parts]))
    return found


def test_packages_listed_are_the_packages_on_disk() -> None:
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == packages_on_disk()


def test_links_lead_to_the_two_rooms() -> None:
    assert (ROOT / "mmsearch/indexer").readlink() == Path("../indexer")
    assert (ROOT / "mmsearch/eval").readlink() == Path("../eval")


def test_base_dependencies_do_not_bring_torch() -> None:
    base = {re.split(r"[<>=\[ ]", line)[0] for line in PYPROJECT["project"]["dependencies"]}
    assert not base & {"torch", "torchvision", "open_clip_torch", "transformers", "onnx"}


def commands(section: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", section, flags=re.S)


def test_readme_test_command_is_the_one_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text()
    ci = (ROOT / ".ci/run").read_text()
    test_lines = [line for block in commands(readme) for line in block.splitlines() if "python -m pytest" in line]
    assert len(test_lines) == 1, "README gives exactly one command that runs the tests"
    install = re.search(r"pip install [^&]*", test_lines[0])
    assert install is not None
    for word in install.group().split()[2:]:
        if not word.startswith("-"):
            assert word in ci, f"README installs {word}, .ci/run does not"
    assert re.search(r"^python -m pytest$", ci, flags=re.M)


def test_version_stands_in_one_place_and_in_the_changelog() -> None:
    assert f"## {PYPROJECT['project']['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_architecture_names_every_module() -> None:
    words = set(re.findall(r"\w+", (ROOT / "docs/architecture.md").read_text()))
    modules = {p.stem for room in ("mmsearch", "indexer", "eval") for p in (ROOT / room).glob("*.py")}
    modules |= {p.stem for p in (ROOT / "mmsearch/training").glob("*.py")}
    assert modules - words <= {"__init__"}
