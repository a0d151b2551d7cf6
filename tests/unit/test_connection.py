"""Scripts pass the passwords of databases to other programs by the environment only."""

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.mark.parametrize(
    ("url", "address", "password"),
    [
        ("postgresql://u:p@h:1/d", "postgresql://u@h:1/d", "p"),
        ("postgresql://u:a%40b@/d?host=%2Ftmp", "postgresql://u@/d?host=%2Ftmp", "a@b"),
    ],
)
def test_an_address_has_no_password(
    url: str, address: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from connection import split_password  # type: ignore[import-not-found,unused-ignore]

    found, environment = split_password(url)
    assert (found, environment["PGPASSWORD"]) == (address, password)
    sys.modules.pop("connection")
