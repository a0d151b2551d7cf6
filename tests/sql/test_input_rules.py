"""The operator's rules over inputs, and the models of a project."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest

SCHNELL = "black-forest-labs/flux-schnell"
SDXL = "stability-ai/sdxl"
TURBO = "stability-ai/stable-diffusion-3.5-large-turbo"  # its list of inputs is incomplete
CLARITY = "philz1337x/clarity-upscaler"
START = "select start_generation($1, $2, $3, $4)"
SET = "select set_input_rule($1, $2, $3, $4, $5)"
APPLY = "select picture_queue._apply_input_rules($1, $2, $3)"


async def read_sent_input(db: Any, model: str, model_input: dict[str, Any]) -> Any:
    """Start a generation and return the input that its prediction would get."""
    started = await db.value(START, "a cat", model, model_input, {})
    return await db.value(
        "select input from generations where id = $1", UUID(started["generation_id"])
    )


@pytest.mark.parametrize(
    ("model", "model_input", "problem"),
    [
        (SCHNELL, {"disable_safety_checker": True}, "project permits only false"),
        (TURBO, {"Disable_Safety_Checker": True}, "project permits only false"),
        (TURBO, {"enable_safety_checker": False}, "project permits only true"),
        ("black-forest-labs/flux-pro", {"safety_tolerance": 5}, "maximum of this project"),
        (
            "google/imagen-4",
            {"safety_filter_level": "block_low_and_above"},
            'project permits only "block_medium_and_above"',
        ),
        (SDXL, {"replicate_weights": "https://example.com/w.tar"}, "not permitted in this project"),
        (SDXL, {"lora_scale": 0.5}, "not permitted in this project"),
        ("qwen/qwen-image", {"lora_weights": "me/w"}, "not permitted in this project"),
        ("qwen/qwen-image", {"extra_lora": "me/w"}, "not permitted in this project"),
        (CLARITY, {"lora_links": "https://x"}, "not permitted in this project"),
        (CLARITY, {"custom_sd_model": "https://x"}, "not permitted in this project"),
        (TURBO, {"webhook": "https://example.com"}, "not permitted in this project"),
        (TURBO, {"webhook_events_filter": ["logs"]}, "not permitted in this project"),
        (TURBO, {"openai_api_key": "sk-1"}, "not permitted in this project"),
        (TURBO, {"hf_token": "hf_1"}, "not permitted in this project"),
        ("minimax/image-01", {"number_of_images": 9}, "maximum of this project"),
        ("bytedance/seedream-4", {"max_images": 15}, "maximum of this project"),
        (SDXL, {"width": 100_000}, "maximum of this project"),
        (SDXL, {"height": 2049}, "maximum of this project"),
        (SDXL, {"num_inference_steps": 500}, "maximum of this project"),
        (SDXL, {"refine_steps": 101}, "maximum of this project"),
        ("qwen/qwen-image", {"num_inference_steps": 1_000_000}, "maximum of this project"),
        (CLARITY, {"scale_factor": 16}, "maximum of this project"),
        (TURBO, {"num_outputs": "8"}, "maximum of this project"),
        (TURBO, {"width": " 9e3 "}, "maximum of this project"),
        *(
            ("qwen/qwen-image", {"num_outputs": number}, "maximum of this project")
            # Python reads these texts as numbers: "9_9" as 99, and digits of other scripts.
            for number in ("9_9", "1e100", " inf", "NaN", [99], ["9"], "９", "٩", "𝟿", "\u00a09")
        ),
        *(
            ("qwen/qwen-image", {"num_outputs": number}, "maximum of this project")
            # Digits of Thai, Bengali and Adlam, space of Python, a number of JavaScript.
            for number in ("๙", ["৯"], "\U0001e959", "1\u0e59", "\x1c9", "\x859", "0xff")
        ),
        # Numbers that are longer than 200 characters.
        (TURBO, {"width": "0" * 201 + "9999"}, "maximum of this project"),
        (TURBO, {"num_outputs": ["0" * 201 + "9"]}, "maximum of this project"),
        (TURBO, {"width": "0" * 400 + "๙๙๙๙"}, "maximum of this project"),
        (TURBO, {"width": "1" + "_0" * 150}, "maximum of this project"),
        (TURBO, {"width": "9e0000000000003"}, "maximum of this project"),
        (SDXL, {"negative_prompt": "x" * 4001}, "has over 4000 characters"),
        (TURBO, {"unlisted": "x" * 4001}, "has over 4000 characters"),
        (
            "black-forest-labs/flux-2-pro",
            {"input_images": ["https://example.com/a.png"] * 11},
            "has 11 entries, this project permits 10",
        ),
    ],
)
async def test_a_user_cannot_set_inputs_that_raise_costs_or_turn_off_safety(
    db, model, model_input, problem
):
    """The models accept each of these inputs; only the default input rules refuse them."""
    await db.act_as("authenticated", uuid4())
    required = {"image": "https://example.com/a.png"} if model == CLARITY else {}
    refused = await db.refusal(START, "a cat", model, {**required, **model_input}, {})
    (name,) = model_input
    assert refused.message == "PQ_INVALID_INPUT: the input does not fit the model"
    assert refused.detail.startswith(f"input.{name} is ")
    assert problem in refused.detail
    assert refused.hint


@pytest.mark.parametrize(
    "model_input",
    [
        {"num_outputs": "4"},
        {"width": " 1.5e3 "},
        {"width": "1024x1024"},
        {"width": "auto"},
        {"height": "2048.0000"},
        {"width": "1:1"},
        {"height": "½ of the width"},
        {"style_images": ["https://example.com/ä.png?signature=" + "9" * 300]},
    ],
)
async def test_texts_within_a_cap_are_accepted_for_an_unlisted_input(db, model_input):
    assert await read_sent_input(db, TURBO, model_input) == model_input


async def test_a_rule_applies_to_a_service_key_until_it_is_deleted(db):
    model_input = {"disable_safety_checker": True}
    assert (await db.refusal(START, "a cat", SCHNELL, model_input, {})).message.startswith(
        "PQ_INVALID"
    )
    await db.value("select delete_input_rule('*', 'disable_safety*', 'lock')")
    assert await read_sent_input(db, SCHNELL, model_input) == model_input


async def test_a_form_may_send_the_defaults_of_the_model(db):
    model_input = {"disable_safety_checker": False, "lora_scale": 0.6, "num_outputs": 1}
    assert await read_sent_input(db, SDXL, model_input) == {"num_outputs": 1}


async def test_a_locked_value_that_the_model_lacks_as_a_default_is_sent(db):
    model = "google/imagen-4-fast"
    expected = {"safety_filter_level": "block_medium_and_above"}
    for model_input in ({}, {"safety_filter_level": "block_only_high"}, expected):
        assert await read_sent_input(db, model, model_input) == expected


async def test_a_default_of_the_project_is_sent_if_none_is_given(db):
    await db.value(SET, SCHNELL, "output_format", "default", "png", None)
    assert await read_sent_input(db, SCHNELL, {}) == {"output_format": "png"}
    assert await read_sent_input(db, SCHNELL, {"output_format": "webp"}) == {
        "output_format": "webp"
    }


async def test_a_default_of_the_model_above_a_cap_is_lowered(db):
    await db.value(SET, SDXL, "num_inference_steps", "cap", 30, None)
    for model_input in ({}, {"num_inference_steps": 50}):  # 50 is the default of the model
        assert await read_sent_input(db, SDXL, model_input) == {"num_inference_steps": 30}
    assert await read_sent_input(db, SDXL, {"num_inference_steps": 20}) == {
        "num_inference_steps": 20
    }


async def test_single_values_can_be_refused(db):
    model = "google/nano-banana-pro"
    await db.value(SET, model, "resolution", "refuse", ["4K"], None)
    refused = await db.refusal(START, "a cat", model, {"resolution": "4K"}, {})
    assert refused.detail == (
        'input.resolution is "4K" and is a value that this project does not permit'
    )
    assert (await read_sent_input(db, model, {"resolution": "1K"}))["resolution"] == "1K"


async def test_a_refused_value_is_refused_in_a_list_too(db):
    model, bad = "black-forest-labs/flux-2-pro", "https://bad.example/a.png"
    await db.value("select set_input_rule($1, 'input_images', 'refuse', $2)", model, [bad])
    await db.act_as("authenticated", uuid4())
    for images in ([bad], ["https://good.example/a.png", bad]):
        refused = await db.refusal(START, "a cat", model, {"input_images": images}, {})
        assert "does not permit" in refused.detail
    await db.value(START, "a cat", model, {"input_images": []}, {})
    await db.value(START, "a cat", model, {"input_images": ["https://good.example/a.png"]}, {})


async def test_a_default_of_the_operator_may_be_a_file_of_the_operator(db):
    model, file = "google/nano-banana", f"storage:uploads/{uuid4()}/logo.png"
    await db.value("select set_input_rule($1, 'image_input', 'default', $2)", model, [file])
    await db.act_as("authenticated", uuid4())
    await db.value(START, "a cat", model, {}, {})
    refused = await db.refusal(START, "a cat", model, {"image_input": [file]}, {})
    assert "is not a file of the user" in refused.detail
    refused = await db.refusal(START, "a cat", model, {"image_input": [None]}, {})
    assert refused.message.startswith("PQ_INVALID_INPUT")


async def test_a_job_names_the_inputs_whose_files_the_operator_has_added(db):
    model, file = "google/nano-banana", f"storage:uploads/{uuid4()}/logo.png"
    await db.value("select set_input_rule($1, 'image_input', 'default', $2)", model, [file])
    user = uuid4()
    await db.act_as("authenticated", user)
    own = f"storage:uploads/{user}/own.png"
    files = []
    for given in ({}, {"image_input": [own]}, {"image_input": ["https://example.com/a.png"]}):
        started = await db.value(START, "a cat", model, given, {})
        payload = await db.value(
            "select payload from job_queue where id = $1", UUID(started["job_id"])
        )
        files.append(payload.get("operator_files"))
    assert files == [["image_input"], None, None]


@pytest.mark.parametrize(
    "path",
    [
        "uploads/{other}/a.png",
        "pictures/{other}/1/a.png",
        "secrets/{user}/a.png",
        "uploads/{user}/../{other}/a.png",
        "uploads/{user}",
        "",
    ],
)
@pytest.mark.parametrize("form", ["{}", "[{}]", "[[{}]]", '{{"a": {{"b": [1, {}]}}}}'])
async def test_a_user_cannot_name_a_foreign_file_at_any_depth(db, path, form):
    user = uuid4()
    await db.act_as("authenticated", user)

    async def start(file: str) -> Any:
        given = {"unlisted": json.loads(form.format(json.dumps(file)))}
        return await db.refusal(START, "a cat", TURBO, given, {})

    refused = await start("storage:" + path.format(user=user, other=uuid4()))
    assert "is not a file of the user" in refused.detail
    assert refused.message.startswith("PQ_INVALID_INPUT")


async def test_a_user_without_a_budget_gets_no_time_for_another_try(db):
    await db.value("select set_budget('user:*', $1)", {"per_minute": 0})
    await db.act_as("authenticated", uuid4())
    refused = await db.refusal(START, "a cat", SCHNELL, {}, {})
    assert refused.message.startswith("PQ_RATE_LIMITED")
    assert "retry_after" not in refused.detail


async def test_the_most_specific_rule_applies(db):
    async def highest(plan: str | None) -> int:
        """Return the highest num_outputs that the rules permit to users of the plan."""
        permitted = 0
        for number in (1, 2, 3, 4):
            try:
                async with db.connection.transaction():
                    await db.value(APPLY, SCHNELL, plan, {"num_outputs": number})
                    permitted = number
            except Exception:
                return permitted
        return permitted

    assert await highest(None) == 4
    for model, name, value, plan in (
        ("*", "num_*", 1, None),
        ("*", "num_outputs", 2, None),
    ):
        await db.value(SET, model, name, "cap", value, plan)
    assert await highest(None) == 2
    await db.value(SET, "black-forest-labs/*", "num_outputs", "cap", 3, None)
    assert await highest(None) == 3
    await db.value(SET, SCHNELL, "*", "cap", 1, None)
    assert await highest(None) == 1
    await db.value(SET, "*", "num_outputs", "cap", 2, "studio")
    assert (await highest("studio"), await highest("free"), await highest(None)) == (2, 1, 1)
    await db.value(SET, "*", "num_outputs", "allow", None, "pro")
    assert (await highest("pro"), await highest("studio")) == (4, 2)


async def test_a_rule_can_allow_a_plan_an_input_that_is_refused_to_other_users(db):
    model_input = {"replicate_weights": "https://example.com/w.tar"}
    await db.value(SET, SDXL, "replicate_weights", "allow", None, "studio")
    assert await db.value(APPLY, SDXL, "studio", model_input) == model_input
    for plan in (None, "free"):
        refused = await db.refusal(APPLY, SDXL, plan, model_input)
        assert "is not permitted in this project" in refused.detail


async def test_an_underscore_in_a_pattern_stands_for_itself(db):
    await db.value(SET, "*", "num_outputsX", "refuse", None, None)
    await db.value(SET, "*", "gofast", "refuse", None, None)
    model_input = {"num_outputs": 2, "go_fast": False}
    assert await read_sent_input(db, SCHNELL, model_input) == model_input


@pytest.mark.parametrize(
    ("args", "detail"),
    [
        (("", "x", "refuse", None, None), "model is ''"),
        (("a b", "x", "refuse", None, None), "model is 'a b'"),
        (("*", "x y", "refuse", None, None), "input is 'x y'"),
        (("*", "prompt", "refuse", None, None), "input is prompt, for which the setting"),
        (("*", "x", "forbid", None, None), "action is 'forbid', not lock, default, cap, refuse"),
        (("*", "x", "lock", None, None), "value is null, and lock needs a value"),
        (("*", "x", "cap", "many", None), 'value is "many", and cap needs a number'),
        (("*", "x", "refuse", 1, None), "value is 1, and refuse takes a list of values, or none"),
        (("*", "x", "allow", 1, None), "value is 1, and allow takes no value"),
        (("*", "x", "refuse", None, "a b"), "plan is 'a b'"),
        (("*", "x", "lock", "x" * 9000, None), "value has 9002 bytes, the limit is 8192"),
        (
            (SCHNELL, "output_format", "lock", "bmp", None),
            f'value is "bmp" and is not one of webp, jpg, png (output_format of {SCHNELL})',
        ),
    ],
)
async def test_a_rule_that_cannot_apply_is_refused(db, args, detail):
    refused = await db.refusal(SET, *args)
    assert refused.message.startswith(("PQ_INVALID_ARGUMENT: ", "PQ_TOO_LARGE: "))
    assert refused.detail.startswith(detail)


async def test_a_rule_is_replaced_listed_and_deleted(db):
    for value in (3, 2):
        rule = await db.value(SET, SCHNELL, "num_outputs", "cap", value, "free")
    assert rule == {
        "model": SCHNELL,
        "input": "num_outputs",
        "action": "cap",
        "value": 2,
        "plan": "free",
    }
    assert [r for r in await db.value("select list_input_rules()") if r["plan"]] == [rule]
    delete = "select delete_input_rule($1, 'num_outputs', 'cap', $2, $3)"
    request = uuid4()
    for _ in range(2):
        await db.run(delete, SCHNELL, "free", request)
    refused = await db.refusal(delete, SCHNELL, "free", uuid4())
    assert (refused.sqlstate, refused.message) == ("PT404", "PQ_UNKNOWN_RULE: no such rule")


async def test_an_input_of_more_than_a_hundred_fields_is_refused(db):
    model_input = {f"field{n}": n for n in range(101)}
    refused = await db.refusal(START, "a cat", TURBO, model_input, {})
    assert refused.detail == "input has 101 fields, at most 100 are possible"


async def test_list_models_shows_the_rules_by_input(db):
    models = {row["model_id"]: row for row in await db.value("select list_models()")}
    assert models[SCHNELL]["rules"] == {
        "disable_safety_checker": {"lock": False},
        "num_inference_steps": {"cap": 100},
        "num_outputs": {"cap": 4},
    }
    assert models[SDXL]["rules"]["replicate_weights"] == {"refuse": True}


async def test_users_see_only_the_models_that_they_can_use(db):
    await db.value("select set_model($1, $2)", SDXL, {"enabled": False})
    await db.act_as("authenticated", uuid4())
    shown = {row["model_id"] for row in await db.value("select list_models()")}
    assert not shown & {SDXL, "openai/gpt-image-1"}
    assert len(shown) == 50
    upscalers = await db.value("""select list_models('{"kind": "upscale"}')""")
    assert CLARITY in [row["model_id"] for row in upscalers]
    assert {row["kind"] for row in upscalers} == {"upscale"}
    refused = await db.refusal("""select list_models('{"include_disabled": true}')""")
    assert refused.message.startswith("PQ_NOT_ALLOWED: ")
    refused = await db.refusal(START, "a cat", SDXL, {}, {})
    assert refused.detail == f"model_id is '{SDXL}', which this project has disabled"


async def test_a_model_of_the_project_can_be_added_and_used(db):
    changes = {
        "kind": "upscale",
        "official": False,
        "version": "a" * 64,
        "inputs": [
            {"name": "image", "type": "string", "format": "uri", "required": True},
            {"name": "strength", "type": "number", "minimum": 0, "maximum": 1, "default": 0.5},
            {"name": "mode", "type": "string", "enum": ["fast", "good"]},
        ],
        "output": "uri",
        "price_usd_per_image": 0.01,
    }
    added = await db.value("select set_model($1, $2)", "me/mine", changes)
    assert {**added, **changes} == added
    assert (added["enabled"], added["unavailable_reason"]) == (True, None)
    model_input = {"image": "https://example.com/a.png", "strength": 0.2}
    started = await db.value(START, "", "me/mine", model_input, {})
    assert (await db.job(started["job_id"]))["job_type"] == "upscale-image"
    refused = await db.refusal(START, "", "me/mine", {**model_input, "mode": "bad"}, {})
    assert refused.detail == 'input.mode is "bad" and is not one of fast, good'
    changed = await db.value("select set_model($1, $2)", "me/mine", {"price_usd_per_image": None})
    assert (changed["price_usd_per_image"], changed["inputs"]) == (None, changes["inputs"])


@pytest.mark.parametrize(
    ("model", "changes", "detail"),
    [
        ("mine", {}, "model_id is 'mine'"),
        ("me/../mine", {}, "model_id is 'me/../mine'"),
        ("me/mine", {}, "changes.kind and changes.inputs are required for a new model"),
        ("me/mine", {"kind": "video", "inputs": []}, 'changes.kind is "video", not text-to-image'),
        (SCHNELL, {"colour": 1}, "changes.colour is not known"),
        (SCHNELL, {"also_kinds": ["video"]}, "changes.also_kinds has video, which is none of"),
        (SCHNELL, {"inputs": [1]}, "changes.inputs is not a list of up to 200 objects"),
        (SCHNELL, {"inputs": [{"name": "x"}]}, "changes.inputs[0].name and "),
        (SCHNELL, {"inputs": [{"name": "x", "type": "map"}]}, 'changes.inputs[0].type is "map"'),
        (
            SCHNELL,
            {"inputs": [{"name": "x", "type": "integer", "default": "a"}]},
            'changes.inputs[0].default is "a" and is not a whole number',
        ),
        (SCHNELL, {"inputs": [{"name": "x", "type": "string"}] * 2}, "changes.inputs has x twice"),
        (
            "openai/gpt-image-1",
            {"enabled": True},
            "changes.enabled is true, and openai/gpt-image-1 cannot be offered: it requires",
        ),
    ],
)
async def test_an_invalid_model_is_refused(db, model, changes, detail):
    refused = await db.refusal("select set_model($1, $2)", model, changes)
    assert refused.message.startswith("PQ_INVALID_ARGUMENT: ")
    assert refused.detail.startswith(detail)


async def test_the_default_model_stays_usable(db):
    refused = await db.refusal("select set_model($1, $2)", SCHNELL, {"enabled": False})
    assert refused.message.startswith("PQ_CONFLICT: ")
    for unusable in ("openai/gpt-image-1", "nobody/nothing"):
        refused = await db.refusal("select set_setting($1)", {"default_model": unusable})
        assert refused.message.startswith("PQ_UNKNOWN_MODEL: ")


async def test_a_repeated_start_with_another_kind_returns_the_first_generation(db):
    options = {"idempotency_key": uuid4().hex}
    model = "black-forest-labs/flux-dev"
    first = await db.value(START, "a cat", model, {}, options)
    again = await db.value(START, "a cat", model, {}, {**options, "kind": "image-variation"})
    assert again == first


async def test_a_model_with_a_default_prompt_needs_no_prompt(db):
    image = {"image": "https://example.com/a.png"}
    started = await db.value(START, "", CLARITY, image, {})
    assert started["status"] == "pending"
    refused = await db.refusal(START, "", SDXL, {}, {})  # it would draw its own default prompt
    assert refused.detail == "prompt is empty"


async def test_an_error_lists_a_bounded_number_of_values(db):
    """With all values of this model, the detail would have half a megabyte."""
    values = [f"{i:03}" + "x" * 497 for i in range(1000)]
    inputs = [
        {"name": "style", "type": "string", "enum": values},
        *({"name": f"i{n:02}" + "y" * 90, "type": "string"} for n in range(60)),
    ]
    model = {"kind": "upscale", "inputs": inputs}
    await db.value("select set_model('me/large', $1)", model)
    refused = await db.refusal(START, "", "me/large", {"style": "z"}, {})
    assert refused.detail.startswith('input.style is "z" and is not one of 000x')
    assert refused.detail.endswith(" and 980 others")
    assert len(refused.detail) < 2500
    assert refused.hint.endswith(" and 41 others") and len(refused.hint) < 2500
    for n in range(30):
        model_id = f"me/{n:02}" + "z" * 150
        await db.value("select set_model($1, $2)", model_id, {"kind": "vector", "inputs": []})
    refused = await db.refusal(START, "", "me/large", {}, {"kind": "vector"})
    assert " others" in refused.hint and len(refused.hint) < 2500


async def test_every_detail_and_hint_is_cut(db):
    call = "select picture_queue._raise_error('PQ_CONFLICT', $1, $1)"
    refused = await db.refusal(call, "x" * 100_000)
    assert (len(refused.detail), len(refused.hint)) == (4000, 4000)


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        ({"name": "safety_checker", "type": "string"}, "lock true"),
        ({"name": "moderation", "type": "string", "enum": ["low", "high"]}, 'lock "auto"'),
        ({"name": "scale", "type": "integer", "enum": [8, 16], "default": 8}, "cap 4"),
        ({"name": "scale", "type": "integer", "enum": [8, 16], "required": True}, "cap 4"),
        ({"name": "scale", "type": "integer", "minimum": 5, "required": True}, "cap 4"),
        ({"name": "hf_token", "type": "string", "required": True}, "refuse"),
    ],
)
async def test_a_model_with_an_input_that_a_rule_makes_unusable_is_refused(db, entry, rule):
    """If such a model were accepted, every generation of it would be refused."""
    call = "select set_model('me/model', $1)"
    model = {"kind": "upscale", "inputs": [entry]}
    refused = await db.refusal(call, model)
    assert refused.message.startswith("PQ_INVALID_ARGUMENT")
    assert refused.detail.startswith(f"changes.inputs has {entry['name']}, ")
    assert refused.detail.endswith(f"; its rules are {rule}")
    await db.value(SET, "me/model", entry["name"], "allow", None, None)
    await db.value(call, model)


async def test_a_rule_that_makes_a_model_unusable_is_refused(db):
    """Such a rule was accepted, and every generation of the model was refused."""
    inputs = [{"name": "scale", "type": "integer", "enum": [8, 16], "required": True}]
    await db.value(SET, "me/model", "scale", "allow", None, None)
    await db.value("select set_model('me/model', $1)", {"kind": "upscale", "inputs": inputs})
    delete = "select delete_input_rule($1, 'scale', $2)"
    refused = await db.refusal(delete, "me/model", "allow")  # the rule for all models permits 4
    assert refused.message.startswith("PQ_INVALID_ARGUMENT")
    assert refused.detail.startswith("model me/model has scale, ")
    await db.value(delete, "*", "cap")
    await db.value(delete, "me/model", "allow")
    refused = await db.refusal(SET, "me/*", "SCALE", "cap", 4, None)
    assert refused.message.startswith("PQ_INVALID_ARGUMENT")
    assert refused.detail == (
        "model me/model has scale, which is required, and of which the rules of this project "
        "permit no value; its rules are cap 4"
    )
    refused = await db.refusal(SET, "me/model", "scale", "refuse", None, None)
    assert refused.detail.startswith("model me/model has scale, ")
    disable = "select set_model('me/model', $1)"
    await db.value(disable, {"enabled": False})
    await db.value(SET, "me/*", "scale", "cap", 4, None)
    refused = await db.refusal(disable, {"enabled": True})
    assert refused.detail.startswith("changes.inputs has scale, ")


@pytest.mark.parametrize("action", ["lock", "default"])
@pytest.mark.parametrize("is_list", [False, True])
async def test_a_rule_cannot_name_a_picture_by_its_generation(db, action, is_list):
    """A generation did not wait for the picture that a rule added."""
    name = f"generation:{uuid4()}/1"
    value = [name] if is_list else name
    refused = await db.refusal(SET, "nobody/*", "mask", action, value, None)
    assert refused.message.startswith("PQ_INVALID_ARGUMENT")
    assert name in refused.detail and "storage:pictures/" in refused.detail


async def test_a_model_with_an_input_that_a_rule_restricts_is_accepted(db):
    await db.value(SET, "me/model", "image", "refuse", ["https://bad.example/a.png"], None)
    inputs = [
        {"name": "image", "type": "string", "format": "uri"},
        {"name": "scale", "type": "integer", "enum": [2, 8], "required": True},
        {"name": "width", "type": "integer", "maximum": 9000, "default": 4096},
        {"name": "moderation", "type": "string", "enum": ["low", "auto"]},
        {"name": "lora_scale", "type": "number"},
    ]
    await db.value("select set_model('me/model', $1)", {"kind": "upscale", "inputs": inputs})
    assert await read_sent_input_of(db, {"scale": 2}) == {
        "scale": 2,
        "width": 2048,
        "moderation": "auto",
    }


async def read_sent_input_of(db: Any, model_input: dict[str, Any]) -> Any:
    """Start a generation of me/model without a prompt and return the input that it sends."""
    started = await db.value(START, "", "me/model", model_input, {})
    return await db.value(
        "select input from generations where id = $1", UUID(started["generation_id"])
    )
