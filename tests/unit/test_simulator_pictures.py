"""Pictures of the simulator: valid files of the requested size, equal bytes for equal seeds."""

import io
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from PIL import Image

from picture_queue.generations.image_info import read_image
from picture_queue.local.simulator.pictures import MIME_TYPES, draw
from picture_queue.local.simulator.scene import Format, PictureSpec
from picture_queue.local.simulator.subjects import SUBJECTS, find_subjects

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
    assert draw(spec) == draw(spec)


@pytest.mark.parametrize(
    "change",
    [{"seed": 43}, {"prompt": "a tower"}, {"width": 256}],
    ids=lambda change: next(iter(change)),
)
def test_another_seed_prompt_or_size_gives_another_image(change: dict[str, object]) -> None:
    assert draw(replace(SPEC, **change)) != draw(SPEC)  # type: ignore[arg-type]


def test_an_image_has_several_colours() -> None:
    with Image.open(io.BytesIO(draw(SPEC))) as image:
        assert len(image.convert("RGB").getcolors(192 * 128) or []) > 100


def test_each_subject_has_its_own_drawing() -> None:
    drawings = {draw(replace(SPEC, prompt=f"a {name}")) for name in SUBJECTS}
    assert len(drawings) == len(SUBJECTS)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A red boat and two Cats", ["boat", "cat"]),
        ("houses, trees; robots. flowers", ["house", "tree", "robot"]),
        ("a boat, a boat, a ship", ["boat"]),
        ("catalogue of boatswains", []),
        ("", []),
    ],
)
def test_the_subjects_of_a_prompt_are_found(prompt: str, expected: list[str]) -> None:
    assert [subject.name for subject in find_subjects(prompt)] == expected


def test_a_colour_before_a_subject_colours_only_this_subject() -> None:
    red, blue = (draw(replace(SPEC, prompt=f"a {color} house")) for color in ("red", "blue"))
    assert red != blue
    subjects = find_subjects("a black cat and a tree")
    assert [subject.color for subject in subjects] == [(40, 40, 46), (64, 134, 72)]


@pytest.mark.parametrize(
    ("prompt", "has_caption"),
    [("justice & <b>entropy</b>", True), ("", True), ("a boat", False), ("a misty hill", False)],
)
def test_a_prompt_without_a_known_word_gets_a_caption(prompt: str, has_caption: bool) -> None:
    svg = draw(replace(SPEC, prompt=prompt, format="svg")).decode()
    ElementTree.fromstring(svg)
    assert ("Simulated picture" in svg) is has_caption
    if prompt.startswith("justice"):
        assert "justice &amp; &lt;b&gt;entropy" in svg


def test_a_picture_without_a_background_is_transparent() -> None:
    data = draw(replace(SPEC, prompt="a cat", has_background=False))
    with Image.open(io.BytesIO(data)) as image:
        alpha = image.getchannel("A")
    assert alpha.getpixel((0, 0)) == 0
    assert alpha.getextrema() == (0, 255)


@pytest.mark.parametrize("prompt", ["\0\x1f", "日本語 🎨", "a" * 5000, "\n\n\n"])
@pytest.mark.parametrize("format_", ["png", "svg"])
def test_a_prompt_of_any_characters_can_be_drawn(prompt: str, format_: Format) -> None:
    assert read_image(draw(replace(SPEC, prompt=prompt, format=format_))) is not None
