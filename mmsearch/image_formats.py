"""What a file really is, read from its first bytes. Names decide nothing; they only earn a note when they disagree."""

from __future__ import annotations

import re

from mmsearch.errors import UnreadableFile
from mmsearch.types import Reason

HEAD_BYTES = 1024  # enough for every signature below, and for the prologue in front of an SVG's root element

_EXTENSIONS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "HEIF": (".heic", ".heif", ".hif"),
    "AVIF": (".avif",),
}
IMAGE_EXTENSIONS = frozenset(extension for extensions in _EXTENSIONS.values() for extension in extensions)

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),  # MPO and Ultra HDR are JPEGs with more pictures behind the first
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),  # BigTIFF
    (b"MM\x00+", "TIFF"),
)
_BMP_HEADER_BYTES = frozenset((12, 16, 40, 52, 56, 64, 108, 124))  # the DIB header sizes ever defined
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"))

_UNSUPPORTED: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "a PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"8BPS", "a Photoshop document"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x01\x00", "a Windows icon"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b\x08", "gzip data"),
)
_PNG_TEXT = frozenset((b"tEXt", b"zTXt", b"iTXt"))
_AVIF_EXIF_ITEM = re.compile(rb"(infe.{8})Exif", re.DOTALL)
_SVG_ROOT = re.compile(rb"^(?:\xef\xbb\xbf)?\s*(?:<\?xml|<!--|<!DOCTYPE svg|<svg)", re.IGNORECASE)


def sniff_format(head: bytes) -> str | None:
    """Return the format on our list ("JPEG", "PNG" ...) that `head`, the first 64 bytes or more, begins; or None."""
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    return _sniff_iso_media(head)


def _sniff_iso_media(head: bytes) -> str | None:
    if head[4:8] != b"ftyp":
        return None
    end = max(16, min(int.from_bytes(head[:4], "big"), len(head)))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
    if brands & _AVIF_BRANDS:  # first: an AVIF may lead with mif1, the brand of every such still picture
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None


def require_format(data: bytes) -> str:
    """Return the format of the picture in `data`.

    Raises:
        UnreadableFile: `EMPTY`, `UNSUPPORTED_INSIDE` for a known kind that is no picture for us, else `UNIDENTIFIED`.
    """
    if not data:
        raise UnreadableFile(Reason.EMPTY, "the file has no bytes")
    head = data[:HEAD_BYTES]
    name = sniff_format(head)
    if name is not None:
        return name
    known = _unsupported(head)
    if known is not None:
        raise UnreadableFile(Reason.UNSUPPORTED_INSIDE, f"it holds {known}, expected {_expected()}")
    raise UnreadableFile(Reason.UNIDENTIFIED, f"it begins with {head[:8]!r}, expected {_expected()}")


def _unsupported(head: bytes) -> str | None:
    for signature, name in _UNSUPPORTED:
        if head.startswith(signature):
            return name
    if _SVG_ROOT.match(head) and b"<svg" in head.lower():
        return "an SVG drawing"
    if head[4:8] == b"ftyp":
        return f"a film or raw picture (brand {head[8:12]!r})"
    return None


def _expected() -> str:
    return ", ".join(_EXTENSIONS)


def mismatch_note(extension: str | None, name: str) -> str | None:
    """Return "named .heic, is JPEG" when `extension` (with its dot, any case) promises another format than `name`."""
    if extension is None or extension.lower() in _EXTENSIONS[name]:
        return None
    return f"named {extension.lower()}, is {name}" if extension else f"named without an extension, is {name}"


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a WebP's canvas from its header, or None when it has none.

    The decoder allocates the whole canvas when it is created, so the size must be known before.
    """
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and len(data) >= 30:
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def without_metadata(data: bytes, name: str) -> bytes:
    """Return the picture less the metadata for which a decoder would refuse it, or `data` as it is.

    Pillow refuses a PNG for more than a megabyte of text, libavif an AVIF for EXIF that it cannot parse.
    """
    if name == "AVIF":
        return _AVIF_EXIF_ITEM.sub(rb"\1none", data)  # the item stays in place under a type that nobody reads
    return _without_text(data) if name == "PNG" else data


def _without_text(png: bytes) -> bytes:
    kept, at = [png[:8]], 8
    while at + 8 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] not in _PNG_TEXT:
            kept.append(png[at:end])
        at = end
    return b"".join(kept)
