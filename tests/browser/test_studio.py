"""The pages show kinds, inputs, uploads, chains, batches, costs, waits and refusals."""

import pytest
from PIL import Image

pytestmark = [pytest.mark.extra, pytest.mark.timeout(120)]

HINT = "document.querySelector('.picture-field .hint')"


@pytest.fixture
def picture_file(tmp_path):
    """The path of a small PNG picture."""
    path = tmp_path / "boat.png"
    Image.new("RGB", (64, 48), (200, 80, 40)).save(path)
    return str(path)


async def select(studio, kind, model_id):
    """Select a kind and one of its models."""
    await studio.page("selectOption", "#kind", kind)
    await studio.page("selectOption", "#model", model_id)


async def generations(studio, db):
    """Return the generations of the user, in the order of the requests and steps."""
    return await db.fetch(
        "select * from generations where user_id = $1 order by batch_position, batch_step",
        studio.user_id,
    )


async def check_step(studio, kind):
    """Check the box that continues a chain with a kind."""
    await studio.page("check", f"#steps input[value={kind}]")


async def start_batch(studio, total):
    """Submit the form, and wait until the page shows a tile for each generation."""
    studio.note_start()
    await studio.page("click", "#generate")
    await studio.until(f"document.querySelectorAll('#tiles .tile').length === {total}")


def tiles(status):
    """Return a JavaScript expression for the number of tiles with a status."""
    return f"document.querySelectorAll('#tiles .tile[data-status={status}]').length"


async def test_the_form_shows_the_inputs_and_the_price_of_a_model(studio):
    assert await studio.text("#about-model") == "about 1 s · $0.003 a picture"
    assert await studio.text("#cost") == "Expected cost: $0.003"
    await studio.page("click", "#settings summary")
    steps = "document.querySelector('#input-num_inference_steps')"
    range_and_value = await studio.page("evaluate", f"[{steps}.min, {steps}.max, {steps}.value]")
    assert range_and_value == ["1", "4", "4"]
    # A rule of the operator locks the safety checker, so the form does not show it.
    assert await studio.page("evaluate", "document.querySelector('#input-go_fast').checked")
    assert not await studio.page(
        "evaluate", "!!document.querySelector('#input-disable_safety_checker')"
    )
    await studio.page("fill", "#input-num_outputs", "3")
    assert await studio.text("#cost") == "Expected cost: $0.009"
    await studio.page("selectOption", "#kind", "upscale")
    await studio.until("!document.querySelector('#prompt')?.offsetParent")


async def test_an_uploaded_picture_is_edited(studio, new_worker, picture_file):
    await select(studio, "image-edit", "black-forest-labs/flux-kontext-pro")
    await studio.page("setInputFiles", "#input-input_image", picture_file)
    await studio.until("document.querySelector('.preview')?.naturalWidth === 64")
    assert await studio.text("#input-input_image-hint") == "boat.png is uploaded"
    await studio.start("Make it night")
    generation = await studio.generation()
    assert generation["kind"] == "image-edit"
    assert f"storage:uploads/{studio.user_id}/" in generation["input"]
    async with new_worker():
        await studio.wait_for_picture()
    assert await studio.text("#paid") == "$0.04 paid"


async def test_an_unsuitable_file_is_refused_before_it_is_sent(studio, tmp_path):
    await select(studio, "image-edit", "black-forest-labs/flux-kontext-dev")
    path = tmp_path / "notes.gif"
    path.write_bytes(b"GIF89a")
    await studio.page("setInputFiles", "#input-input_image", str(path))
    await studio.until("document.querySelector('.problem')?.offsetParent")
    assert await studio.text(".problem") == "notes.gif is not a PNG, JPEG or WebP picture"


