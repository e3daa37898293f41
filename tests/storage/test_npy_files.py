"""Our .npy files are numpy's, and nothing but exactly the expected array is mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsearch.npy_files import map_npy, npy_header
from mmsearch.segment import DIRECTORY_DTYPE, ROW_DTYPE

DTYPES = [np.dtype("<f4"), np.dtype("<f2"), ROW_DTYPE, DIRECTORY_DTYPE]


def written(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape)) * dtype.itemsize
    array = (np.arange(count) % 120).astype(np.uint8).view(dtype).reshape(shape)
    path.write_bytes(npy_header(dtype, shape) + array.tobytes())
    return array


@settings(max_examples=50, deadline=None)
@given(dtype=st.sampled_from(DTYPES), rows=st.integers(1, 10**7), columns=st.none() | st.integers(1, 2000))
def test_header_is_one_that_numpy_reads(
    tmp_path_factory: pytest.TempPathFactory, dtype: np.dtype[Any], rows: int, columns: int | None
) -> None:
    shape = (rows,) if columns is None else (rows, columns)
    header = npy_header(dtype, shape)
    assert len(header) % 64 == 0
    path = tmp_path_factory.mktemp("npy") / "file.npy"
    path.write_bytes(header)
    with path.open("rb") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        assert np.lib.format.read_array_header_1_0(file) == (shape, False, dtype)
        assert file.tell() == len(header)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mapped_array_is_what_was_written_and_what_numpy_loads(tmp_path: Path, dtype: np.dtype[Any]) -> None:
    array = written(tmp_path / "file.npy", dtype, (7,))
    np.testing.assert_array_equal(map_npy(tmp_path / "file.npy", dtype, (7,)), array)
    np.testing.assert_array_equal(np.load(tmp_path / "file.npy", allow_pickle=False), array)
    with pytest.raises(ValueError, match="read-only"):
        map_npy(tmp_path / "file.npy", dtype, (7,))[:] = array


@pytest.mark.case("S48")
@pytest.mark.promise("R10")
@pytest.mark.parametrize(
    ("dtype", "shape"), [("<f4", (5, 4)), ("<f4", (20,)), ("<f2", (4, 5)), (">f4", (4, 5)), ("<f4", (4, 6))]
)
def test_array_of_another_kind_is_refused(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    written(tmp_path / "file.npy", np.dtype("<f4"), (4, 5))
    with pytest.raises(ValueError, match="header"):
        map_npy(tmp_path / "file.npy", np.dtype(dtype), shape)


@pytest.mark.case("S48")
def test_cut_or_longer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.npy"
    written(path, np.dtype("<f4"), (4, 5))
    content = path.read_bytes()
    for data in (content[:-1], content + b"\0", content[:128], content[:127], b""):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"header|bytes"):
            map_npy(path, np.dtype("<f4"), (4, 5))
