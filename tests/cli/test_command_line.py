from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image
from running import CHECKOUT, Cli, in_process, python
from small_collection import SmallCollection

import mmsearch
from mmsearch.cli import main as main_module
from mmsearch.cli import query_answer
from mmsearch.cli.info import info
from mmsearch.cli.main import COMMANDS, run
from mmsearch.errors import CollectionBusy, CollectionDamaged, MMSearchError, UsageError

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("numpy", "onnxruntime", "tokenizers", "lancedb", "lance", "pyarrow", "faiss", "torch", "PIL", "rich")


def loaded_after(code: str) -> set[str]:
    """Top-level names in `sys.modules` after `code` has run in a fresh interpreter."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint(*sys.modules)"
    return {name.split(".")[0] for name in python("-c", script).lines[-1].split()}


def command(*arguments: str) -> str:
    return f"sys.argv[1:] = {list(arguments)!r}; from mmsearch.cli.main import main; main()"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["query", "--help"], ["index", "--help"], ["info", "--help"]]
)
def test_help_and_version_load_nothing_heavy(arguments: list[str]) -> None:
    assert not loaded_after(command(*arguments)).intersection(HEAVY)


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_after("import mmsearch").intersection(HEAVY)


def test_a_text_query_loads_neither_database_nor_torch_nor_what_it_has_no_use_for(at_small: SmallCollection) -> None:
    loaded = loaded_after(command("query", "red", "--paths"))
    assert {"numpy", "onnxruntime"} <= loaded
    assert not loaded.intersection({"lancedb", "lance", "pyarrow", "torch", "faiss", "PIL", "rich", "pandas"})


def test_an_image_query_loads_neither_database_nor_torch(at_small: SmallCollection) -> None:
    loaded = loaded_after(command("query", at_small.photo("red"), "--paths"))
    assert not loaded.intersection({"lancedb", "lance", "pyarrow", "torch", "faiss"})


def test_plain_info_reads_the_snapshot_alone(at_small: SmallCollection, tmp_path: Path, tiny_model_dir: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    made = ("--collection", str(tmp_path / "made"))
    indexed = in_process("index", tmp_path / "a.png", *made, "--json")
    assert (indexed.code, indexed.err, indexed.json["items"]) == (0, "", 1)
    loaded = loaded_after(command("info", *made))
    assert not loaded.intersection({"lancedb", "lance", "pyarrow", "torch", "faiss", "onnxruntime"})


def test_every_public_name_is_there_and_nothing_else_is_promised() -> None:
    for name in mmsearch.__all__:
        assert getattr(mmsearch, name) is not None
    assert set(mmsearch.__all__) <= set(dir(mmsearch))
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        mmsearch.serach  # noqa: B018


def test_the_version_is_the_same_everywhere() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert mmsearch.__version__ == declared
    outcome = in_process("--version")
    assert (outcome.code, outcome.out.decode()) == (0, f"mmsearch {declared}\n")


def test_every_command_has_help_that_fits_a_terminal(cli: Cli) -> None:
    overview = cli("--help")
    assert overview.code == 0
    for each in COMMANDS:
        page = cli(each.__name__, "--help")
        assert (page.code, page.err) == (0, "")
        assert max(map(len, page.lines)) <= 80
        summary = next(line for line in overview.lines if line.split()[:1] == [each.__name__])
        assert not summary.endswith("..."), "its first sentence is too long for the overview"


@pytest.mark.promise("R6")
def test_no_command_at_all_shows_help_on_stderr_and_exits_2(cli: Cli) -> None:
    outcome = cli()
    assert (outcome.code, outcome.out) == (2, b"")
    assert "Usage: mmsearch" in outcome.err


def test_an_unknown_command_is_one_line_that_leads_to_help(cli: Cli) -> None:
    outcome = cli("quary")
    assert (outcome.code, outcome.out) == (2, b"")
    assert "quary" in outcome.err
    assert outcome.err.endswith("; see mmsearch --help\n")
    assert outcome.err.count("\n") == 1


@pytest.mark.promise("R6")
@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("k is 0"), 2, "mmsearch: k is 0\n"),
        (MMSearchError("a\nb\x1b[2J"), 1, "mmsearch: a\\nb\\x1b[2J\n"),
        (CollectionBusy("held by pid 7"), 4, "mmsearch: held by pid 7\n"),
        (CollectionDamaged("broken"), 5, "mmsearch: broken\n"),
        (RuntimeError("oh"), 1, "mmsearch: unexpected RuntimeError: oh (--debug shows where)\n"),
        (
            OSError(28, "No space left", "/x"),
            1,
            "mmsearch: unexpected OSError: [Errno 28] No space left: '/x' (--debug shows where)\n",
        ),
        (KeyboardInterrupt(), 130, "mmsearch: interrupted\n"),
    ],
)
def test_every_error_has_its_exit_code_and_one_line(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(main_module, "COMMANDS", (fail,))
    outcome = cli("fail")
    assert (outcome.code, outcome.out, outcome.err) == (code, b"", line)


@pytest.mark.parametrize("arguments", [["--debug", "query", "a.jpg"], ["query", "a.jpg", "--debug"]])
def test_debug_shows_the_traceback_before_the_line(cli: Cli, arguments: list[str]) -> None:
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("Traceback")
    assert outcome.err.splitlines()[-1].startswith("mmsearch: there is no image file a.jpg")


def test_a_settings_file_with_a_slip_stops_every_command(cli: Cli) -> None:
    config = Path(os.environ["XDG_CONFIG_HOME"], "mmsearch", "config.toml")
    config.parent.mkdir(parents=True)
    config.write_text("colection = 'x'")
    for arguments in (["query", "red"], ["index", "."], ["info"]):
        outcome = cli(*arguments)
        assert outcome.code == 2
        assert "did you mean 'collection'?" in outcome.err


@pytest.mark.promise("R6")
def test_an_interrupt_ends_with_130_and_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_answer, "_from_stdin", lambda: signal.raise_signal(signal.SIGINT))
    outcome = cli("query", "-")
    assert (outcome.code, outcome.out, outcome.err) == (130, b"", "mmsearch: interrupted\n")


def test_a_warning_of_the_library_is_one_safe_line_like_every_other(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn() -> None:
        logging.getLogger("mmsearch.segment").warning("%s: cannot be used", "a\n\x1b[2Jb")
        logging.getLogger("mmsearch.segment").info("nobody asked")

    monkeypatch.setattr(main_module, "COMMANDS", (warn, info))
    for _ in range(2):
        outcome = cli("warn")
        assert (outcome.code, outcome.err) == (0, "mmsearch: a\\n\\x1b[2Jb: cannot be used\n")
    assert logging.getLogger("mmsearch").handlers == []


@pytest.mark.case("F8")
@pytest.mark.parametrize("interrupt", ["raise KeyboardInterrupt", "exec('raise KeyboardInterrupt')"])
@pytest.mark.parametrize("late", ["mmsearch.cli.quick", "typer", "mmsearch.cli.main", "mmsearch.search"])
def test_an_interrupt_while_modules_are_loaded_is_one_line_too(
    at_small: SmallCollection, late: str, interrupt: str
) -> None:
    script = (
        "import runpy, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {late!r}:\n"
        f"            {interrupt}\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "sys.argv[1:] = ['query', '--text=red']\n"
        "runpy.run_module('mmsearch', run_name='__main__', alter_sys=True)\n"
    )
    outcome = python("-c", script)
    assert (outcome.code, outcome.out, outcome.err) == (130, b"", "mmsearch: interrupted\n")


def test_what_a_command_loads_before_it_hears_an_interrupt_is_next_to_nothing() -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1]); import mmsearch.__main__; print(*sys.modules)"
    loaded = python("-I", "-S", "-c", script, CHECKOUT).out.decode().split()
    assert [name for name in loaded if name.startswith("mmsearch")] == ["mmsearch", "mmsearch.__main__"]
    assert not {"typing", "re", "enum", "contextlib", "pathlib"} & set(loaded)


@pytest.mark.promise("R6")
@pytest.mark.parametrize(
    ("stream", "arguments", "code"), [("0<&-", "query -", 2), ("1>&-", "--version", 0), ("2>&-", "no-such-command", 2)]
)
def test_a_closed_standard_stream_changes_no_exit_code(stream: str, arguments: str, code: int) -> None:
    command = f"exec {shlex.quote(sys.executable)} -m mmsearch {arguments} {stream}"
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(["sh", "-c", command], capture_output=True, env=environment, timeout=60, check=False)
    assert done.returncode == code


def test_run_gives_the_code_instead_of_exiting() -> None:
    assert run(["query", "a.jpg"]) == 2
