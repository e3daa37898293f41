"""For a torchvision that does not fit: a command that brings the one that does, and leaves torch alone."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

import pytest

from mmsearch.openclip import _fitting_torchvision

# As each torchvision states the torch that it was made for.
MADE_FOR = {"2.5.1": "0.20.1", "2.6.0": "0.21.0", "2.8.0": "0.23.0", "2.9.1": "0.24.1", "2.10.0": "0.25.0"}


@pytest.mark.parametrize("torch", MADE_FOR)
def test_the_command_names_the_torchvision_made_for_this_torch(torch: str) -> None:
    command = f"pip install --force-reinstall --no-deps 'torchvision=={MADE_FOR[torch]}'"
    assert _fitting_torchvision(torch) == command
    for build in ("cpu", "cu130", "rocm6.4", "xpu"):
        place = f"{command} --index-url https://download.pytorch.org/whl/{build}"
        assert _fitting_torchvision(f"{torch}+{build}") == place


@pytest.mark.parametrize("torch", ["(unknown)", "3.0.0", "2.12.0a0+git1234", "2.16.0.dev20260101+cpu"])
def test_a_torch_that_no_release_fits_is_had_anew_together_with_it(torch: str) -> None:
    assert _fitting_torchvision(torch).endswith("pip install --upgrade --force-reinstall torch torchvision")


def test_the_installed_pair_agrees() -> None:
    try:
        made_for = next(each for each in requires("torchvision") or () if each.startswith("torch"))
    except (PackageNotFoundError, StopIteration):
        pytest.skip("torchvision is not installed")
    torch = made_for.rpartition("==")[2].rstrip(") ")
    assert f"'torchvision=={version('torchvision').partition('+')[0]}'" in _fitting_torchvision(torch)
