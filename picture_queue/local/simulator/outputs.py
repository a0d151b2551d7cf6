"""The output files of predictions, and the faults that break an output file."""

import asyncio
import base64
import functools
import io
import re
import struct
import zlib
from collections.abc import Hashable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from picture_queue.local.simulator.drawing import DrawingPool
from picture_queue.local.simulator.edits import change
from picture_queue.local.simulator.inputs import InputReader
from picture_queue.local.simulator.pictures import MIME_TYPES, draw
from picture_queue.local.simulator.requests import simulator_of
from picture_queue.local.simulator.responses import not_found
from picture_queue.local.simulator.scene import PictureSpec
from picture_queue.local.simulator.state import Prediction, Simulator

_PATH: Final = re.compile(r"/files/([a-z0-9]{1,64})/out-(\d{1,2})\.(\w{1,8})")
_NO_PICTURE: Final = b"<!doctype html><title>Not a picture</title>"
_BOMB_LENGTH: Final = 30_000  # pixels


async def get_output(request: Request) -> Response:
    """``GET /files/{id}/{name}``; as on Replicate, links to outputs need no token."""
    path = f"/files/{request.path_params['id']}/{request.path_params['name']}"
    output = find_output(simulator_of(request), path)
    if output is None:
        return not_found()
    pictures: OutputPictures = request.app.state.pictures
    reading = asyncio.create_task(pictures.read(*output))
    leaving = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        # No effect on a task that has ended. A client that has gone away needs no drawing.
        reading.cancel()
    if not reading.done():
        return Response(status_code=400)
    data, media_type = reading.result()
    return Response(data, media_type=media_type)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def find_output(simulator: Simulator, path: str) -> tuple[Prediction, int] | None:
    """Return the prediction and the number of an output file; None if there is no such file."""
    match, now = _PATH.fullmatch(path), simulator.clock()
    prediction = simulator.predictions.get(match[1]) if match else None
    if (
        match is None
        or prediction is None
        or prediction.status(now) != "succeeded"
        or prediction.is_removed(now)
        or int(match[2]) >= prediction.delivered
        or prediction.picture(0).format != match[3]
    ):
        return None
    return prediction, int(match[2])


class OutputPictures:
    """The output files of all predictions.

    Args:
        inputs: The input pictures of the predictions.
    """

    def __init__(self, inputs: InputReader) -> None:
        self._inputs = inputs
        self._pool = DrawingPool()

    async def data_uris(self, prediction: Prediction) -> list[str]:
        """Return the output files as ``data:`` URIs, for a call that waited for the prediction."""
        files = [await self.read(prediction, number) for number in range(prediction.delivered)]
        return [f"data:{kind};base64,{base64.b64encode(data).decode()}" for data, kind in files]

    async def read(self, prediction: Prediction, number: int) -> tuple[bytes, str]:
        """Return an output file and its content type, with the fault of the prediction."""
        spec = prediction.picture(number)
        media_type = MIME_TYPES[spec.format]
        broken = prediction.plan.broken if number == prediction.plan.broken_number else None
        if broken == "bad_picture":
            return _NO_PICTURE, media_type
        if broken == "bomb":
            return await self._pool.draw("bomb", _bomb), "image/png"
        if broken == "wrong_type":
            media_type = "image/webp" if media_type == "image/png" else "image/png"
        return await self.render(prediction, number), media_type

    async def render(self, prediction: Prediction, number: int) -> bytes:
        """Return an output file: the changed input picture, or else a drawing."""
        spec = prediction.picture(number)
        source = await self._inputs.picture(prediction)
        # Without an input picture, equal specifications give equal bytes.
        key: Hashable = spec if source is None else (prediction.id, number)
        return await self._pool.draw(key, functools.partial(_render, prediction, spec, source))


def _render(prediction: Prediction, spec: PictureSpec, source: bytes | None) -> bytes:
    if source is not None:
        changed = change(source, prediction.model.kind, spec, _scale(prediction))
        if changed is not None:
            return changed
    return draw(spec)


def _scale(prediction: Prediction) -> float:
    """Return the factor by which an upscaler enlarges the picture."""
    for name in ("scale", "scale_factor", "upscale_factor", "upscale"):
        model_input = prediction.model.input(name)
        factor = prediction.input.get(name, model_input.default if model_input else None)
        match = re.fullmatch(r"(\d{1,2}(?:\.\d{1,3})?)x?", str(factor))
        if match:
            return max(1.0, min(8.0, float(match[1])))
    return 2.0


def _bomb() -> bytes:
    """Return a PNG with 900 million pixels and 110 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        content = kind + data
        return struct.pack(">I", len(data)) + content + struct.pack(">I", zlib.crc32(content))

    # One bit a pixel, in shades of grey.
    header = struct.pack(">IIBBBBB", _BOMB_LENGTH, _BOMB_LENGTH, 1, 0, 0, 0, 0)
    row = bytes(1 + _BOMB_LENGTH // 8)
    compressor, compressed = zlib.compressobj(9), io.BytesIO()
    for _ in range(_BOMB_LENGTH):
        compressed.write(compressor.compress(row))
    compressed.write(compressor.flush())
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", compressed.getvalue()), chunk(b"IEND", b""))
    )
