"""``picture-queue demo``: a picture on a local stack, as a user sees it come."""

from typing import Annotated

import typer

from picture_queue_cli.local import RealReplicate, expect_installed
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import expect_filled
from picture_queue_cli.pictures import DEFAULT_DIRECTORY, OutDirectory, make_directory

PROMPT = "A sailing boat at sunset"
# Runs for some seconds, and its logs say how far it is.
MODEL = "black-forest-labs/flux-dev"


def demo(
    *,
    prompt: Annotated[
        str, typer.Option(metavar="TEXT", callback=expect_filled, help="Describe the picture.")
    ] = PROMPT,
    model: Annotated[str, typer.Option(metavar="MODEL", help="Use this model.")] = MODEL,
    directory: OutDirectory = DEFAULT_DIRECTORY,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave it running, and print addresses and keys.")
    ] = False,
    cut_socket: Annotated[
        bool, typer.Option("--cut-socket", help="Cut off Realtime once the job is claimed.")
    ] = False,
    real_replicate: RealReplicate = False,
    as_json: JsonFlag = False,
) -> None:
    """Run everything on this machine and generate a picture.

    Starts Supabase, a worker and a simulator of Replicate, signs a user up,
    asks for a picture as that user, follows it over Realtime, saves it, and
    stops everything.
    """
    expect_installed()
    _expect_model(model)
    make_directory(directory)
    # What it takes to run it is loaded when it is run.
    from picture_queue_cli.demo_run import DemoOptions, run_demo

    run_demo(DemoOptions(prompt, model, directory, keep, cut_socket, real_replicate, as_json))


def _expect_model(model_id: str) -> None:
    """Check that a new project offers a model, before one is started.

    Raises:
        UnknownModel: It does not.
    """
    from picture_queue.errors import UnknownModel
    from picture_queue.providers.replicate.catalog import models

    if model_id not in models():
        raise UnknownModel(
            "No such model",
            detail=f"--model is {model_id!r}",
            hint=f"Give one of {', '.join(sorted(models()))}",
        )
