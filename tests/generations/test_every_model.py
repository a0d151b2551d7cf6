"""One generation with each offered model of the catalogue, from the input to the stored picture."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from picture_queue.generations.image_info import read_image
from picture_queue.local.simulator import SimulatorSettings
from picture_queue.providers.replicate.catalog import CatalogModel, ModelInput, models

from .world import Generation, World

#: The models that a project can use at once. A model without a version has to be refreshed first.
OFFERED = [
    model.id
    for model in models().values()
    if model.unavailable_reason is None and (model.official is not False or model.version)
]
SMALL: dict[str, Any] = {"megapixels": "0.25", "width": 256, "height": 256}


def picture_uri() -> str:
    data = io.BytesIO()
    picture = Image.new("RGB", (96, 64), (40, 90, 160))
    picture.paste((220, 60, 40), (32, 16, 64, 48))
    picture.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def value_of(model: CatalogModel, model_input: ModelInput, picture: str) -> Any:
    """Return a value for an input of a model; None to leave the input out."""
    if model_input.format == "uri":
        if not model_input.required and model.kind in ("text-to-image", "vector"):
            return None
        return [picture] if model_input.type == "array" else picture
    if model_input.name == "prompt":
        return "a red boat"
    small = SMALL.get(model_input.name)
    if small is not None and (model_input.enum is None or small in model_input.enum):
        return small if isinstance(small, str) else max(small, int(model_input.minimum or 0))
    if model_input.required:
        return (
            model_input.enum[0]
            if model_input.enum
            else model_input.default
            if model_input.default is not None
            else 1
        )
    return None


@pytest.mark.parametrize("model_id", OFFERED)
async def test_a_generation_stores_the_pictures_of_the_model(model_id: str) -> None:
    model, picture = models()[model_id], picture_uri()
    values = {
        model_input.name: value_of(model, model_input, picture) for model_input in model.inputs
    }
    generation = Generation(model_id, {k: v for k, v in values.items() if v is not None})
    world = World(SimulatorSettings(seconds=0.02))
    async with world.http:
        result = await world.run(generation)
        (prediction,) = await world.predictions()
    assert prediction["model"] == model_id
    assert isinstance(prediction["output"], list) is (model.output == "uri[]")
    assert len(result["images"]) == len(world.db.files) >= 1
    for data, content_type in world.db.files.values():
        info = read_image(data)
        assert info is not None and info.mime_type == content_type
        assert (content_type == "image/svg+xml") is (
            model.kind == "vector" or model_id.endswith("-svg")
        )
    if model.kind == "upscale" and "image" in generation.input:
        assert info is not None and info.width is not None and info.width > 96
    if model.kind == "background-removal":
        with Image.open(io.BytesIO(data)) as stored:
            alpha = stored.convert("RGBA").getchannel("A")
        assert alpha.getpixel((0, 0)) == 0, "the background is not transparent"
        middle = (alpha.width // 2, alpha.height // 2)
        assert alpha.getpixel(middle) == 255, "the subject is transparent"


def test_only_a_model_without_a_version_is_not_run() -> None:
    offered = {model.id for model in models().values() if model.unavailable_reason is None}
    assert offered - set(OFFERED) == {"nvidia/sana"}
