"""The moderation of prompts and pictures by functions of the project."""

import threading
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from picture_queue.generations.moderation import (
    Moderation,
    PictureToModerate,
    PromptToModerate,
)
from picture_queue.generations.settings import HandlerSettings
from picture_queue.providers import errors
from picture_queue.worker import PermanentFailure
from picture_queue.worker.outcomes import Failed
from picture_queue.worker.verdicts import from_error

from .test_outputs import Outputs, create_png
from .world import FAST, SCHNELL, World, raises_verdict

REASON = "No boats, please."


def settings_with_moderation(**functions: Any) -> HandlerSettings:
    return replace(FAST, moderation=Moderation(**functions))


async def test_a_refused_prompt_costs_nothing(world: World) -> None:
    seen: list[PromptToModerate] = []

    async def moderate_prompt(request: PromptToModerate) -> str | None:
        seen.append(request)
        return REASON

    generation = world.generation(seed=7)
    with raises_verdict(PermanentFailure, errors.ContentRefused) as raised:
        await world.run(
            generation, settings=settings_with_moderation(moderate_prompt=moderate_prompt)
        )
    assert str(raised.verdict) == REASON, "the owner sees the reason"
    assert await world.predictions() == []
    assert [row.state for row in world.db.predictions] == ["failed"]
    (request,) = seen
    assert (request.prompt, request.model_id) == ("a boat", SCHNELL)
    assert request.input == {"megapixels": "0.25", "seed": 7}
    assert (request.generation_id, request.user_id) == (generation.id, generation.user_id)
    assert "0.25" not in repr(request)


async def test_all_texts_of_the_request_are_moderated(world: World) -> None:
    """A function that reads only the prompt would miss the negative prompt."""

    def refuse_guns(request: PromptToModerate) -> str | None:
        return next((text for text in request.texts if "gun" in text), None)

    settings = settings_with_moderation(moderate_prompt=refuse_guns)
    inputs: tuple[dict[str, Any], ...] = (
        {"negative_prompt": "a gun"},
        {"tags": ["cat", {"style": "a gun"}]},
    )
    for values in inputs:
        with raises_verdict(PermanentFailure, errors.ContentRefused) as raised:
            await world.run(world.generation(**values), settings=settings)
        assert str(raised.verdict) == "a gun"
    assert await world.predictions() == []
    request = PromptToModerate("a cat", {"seed": 7, "ratio": "1:1"}, "a/b", uuid4(), None)
    assert request.texts == ("a cat", "1:1")


async def test_an_accepted_prompt_is_sent(world: World) -> None:
    def accept(request: PromptToModerate) -> None:
        assert threading.current_thread() is not threading.main_thread()

    generation = world.generation()
    await world.run(generation, settings=settings_with_moderation(moderate_prompt=accept))
    assert len(await world.paid()) == 1
    assert len(world.db.files) == 1


@pytest.mark.parametrize("answer", [RuntimeError("down"), False, 7])
async def test_nothing_is_sent_unmoderated_after_an_error(world: World, answer: Any) -> None:
    calls = 0

    async def moderate_prompt(request: PromptToModerate) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            if isinstance(answer, Exception):
                raise answer
            return answer
        return None

    settings = settings_with_moderation(moderate_prompt=moderate_prompt)
    generation = world.generation()
    with pytest.raises(Exception, match=r"down|not a text or None") as raised:
        await world.run(generation, settings=settings)
    outcome = from_error(raised.value, "default")
    assert isinstance(outcome, Failed) and outcome.retryable
    assert await world.predictions() == []
    await world.run(generation, settings=settings)
    assert calls == 2, "the next attempt asks again"
    assert [row.state for row in world.db.predictions] == ["failed", "succeeded"]
    assert len(await world.paid()) == 1


async def test_a_refused_picture_is_not_stored(world: World) -> None:
    seen: list[PictureToModerate] = []

    async def moderate_image(picture: PictureToModerate) -> str | None:
        seen.append(picture)
        return REASON if picture.n == 1 else None

    generation = world.generation(num_outputs=2)
    await world.run(generation, settings=settings_with_moderation(moderate_image=moderate_image))
    assert list(world.db.images[generation.id]) == [2]
    assert len(world.db.files) == 1
    assert [row.state for row in world.db.predictions] == ["succeeded"]
    assert {(picture.n, picture.mime_type) for picture in seen} == {
        (1, "image/webp"),
        (2, "image/webp"),
    }
    assert seen[0].request.prompt == "a boat"
    assert seen[0].data[8:12] == b"WEBP"


async def test_a_refused_picture_is_not_downloaded_again_with_a_broken_picture(
    world: World,
) -> None:
    seen: list[int] = []

    def moderate_image(picture: PictureToModerate) -> str | None:
        seen.append(picture.n)
        return REASON if picture.n == 1 else None

    outputs: dict[int, list[Any]] = {2: [errors.OutputExpired("404"), create_png()]}
    client = Outputs(world, outputs)
    settings = settings_with_moderation(moderate_image=moderate_image)
    result = await world.run(world.generation(num_outputs=3), settings=settings, client=client)
    assert [image["n"] for image in result["images"]] == [2, 3]
    assert result["missing_images"] == [{"n": 1, "reason": REASON}]
    assert (sorted(seen), client.downloads.count(1)) == ([1, 2, 3], 1)


async def test_a_generation_whose_pictures_are_all_refused_fails(world: World) -> None:
    def moderate_image(picture: PictureToModerate) -> str | None:
        return REASON

    generation = world.generation(num_outputs=2)
    with raises_verdict(PermanentFailure, errors.ContentRefused) as raised:
        await world.run(
            generation, settings=settings_with_moderation(moderate_image=moderate_image)
        )
    assert str(raised.verdict) == REASON
    assert world.db.files == {}
    assert [row.state for row in world.db.predictions] == ["failed"]
    assert len(await world.paid()) == 1


async def test_a_picture_is_paid_once_although_its_moderation_failed(world: World) -> None:
    calls = 0

    async def moderate_image(picture: PictureToModerate) -> str | None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("down")
        return None

    settings = settings_with_moderation(moderate_image=moderate_image)
    generation = world.generation()
    with pytest.raises(Exception, match="down"):
        await world.run(generation, settings=settings)
    assert world.db.files == {}
    await world.run(generation, settings=settings)
    assert len(world.db.files) == 1
    assert len(await world.paid()) == 1
