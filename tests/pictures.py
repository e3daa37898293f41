"""Unusual pictures, each beside the plain picture that it must look like.

Everything is made here with Pillow, pillow-heif, numpy and struct; nothing binary is kept. `unusual_pictures(photo)`
wraps any RGB picture, so a test may compare pixels of a synthetic scene, or embeddings of a real photo. Files that
must be refused are in `rubbish.py`.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pillow_heif
from icc_profiles import display_p3
from PIL import Image, ImageChops, ImageCms

TURNED_FORMATS = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp", "HEIF": ".heic", "AVIF": ".avif"}
_ORIENTATION = 0x0112
_STORED_AS = {  # the turn that makes an upright picture into one that is stored under this orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True, slots=True)
class Unusual:
    """A file `name` with content `data` that must look like `twin` (RGB), within `error` levels on average."""

    name: str
    data: bytes
    twin: Image.Image
    error: float = 3.0


def scene(width: int = 96, height: int = 64) -> Image.Image:
    """Return a smooth RGB picture that no turn or mirror maps to itself, with all four corners different."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x, y = x / (width - 1), y / (height - 1)
    red = 40 + 180 * x
    green = 210 - 150 * y
    blue = 60 + 140 * np.exp(-8 * ((x - 0.3) ** 2 + (y - 0.7) ** 2))
    return Image.fromarray(np.stack([red, green, blue], axis=-1).round().astype(np.uint8))


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """Return `image` as a file of `format_name`, HEIF included; lossy ones at a quality that keeps smooth pictures."""
    if format_name in ("JPEG", "MPO", "WEBP", "AVIF", "HEIF"):
        options = {"quality": 95, **options}
    if format_name in ("JPEG", "MPO", "AVIF"):
        options = {"subsampling": "4:4:4", **options}
    buffer = io.BytesIO()
    if format_name != "HEIF":
        image.save(buffer, format_name, **options)
        return buffer.getvalue()
    heif = pillow_heif.from_pillow(image.copy())
    for name in ("exif", "icc_profile"):  # after from_pillow, which turns the pixels by the EXIF it is given
        value = options.pop(name, None)
        if value is not None:
            heif[0].info[name] = value.tobytes() if isinstance(value, Image.Exif) else value
    heif.save(buffer, **options)
    return buffer.getvalue()


def exif_with(orientation: int) -> Image.Exif:
    """Return EXIF that holds only this orientation."""
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return exif


def turned(photo: Image.Image, orientation: int, format_name: str) -> bytes:
    """Return a file that shows `photo` upright once its EXIF `orientation` is applied."""
    turn = _STORED_AS.get(orientation)
    stored = photo if turn is None else photo.transpose(turn)
    lossless = {"compression": "tiff_lzw"} if format_name == "TIFF" else {}
    return encode(stored, format_name, exif=exif_with(orientation), **lossless)


def png(samples: npt.NDArray[Any], colour_type: int, size: tuple[int, int] | None = None) -> bytes:
    """Return a PNG of `samples` (uint8 or uint16, (H, W) or (H, W, C)); `size` is what its header claims instead."""
    bits = samples.dtype.itemsize * 8
    width, height = size or (samples.shape[1], samples.shape[0])
    rows = samples.astype(f">u{samples.dtype.itemsize}")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, content) for name, content in chunks)


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Return one chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def unusual_pictures(photo: Image.Image | None = None) -> list[Unusual]:
    """Return every unusual picture of `photo` (RGB; a synthetic scene if None) with its twin."""
    photo = photo or scene()
    makers = (_turned, _deep, _indexed_and_transparent, _other_inks, _profiled, _first_of_many, _misnamed, _odd_shapes)
    return [picture for maker in makers for picture in maker(photo)]


def _turned(photo: Image.Image) -> Iterator[Unusual]:
    for format_name, extension in TURNED_FORMATS.items():
        for orientation in range(1, 9):
            data = turned(photo, orientation, format_name)
            yield Unusual(f"turned_{orientation}_{format_name.lower()}{extension}", data, photo)
    yield Unusual("turned_99.jpg", encode(photo, "JPEG", exif=exif_with(99)), photo)


def _deep(photo: Image.Image) -> Iterator[Unusual]:
    grey = photo.convert("L")
    twin = grey.convert("RGB")
    levels = np.asarray(grey)
    sixteen = levels.astype(np.uint16) * 257
    yield Unusual("grey_16_bit.png", png(sixteen, 0), twin)
    yield Unusual("rgb_16_bit.png", png(np.asarray(photo).astype(np.uint16) * 257, 2), photo)
    yield Unusual("grey_16_bit.tif", encode(Image.fromarray(sixteen), "TIFF"), twin)
    yield Unusual("grey_int32.tif", encode(Image.fromarray(sixteen.astype(np.int32)), "TIFF"), twin)
    yield Unusual("grey_float.tif", encode(Image.fromarray((levels / 255).astype(np.float32)), "TIFF"), twin)
    bitmap = photo.convert("1")
    yield Unusual("1_bit.png", encode(bitmap, "PNG"), bitmap.convert("RGB"))