async def test_a_picture_of_the_gallery_becomes_an_input(studio, new_worker):
    await studio.start("A boat")
    async with new_worker():
        await studio.wait_for_picture()
        first = await studio.generation()
        await studio.page("click", "#history .use")
        await studio.until("document.querySelector('.preview')?.naturalWidth > 0")
        assert await studio.page("inputValue", "#kind") == "image-edit"
        await studio.until(f"{HINT}.textContent === 'From your gallery'")
        await studio.start("Make it red")
        await studio.wait_for_picture()
    assert f"generation:{first['id']}/1" in (await studio.generation())["input"]


async def test_a_chain_of_three_shows_each_step(studio, new_worker, db):
    await studio.page("fill", "#prompt", "A boat")
    await check_step(studio, "upscale")
    await check_step(studio, "background-removal")
    cost = await studio.text("#cost")
    assert cost == "3 generations · Expected cost: $0.005 + the computing time of 1"
    await start_batch(studio, 3)
    rows = await generations(studio, db)
    assert [row["kind"] for row in rows] == ["text-to-image", "upscale", "background-removal"]
    assert (await studio.text("#tiles .tile:nth-child(2)")).startswith("Upscale: after the one")
    async with new_worker():
        await studio.wait_for_state("completed")
        await studio.until(f"{tiles('completed')} === 3")
    assert await studio.text("#status") == "3 of 3 finished"
    assert (await studio.text("#paid")).endswith("paid")
    loaded = "[...document.querySelectorAll('#tiles img')].every((e) => e.naturalWidth > 0)"
    await studio.until(loaded)


async def test_all_of_a_batch_are_cancelled(studio, db):
    await studio.page("fill", "#prompt", "A boat")
    await studio.page("fill", "#count", "4")
    assert await studio.text("#generate") == "Generate all 4"
    await start_batch(studio, 4)
    rows = await generations(studio, db)
    assert len({row["input"] for row in rows}) == 4  # each has its own seed
    assert await studio.text("#cancel") == "Cancel all"
    await studio.page("click", "#cancel")
    await studio.wait_for_state("cancelled")
    await studio.until(f"{tiles('cancelled')} === 4")
    assert await studio.text("#status") == "0 of 4 finished, 4 cancelled"


async def test_a_batch_of_several_prompts_is_resumed_after_a_reload(studio, new_worker, db):
    await studio.page("fill", "#prompt", "A cat\n\nA dog")
    await studio.page("check", "#each-line")
    await start_batch(studio, 2)
    assert [row["prompt"] for row in await generations(studio, db)] == ["A cat", "A dog"]
    await studio.page("reload")
    await studio.until(f"{tiles('pending')} === 2")
    async with new_worker():
        await studio.until(f"{tiles('completed')} === 2")
        await studio.wait_for_state("completed")


async def test_a_batch_ends_without_events(studio, new_worker, faults):
    await faults(drop_messages=1000)
    await studio.page("fill", "#prompt", "A boat")
    await studio.page("fill", "#count", "2")
    await start_batch(studio, 2)
    async with new_worker():
        await studio.wait_for_state("completed")


async def test_a_batch_ends_after_the_device_slept_past_the_timeout(
    studio, new_worker, faults, until, db
):
    await studio.page("fill", "#prompt", "A boat")
    await studio.page("fill", "#count", "2")
    await start_batch(studio, 2)
    await studio.clock("install")
    await studio.page("reload")
    await studio.until(f"{tiles('pending')} === 2")
    await faults(network_cut=True)
    await studio.context("setOffline", True)

    async def finished():
        return all(row["finished_at"] for row in await generations(studio, db))

    async with new_worker():
        await until(finished)
    await studio.clock("fastForward", 11 * 60 * 1000)  # milliseconds: a sleep of eleven minutes
    await studio.context("setOffline", False)
    await faults(network_cut=False)
    await studio.wait_for_state("completed")


async def test_a_start_whose_response_is_lost_creates_one_batch(studio, db, faults):
    await faults(cut_after_commit=1, path="/rest/v1/rpc/start_generations")
    await studio.page("fill", "#prompt", "A boat")
    await studio.page("fill", "#count", "2")
    await start_batch(studio, 2)
    assert len(await generations(studio, db)) == 2


