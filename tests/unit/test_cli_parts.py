"""The command line's functions that parse input and render output."""

import io
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from uuid import UUID, uuid4

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from picture_queue.errors import InvalidArgument
from picture_queue.records import (
    Generation,
    Health,
    Hold,
    JobEvent,
    JobStatus,
    Tenant,
    WorkerSeen,
)
from picture_queue.records import Image as Picture
from picture_queue_cli import health, render
from picture_queue_cli.filters import describe_no_match
from picture_queue_cli.options import HOLDS, STATUSES
from picture_queue_cli.parsing import (
    Rate,
    parse_changes,
    parse_duration,
    parse_pairs,
    parse_rate,
    parse_time,
    read_object,
    resolve_resume_at,
)
from picture_queue_cli.pictures import file_name
from picture_queue_cli.preview import preview
from picture_queue_cli.progress_bar import event_line
from picture_queue_cli.project import read_all_pages
from picture_queue_cli.timeline import Timeline

NOW = datetime(2030, 1, 31, 8, 0, tzinfo=UTC)


def make_event(status: str, progress: int = 0, source: Any = "socket", **fields: Any) -> JobEvent:
    return JobEvent.model_validate(
        {
            "job_id": uuid4(),
            "job_type": "generate-image",
            "queue": "default",
            "status": status,
            "hold": None,
            "progress": progress,
            "message": None,
            "attempt": 1,
            "version": 1,
            "at": NOW,
            "source": source,
            **fields,
        }
    )


# --- Parsing ---


def test_the_choices_of_status_and_hold_equal_those_of_the_library() -> None:
    assert list(STATUSES) == [state.value for state in JobStatus]
    assert set(HOLDS) == set(get_args(Hold))


def test_a_payload_is_read_from_an_argument_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "payload.json"
    file.write_text('{"a": "ä"}', encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"a": 2}')))
    assert read_object('{"a": 1}') == {"a": 1}
    assert read_object(f"@{file}") == {"a": "ä"}
    assert read_object("-") == {"a": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{path: 1}", "PAYLOAD is not JSON"),
        ("[1, 2]", "PAYLOAD is not a JSON object: it is [1, 2]"),
        ("@/nowhere/x.json", "PAYLOAD cannot be read: /nowhere/x.json: No such file"),
    ],
)
def test_an_invalid_payload_is_refused(text: str, expected: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        read_object(text)
    assert str(raised.value).startswith(expected)


def test_a_payload_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        read_object(f"@{tmp_path / 'x'}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("num_outputs=2", 2),
        ("go_fast=false", False),
        ("aspect_ratio=16:9", "16:9"),
        ('seed="7"', "7"),
        ("style=a=b", "a=b"),
        ("note=", ""),
        ("seed=NaN", "NaN"),
    ],
)
def test_a_value_is_parsed_as_json_if_possible_and_else_as_text(text: str, value: object) -> None:
    assert list(parse_pairs([text]).values()) == [value]


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("10min", 600), ("2h", 7200), ("1 d", 86400)],
)
def test_a_duration_is_a_number_with_an_optional_unit(delay: str, seconds: float) -> None:
    assert parse_duration(delay) == seconds


def test_a_time_may_have_a_utc_offset() -> None:
    assert parse_time("2030-01-31T09:00+01:00") == NOW


def test_a_pause_ends_after_a_duration_or_at_a_time_but_not_both() -> None:
    resume_at = resolve_resume_at(90, None)
    assert resume_at is not None
    assert 85 < (resume_at - datetime.now(UTC)).total_seconds() <= 90
    assert resolve_resume_at(None, NOW) == NOW
    assert resolve_resume_at(None, None) is None
    with pytest.raises(typer.BadParameter, match="not both"):
        resolve_resume_at(3600, NOW)


def test_settings_are_parsed_as_json_and_default_becomes_none() -> None:
    assert parse_changes(["a=5", "b=true", "c=none", "d=default", "e=0.5"]) == {
        "a": 5,
        "b": True,
        "c": "none",
        "d": None,
        "e": 0.5,
    }
    with pytest.raises(typer.BadParameter, match="NAME=VALUE"):
        parse_changes(["max_attempts"])