def _indexed_and_transparent(photo: Image.Image) -> Iterator[Unusual]:
    palette = photo.quantize(64)
    yield Unusual("palette.png", encode(palette, "PNG"), palette.convert("RGB"))
    alphas = bytes(0 if index < 16 else 255 for index in range(64))
    see_through = palette.copy()
    see_through.info["transparency"] = alphas
    twin = on_white(palette.convert("RGB"), Image.fromarray(np.take(np.frombuffer(alphas, np.uint8), palette)))
    yield Unusual("palette_transparent.png", encode(palette, "PNG", transparency=alphas), twin)
    yield Unusual("palette_transparent.gif", encode(palette, "GIF", transparency=0), _without_colour(palette, 0))
    ramp = Image.linear_gradient("L").resize(photo.size)
    grey = photo.convert("L")
    yield Unusual("grey_alpha.png", encode(Image.merge("LA", (grey, ramp)), "PNG"), on_white(grey.convert("RGB"), ramp))
    rgba = photo.copy()
    rgba.putalpha(ramp)
    yield Unusual("rgba.png", encode(rgba, "PNG"), on_white(photo, ramp))
    yield Unusual("rgba.webp", encode(rgba, "WEBP"), on_white(photo, ramp))
    rgba.putalpha(0)
    yield Unusual("fully_transparent.png", encode(rgba, "PNG"), Image.new("RGB", photo.size, "white"))


def on_white(photo: Image.Image, alpha: Image.Image) -> Image.Image:
    """Return `photo` seen through `alpha` (L) on a white page, computed with plain numpy."""
    weight = np.asarray(alpha, dtype=np.float64)[..., np.newaxis] / 255
    mixed = np.asarray(photo) * weight + 255 * (1 - weight)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _without_colour(palette: Image.Image, index: int) -> Image.Image:
    return on_white(
        palette.convert("RGB"), Image.fromarray(np.where(np.asarray(palette) == index, 0, 255).astype("u1"))
    )


def _other_inks(photo: Image.Image) -> Iterator[Unusual]:
    inks = photo.convert("CMYK")
    yield Unusual("cmyk.jpg", encode(inks, "JPEG"), photo)
    yield Unusual("cmyk.tif", encode(inks, "TIFF"), photo)
    yield Unusual("cmyk_not_adobe.jpg", _without_adobe(encode(ImageChops.invert(inks), "JPEG")), photo)
    yield Unusual("ycck.jpg", _ycck(inks), photo)
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = to_lab.apply(photo)
    del lab.info["icc_profile"]
    yield Unusual("lab.tif", encode(lab, "TIFF"), photo)


def _without_adobe(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def _ycck(inks: Image.Image) -> bytes:
    # libjpeg recovers the stored C, M, Y as 255 - RGB(Y, Cb, Cr), and Adobe stores every ink inverted: so what goes
    # through YCbCr is the ink itself. Pillow inverts all four channels when it writes, hence the last step.
    cyan, magenta, yellow, black = inks.split()
    channels = (*Image.merge("RGB", (cyan, magenta, yellow)).convert("YCbCr").split(), ImageChops.invert(black))
    jpeg = encode(ImageChops.invert(Image.merge("CMYK", channels)), "JPEG")
    marker = jpeg.index(b"Adobe")
    return jpeg[: marker + 11] + b"\x02" + jpeg[marker + 12 :]


def _profiled(photo: Image.Image) -> Iterator[Unusual]:
    yield Unusual("junk_profile.jpg", encode(photo, "JPEG", icc_profile=b"not a profile at all"), photo)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    yield Unusual("srgb_profile.png", encode(photo, "PNG", icc_profile=srgb.tobytes()), photo, error=0.0)
    wide = ImageCms.ImageCmsProfile(io.BytesIO(display_p3()))
    in_p3 = ImageCms.buildTransform(srgb, wide, "RGB", "RGB").apply(photo)
    for format_name, extension in (("JPEG", ".jpg"), ("PNG", ".png"), ("HEIF", ".heic"), ("AVIF", ".avif")):
        data = encode(in_p3, format_name, icc_profile=display_p3())
        yield Unusual(f"wide_gamut{extension}", data, photo)


def _first_of_many(photo: Image.Image) -> Iterator[Unusual]:
    others = [Image.new("RGB", photo.size, colour) for colour in ("black", "white")]
    flat = photo.quantize(128, dither=Image.Dither.NONE).convert("RGB")
    several: dict[str, Any] = {"save_all": True, "append_images": others}
    yield Unusual("animated.gif", encode(flat, "GIF", **several), flat)
    yield Unusual("animated.webp", encode(photo, "WEBP", **several), photo)
    yield Unusual("animated.png", encode(photo, "PNG", **several), photo)
    yield Unusual("animated.avif", encode(photo, "AVIF", **several), photo)
    yield Unusual("pages.tif", encode(photo, "TIFF", **several), photo)
    yield Unusual("stereo.jpg", encode(photo, "MPO", **several), photo)


def _misnamed(photo: Image.Image) -> Iterator[Unusual]:
    yield Unusual("jpeg_named.heic", encode(photo, "JPEG"), photo)
    yield Unusual("png_named.jpg", encode(photo, "PNG"), photo)
    yield Unusual("webp_named.png", encode(photo, "WEBP"), photo)
    yield Unusual("plain.HEIC", encode(photo, "HEIF"), photo)
    yield Unusual("junk_behind.jpg", encode(photo, "JPEG") + b"junk" * 1000, photo)


def _odd_shapes(photo: Image.Image) -> Iterator[Unusual]:
    teal = Image.new("RGB", (1, 1), (0, 128, 128))
    yield Unusual("one_pixel.png", encode(teal, "PNG"), teal)
    for name, size in (("tall_1x60000.png", (1, 60000)), ("wide_60000x1.png", (60000, 1))):
        yield Unusual(name, encode(Image.new("RGB", size, (0, 128, 128)), "PNG"), teal)
    yield Unusual("progressive.jpg", encode(photo, "JPEG", progressive=True), photo)
