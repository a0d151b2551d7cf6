"""``picture-queue models``: the models of a project and their inputs."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from picture_queue_cli.commands import Commands, Group
from picture_queue_cli.model_descriptions import (
    describe_model,
    describe_permitted,
    describe_rules,
    describe_state,
    format_number,
)
from picture_queue_cli.options import JsonFlag, YesFlag, confirm
from picture_queue_cli.parsing import choice, expect_filled, parse_number
from picture_queue_cli.project import connect, connect_async, resolve, run
from picture_queue_cli.render import (
    info,
    one_line,
    out,
    plain,
    print_json,
    print_line,
    styled,
    table,
)

if TYPE_CHECKING:
    from picture_queue import AsyncPictureQueue, PictureQueue
    from picture_queue.providers.replicate.schema import FetchedModel
    from picture_queue.records import Model

# A copy of the library's enumeration, whose import would slow down the start of every command.
KINDS = (
    "text-to-image",
    "image-variation",
    "image-edit",
    "upscale",
    "background-removal",
    "vector",
)


class _ModelsGroup(Group):
    """The group of commands: ``models`` alone lists the models, and ``models NAME`` shows one."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Insert the command that the user omitted."""
        words = [word for word in args if not word.startswith("-")]
        if "--help" not in args and not (words and words[0] in self.commands):
            lists = not words or any(word.startswith("--kind") for word in args)
            args = ["list" if lists else "show", *args]
        return super().parse_args(ctx, args)


app = Commands(
    cls=_ModelsGroup,
    help="Show, add and change the models of the project.",
    example="models show black-forest-labs/flux-schnell",
)

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", callback=expect_filled, help="Name the model: owner/name.")
]
ModelVersion = Annotated[
    str,
    typer.Argument(
        metavar="MODEL[:VERSION]",
        callback=expect_filled,
        help="Name the model: owner/name, or owner/name:version.",
    ),
]
Kind = Annotated[
    str | None,
    typer.Option(
        metavar="KIND", parser=choice(*KINDS), help="Set the kind, such as upscale or image-edit."
    ),
]


