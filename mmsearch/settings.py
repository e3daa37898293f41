"""What a user may set once for all commands, and where a collection's name leads.

Read once at the edge and passed on as values. What wins: an explicit argument, the environment (`MMSEARCH_*`), the
file `config.toml` in the platform's configuration directory, the default.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast, get_args

from mmsearch.errors import UsageError
from mmsearch.safe_text import safe_path, safe_text
from mmsearch.types import IndexKind

# LanceDB makes a URL of the path, which carries neither of these.
_UNSTORABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
MAX_THREADS = 1024
_LARGEST = 1 << 53  # what a float still counts one by one
_SHOWN_CHARACTERS = 80
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
INDEXES = ("auto", *get_args(IndexKind))


def available_cpus() -> int:
    """The number of CPUs this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set outside a command line. Keys of `config.toml` are the names of these fields.

    `collection` and `model` are names or directories. `threads` is for one encoder and for building an index, `workers`
    counts decode processes; 0 means one for each CPU. `decode_timeout` is in seconds, for one file. `device` is where
    models and large searches run: docs/gpu.md says what "auto" makes of it. `precision` is what open_clip models
    compute in.
    `index` is the kind of index that large parts of a collection get when it is next written to; "auto" goes by size.
    """

    collection: str = "default"
    model: str = "mini"
    threads: int = 0
    workers: int = 0
    decode_timeout: float = 20.0
    device: str = "auto"
    precision: str = "auto"
    index: str = "auto"

    def __post_init__(self) -> None:
        for name in ("threads", "workers"):
            if not 0 <= getattr(self, name) <= MAX_THREADS:
                raise UsageError(f"{name} is {getattr(self, name)}: expected 0 (one for each CPU) to {MAX_THREADS}")
        if not 0 < self.decode_timeout <= 86_400:
            raise UsageError(f"decode_timeout is {self.decode_timeout:g}: expected seconds above 0, at most 86400")
        for name, choices in (("device", DEVICES), ("precision", PRECISIONS), ("index", INDEXES)):
            if (value := getattr(self, name)) not in choices:
                raise UsageError(f"{name} is '{safe_text(value)}': expected one of {', '.join(choices)}")

    @property
    def thread_count(self) -> int:
        """`threads` with 0 resolved."""
        return self.threads or available_cpus()

    @property
    def index_kind(self) -> IndexKind | None:
        """`index` with "auto" resolved: the kind that is asked for, None for the one that suits the size."""
        return None if self.index == "auto" else cast("IndexKind", self.index)

    @property
    def worker_count(self) -> int:
        """`workers` with 0 resolved."""
        return self.workers or available_cpus()


def load_settings(environ: Mapping[str, str] | None = None, *, config: Path | None = None) -> Settings:
    """The settings in force: `config` (default: the platform's) under `environ` (default: this process's). An empty
    variable is not set.

    Raises:
        UsageError: a key is unknown, a value has the wrong type or is out of range, or the file is not TOML.
    """
    environ = os.environ if environ is None else environ
    path = config_file() if config is None else config
    values = _from_toml(path)
    for each in fields(Settings):
        variable = f"MMSEARCH_{each.name.upper()}"
        if text := environ.get(variable):
            values[each.name] = _from_text(text, kind=type(each.default), variable=variable)
    return Settings(**values)


def config_file() -> Path:
    """Where the settings file is looked for; it need not exist."""
    import platformdirs

    return Path(platformdirs.user_config_path("mmsearch"), "config.toml")


def resolve_collection(name_or_path: str | os.PathLike[str] | None = None) -> Path:
    """The absolute directory of a collection, which need not exist; None is the one the settings name.

    A value with a path separator or a dot in it is a directory, another one is a name under the user's data directory.

    Raises:
        UsageError: neither a directory nor a name of letters, digits, `_` and `-`; or its path holds what the tables
            cannot live with.
    """
    directory = _directory_of(name_or_path)
    if _UNSTORABLE.search(str(directory)):
        raise UsageError(
            f"collection '{safe_path(str(directory))}' has control characters or bytes that are not UTF-8 in its path:"
            " choose a directory without"
        )
    return directory


def _directory_of(name_or_path: str | os.PathLike[str] | None) -> Path:
    if name_or_path is None:
        name_or_path = load_settings().collection
    if isinstance(name_or_path, os.PathLike):
        return Path(os.path.abspath(name_or_path))
    if os.sep in name_or_path or "." in name_or_path or (os.altsep and os.altsep in name_or_path):
        # Unlike Path.expanduser this leaves the ~ of an unknown user as it is.
        return Path(os.path.abspath(os.path.expanduser(name_or_path)))  # noqa: PTH111
    if not _NAME.fullmatch(name_or_path):
        raise UsageError(
            f"collection '{safe_text(name_or_path)}' is not a name (letters, digits, _ and -);"
            " write a directory with a path separator, like ./photos"
        )
    import platformdirs

    return Path(platformdirs.user_data_path("mmsearch"), "collections", name_or_path)


def _from_toml(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"settings file {safe_path(str(path))} cannot be read: {error.strerror}") from error
    import tomllib

    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"settings file {safe_path(str(path))} is not TOML: {safe_text(str(error))}") from error
    known = {each.name: type(each.default) for each in fields(Settings)}
    for key, value in table.items():
        where = f"settings file {safe_path(str(path))}"
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise UsageError(f"{where} has the unknown key '{safe_text(key)}'; did you mean '{nearest}'?")
        table[key] = _checked(value, kind=known[key], where=f"{where}: {key}")
    return table


def _from_text(text: str, *, kind: type, variable: str) -> str | int | float:
    if kind is str:
        return text
    try:
        return int(text) if kind is int else float(text)
    except ValueError:
        raise UsageError(f"{variable} is '{safe_text(text)}': expected {_words(kind)}") from None


def _checked(value: object, *, kind: type, where: str) -> str | int | float:
    """`value` if TOML gave the right type; a whole number passes for seconds, and true does not pass for 1."""
    if kind is str and isinstance(value, str) and value:
        return value
    if kind is not str and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST:
        return kind(value)  # type: ignore[no-any-return]
    if kind is float and isinstance(value, float):
        return value
    raise UsageError(f"{where} is {_shown(value)}: expected {_words(kind)}")


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # TOML takes whole numbers of any length, and Python writes only some thousand digits
        return "a number of thousands of digits"
    return safe_text(text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}...")


def _words(kind: type) -> str:
    return {str: "text", int: "a whole number", float: "a number of seconds"}[kind]
