"""The process that decodes pictures and makes a thumbnail and a blurhash of each.

`ThumbnailMaker` starts the process and sends it pictures. Pictures are not decoded in the worker,
because Pillow holds the lock of the interpreter while it decodes, and may need a lot of memory for
a small file. The memory of this process is limited, and it gets no keys and no tokens.

The process reads a length (8 bytes, big-endian) and as many bytes from standard input, and answers
with a line of JSON and the thumbnail. The first line, which answers no request, states that the
process is ready.
"""

import contextlib
import io
import json
import os
import signal
import sys
from typing import Any, BinaryIO

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_BLUR_SIDE = 24  # pixels; a blurhash shows no finer detail
_WEBP_QUALITY = 78  # of 100
# From 0 (fast) to 6 (small). With 4 or more, encoding takes twice as long for 3 % fewer bytes.
_WEBP_METHOD = 2


def main() -> None:
    """Answer requests until the end of the input.

    The arguments are the longest side of a thumbnail, the maximum number of pixels of a picture,
    and the maximum memory of the process in bytes.
    """
    side, max_pixels, memory = map(int, sys.argv[1:4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker decides when this process ends
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get into an answer
    _limit_memory(memory)
    import blurhash  # noqa: F401 - so that a missing package ends the process at once
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # `make_thumbnail` checks max_pixels instead
    _answer(answers, {"ready": True})
    while header := requests.read(8):
        data = requests.read(int.from_bytes(header, "big"))
        try:
            thumbnail, code = make_thumbnail(data, side, max_pixels)
        except Exception as error:  # also MemoryError; decoders raise many kinds of errors
            _answer(answers, {"error": f"{type(error).__name__}: {str(error)[:200]}"})
        else:
            _answer(answers, {"bytes": len(thumbnail), "blurhash": code}, thumbnail)


def make_thumbnail(data: bytes, side: int, max_pixels: int) -> tuple[bytes, str]:
    """Return a thumbnail in WebP, and the blurhash.

    Args:
        data: A PNG, JPEG, WebP or GIF file; of an animation the first frame is used.
        side: Longest side of the thumbnail in pixels; a smaller picture is not enlarged.
        max_pixels: Maximum number of pixels of the picture.

    Raises:
        Exception: Pillow cannot read the picture, or it has too many pixels.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
        if opened.width * opened.height > max_pixels:
            raise ValueError(f"the picture has over {max_pixels} pixels")
        # A JPEG is decoded at an eighth to a half of its size if that suffices.
        opened.draft(None, (side, side))
        small: Any = _to_resizable_mode(opened)
        small.thumbnail((side, side), reducing_gap=2.0)
        small = ImageOps.exif_transpose(_to_srgb(small, opened.info.get("icc_profile")))
    out = io.BytesIO()
    small.save(out, "WEBP", quality=_WEBP_QUALITY, method=_WEBP_METHOD)
    return out.getvalue(), _encode_blurhash(small)


def _to_resizable_mode(image: Any) -> Any:
    """Convert an image to a mode in which Pillow can interpolate between pixels."""
    if image.mode.startswith("I"):  # 16 bits for each pixel, of which the upper 8 are used
        return image.convert("I").point(lambda value: value / 256).convert("L")
    if image.mode in ("RGB", "RGBA", "L", "CMYK"):
        return image
    has_alpha = image.mode in ("LA", "PA") or "transparency" in image.info
    return image.convert("RGBA" if has_alpha else "RGB")


def _to_srgb(image: Any, profile: bytes | None) -> Any:
    """Convert an image to sRGB, by its colour profile if it has a valid one; keep its EXIF data."""
    if profile and image.mode in ("RGB", "CMYK"):
        from PIL import ImageCms

        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            source: Any = ImageCms.getOpenProfile(io.BytesIO(profile))
            target: Any = ImageCms.createProfile("sRGB")
            exif = image.getexif()
            image = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            image.getexif().update(exif)
    image.info.pop("icc_profile", None)
    return image if image.mode in ("RGB", "RGBA") else image.convert("RGB")


def _encode_blurhash(image: Any) -> str:
    import blurhash
    from PIL import Image

    if image.mode == "RGBA":
        background = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(background, image)
    image = image.convert("RGB")
    image.thumbnail((_BLUR_SIDE, _BLUR_SIDE))
    width, height = image.size
    data = image.tobytes()
    colours = list(zip(data[::3], data[1::3], data[2::3], strict=True))
    rows = [colours[at : at + width] for at in range(0, width * height, width)]
    x_components, y_components = (4, 3) if width >= height else (3, 4)
    code: str = blurhash.encode(rows, x_components, y_components)
    return code


def _limit_memory(memory: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(answers: BinaryIO, answer: dict[str, Any], thumbnail: bytes = b"") -> None:
    answers.write(json.dumps(answer).encode() + b"\n" + thumbnail)
    answers.flush()


if __name__ == "__main__":
    main()
