"""The worker uses the simulator or the real Replicate, which costs money."""

import pytest

import picture_queue_cli.worker
from picture_queue.errors import SettingsError
from picture_queue_cli.project import Target
from picture_queue_cli.worker import replicate_settings

SIMULATOR = "http://127.0.0.1:54323/v1"
TOKEN = "r8_of_the_simulator"
#: The running embedded stack.
STACK = {"API_URL": "http://127.0.0.1:54321", "REPLICATE_URL": SIMULATOR, "REPLICATE_TOKEN": TOKEN}


@pytest.fixture(autouse=True)
def environment_with_real_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_API_TOKEN", "r8_of_a_real_account")
    monkeypatch.delenv("REPLICATE_BASE_URL", raising=False)
    monkeypatch.delenv("SUPABASE_URL", raising=False)
    monkeypatch.setattr(picture_queue_cli.worker, "running_stack", lambda: STACK)


@pytest.mark.parametrize(
    "target",
    [
        Target("http://127.0.0.1:54321", "k", SIMULATOR, TOKEN),
        Target("http://127.0.0.1:54321/", "k"),
        Target("http://localhost:54321", "k"),
    ],
)
def test_the_embedded_stack_uses_its_simulator(target: Target) -> None:
    settings = replicate_settings(target, real=False)
    assert settings is not None
    assert (settings.base_url, settings.token) == (SIMULATOR, TOKEN)
    settings = replicate_settings(target, real=True)
    assert settings is not None and settings.token == "r8_of_a_real_account"


def test_a_stack_named_in_the_environment_uses_its_simulator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUPABASE_URL", STACK["API_URL"])
    settings = replicate_settings(Target(), real=False)
    assert settings is not None and settings.base_url == SIMULATOR


@pytest.mark.parametrize("url", ["https://x.supabase.co", "https://127.0.0.1.example.com"])
def test_another_project_uses_the_real_replicate(url: str) -> None:
    settings = replicate_settings(Target(url, "k"), real=False)
    assert settings is not None and settings.token == "r8_of_a_real_account"


def test_a_stack_in_another_directory_never_gets_the_real_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other_stack = Target("http://127.0.0.1:54399", "k")
    with pytest.raises(SettingsError, match="54399 is on this machine") as raised:
        replicate_settings(other_stack, real=False)
    assert "--real-replicate" in (raised.value.hint or "")
    settings = replicate_settings(other_stack, real=True)
    assert settings is not None and settings.token == "r8_of_a_real_account"
    # `picture-queue local env` prints REPLICATE_URL and REPLICATE_TOKEN for the shell.
    monkeypatch.setenv("REPLICATE_URL", SIMULATOR)
    with pytest.raises(SettingsError, match="REPLICATE_TOKEN is not set"):
        replicate_settings(other_stack, real=False)
    monkeypatch.setenv("REPLICATE_TOKEN", TOKEN)
    settings = replicate_settings(other_stack, real=False)
    assert settings is not None and (settings.base_url, settings.token) == (SIMULATOR, TOKEN)


def test_the_base_url_in_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_BASE_URL", "http://127.0.0.1:9000/v1")
    settings = replicate_settings(Target("http://127.0.0.1:54399", "k"), real=False)
    assert settings is not None and settings.base_url == "http://127.0.0.1:9000/v1"


def test_the_real_replicate_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPLICATE_API_TOKEN")
    with pytest.raises(SettingsError, match="REPLICATE_API_TOKEN is not set"):
        replicate_settings(Target("http://127.0.0.1:54321", "k", SIMULATOR, TOKEN), real=True)
