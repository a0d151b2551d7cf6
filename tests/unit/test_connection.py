"""Scripts pass the passwords of databases to other programs in the environment.

Other users of the machine can read command lines, but not the environment.
"""

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
def test_split_password_moves_the_password_from_the_url_to_the_environment(
    url: str, address: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from connection import split_password  # type: ignore[import-not-found,unused-ignore]

    url_without_password, environment = split_password(url)
    assert (url_without_password, environment["PGPASSWORD"]) == (address, password)
    sys.modules.pop("connection")
