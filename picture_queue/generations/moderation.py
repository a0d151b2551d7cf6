"""Moderation of prompts and pictures by functions of the project.

A prompt, with all other texts of the request, is moderated before the provider is called and paid,
and a picture before it is stored. If the function of the project raises an error, the job is
retried: nothing passes unmoderated.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from picture_queue.providers import errors
from picture_queue.records import BegunPrediction


@dataclass(frozen=True)
class PromptToModerate:
    """A prompt and its inputs, which are about to be sent to a provider.

    A model may read other inputs like a prompt, such as ``negative_prompt``, so moderate all
    `texts`, not only the prompt.

    Attributes:
        prompt: The prompt; empty for models without one.
        input: The other inputs of the model. Pictures of generations and files of Storage are
            named, as in the request.
        model_id: The model.
        generation_id: The generation.
        user_id: The owner of the generation; None if it belongs to no user.
    """

    prompt: str
    input: dict[str, Any] = field(repr=False)
    model_id: str
    generation_id: UUID
    user_id: UUID | None

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompt and all other texts that the provider gets, also those in lists and objects.

        Chosen values and addresses of files are texts too, since a model may read any text.
        """
        return (self.prompt, *_find_texts(self.input))


@dataclass(frozen=True)
class PictureToModerate:
    """A picture that is about to be stored.

    Attributes:
        data: The file.
        mime_type: The type that was read from the file, such as ``image/png``.
        n: The number of the picture in the generation, from 1.
        request: The prompt, the model and the owner.
    """

    data: bytes = field(repr=False)
    mime_type: str
    n: int
    request: PromptToModerate


#: Return a reason, which the owner sees, to refuse; None to accept.
ModeratePrompt = Callable[[PromptToModerate], Awaitable[str | None] | str | None]
ModeratePicture = Callable[[PictureToModerate], Awaitable[str | None] | str | None]


@dataclass(frozen=True)
class Moderation:
    """The functions of a project that may refuse prompts and pictures.

    They return None to accept, or the reason of a refusal, which the owner of the generation sees.
    A plain function runs in a thread. A refused prompt fails the generation before it costs
    anything. A refused picture is not stored; if all pictures are refused, the generation fails.

    Attributes:
        moderate_prompt: The function for prompts; None: all are accepted.
        moderate_image: The function for pictures; None: all are accepted.

    Example:
        >>> async def moderate_prompt(request: PromptToModerate) -> str | None:
        ...     has_guns = any("gun" in text for text in request.texts)
        ...     return "No weapons, please." if has_guns else None
        >>> add_generations(
        ...     worker, pq, replicate, moderation=Moderation(moderate_prompt=moderate_prompt)
        ... )
    """

    moderate_prompt: ModeratePrompt | None = None
    moderate_image: ModeratePicture | None = None

    async def check_prompt(self, begun: BegunPrediction) -> None:
        """Moderate the prompt of a row.

        Raises:
            ContentRefused: The function refused it.
        """
        if self.moderate_prompt is not None:
            reason = await _call(self.moderate_prompt, _request_of(begun))
            if reason is not None:
                raise errors.ContentRefused(
                    "The moderation of the project refused the prompt", public=reason, detail=reason
                )

    async def review_image(
        self, begun: BegunPrediction, n: int, data: bytes, mime_type: str
    ) -> str | None:
        """Return the reason why a picture must not be stored; None if it may be stored."""
        if self.moderate_image is None:
            return None
        picture = PictureToModerate(data, mime_type, n, _request_of(begun))
        return await _call(self.moderate_image, picture)


def _request_of(begun: BegunPrediction) -> PromptToModerate:
    given = dict(begun.prediction.input)
    return PromptToModerate(
        prompt=str(given.pop("prompt", "")),
        input=given,
        model_id=begun.model.model_id,
        generation_id=begun.generation.id,
        user_id=begun.generation.user_id,
    )


def _find_texts(value: Any) -> Iterator[str]:
    """Yield each text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _find_texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _find_texts(item)


async def _call(function: Callable[[Any], Any], argument: Any) -> str | None:
    """Call a function of the project; a plain one in a thread.

    Raises:
        TypeError: It returned neither a text nor None.
    """
    if inspect.iscoroutinefunction(function):
        answer = await function(argument)
    else:
        answer = await asyncio.to_thread(function, argument)
        if inspect.isawaitable(answer):
            answer = await answer
    if answer is not None and not isinstance(answer, str):
        raise TypeError(f"the moderation returned {type(answer).__name__}, not a text or None")
    return answer