def test_a_setting_in_seconds_accepts_a_unit() -> None:
    changes = parse_changes(
        ["lease_seconds=5m", "backoff_seconds=1s", "timeout_seconds=90", "name=5m"]
    )
    assert changes == {
        "lease_seconds": 300,
        "backoff_seconds": 1,
        "timeout_seconds": 90,
        "name": "5m",
    }
    with pytest.raises(typer.BadParameter, match="'soon' is not a duration") as raised:
        parse_changes(["lease_seconds=soon"])
    assert raised.value.param_hint == "lease_seconds"


@pytest.mark.parametrize(
    ("text", "rate"), [("10/1m", Rate(10, 60)), ("5/s", Rate(5, 1)), ("7/90s", Rate(7, 90))]
)
def test_a_rate_is_a_count_per_duration(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["10", "x/1m", "10/soon"])
def test_an_invalid_rate_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_rate(text)


# --- Rendering ---


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-1, "0 s"), (59, "59 s"), (150, "2 min"), (7200, "2 h"), (9e5, "10 d")]
)
def test_a_duration_is_shown_in_one_unit(seconds: float, shown: str) -> None:
    assert render.duration(seconds) == shown


def test_a_time_is_shown_relative_to_now() -> None:
    now = datetime.now(UTC)
    assert render.format_age(now - timedelta(seconds=300.2)) == "5 min ago"
    assert render.format_age(now + timedelta(seconds=300.2)) == "in 5 min"
    assert render.format_age(None) == ""


@pytest.mark.parametrize(
    ("seconds", "running", "state", "has_warning"),
    [
        (3, 0, "idle", False),
        (3, 2, "busy with 2 jobs", False),
        (37, 0, "no contact for 37 s", True),
        (37, 1, "no contact for 37 s, holds 1 job", True),
    ],
)
def test_a_worker_without_a_recent_heartbeat_is_reported(
    seconds: float, running: int, state: str, has_warning: bool
) -> None:
    worker = WorkerSeen(
        worker="w",
        queues=("default",),
        job_types=(),
        idle=True,
        seen_at=NOW,
        seen_seconds=seconds,
        running=running,
    )
    report = Health(queues=(), workers=(worker,), job_types_without_worker=(), stuck=0)
    assert health._worker_state(worker).plain == state
    assert bool(health._warnings(report, [])) is has_warning


def test_a_filter_without_a_match_is_shown_on_one_line_as_it_was_typed() -> None:
    filter = {"queue": "mail", "reason": "no space\n\x1b", "metadata": {"a": True}}
    assert describe_no_match(filter) == (
        r"""No job matches --queue mail and --reason 'no space\n\x1b' and --metadata {"a": true}."""
    )


def test_an_event_is_shown_on_one_line() -> None:
    line = event_line(make_event("processing", 40, message="generating", hold="parked"))
    assert line.endswith("processing (parked)  40 %  generating  [socket]")


def make_generation(prompt: str, count: int, mime_type: str = "image/webp") -> Generation:
    generation_id = UUID("01900000-0000-7000-8000-000012345678")
    images = [
        Picture(
            id=uuid4(),
            generation_id=generation_id,
            n=n,
            path=f"x/{n}",
            mime_type=mime_type,
            width=1,
            height=1,
            bytes=1,
            created_at=NOW,
        )
        for n in range(1, count + 1)
    ]
    return Generation(
        id=generation_id,
        user_id=None,
        job_id=uuid4(),
        model_id="m",
        prompt=prompt,
        input={},
        status=JobStatus.COMPLETED,
        error=None,
        images=tuple(images),
        created_at=NOW,
        updated_at=NOW,
        finished_at=NOW,
    )


@pytest.mark.parametrize(
    ("generation", "names"),
    [
        (make_generation("A cat, asleep!", 1), ["a-cat-asleep-12345678.webp"]),
        (make_generation("x" * 99, 1, "image/png"), [f"{'x' * 40}-12345678.png"]),
        (make_generation("../../etc/passwd", 1), ["etc-passwd-12345678.webp"]),
        (make_generation("", 1, "image/svg+xml"), ["12345678.svg"]),
        (make_generation("猫", 2, "image/jpeg"), ["猫-12345678-1.jpg", "猫-12345678-2.jpg"]),
    ],
    ids=lambda value: value.prompt[:10] if isinstance(value, Generation) else "",
)
def test_a_file_is_named_after_its_prompt(generation: Generation, names: list[str]) -> None:
    assert [file_name(generation, image) for image in generation.images] == names


def make_console(width: int = 40, height: int = 20) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        width=width,
        height=height,
        _environ={},
    )


