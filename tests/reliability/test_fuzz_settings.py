"""Any settings, in the file and in the environment, any name of a collection, any CURRENT and any lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

import pytest
from fuzz_strategies import DEPTHS, damaged, nested
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmsearch.durable import LOCK_NAME, WriterLock
from mmsearch.errors import CollectionBusy, CollectionError, UsageError
from mmsearch.settings import Settings, load_settings, resolve_collection
from mmsearch.snapshot_manifest import CURRENT_FILE, read_current

pytestmark = pytest.mark.usefixtures("bounded")
FUZZ = settings(settings.get_profile("fuzz"))
NAMES = ("collection", "model", "threads", "workers", "decode_timeout", "device", "precision", "index")
SOUND = b'collection = "photos"\nthreads = 4\ndecode_timeout = 2.5\ndevice = "cpu"\n'
TOML_VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(repr),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).map(lambda text: f"'{text}'"),
    st.sampled_from(
        ["true", "[]", "{}", "[[]]", "1979-05-27", "nan", "-inf", "9" * 400, "1" + "0" * 400, "0x" + "f" * 90]
    ),
)


@pytest.mark.case("S42", "F27")
@FUZZ
@given(data=st.binary(max_size=80) | damaged(SOUND))
@example(data=b"threads = " + nested(DEPTHS[1]))
@example(data=b"threads = " + nested(DEPTHS[2]))
@example(data=b"a." * 5000 + b"b = 1")
@example(data=b"threads = 0b" + b"1" * 20_000)
@example(data=b"threads = " + b"9" * 5000)
def test_any_bytes_as_settings_are_settings_or_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "config.toml").write_bytes(data)
    try:
        assert isinstance(load_settings({}, config=tmp_path / "config.toml"), Settings)
    except UsageError as error:
        assert len(str(error)) < 20_000


@pytest.mark.case("S42")
@FUZZ
@given(key=st.sampled_from(NAMES), value=TOML_VALUES)
@example(key="decode_timeout", value="1" + "0" * 400)
@example(key="decode_timeout", value="nan")
def test_any_value_of_a_known_key_is_taken_or_refused(tmp_path: Path, key: str, value: str) -> None:
    (tmp_path / "config.toml").write_text(f"{key} = {value}\n", encoding="utf-8")
    try:
        found = load_settings({}, config=tmp_path / "config.toml")
        assert (found.thread_count, found.worker_count) > (0, 0) and 0 < found.decode_timeout <= 86_400
    except UsageError:
        pass


@pytest.mark.case("S42")
@FUZZ
@given(name=st.sampled_from(NAMES), text=st.text(st.characters(exclude_characters="\0"), max_size=30))
@example(name="threads", text="9" * 5000)
@example(name="decode_timeout", text="1e999")
@example(name="decode_timeout", text="nan")
@example(name="threads", text="\u0664\u0662")
def test_any_variable_is_taken_or_refused(name: str, text: str) -> None:
    with contextlib.suppress(UsageError):
        load_settings({f"MMSEARCH_{name.upper()}": text}, config=Path("/nowhere/config.toml"))


@pytest.mark.case("S42")
@FUZZ
@given(name=st.text(st.characters(), max_size=30) | st.sampled_from(["~", "~root/x", "./\0", "../" * 2000, "a" * 5000]))
def test_any_name_of_a_collection_is_a_directory_or_refused(name: str) -> None:
    with contextlib.suppress(UsageError):
        assert resolve_collection(name).is_absolute()


@pytest.mark.case("S46", "F27")
@FUZZ
@given(data=st.binary(max_size=40))
@example(data=b"9" * 19)
@example(data="\u0661".encode())
@example(data=b"1\n\n")
@example(data=b"")
def test_any_bytes_in_current_are_a_number_or_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / CURRENT_FILE).write_bytes(data)
    try:
        assert 0 <= read_current(tmp_path) < 10**18
    except CollectionError as error:
        assert len(str(error)) < 1_000


@pytest.mark.case("S46", "F27")
@FUZZ
@given(data=st.binary(max_size=80) | damaged(b'{"host": "photos", "pid": 7, "since": 1700000000}'))
@example(data=nested(DEPTHS[0]))
@example(data=nested(2_000))
@example(data=b'{"host": 1, "pid": 1e999, "since": 1}')
@example(data=b'{"host": "h", "pid": 1, "since": 1e18}')
@example(data=b'{"host": "h", "pid": 1, "since": -99999999999999}')
@example(data=b'{"host": "\\u001b]52;c;x", "pid": 1, "since": 0}')
def test_whatever_a_held_lock_says_the_answer_is_busy(tmp_path: Path, data: bytes) -> None:
    (tmp_path / LOCK_NAME).write_bytes(data)
    with (tmp_path / LOCK_NAME).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(CollectionBusy, match="another process is writing") as raised, WriterLock(tmp_path):
            pass
    assert "\x1b" not in str(raised.value)


@pytest.mark.case("S46")
def test_a_lock_that_says_anything_is_taken_when_nobody_holds_it(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_bytes(os.urandom(100_000))
    with WriterLock(tmp_path):
        assert (tmp_path / LOCK_NAME).stat().st_size < 1_000
