"""What one client sends to the embedded stack stops no other client."""

import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from picture_queue.local import json_body

NOBODYS_JOB = '{"job_id": "00000000-0000-0000-0000-000000000000"}'


def ask(url: str, head: str, body: str) -> str:
    """Send a request as it is written here, and return the answer."""
    parts = urlsplit(url)
    request = f"{head}\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n{body}"
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(request.encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


@pytest.mark.parametrize("tail", ["", "\\", "\\\n"])
@pytest.mark.parametrize("unit", ['\\"', '\\\n"', '\\\\"', '"'])
def test_a_string_that_does_not_end_is_refused_in_linear_time(unit: str, tail: str):
    """The gateway reads JSON in its event loop: all other requests wait for it."""
    started = time.perf_counter()
    with pytest.raises(ValueError, match="100 levels"):
        json_body.parse("[" * 101 + '"' + unit * 30_000 + tail)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("coding", ["gzip, chunked", ",chunked"])
def test_no_coding_of_a_body_leaves_it_for_the_next_request(arena: Any, coding: str):
    """PostgREST took the body for another request, on a connection that others use."""
    answer = ask(
        arena.api_url,
        "POST /rest/v1/rpc/get_job HTTP/1.1\r\nContent-Type: application/json\r\n"
        f"apikey: {arena.secret_key}\r\nTransfer-Encoding: {coding}",
        f"{len(NOBODYS_JOB):x}\r\n{NOBODYS_JOB}\r\n0\r\n\r\n",
    )
    assert "PQ_UNKNOWN_JOB" in answer