def test_a_preview_has_the_colours_of_the_image(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    picture = Image.new("RGB", (64, 64), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 32, 64, 64))
    picture.save(path)
    console = make_console()
    text = preview(path, console)
    assert text is not None
    lines = text.plain.split("\n")
    assert len(lines) == 13, "the preview does not fill two thirds of the screen"
    assert {len(line) for line in lines} == {26}
    console.print(text)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    # Each character shows two pixels: the upper is the foreground, the lower the background.
    assert "38;2;255;0;0;48;2;255;0;0m▀" in shown, "the upper half is not red"
    assert "38;2;0;0;255;48;2;0;0;255m▀" in shown, "the lower half is not blue"


def test_no_preview_is_made_for_a_pipe_or_a_vector_image(tmp_path: Path) -> None:
    (tmp_path / "x.svg").write_text("<svg/>")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    assert preview(tmp_path / "x.svg", make_console()) is None
    assert preview(tmp_path / "x.png", Console(file=io.StringIO())) is None


_MEASURE_PEAK_MEMORY = """
import resource, sys
from pathlib import Path
from rich.console import Console
from picture_queue_cli.preview import preview
import PIL.Image, PIL.PngImagePlugin, PIL.GifImagePlugin, PIL.JpegImagePlugin, PIL.WebPImagePlugin
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
console = Console(force_terminal=True, color_system="truecolor", _environ={})
before = peak()
for path in sys.argv[1:]:
    assert preview(Path(path), console) is None
print(peak() - before)
"""


def test_a_preview_of_a_huge_image_takes_little_memory(tmp_path: Path) -> None:
    """Without a limit on the size, the preview of a PNG file of 17 KB takes 708 MB."""
    huge_image = Image.new("1", (11_000, 11_000))
    files = []
    for extension, options in (("png", {}), ("gif", {}), ("webp", {"lossless": True})):
        files.append(str(tmp_path / f"x.{extension}"))
        huge_image.save(files[-1], **options)
    # The header of a GIF may state another size: here one pixel, for 121 million pixels.
    gif = bytearray(Path(files[1]).read_bytes())
    gif[6:10] = b"\1\0\1\0"
    files.append(str(tmp_path / "y.gif"))
    Path(files[-1]).write_bytes(gif)
    svg = tmp_path / "x.svg"
    svg.write_text('<svg width="9" height="9"/>')
    process = subprocess.run(
        [sys.executable, "-c", _MEASURE_PEAK_MEMORY, *files, str(svg)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(process.stdout) < 30  # In MB.


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]), st.data())
def test_a_preview_of_a_corrupt_image_never_raises(
    tmp_path: Path, image_format: str, data: Any
) -> None:
    """Change up to 8 bytes of an image file, and truncate the file."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (255, 0, 0)).save(file, image_format)
    content = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(0, 8))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path / "x"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    preview(path, make_console())


def test_a_timeline_records_the_first_event_of_each_state_and_its_source() -> None:
    timeline = Timeline()
    timeline.mark("answered", "answer")
    timeline.record_event(make_event("pending", source="snapshot"))
    timeline.record_event(make_event("processing", 0, "snapshot"))
    timeline.record_event(make_event("processing", 30, "socket"))
    timeline.record_event(make_event("processing", 60, "poll"))
    timeline.record_event(make_event("completed", 100, "socket"))
    timeline.mark_at("stored", datetime.now(UTC) + timedelta(seconds=60))
    report = timeline.as_json()
    assert {name: moment["source"] for name, moment in report["timeline"].items()} == {
        "answered": "answer",
        "claimed": "snapshot",
        "first_progress": "socket",
        "completed": "socket",
        "stored": "row",
    }
    assert [event["source"] for event in report["events"]] == [
        "snapshot",
        "snapshot",
        "socket",
        "poll",
        "socket",
    ]
    assert timeline.sources() == "5 states: 2 from snapshot, 2 from socket, 1 from poll"
    assert report["timeline"]["stored"]["ms"] == pytest.approx(60_000, abs=1000)


def test_a_list_of_several_pages_is_read_to_its_end() -> None:
    tenants = [Tenant(tenant=f"tenant-{n:02}", weight=1) for n in range(25)]

    def page(*, after: str | None = None) -> list[Tenant]:
        return [tenant for tenant in tenants if after is None or tenant.tenant > after][:10]

    assert read_all_pages(page, "tenant") == tenants
