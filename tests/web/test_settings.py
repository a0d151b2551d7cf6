"""The settings of the ASGI app."""

import pytest

from picture_queue.errors import SettingsError
from picture_queue.web import WebSettings


def test_the_settings_are_read_from_the_environment():
    settings = WebSettings.from_env(
        {
            "PICTURE_QUEUE_PROCESS_SECRET": "a" * 24,
            "SUPABASE_JWT_SECRET": "b" * 32,
            "PICTURE_QUEUE_ALLOWED_ORIGINS": "https://a.example.com, http://localhost:3000",
            "PICTURE_QUEUE_PROCESS_SECONDS": "25",
        }
    )
    assert settings.process_secret == "a" * 24
    assert settings.jwt_secret == "b" * 32
    assert settings.allowed_origins == ("https://a.example.com", "http://localhost:3000")
    assert settings.process_seconds == 25
    assert "a" * 24 not in repr(settings) and "b" * 32 not in repr(settings)
    assert WebSettings.from_env({}) == WebSettings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PICTURE_QUEUE_PROCESS_SECRET", "hunter2"),
        ("PICTURE_QUEUE_PROCESS_SECRET", "ä" * 24),
        ("PICTURE_QUEUE_PROCESS_SECRET", "a" * 24 + "\n"),
        ("SUPABASE_JWT_SECRET", "hunter2"),
        ("PICTURE_QUEUE_ALLOWED_ORIGINS", "app.example.com"),
        ("PICTURE_QUEUE_ALLOWED_ORIGINS", "https://app.example.com/"),
        ("PICTURE_QUEUE_ALLOWED_ORIGINS", "https://app.example.com:x"),
        ("PICTURE_QUEUE_ALLOWED_ORIGINS", "null"),
        ("PICTURE_QUEUE_PROCESS_SECONDS", "x"),
        ("PICTURE_QUEUE_PROCESS_SECONDS", "0"),
        ("PICTURE_QUEUE_PROCESS_SECONDS", "nan"),
    ],
)
def test_an_invalid_setting_is_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=name) as raised:
        WebSettings.from_env({name: value})
    if "SECRET" in name:
        assert value not in str(raised.value)


def test_a_text_instead_of_a_list_of_origins_is_refused():
    with pytest.raises(SettingsError, match="not a list"):
        WebSettings(allowed_origins="https://app.example.com")