async def test_a_refusal_by_a_rate_names_the_time_of_the_next_attempt(studio, service):
    await service.budgets.set(f"user:{studio.user_id}", per_minute=1)
    await service.generations.start("A boat", user_id=studio.user_id)
    await studio.page("fill", "#prompt", "A second boat")
    await studio.page("click", "#generate")
    await studio.until("document.querySelector('#error')?.dataset.code === 'PQ_RATE_LIMITED'")
    text = await studio.text("#error")
    assert text.startswith("You can start 1 generation each minute, and this would be one more. ")
    assert "You can try again at " in text and "PQ_" not in text
    await studio.wait_for_state("nothing")


async def test_a_refusal_by_credits_names_the_amounts(studio, service):
    await service.budgets.set(f"user:{studio.user_id}", needs_credits=True)
    await service.accounts.grant(studio.user_id, 0.01)
    await studio.page("reload")
    await studio.until("document.querySelector('#account')?.textContent.includes('credits')")
    assert (await studio.text("#account")).startswith("$0.01 credits")
    await studio.page("fill", "#prompt", "A boat")
    await studio.page("fill", "#count", "4")
    await studio.page("click", "#generate")
    await studio.until("document.querySelector('#error')?.dataset.code === 'PQ_NO_CREDIT'")
    assert (await studio.text("#error")).startswith("You have $0.001 of credits left, and this ")


async def test_a_refused_input_is_named_and_focused(studio):
    await studio.page("fill", "#prompt", "A boat")
    await studio.page("click", "#settings summary")
    # The browser would refuse this value. So remove the limit from the field.
    await studio.page(
        "evaluate", "document.querySelector('#input-num_inference_steps').removeAttribute('max')"
    )
    await studio.page("fill", "#input-num_inference_steps", "9")
    await studio.page("click", "#generate")
    await studio.until("document.querySelector('#error')?.dataset.code === 'PQ_INVALID_INPUT'")
    assert await studio.text("#error") == "Number of inference steps is 9 and is above 4."
    await studio.until("document.activeElement.id === 'input-num_inference_steps'")
    await studio.until("document.activeElement.getAttribute('aria-invalid') === 'true'")


async def test_a_page_shows_why_a_generation_waits(studio, service):
    await service.queues.pause("default")
    try:
        await studio.start()
        await studio.until("document.querySelector('#wait')?.dataset.reason === 'queue_paused'")
        text = await studio.text("#wait")
        assert text == "The queue is paused. It continues when the operator resumes it."
    finally:
        await service.queues.resume("default")


async def test_a_page_fits_a_phone(studio, new_worker):
    await studio.page("setViewportSize", {"width": 360, "height": 740})
    await studio.page("fill", "#prompt", "A boat")
    await studio.page("fill", "#count", "3")
    await studio.page("click", "#settings summary")
    await check_step(studio, "upscale")
    await start_batch(studio, 6)
    async with new_worker():
        await studio.until(f"{tiles('completed')} === 6")
        await studio.until("document.querySelectorAll('#history .tile').length === 6")
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert await studio.page("evaluate", overflow) == 0
    # Each control has a name for screen readers, and is large enough for a finger.
    unnamed = (
        "[...document.querySelectorAll('input:not([type=hidden]), select, textarea, button, a')]"
        ".filter((e) => e.offsetParent && !e.labels?.length && !e.textContent.trim()"
        " && !e.getAttribute('aria-label') && !e.querySelector('img')?.alt && !e.title)"
        ".map((e) => e.outerHTML)"
    )
    assert await studio.page("evaluate", unnamed) == []
    small = (
        "[...document.querySelectorAll('main button, main select')]"
        ".filter((e) => e.offsetParent && e.offsetHeight < 36).map((e) => e.outerHTML)"
    )
    assert await studio.page("evaluate", small) == []
