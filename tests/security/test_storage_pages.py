"""A stored file never runs scripts in the browser that opens it, and sets no response headers."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.security.sample_project import SampleProject

ACTIVE = (
    "image/svg+xml", "IMAGE/SVG+XML", "application/xhtml+xml", "text/xml", "application/xml",
    "application/rdf+xml", "text/html", "Text/HTML; charset=utf-8", "text/xsl",
    "multipart/x-mixed-replace; boundary=a", "text/javascript", "application/octet-stream",
    "text/plain", "nonsense", "image/png, text/html", "image/png;,text/html",
)  # fmt: skip
PASSIVE = ("image/png", "image/webp", "image/jpeg", "video/mp4", "audio/ogg", "application/pdf")


async def store_and_open(
    project: SampleProject, mime_type: str, content: bytes = b"<svg onload='x()'/>"
) -> Any:
    """Store a file of a type and open it by a signed URL, as a browser does."""
    name = f"{project.users['owner']}/{uuid4().hex}"
    headers = {"content-type": mime_type}
    target = f"/storage/v1/object/pictures/{name}"
    put = await project.request("service", "POST", target, content=content, headers=headers)
    assert put.status == 200, put
    signed = await project.request(
        "owner", "POST", f"/storage/v1/object/sign/pictures/{name}", json={"expiresIn": 60}
    )
    return await project.http.get("/storage/v1" + signed.json["signedURL"])


@pytest.fixture(autouse=True)
async def accept_every_mime_type(project: SampleProject):
    """Let the bucket `pictures` accept every MIME type."""
    change = {"allowed_mime_types": None}
    answer = await project.request("service", "PUT", "/storage/v1/bucket/pictures", json=change)
    assert answer.status == 200, answer


@pytest.mark.parametrize("mime_type", ACTIVE)
async def test_files_that_may_contain_scripts_are_served_in_a_sandbox(
    project: SampleProject, mime_type: str
):
    answer = await store_and_open(project, mime_type)
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"].split("; ")
    assert "sandbox" in policy and "default-src 'none'" in policy
    assert "html" not in answer.headers["content-type"].lower() or "xhtml" in mime_type


@pytest.mark.parametrize("mime_type", PASSIVE)
async def test_images_video_audio_and_pdf_are_served_unchanged(
    project: SampleProject, mime_type: str
):
    answer = await store_and_open(project, mime_type, b"bytes")
    assert (answer.status_code, answer.content) == (200, b"bytes")
    assert answer.headers["content-type"] == mime_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "content-security-policy" not in answer.headers


@pytest.mark.parametrize(
    "text", ["a/b\r\nset-cookie: a=b", "a/b\nx: y", "\u2028", "\U0001f600", "\0"]
)
async def test_a_form_field_injects_no_header(project: SampleProject, text: str):
    """Send texts that HTTP headers cannot hold in form fields that become response headers."""
    name = f"{project.users['owner']}/{uuid4().hex}"
    url = f"/storage/v1/object/pictures/{name}"
    form: Any = {
        "files": {"": ("x.png", b"bytes", "image/png")},
        "data": {"contentType": text, "cacheControl": text},
    }
    put = await project.request("service", "POST", url, **form)
    assert put.status in (200, 400), put
    if put.status == 200:
        answer: httpx.Response = await project.http.get(url, headers=project.keys["service"])
        assert answer.status_code == 200
        assert {"set-cookie", "x"}.isdisjoint(answer.headers)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["cache-control"] == "no-cache"
        info = await project.request("service", "GET", url.replace("/object/", "/object/info/"))
        assert (info.status, info.headers["cache-control"]) == (200, "no-cache")
        assert {"set-cookie", "x"}.isdisjoint(info.headers)
