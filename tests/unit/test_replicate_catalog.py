"""The catalogue of models that the package ships."""

from picture_queue.providers.replicate.catalog import models


def test_every_model_id_has_an_owner_and_a_name() -> None:
    assert len(models()) >= 15
    assert all(len(model_id.split("/")) == 2 for model_id in models())


def test_the_version_of_a_community_model_is_a_full_hash() -> None:
    by_version = [model for model in models().values() if not model.official and model.version]
    assert by_version
    assert all(len(model.version or "") == 64 for model in by_version)


def test_the_parameter_for_the_image_count_is_an_integer_input() -> None:
    for model in models().values():
        if model.max_outputs_param is not None:
            parameter = model.input(model.max_outputs_param)
            assert parameter is not None
            assert parameter.type == "integer"


def test_an_unknown_input_is_none() -> None:
    assert models()["black-forest-labs/flux-schnell"].input("no_such_input") is None
