"""What must not stand in the source: calls that run what they are given, and filters made of text."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_bytes(), str(path))
    for folder in ("mmsearch", "indexer", "eval")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not any(parent.is_symlink() for parent in path.parents)
}
UNSAFE_CALLS = {
    "eval": "runs text",
    "exec": "runs text",
    "compile": "makes code of text",
    "__import__": "imports by text",
    "os.system": "starts a shell",
    "os.popen": "starts a shell",
    "os.fork": "LanceDB does not survive it",
    "os.umask": "belongs to the program around us",
    "tempfile.mktemp": "gives a name that somebody else may take",
    "tarfile.open": "extracts to where the archive says",
    "zipfile.ZipFile": "extracts what it is told to",
    "shutil.unpack_archive": "extracts to where the archive says",
    "onnx.load": "follows references out of a file",
    "yaml.load": "builds any object",
    "xml.etree.ElementTree.parse": "expands entities",
    "Image.open": "tries every decoder there is",
    "np.fromregex": "runs patterns of a file",
}
UNSAFE_METHODS = (".register_custom_ops_library", ".set_start_method")
UNSAFE_KEYWORDS = {"shell": "True", "allow_pickle": "True", "trust_remote_code": None, "unsafe": None}
# Writing a graph's weights beside it is read back once, in a directory that we have just made.
ALLOWED = {
    "mmsearch/training/graph_files.py": {"onnx.load"},
    # Photos that the bench has made, or that whoever runs it names; the plain loop does what others do.
    "eval/bench/gallery.py": {"Image.open"},
    "eval/bench/photo_files.py": {"Image.open"},
    "eval/bench/plain_loop.py": {"Image.open"},
}
# The methods of a LanceDB table or query that take a condition, and arguments of which a condition is never text.
CONDITIONS = ("where", "delete", "filter", "count_rows", "update", "search", "execute")


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    for name, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield name, node, ast.unparse(node.func)


@pytest.mark.case("S39", "F16")
def test_no_call_runs_what_it_is_given() -> None:
    found = [
        f"{name}:{call.lineno} calls {called}: {UNSAFE_CALLS.get(called, 'runs code')}"
        for name, call, called in calls()
        if (called in UNSAFE_CALLS or called.endswith(UNSAFE_METHODS)) and called not in ALLOWED.get(name, ())
    ]
    assert not found, "\n".join(found)


@pytest.mark.case("S39", "S35")
@pytest.mark.promise("R10")
def test_no_call_is_given_leave_to() -> None:
    found = [
        f"{name}:{call.lineno} {called}({keyword.arg}={ast.unparse(keyword.value)})"
        for name, call, called in calls()
        for keyword in call.keywords
        if keyword.arg in UNSAFE_KEYWORDS and UNSAFE_KEYWORDS[keyword.arg] in (None, ast.unparse(keyword.value))
    ]
    assert not found, "\n".join(found)


@pytest.mark.case("S35")
def test_programs_are_started_by_lists_and_only_our_own_interpreter_is() -> None:
    """Benches time other programs; the product itself starts decode processes and asks the driver for its devices."""
    started = {
        name: ast.unparse(call.args[0])
        for name, call, called in calls()
        if called.startswith(("subprocess.", "os.exec", "os.spawn", "os.posix_spawn")) and "bench" not in name
    }
    assert all(not argument.startswith(("'", '"', "f'", 'f"')) for argument in started.values()), started
    assert {name for name, argument in started.items() if "sys.executable" not in argument} <= {
        "mmsearch/cuda_devices.py"
    }


@pytest.mark.case("S15")
def test_no_condition_for_the_tables_is_text() -> None:
    tables = {name: tree for name, tree in SOURCES.items() if Path(name).name.startswith("store")}
    assert len(tables) > 5
    found = []
    for name, tree in tables.items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Attribute) and call.func.attr in CONDITIONS:
                arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
                found += [f"{name}:{call.lineno} {ast.unparse(call)}" for each in arguments if made_of_text(each)]
    assert not found, "\n".join(found)


def made_of_text(node: ast.expr) -> bool:
    """True for a text, an f-string, text that is added or formatted, `str(...)`."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return True
    if isinstance(node, ast.BinOp):
        return made_of_text(node.left) or made_of_text(node.right)
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        return called == "str" or called.endswith((".format", ".join"))
    return False


@pytest.mark.case("S38")
@pytest.mark.parametrize(("package", "least"), [("onnx", (1, 21)), ("pillow", (12, 3)), ("pillow-heif", (1, 3))])
def test_no_installation_asks_for_versions_with_known_holes(package: str, least: tuple[int, int]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    asked = [line for group in groups for line in group if line.split(">=")[0] == package]
    assert asked
    for line in asked:
        assert tuple(map(int, line.split(">=")[1].split(",")[0].split("."))) >= least, line
