"""Commands for operators: queues, limits, schedules, batches, failed jobs, and the doctor."""

import json
import socket
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import Result

Cli = Callable[..., Result]
Rpc = Callable[..., Any]


def parse_json(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def enqueue(cli: Cli, queue: str, *options: str) -> str:
    return str(parse_json(cli("enqueue", "resize", "--queue", queue, *options, "--json"))["job_id"])


def claim(rpc: Rpc, queue: str, count: int = 1) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = rpc(
        "claim_jobs", worker="test-worker", queues=[queue], job_types=["resize"], max_jobs=count
    )
    return jobs


def report(rpc: Rpc, jobs: list[dict[str, Any]], outcome: str, **fields: Any) -> None:
    outcomes = [
        {"job_id": job["id"], "lease_id": job["lease_id"], "outcome": outcome, **fields}
        for job in jobs
    ]
    rpc("report_jobs", outcomes=outcomes)


def test_every_field_of_a_job_is_an_option(cli: Cli, queue: str) -> None:
    parent = enqueue(cli, queue)
    job_id = enqueue(
        cli,
        queue,
        '{"path": "a.png"}',
        *("--depends-on", parent, "--on-parent-failure", "run", "--timeout", "2m"),
        *("--expires-in", "1h", "--tag", "night", "--tag", "cheap", "--metadata", '{"n": 1}'),
        *("--limit-key", "model:flux", "--unique-by", "path"),
    )
    job = parse_json(cli("jobs", "show", job_id, "--json"))
    assert (job["hold"], job["tags"], job["metadata"]) == ("waiting", ["night", "cheap"], {"n": 1})
    assert job["limit_keys"] == ["model:flux"]
    text = cli("jobs", "show", job_id).stdout
    assert "night, cheap" in text
    assert "model:flux" in text


def test_a_unique_field_must_be_a_key_of_the_payload(cli: Cli, queue: str) -> None:
    by_path = ("--unique-by", "path")
    first = enqueue(cli, queue, '{"path": "a.png", "size": 1}', *by_path)
    assert enqueue(cli, queue, '{"path": "a.png", "size": 2}', *by_path) == first
    assert enqueue(cli, queue, '{"path": "b.png", "size": 1}', *by_path) != first
    refused = cli("enqueue", "resize", '{"size": 1}', "--queue", queue, *by_path)
    assert refused.exit_code == 3
    assert '--unique-by has "path", which is not a key of the payload' in refused.stderr


def test_enqueue_reports_that_a_unique_job_already_exists(cli: Cli, queue: str) -> None:
    first = enqueue(cli, queue, "--unique")
    second = cli("enqueue", "resize", "--queue", queue, "--unique")
    assert (second.stdout.strip(), "already" in second.stderr) == (first, True)


def test_jobs_are_listed_by_tag_and_metadata(cli: Cli, queue: str) -> None:
    job_id = enqueue(cli, queue, "--tag", "night", "--metadata", '{"ticket": 7}')
    enqueue(cli, queue)
    for selection in (("--tag", "night"), ("--metadata", '{"ticket": 7}')):
        jobs = parse_json(cli("jobs", "list", "--queue", queue, *selection, "--json"))
        assert [job["id"] for job in jobs] == [job_id]
    empty = cli("jobs", "list", "--queue", queue, "--created-before", "2020-01-01T00:00")
    assert "and --created-before 2020-01-01 00:00:00" in empty.stderr


def test_failed_jobs_are_counted_retried_and_discarded(cli: Cli, rpc: Rpc, queue: str) -> None:
    for _ in range(3):
        enqueue(cli, queue, "--max-attempts", "1")
    report(rpc, claim(rpc, queue, 3), "failed", error="no space on disk 7")
    (reason,) = parse_json(cli("jobs", "reasons", "--queue", queue, "--json"))
    assert (reason["count"], reason["reason"]) == (3, "no space on disk N")
    assert "no space on disk N" in cli("jobs", "reasons", "--queue", queue).stdout
    selection = ("--queue", queue, "--reason", reason["reason"])
    assert cli("jobs", "retry", *selection, "--preview").stdout.strip() == "3 would be changed"
    declined = cli("jobs", "retry", *selection, input="n\n")
    assert declined.exit_code == 1
    assert "Retry 3 jobs?" in declined.stderr
    assert parse_json(cli("jobs", "retry", *selection, "--yes", "--json")) == {
        "matched": 3,
        "changed": 3,
    }
    result = cli("jobs", "cancel", "--queue", queue, input="y\n")
    assert result.stdout.strip().endswith("3 changed")
    assert cli("jobs", "discard", "--queue", queue, "--yes").stdout.strip() == "3 changed"
    assert parse_json(cli("jobs", "list", "--queue", queue, "--json")) == []


def test_several_jobs_are_changed_by_their_ids(cli: Cli, queue: str) -> None:
    ids = [enqueue(cli, queue) for _ in range(2)]
    assert [request["status"] for request in parse_json(cli("jobs", "cancel", *ids, "--json"))] == [
        "cancelled",
        "cancelled",
    ]
    assert cli("jobs", "retry", *ids).stdout.split() == ["pending", "pending"]
    cli("jobs", "cancel", *ids)
    assert cli("jobs", "discard", *ids, "--yes").stdout.strip() == "2 changed"


def test_jobs_are_selected_by_ids_or_by_a_filter(cli: Cli) -> None:
    neither = cli("jobs", "discard", "--yes")
    assert (neither.exit_code, "Select jobs by" in neither.stderr) == (2, True)
    both = cli("jobs", "cancel", str(uuid4()), "--queue", "x")
    assert (both.exit_code, "not both" in both.stderr) == (2, True)


def test_the_history_of_a_job_is_shown(cli: Cli, rpc: Rpc, queue: str) -> None:
    job_id = enqueue(cli, queue)
    assert parse_json(cli("jobs", "history", job_id, "--json"))["position"]["position"] == 1
    jobs = claim(rpc, queue)
    lines = [{"level": "info", "message": "half way"}]
    rpc("log_job", job_id=job_id, lease_id=jobs[0]["lease_id"], lines=lines)
    report(rpc, jobs, "failed", error="boom", retryable=False)
    text = cli("jobs", "history", job_id).stdout
    for word in ("enqueue", "claim", "fail", "boom", "half way"):
        assert word in text


def test_a_queue_is_created_paused_drained_and_purged(cli: Cli, rpc: Rpc, queue: str) -> None:
    settings = parse_json(
        cli("queues", "set", queue, "max_attempts=5", "fair_share=true", "--json")
    )
    assert (settings["max_attempts"], settings["fair_share"]) == (5, True)
    enqueue(cli, queue)
    paused = parse_json(
        cli("queues", "pause", queue, "--for", "1h", "--reason", "repairs", "--json")
    )
    assert (paused["paused"], paused["pause_reason"]) == (True, "repairs")
    assert claim(rpc, queue) == []
    listed = cli("queues", "list").stdout
    assert queue in listed
    assert "repairs" in listed
    assert not parse_json(cli("queues", "resume", queue, "--json"))["paused"]
    cli("queues", "drain", queue)
    refused = cli("enqueue", "resize", "--queue", queue)
    assert (refused.exit_code, queue in refused.stderr) == (9, True)
    assert cli("queues", "purge", queue, "--preview").stdout.strip() == "1 would be changed"
    assert cli("queues", "purge", queue, "--yes").stdout.strip() == "1 changed"
    (counted,) = [
        row for row in parse_json(cli("queues", "list", "--json")) if row["queue"] == queue
    ]
    assert (counted["pending"], counted["cancelled"]) == (0, 1)
    assert "max_attempts" in cli("queues", "show", queue).stdout
    assert cli("queues", "workers", queue).stdout.strip() == "0"


def test_a_limit_is_set_listed_and_deleted(cli: Cli, rpc: Rpc, queue: str) -> None:
    key = f"queue:{queue}"
    parse_json(cli("limits", "set", key, "--max-running", "1", "--rate", "10/1m", "--json"))
    for _ in range(2):
        enqueue(cli, queue)
    claim(rpc, queue, 2)
    (limit,) = [row for row in parse_json(cli("limits", "list", "--json")) if row["key"] == key]
    assert (limit["running"], limit["waiting"], limit["period_seconds"]) == (1, 1, 60)
    assert "10 per 60 s" in cli("limits", "list").stdout
    assert cli("limits", "pause", key, "--for", "10m").exit_code == 0
    assert "paused until" in cli("limits", "list").stdout
    assert cli("limits", "resume", key).exit_code == 0
    assert parse_json(cli("limits", "delete", key, "--json")) == {"key": key, "deleted": True}
    assert cli("limits", "delete", key).exit_code == 4


def test_tenant_weights_are_set(cli: Cli, queue: str) -> None:
    assert cli("tenants", "set", queue, "3").stdout.strip() == f"{queue}: 3"
    assert {"tenant": queue, "weight": 3.0} in parse_json(cli("tenants", "list", "--json"))
    assert queue in cli("tenants", "list").stdout


def test_a_budget_is_set_shown_and_deleted(cli: Cli, queue: str) -> None:
    key = f"plan:{queue}"
    result = cli("budgets", "set", key, "usd_per_day=0.5", "per_minute=5", "needs_credits=true")
    assert ("0.5" in result.stdout, "yes" in result.stdout) == (True, True), result.output
    shown = parse_json(cli("budgets", "show", key, "--json"))
    assert (shown["usd_per_day"], shown["per_minute"], shown["max_pending"]) == (0.5, 5, None)
    parse_json(cli("budgets", "set", key, "per_minute=default", "--json"))
    (budget,) = [row for row in parse_json(cli("budgets", "list", "--json")) if row["key"] == key]
    assert (budget["per_minute"], budget["needs_credits"]) == (None, True)
    assert queue in cli("budgets", "list").stdout
    refused = cli("budgets", "set", key, "per_minute=-1")
    assert (refused.exit_code, "per_minute is -1, not 0 to 10000" in refused.stderr) == (3, True)
    assert parse_json(cli("budgets", "delete", key, "--json")) == {"key": key, "deleted": True}
    assert cli("budgets", "delete", key).exit_code == 4


def test_an_account_gets_a_plan_and_credits(cli: Cli, queue: str) -> None:
    user = str(uuid4())
    assert parse_json(cli("accounts", "set", user, "--plan", queue, "--json"))["plan"] == queue
    for _ in range(2):
        granted = cli("accounts", "grant", user, "5", "--idempotency-key", user, "--json")
        assert parse_json(granted)["credits_usd"] == 5
    assert "5" in cli("accounts", "show", user).stdout
    (account,) = parse_json(cli("accounts", "list", "--plan", queue, "--json"))
    assert (account["user_id"], account["pending"]) == (user, 0)
    assert user in cli("accounts", "list", "--plan", queue).stdout
    (entry,) = parse_json(cli("accounts", "ledger", "--user-id", user, "--json"))
    assert (entry["phase"], entry["amount_usd"]) == ("grant", 5)
    assert "grant" in cli("accounts", "ledger", "--user-id", user).stdout
    assert cli("accounts", "ledger", "--generation-id", str(uuid4())).stdout == ""


def test_a_schedule_is_set_run_paused_and_deleted(cli: Cli, queue: str) -> None:
    schedule = parse_json(
        cli(
            *("schedules", "set", queue, "report", '{"full": true}', "--queue", queue),
            *("--cron", "30 9 * * mon-fri", "--timezone", "Europe/Berlin", "--json"),
        )
    )
    assert (schedule["cron"], schedule["job"]["payload"]) == ("30 9 * * mon-fri", {"full": True})
    assert "Europe/Berlin" in cli("schedules", "list").stdout
    job_id = cli("schedules", "run", queue).stdout.strip()
    assert parse_json(cli("jobs", "show", job_id, "--json"))["metadata"]["schedule"] == queue
    assert "paused" in cli("schedules", "pause", queue).stdout
    assert parse_json(cli("schedules", "resume", queue, "--json"))["next_at"]
    deleted = parse_json(cli("schedules", "delete", queue, "--json"))
    assert deleted == {"name": queue, "deleted": True}
    for command in ("run", "delete"):
        result = cli("schedules", command, queue)
        assert (result.exit_code, queue in result.stderr) == (4, True)


def test_a_batch_is_read_from_a_list_or_from_lines(cli: Cli, rpc: Rpc, queue: str) -> None:
    job = {"job_type": "resize", "queue": queue}
    lines = "\n\n".join(json.dumps(job) for _ in range(2)) + "\n \n"  # Blank lines are ignored.
    callback = json.dumps({"job_type": "done", "queue": queue})
    batch_id = cli("batches", "enqueue", "-", "--callback", callback, input=lines).stdout.strip()
    report(rpc, claim(rpc, queue), "completed")
    assert parse_json(cli("batches", "show", batch_id, "--json"))["progress"] == 50
    report(rpc, claim(rpc, queue), "completed")
    watched = cli("batches", "show", batch_id, "--watch").stdout
    assert "100 %" in watched
    assert parse_json(cli("batches", "enqueue", json.dumps([job]), "--json"))["jobs"]
    refused = cli("batches", "enqueue", "-", input="{")
    assert (refused.exit_code, "line 1" in refused.stderr) == (3, True)


def test_an_event_wakes_a_parked_job(cli: Cli, rpc: Rpc, queue: str) -> None:
    enqueue(cli, queue)
    report(rpc, claim(rpc, queue), "parked", delay_seconds=600, event=queue)
    assert cli("events", "send", queue, '{"paid": 3}').stdout.strip() == "Woke 1 job"
    assert claim(rpc, queue)[0]["event"] == {"paid": 3}


def test_settings_are_shown_and_changed(cli: Cli) -> None:
    before = parse_json(cli("settings", "show", "--json"))["max_attempts"]
    try:
        assert "4" in cli("settings", "set", "max_attempts=4").stdout
    finally:
        changed = parse_json(cli("settings", "set", f"max_attempts={before}", "--json"))
    assert changed["max_attempts"] == before
    assert "backoff_policy" in cli("settings", "show").stdout


def test_maintain_prints_its_result_or_that_a_worker_does_it(cli: Cli, rpc: Rpc) -> None:
    rpc("maintain_jobs", worker="another-worker")
    result = cli("maintain")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "A worker does the maintenance" in result.stderr
    assert parse_json(cli("maintain", "--json"))["leased"] is False
    assert "swept" in parse_json(cli("maintain", "--force", "--json"))
    assert "expired leases swept" in cli("maintain", "--force").stdout


def test_the_doctor_shows_verdicts(cli: Cli) -> None:
    result = cli("doctor", "--json")
    findings = json.loads(result.stdout)
    assert {"check", "verdict", "detail", "remedy"} <= findings[0].keys()
    has_bad = any(finding["verdict"] == "bad" for finding in findings)
    assert result.exit_code == (1 if has_bad else 0)
    assert "maintenance" in cli("doctor").stdout


def test_the_doctor_names_the_option_with_the_address_of_a_database_that_does_not_answer(
    cli: Cli,
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # it does not listen, so connections are refused
        address = f"postgresql://postgres@127.0.0.1:{closed.getsockname()[1]}/postgres"
        result = cli("doctor", "--db-url", address, "--json")
        environ = {"PICTURE_QUEUE_DATABASE_URL": address}
        by_variable = cli("doctor", "--json", **environ)
    for output, name in ((result, "--db-url"), (by_variable, "PICTURE_QUEUE_DATABASE_URL")):
        (finding,) = [f for f in json.loads(output.stdout) if f["check"] == "migrations"]
        assert finding["remedy"] == f"Check {name} and that the database is running"


@pytest.mark.parametrize(
    ("command", "code", "expected"),
    [
        (("queues", "set", "q", "max_attempts"), 2, "NAME=VALUE"),
        (("queues", "set", "q", "max_attempts=0"), 3, "max_attempts is 0"),
        (("queues", "set", "q", "colour=red"), 3, "colour is not known"),
        (("queues", "pause", "nowhere"), 4, "nowhere"),
        (("queues", "pause", "q", "--for", "soon"), 2, "90s"),
        (("queues", "show", "nowhere"), 4, "nowhere"),
        (("limits", "set", "k", "--max-running", "0"), 3, "--max-running is 0"),
        (("limits", "set", "k", "--rate", "fast"), 2, "10/1m"),
        (("tenants", "set", "t", "0"), 3, "WEIGHT is 0"),
        (("schedules", "set", "s", "t", "--cron", "61 * * * *"), 3, "61"),
        (("schedules", "set", "s", "t"), 2, "either --cron or --every"),
        (("enqueue", "t", "--delay", "1h", "--at", "2030-01-31T08:00"), 2, "not both"),
        (("enqueue", "t", "--metadata", "[1]"), 3, "not a JSON object"),
        (("batches", "show", str(uuid4())), 4, "No such batch"),
        (("queues", "set", "q", "fair_share=true", "aging_seconds=5"), 3, "aging_seconds is 5"),
        (("settings", "set", "max_attempts=0"), 3, "1 to "),
        (("enqueue", "a job"), 3, "use at most 128 letters, digits and _ . - :"),
        (("enqueue", "a" * 129), 3, "use at most 128 letters, digits and _ . - :"),
        (("queues", "set", "a b", "max_attempts=5"), 3, "use at most 63 letters, digits and _ . -"),
        (("schedules", "set", "a b", "tidy", "--every", "1m"), 3, "use at most 128 letters"),
        (("limits", "set", "a\nb", "--max-running", "5"), 3, "Use 1 to 200 characters"),
        (("batches", "enqueue", "[]", "--callback", "{}"), 3, "--callback: job_type is missing"),
        (("limits", "set", "k", "--max-running", "9" * 12), 2, "--max-running"),
        (("jobs", "list", "--created-after", "yesterday"), 2, "2030-01-31T08:00"),
        (("settings", "set", "colour=red"), 3, "colour"),
    ],
)
def test_an_error_is_printed_in_one_line(
    cli: Cli, command: tuple[str, ...], code: int, expected: str
) -> None:
    result = cli(*command)
    assert (result.exit_code, result.stdout) == (code, "")
    assert expected in result.stderr
    assert result.stderr.strip().count("\n") == 0
