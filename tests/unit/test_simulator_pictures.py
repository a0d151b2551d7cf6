"""Images of the simulator: valid files of the requested size, equal for equal seeds."""

import io
from dataclasses import replace

import pytest
from PIL import Image

from picture_queue.generations.image_info import read_image
from picture_queue.local.simulator.pictures import MIME_TYPES, Format, PictureSpec, draw

SPEC = PictureSpec(prompt="a paper boat on a calm lake", seed=42, width=192, height=128)


@pytest.mark.parametrize("format_", ["png", "webp", "jpg", "svg"])
@pytest.mark.parametrize("prompt", ["a boat at sea", "a neon city at night", "a misty hill", ""])
def test_an_image_has_the_requested_format_and_size(format_: Format, prompt: str) -> None:
    data = draw(replace(SPEC, format=format_, prompt=prompt))
    info = read_image(data)
    assert info is not None
    assert info.mime_type == MIME_TYPES[format_]
    assert (info.width, info.height) == (192, 128)


@pytest.mark.parametrize("format_", ["png", "webp", "jpg", "svg"])
def test_the_same_seed_gives_the_same_bytes(format_: Format) -> None:
    spec = replace(SPEC, format=format_)
    first = draw(spec)
    draw.cache_clear()
    assert draw(spec) == first


@pytest.mark.parametrize(
    "other",
    [{"seed": 43}, {"prompt": "a tower"}, {"width": 256}],
    ids=lambda change: next(iter(change)),
)
def test_another_seed_prompt_or_size_gives_another_image(other: dict[str, object]) -> None:
    assert draw(replace(SPEC, **other)) != draw(SPEC)  # type: ignore[arg-type]


def test_an_image_has_several_colours() -> None:
    with Image.open(io.BytesIO(draw(SPEC))) as image:
        assert len(image.convert("RGB").getcolors(192 * 128) or []) > 100
