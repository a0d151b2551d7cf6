"""The signatures of Replicate's webhooks."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from standardwebhooks.webhooks import Webhook

from picture_queue.providers import errors
from picture_queue.providers.replicate import webhook
from picture_queue.providers.replicate.webhook import WebhookVerifier, webhook_url

SECRET, OTHER_SECRET = (
    "whsec_cGljdHVyZS1xdWV1ZS10ZXN0LWtleS0x",
    "whsec_YW5vdGhlci1zZWNyZXQtb2YtdGVzdHM=",
)
RECORDING = Path(__file__).parents[1] / "fixtures/replicate/webhook_completed.json"
CASES = {case["name"]: case for case in json.loads(RECORDING.read_text())["cases"]}
BODY = '{"id": "p1", "status": "starting", "created_at": "2026-01-01T10:00:00Z"}'


def sign(body: str = BODY, secret: str = SECRET, age: float = 0) -> dict[str, str]:
    """Return the headers of a webhook that was signed some seconds ago."""
    sent_at = datetime.now(UTC) - timedelta(seconds=age)
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", sent_at, body),
    }


@pytest.mark.parametrize("name", CASES)
async def test_a_recorded_webhook_is_accepted_or_refused_as_recorded(name, monkeypatch):
    case = CASES[name]
    verified_at = datetime.fromtimestamp(case["verify_at_unix"], UTC)

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return verified_at

    monkeypatch.setattr("standardwebhooks.webhooks.datetime", Clock)
    verifier = WebhookVerifier(case["secret"])
    body = case["raw_body"].encode()
    if case["expect_valid"]:
        # One test vector of the official client has a body that is not a prediction.
        try:
            prediction = await verifier.verify(case["headers"], body)
        except errors.WebhookRefused:
            assert "status" not in case["raw_body"]
        else:
            assert prediction.id == json.loads(body)["id"]
    else:
        with pytest.raises(errors.WebhookRefused):
            await verifier.verify(case["headers"], body)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**sign(), "webhook-signature": "v1"},
        {**sign(), "webhook-signature": "v1,%%%"},
        {**sign(), "webhook-signature": "v2," + sign()["webhook-signature"][3:]},
        {**sign(), "webhook-signature": ""},
        {**sign(), "webhook-timestamp": "nan"},
        {**sign(), "webhook-timestamp": "1e400"},
        {**sign(), "webhook-id": "msg_2"},
        sign(BODY + " "),
        sign(secret=OTHER_SECRET),
        # A signature is valid for 5 minutes, and not before its time.
        sign(age=330),
        sign(age=-90_000),
    ],
)
async def test_a_webhook_without_a_valid_signature_is_refused(headers):
    with pytest.raises(errors.WebhookRefused):
        await WebhookVerifier(SECRET).verify(headers, BODY.encode())


async def test_one_of_several_signatures_is_enough():
    headers = sign()
    headers["webhook-signature"] = f"v1,{'A' * 43}= {headers['webhook-signature']}"
    assert (await WebhookVerifier(SECRET).verify(headers, BODY.encode())).id == "p1"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{}",
        "nonsense",
        '{"id": "p1"}',
        '{"id": "p1", "status": "starting", "created_at": "yesterday"}',
        BODY[:-1] + ', "metrics": {"n": ' + "1" * 5000 + "}}",
        "[" * 100_000,
    ],
)
async def test_an_unexpected_signed_body_is_refused_or_its_invalid_field_is_ignored(body):
    try:
        prediction = await WebhookVerifier(SECRET).verify(sign(body), body.encode())
    except errors.WebhookRefused as error:
        assert "p1" not in str(error)
    else:
        assert prediction.id == "p1"


async def test_a_body_that_is_not_utf8_is_refused():
    with pytest.raises(errors.WebhookRefused):
        await WebhookVerifier(SECRET).verify(sign(), b"\xff" + BODY.encode())


async def test_a_large_webhook_is_verified():
    body = BODY[:-1] + ', "logs": "' + "x" * 1_000_000 + '"}'
    assert (await WebhookVerifier(SECRET).verify(sign(body), body.encode())).id == "p1"


class Account:
    """A Replicate account whose webhook secret a test can change, and that counts its reads."""

    def __init__(self, secret: str | Exception) -> None:
        self.secret = secret
        self.reads = 0
        self.now = 0.0

    async def fetch(self) -> str:
        self.reads += 1
        if isinstance(self.secret, Exception):
            raise self.secret
        return self.secret

    def verifier(self) -> WebhookVerifier:
        return WebhookVerifier(None, self.fetch, clock=lambda: self.now)


async def test_a_new_secret_of_the_account_takes_effect_after_five_minutes_at_the_latest():
    account = Account(SECRET)
    verifier = account.verifier()
    await verifier.verify(sign(), BODY.encode())
    account.secret = OTHER_SECRET
    with pytest.raises(errors.WebhookRefused):
        await verifier.verify(sign(secret=OTHER_SECRET), BODY.encode())
    account.now = webhook._REFRESH_INTERVAL
    await verifier.verify(sign(secret=OTHER_SECRET), BODY.encode())
    assert account.reads == 2


async def test_forged_webhooks_read_the_secret_once_in_five_minutes():
    account = Account(SECRET)
    verifier = account.verifier()
    for second in range(600):
        account.now = float(second)
        with pytest.raises(errors.WebhookRefused):
            await verifier.verify(sign(secret=OTHER_SECRET), BODY.encode())
    assert account.reads == 2


async def test_reading_the_secret_is_retried_every_ten_seconds_after_a_failure():
    account = Account(errors.ServiceUnavailable("down"))
    verifier = account.verifier()
    for second in range(30):
        account.now = float(second)
        with pytest.raises(errors.ServiceUnavailable):
            await verifier.verify(sign(), BODY.encode())
    assert account.reads == 3
    account.secret = SECRET
    account.now = 40.0
    await verifier.verify(sign(), BODY.encode())


async def test_the_last_secret_stays_valid_if_it_can_no_longer_be_read():
    account = Account(SECRET)
    verifier = account.verifier()
    await verifier.verify(sign(), BODY.encode())
    account.secret, account.now = errors.ServiceUnavailable("down"), 1000.0
    with pytest.raises(errors.WebhookRefused):
        await verifier.verify(sign(secret=OTHER_SECRET), BODY.encode())
    await verifier.verify(sign(), BODY.encode())


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_%", "secret", SECRET.removeprefix("whsec_")]
)
def test_an_invalid_secret_is_refused(secret):
    with pytest.raises(ValueError, match="whsec_"):
        WebhookVerifier(secret)


def test_the_url_of_a_webhook_has_the_row_id_and_keeps_the_query():
    row_id = UUID(int=7)
    assert (
        webhook_url("https://a.example/w?x=1", row_id)
        == f"https://a.example/w?x=1&prediction={row_id}"
    )
    assert webhook_url("https://a.example/w", row_id) == f"https://a.example/w?prediction={row_id}"
