"""``picture-queue demo``: generate a picture on an embedded stack as a new user."""

from typing import Annotated

import typer

from picture_queue_cli.local import RealReplicate, expect_installed
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import expect_filled
from picture_queue_cli.pictures import DEFAULT_DIRECTORY, OutDirectory, make_directory

PROMPT = "A sailing boat at sunset"
# This model runs for some seconds and reports its progress.
MODEL = "black-forest-labs/flux-dev"


def demo(
    *,
    prompt: Annotated[
        str, typer.Option(metavar="TEXT", callback=expect_filled, help="Describe the picture.")
    ] = PROMPT,
    model: Annotated[str, typer.Option(metavar="MODEL", help="Use this model.")] = MODEL,
    directory: OutDirectory = DEFAULT_DIRECTORY,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the stack running and print its addresses.")
    ] = False,
    cut_socket: Annotated[
        bool, typer.Option("--cut-socket", help="Disconnect Realtime once the job is claimed.")
    ] = False,
    real_replicate: RealReplicate = False,
    as_json: JsonFlag = False,
) -> None:
    """Generate a picture on an embedded stack.

    Starts Supabase, a worker and a simulator of Replicate, signs up a user,
    generates a picture as that user, follows it over Realtime, saves it, and
    stops everything.
    """
    expect_installed()
    _expect_model(model)
    make_directory(directory)
    # This import is slow, so it comes after the checks.
    from picture_queue_cli.demo_run import DemoOptions, run_demo

    run_demo(DemoOptions(prompt, model, directory, keep, cut_socket, real_replicate, as_json))


def _expect_model(model_id: str) -> None:
    """Check that the catalogue has a model, before the stack starts.

    Raises:
        UnknownModel: The catalogue does not have it.
    """
    from picture_queue.errors import UnknownModel
    from picture_queue.providers.replicate.catalog import models

    if model_id not in models():
        raise UnknownModel(
            "No such model",
            detail=f"--model is {model_id!r}",
            hint=f"Use one of {', '.join(sorted(models()))}",
        )
