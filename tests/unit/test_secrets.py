"""Removal of secrets from text."""

import json
import logging
import time

import pytest

from picture_queue._secrets import redact_secrets
from picture_queue._visible import LogFormatter
from picture_queue_cli.logs import JsonFormatter

JWT = f"eyJ{'a' * 20}.eyJ{'b' * 20}.{'c-_' * 8}"
SECRETS = [
    "sb_secret_" + "a1_-" * 5,
    "r8_" + "Ab3" * 12,
    "whsec_" + "a+/=" * 6,
    JWT,
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("text", ["{}", "key={}", "Bearer {}", "'{}',", "first\n{}\nlast"])
def test_secrets_are_removed(text: str, secret: str) -> None:
    assert redact_secrets(text.format(secret)) == text.format("[secret]")


def test_the_user_and_the_password_of_a_url_are_removed() -> None:
    text = "postgresql://me:pa:ss@db.example:5432/postgres and http://:x@h/"
    expected = "postgresql://[secret]@db.example:5432/postgres and http://[secret]@h/"
    assert redact_secrets(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "sb_publishable_abcdefghijkl",
        "https://example.com:8080/a@b",
        "r8_short",
        "eyJ",
        "12:30 user@example.com",
    ],
)
def test_other_text_is_kept(text: str) -> None:
    assert redact_secrets(text) == text


@pytest.mark.parametrize("part", ["eyJ", "eyJaaaaaaaaaa.", "://", "://a:", "sb_secret_", "r8_"])
def test_hostile_text_takes_linear_time(part: str) -> None:
    started_at = time.process_time()
    redact_secrets(part * 200_000)
    assert time.process_time() - started_at < 5  # quadratic time would be hours


@pytest.mark.parametrize("secret", SECRETS)
def test_log_lines_have_no_secrets(secret: str) -> None:
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "line\n%s", (secret,), None)
    record.job = {"job_id": "1", "traceback": f"Traceback\n{secret}"}
    assert LogFormatter("%(message)s").format(record) == "line\n    [secret]"
    fields = json.loads(JsonFormatter().format(record))
    assert fields["message"] == "line\n[secret]"
    assert (fields["job_id"], fields["traceback"]) == ("1", "Traceback\n[secret]")
