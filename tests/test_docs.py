"""What the documents say is true: every python block runs, and every command and option is in the help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from mmsearch.cli.main import COMMANDS, GROUPS, run
from mmsearch.demo_photos import find_photos
from mmsearch.errors import MissingExtra

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
CODE_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
COMMAND = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*mmsearch(?: ([a-z]+))?(?: ([a-z]+))?(?=\s|$)")
SHELLS = {"sh", "bash", "console"}


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is where its first line of code stands in the document, from 1."""

    language: str
    line: int
    code: str


def fenced_blocks(document: Path) -> Iterator[Block]:
    opened: tuple[str, int] | None = None
    lines = document.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = (line[3:].strip(), number + 1)
        else:
            language, first = opened
            yield Block(language, first, "\n".join(lines[first - 1 : number - 1]) + "\n")
            opened = None
    assert opened is None, f"{document.name}: the block at line {opened} is never closed"


def with_python(documents: list[Path]) -> list[Path]:
    return [each for each in documents if any(block.language == "python" for block in fenced_blocks(each))]


@pytest.fixture
def folder_with_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with `photos/` in it: some of the demo's where they are installed, else plain colours."""
    photos = tmp_path / "photos"
    photos.mkdir()
    try:
        for photo, source in find_photos()[::4]:
            (photos / photo.file).write_bytes(source.read_bytes())
    except MissingExtra:
        for name in ("red", "green", "blue", "yellow"):
            Image.new("RGB", (64, 48), name).save(photos / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("document", with_python(DOCUMENTS), ids=lambda document: str(document.name))
def test_python_blocks_run_in_order(document: Path, folder_with_photos: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in fenced_blocks(document):
        if block.language == "python":
            # Empty lines in front make a traceback name the line of the document.
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, str(document), "exec"), namespace)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.name))
def test_no_python_hides_under_another_name(document: Path) -> None:
    """Only blocks called `python` are run, so an example called otherwise would rot."""
    assert not {block.language for block in fenced_blocks(document)} & {"py", "python3", "pycon", "Python", "ipython"}


def test_the_library_page_has_examples() -> None:
    assert len([block for block in fenced_blocks(ROOT / "docs/library.md") if block.language == "python"]) >= 8


@pytest.fixture
def help_options(capsys: pytest.CaptureFixture[str]) -> dict[str, set[str]]:
    """The options in the help of each command (`models pull` is one), and under "" those before any command."""
    options = {}
    grouped = [f"{group} {command}" for group, (_, commands) in GROUPS.items() for command in commands]
    for command in ("", *(command.__name__ for command in COMMANDS), *GROUPS, *grouped):
        assert run([*command.split(), "--help"]) == 0
        options[command] = set(OPTION.findall(capsys.readouterr().out))
    return options


def shell_commands(block: Block) -> Iterator[str]:
    for line in block.code.replace("\\\n", " ").splitlines():
        yield from (part.strip() for part in re.split(r"&&|\|\||[|;#]", line))


def spoken_of(document: Path) -> Iterator[str]:
    """Everything the document shows as code that may be a command line, or an option by itself."""
    for block in fenced_blocks(document):
        if block.language in SHELLS:
            yield from shell_commands(block)
    fenced = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    yield from CODE_SPAN.findall(fenced.sub("", document.read_text(encoding="utf-8")))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.name))
def test_commands_and_options_are_in_the_help(document: Path, help_options: dict[str, set[str]]) -> None:
    known = help_options
    anywhere = set().union(*known.values())
    for code in spoken_of(document):
        if code.startswith("--"):
            assert set(OPTION.findall(code)) <= anywhere, f"{document.name}: no command has {code}"
        elif match := COMMAND.match(code):
            asked = f"{match[1]} {match[2]}" if match[1] in GROUPS and match[2] else match[1]
            command = asked if asked in known else ""
            assert asked is None or asked in known, f"{document.name}: no such command: {code}"
            unknown = set(OPTION.findall(code)) - known[command] - known[""]
            assert not unknown, f"{document.name}: {code}: not in the help: {unknown}"
