"""The shipped catalogue of models."""

from picture_queue.providers.replicate.catalog import models


def test_every_model_is_named_once_and_in_full() -> None:
    assert len(models()) >= 15
    assert all(len(model_id.split("/")) == 2 for model_id in models())


def test_what_is_not_official_can_be_run_by_version() -> None:
    by_version = [model for model in models().values() if not model.official and model.version]
    assert by_version
    assert all(len(model.version or "") == 64 for model in by_version)


def test_the_input_for_the_number_of_pictures_is_an_input() -> None:
    for model in models().values():
        if model.max_outputs_param is not None:
            known = model.input(model.max_outputs_param)
            assert known is not None
            assert known.type == "integer"


def test_an_input_that_is_not_there_is_none() -> None:
    assert models()["black-forest-labs/flux-schnell"].input("no_such_input") is None
