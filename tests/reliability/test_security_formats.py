"""Only the formats on our list ever reach a decoder, whatever a file is called."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image

from mmsearch.errors import UnreadableFile
from mmsearch.image_formats import IMAGE_EXTENSIONS
from mmsearch.images import DecodeLimits, decode_image
from mmsearch.types import Preprocess, Reason

pytestmark = pytest.mark.case("S32")
PREPROCESS = Preprocess(height=8, width=8, resize="squash", interpolation="bicubic")
READ = {"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "DIB"}


def sample(format_name: str) -> bytes | None:
    """A picture in a format; None for one that the installed Pillow does not write."""
    for mode in ("RGB", "P", "1", "L"):
        file = io.BytesIO()
        with contextlib.suppress(OSError, ValueError, KeyError), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            Image.new(mode, (64, 64), 1).save(file, format_name)
            return file.getvalue()
    return None


Image.init()
OTHERS = {name: data for name in sorted(set(Image.SAVE) - READ) if (data := sample(name)) is not None}
WRITTEN = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(gs ran) print\n",
    "PS with a DOS header": b"\xc5\xd0\xd3\xc6" + bytes(28) + b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "SVG with an entity": b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
    "PSD": b"8BPS\x00\x01" + bytes(6) + b"\x00\x03\x00\x00\x00\x09\x00\x00\x00\x09\x00\x08\x00\x03" + bytes(12),
    "FITS": b"SIMPLE  =                    T" + b" " * 2850,
    "McIdas": b"\x00\x00\x00\x00\x00\x00\x00\x04" + bytes(248),
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "FLI": bytes(4) + b"\x11\xaf" + bytes(140),
    "JPEG 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(40),
    "an icon": b"\x00\x00\x01\x00\x01\x00\x10\x10\x00\x00\x01\x00\x20\x00" + bytes(40),
    "HTML": b"<!DOCTYPE html><html><body>not found</body></html>",
    "a zip archive": b"PK\x03\x04" + bytes(60),
    "a script": b"#!/bin/sh\ntouch ran\n",
}


def refused(data: bytes, extension: str) -> Reason:
    with pytest.raises(UnreadableFile) as raised:
        decode_image(data, PREPROCESS, limits=DecodeLimits(), extension=extension)
    return raised.value.reason


@pytest.mark.parametrize("extension", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("kind", WRITTEN)
def test_what_is_not_on_the_list_is_refused_under_any_name(kind: str, extension: str) -> None:
    assert refused(WRITTEN[kind], extension) in (Reason.UNIDENTIFIED, Reason.UNSUPPORTED_INSIDE)


@pytest.mark.parametrize("format_name", OTHERS)
def test_whatever_else_pillow_reads_is_refused(format_name: str) -> None:
    assert refused(OTHERS[format_name], ".jpg") in (Reason.UNIDENTIFIED, Reason.UNSUPPORTED_INSIDE)


def test_no_extension_promises_what_is_not_read() -> None:
    formats = {Image.registered_extensions().get(extension, "HEIF") for extension in IMAGE_EXTENSIONS}
    assert formats <= READ


def test_a_process_that_decodes_loads_no_decoder_beyond_the_list(tmp_path: Path) -> None:
    """All kinds of files, of all formats on the list too: afterwards only their plug-ins are there."""
    for number, format_name in enumerate(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]):
        Image.new("RGB", (9, 9), "red").save(tmp_path / f"{number}.png", format_name)
    for number, data in enumerate(WRITTEN.values()):
        (tmp_path / f"x{number}.jpg").write_bytes(data)
    program = (
        "import sys\nfrom pathlib import Path\nfrom mmsearch.images import DecodeLimits, decode_image\n"
        "from mmsearch.types import Preprocess\nfrom mmsearch.errors import UnreadableFile\n"
        "asked = Preprocess(height=8, width=8, resize='squash', interpolation='bicubic')\nread = 0\n"
        "for path in Path(sys.argv[1]).iterdir():\n"
        "    try:\n        decode_image(path.read_bytes(), asked, limits=DecodeLimits()); read += 1\n"
        "    except UnreadableFile:\n        pass\n"
        "print(read, *sorted(name for name in sys.modules if name.endswith('ImagePlugin')))\n"
    )
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, env=environment, check=True
    )
    read, *plugins = done.stdout.split()
    assert read == "6"
    known = {"Avif", "Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP"}
    # Pillow itself loads PPM and its like beside some of them; none that starts a program or unpacks an archive.
    assert {name.removeprefix("PIL.").removesuffix("ImagePlugin") for name in plugins} <= known | {"Ppm"}