@app.command("list", example="models list --kind upscale")
def list_models(
    ctx: typer.Context,
    *,
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", parser=choice(*KINDS), help="List only models of this kind."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the models."""
    with connect(ctx) as pq:
        models = _read_models(pq, kind)
    if as_json:
        print_json([plain(model) for model in models])
        return
    listing = table("model", "kind", "seconds", "USD", right=("seconds", "USD"))
    for model in models:
        name = styled(one_line(model.model_id))
        name.append(*describe_state(model))
        listing.add_row(
            name,
            model.kind,
            format_number(model.typical_seconds),
            format_number(model.price_usd_per_image),
        )
    out().print(listing)
    for model in models:
        if model.unavailable_reason is not None:
            info(one_line(f"{model.model_id} is not offered: {model.unavailable_reason}"))


@app.command(example="models show black-forest-labs/flux-schnell")
def show(ctx: typer.Context, model_id: ModelName, *, as_json: JsonFlag = False) -> None:
    """Show a model, its inputs and the rules of the project."""
    with connect(ctx) as pq:
        model = _find_model(_read_models(pq), model_id)
    if as_json:
        print_json(plain(model))
        return
    for line in describe_model(model):
        info(one_line(line))
    listing = table("input", "type", "default", "permitted", "project")
    for entry in model.inputs:
        listing.add_row(
            entry["name"] + (" *" if entry.get("required") else ""),
            ("list of " if entry["type"] == "array" and entry.get("format") else "")
            + ("URL" if entry.get("format") else str(entry["type"])),
            "" if entry.get("default") is None else str(entry["default"]),
            describe_permitted(entry),
            describe_rules(model.rules.get(entry["name"], {}), entry.get("maximum")),
        )
    out().print(listing)


@app.command(example="models add owner/name --kind upscale")
def add(
    ctx: typer.Context,
    model: ModelVersion,
    *,
    kind: Kind = None,
    price: Annotated[
        float | None,
        typer.Option(metavar="USD", parser=parse_number, help="Set the price of a picture."),
    ] = None,
    yes: YesFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Add a model of Replicate to the project.

    Its inputs are read from the API of Replicate, with REPLICATE_API_TOKEN,
    and shown before the model is added. The kinds are text-to-image,
    image-variation, image-edit, upscale, background-removal and vector.
    """
    options = {"kind": kind, "price_usd_per_image": price}
    fields = {name: value for name, value in options.items() if value is not None}
    run(_update(ctx, model, fields, is_new=True, yes=yes, as_json=as_json))


@app.command(example="models refresh black-forest-labs/flux-schnell")
def refresh(
    ctx: typer.Context, model: ModelVersion, *, yes: YesFlag = False, as_json: JsonFlag = False
) -> None:
    """Read the inputs of a model from Replicate again.

    The differences are shown before anything is changed.
    """
    run(_update(ctx, model, {}, is_new=False, yes=yes, as_json=as_json))


@app.command(example="models enable black-forest-labs/flux-dev")
def enable(ctx: typer.Context, model_id: ModelName, *, as_json: JsonFlag = False) -> None:
    """Enable a model."""
    _set_enabled(ctx, model_id, True, as_json)


@app.command(example="models disable black-forest-labs/flux-dev")
def disable(ctx: typer.Context, model_id: ModelName, *, as_json: JsonFlag = False) -> None:
    """Disable a model, so that no new generation can use it."""
    _set_enabled(ctx, model_id, False, as_json)


def _set_enabled(ctx: typer.Context, model_id: str, enabled: bool, as_json: bool) -> None:
    with connect(ctx) as pq:
        _find_model(pq.models.list(include_disabled=True), model_id)
        model = pq.models.set(model_id, enabled=enabled)
    if as_json:
        print_json(plain(model))
    else:
        info(f"{model_id} is {'enabled' if enabled else 'disabled'}.")


async def _update(
    ctx: typer.Context,
    name: str,
    fields: dict[str, Any],
    *,
    is_new: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Read a model from Replicate, show the differences, and write them after a confirmation.

    Args:
        ctx: The context of the command.
        name: ``owner/name``, or ``owner/name:version``.
        fields: Fields of the model that the command line sets.
        is_new: Whether the project must not have the model yet.
        yes: Whether to write the changes without a confirmation.
        as_json: Whether to print the model as JSON.
    """
    from picture_queue.providers.replicate.schema import describe_changes

    model_id, _, version = name.partition(":")
    async with connect_async(ctx) as pq:
        known = await _known_model(pq, model_id, is_new)
        fetched = await _fetch(ctx, model_id, version or None)
        before = None if known is None else plain(known)
        changes = {**fetched.changes_to(before), **fields}
        if known is None:
            changes.setdefault("kind", fetched.guess_kind())
            if changes["kind"] is None:
                raise typer.BadParameter(
                    f"missing; {model_id} could be one of {', '.join(KINDS)}", param_hint="--kind"
                )
        for line in describe_changes(before, changes):
            info(one_line(line))
        if changes and not yes:
            confirm(f"{'Add' if is_new else 'Change'} {model_id}?")
        model = await pq.models.set(model_id, **changes) if changes else known
    if as_json:
        print_json(plain(model) if model else None)
    elif not changes:
        info(f"{model_id} has not changed.")
    else:
        print_line(f"{model_id}: {'added' if is_new else 'changed'}")


async def _known_model(pq: "AsyncPictureQueue", model_id: str, is_new: bool) -> "Model | None":
    """Return the model of the project; None if the model is new.

    Raises:
        UnknownModel: `is_new` is false, but the project does not have the model.
        Conflict: `is_new` is true, but the project has the model already.
    """
    from picture_queue.errors import Conflict

    models = await pq.models.list(include_disabled=True)
    if not is_new:
        return _find_model(models, model_id)
    if any(model.model_id == model_id for model in models):
        raise Conflict(
            "The project has that model already",
            detail=f"MODEL is {model_id!r}",
            hint=f"See: picture-queue models refresh {model_id}",
        )
    return None


async def _fetch(ctx: typer.Context, model_id: str, version: str | None) -> "FetchedModel":
    """Read a model from Replicate, or from the simulator of the embedded stack."""
    from picture_queue.errors import InvalidArgument, SettingsError, UnknownModel
    from picture_queue.providers import errors
    from picture_queue.providers.replicate.client import ReplicateClient
    from picture_queue.providers.replicate.schema import fetch_model
    from picture_queue.settings import ReplicateSettings

    target = resolve(ctx)
    settings = ReplicateSettings.from_env()
    if settings is None and target.replicate_url and target.replicate_token:
        settings = ReplicateSettings(target.replicate_token, target.replicate_url)
    if settings is None:
        raise SettingsError(
            "REPLICATE_API_TOKEN is not set",
            hint="Set it: the inputs of a model are read from the API of Replicate",
        )
    async with ReplicateClient(settings.token, base_url=settings.base_url) as client:
        try:
            fetched = await fetch_model(client, model_id, version)
        except errors.ResourceNotFound as error:
            raise UnknownModel(
                "Replicate has no such model or version",
                detail=f"MODEL is {model_id + (':' + version if version else '')!r}",
                hint="Copy owner/name from the address of its page",
            ) from error
    if fetched.secrets:
        raise InvalidArgument(
            "That model cannot be offered",
            detail=f"{model_id} requires the secret input {fetched.secrets[0]}, "
            "and inputs are stored with the generation",
            hint="Use a model without such an input",
        )
    return fetched


def _read_models(pq: "PictureQueue", kind: str | None = None) -> "list[Model]":
    """Return the models; with a service key also models that are disabled or cannot be offered."""
    from picture_queue.errors import NotAllowed

    try:
        return pq.models.list(kind=kind, include_disabled=True)
    except NotAllowed:
        return pq.models.list(kind=kind)


def _find_model(models: "list[Model]", model_id: str) -> "Model":
    from picture_queue.errors import UnknownModel

    for model in models:
        if model.model_id == model_id:
            return model
    raise UnknownModel(
        "This project does not offer that model",
        detail=f"MODEL is {model_id!r}",
        hint="See: picture-queue models list",
    )
