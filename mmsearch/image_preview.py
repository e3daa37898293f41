"""The preview inside a HEIC in the place of its picture, where it is large enough: a fraction of the work."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFile

_ZEROS = bytes(64)  # at the end of a file that no encoder ends like that: an unfinished download or copy


def use_preview(image: ImageFile.ImageFile, heic: bytes, side: int) -> None:
    """Let `image`, opened from `heic` and not loaded yet, load its smallest preview with both sides at least `side`.

    It stays as it is where it has none; where the preview is cropped, turned or coloured unlike the picture, or of
    another shape by more than 2 pixels, since encoders round to even sides; and under a pillow-heif older than 1.8,
    which reads no previews. What `info` says of orientation and colours holds for the preview too.

    A damaged picture may be shown by a sound preview: the decoder of HEVC paints over most damage in silence, so that
    the preview, a tenth of the bytes, is the better witness. A picture that is cut off has been refused by now.

    What the preview shows is believed, unless `shows_nothing`. A program that edits a picture and leaves its old
    preview in the file has the old one found. And as pillow-heif decides whether there are previews, embeddings of such
    files made under 1.8 and under an older one differ a little, although the model and its fingerprint are the same.
    """
    if heic.endswith(_ZEROS):
        return  # what was never written may be the picture or the preview: no reason to change what is made of it
    try:
        image.draft(None, (side, side))
    except MemoryError:
        raise
    except Exception:
        return  # a preview that cannot be read says nothing against the picture


def shows_nothing(preview: Image.Image) -> bool:
    """True where the loaded `preview` is of one colour: more likely a placeholder, or damage, than its picture."""
    low, high = np.reshape(preview.getextrema(), (-1, 2)).T
    return bool((low == high).all())
