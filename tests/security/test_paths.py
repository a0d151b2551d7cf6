"""Names of objects and buckets, some with path traversal: none reaches another file or row."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.security.sample_project import SECRET, Answer, SampleProject, owner_image_path

#: Names that are refused: some have path traversal, others control characters, invalid UTF-8 or
#: characters that no name may have. They are bytes, because a client library would normalise them.
INVALID_NAMES = (
    b"..", b".", b"../x.png", b"a/../b.png", b"a/./b.png", b"../../../../etc/passwd",
    b"%2e%2e/x.png", b"%2e%2e%2fx.png", b"a%2f..%2fb.png", b"..%2f..%2fetc%2fpasswd",
    b"%252e%252e%252fx.png", b"..%5cx.png", b"..\\x.png", b"%00", b"x.png%00.txt",
    b"%c0%ae%c0%ae%2fx", b"%ff%fe", b"%0d%0aset-cookie:%20a", b"~root/x.png",
    b"%23", b"file:%2f%2f%2fetc%2fpasswd%7f", b"%e2%80%ae.png",
)  # fmt: skip
#: Unusual but valid names, whose files stay inside the storage directory.
UNUSUAL_NAMES = (
    b"/etc/passwd",
    b"//x.png",
    b"a//b.png",
    b"....//x.png",
    b"...",
    b"-rf",
    b"*",
    b"x.png%3ftoken=1",
)
INVALID_BUCKETS = (
    b"..",
    b".",
    b"%2e%2e",
    b"..%2fobjects",
    b"pictures%2f..",
    b"%00",
    b"%ff",
    b"pictures%00",
)


async def send_request(
    project: SampleProject, role: str, method: str, target: bytes, **content: Any
) -> Answer:
    """Send a request whose path is not normalised."""
    target = b"/storage/v1/" + target
    extensions = {"target": target}
    headers = {**project.keys[role], **content.pop("headers", {})}
    answer = await project.http.request(
        method, "/storage/v1/", headers=headers, extensions=extensions, **content
    )
    return Answer(answer.status_code, answer.text, answer.headers)


def expect_refused(answer: Answer, request: Any) -> None:
    assert answer.status in (400, 404), (request, answer)
    assert "set-cookie" not in answer.headers
    assert "/storage" not in answer.text.replace("/storage/v1/", ""), answer.text


def stored_files(sandbox: Any) -> set[Path]:
    """Return the files of all objects, each named by the id of its version."""
    found = {file for file in Path(sandbox.data_dir).rglob("*") if file.is_file()}
    stored = {file for file in found if file.parent.parent.name == "objects"}
    assert stored and all(UUID(file.name) for file in stored)
    return stored


@pytest.mark.parametrize("name", INVALID_NAMES, ids=lambda name: repr(name[:20]))
async def test_an_invalid_name_is_refused(project: SampleProject, sandbox: Any, name: bytes):
    before = stored_files(sandbox)
    png = {"content": b"x", "headers": {"content-type": "image/png"}}
    for role in ("service", "owner"):
        for method, target, content in (
            ("POST", b"object/pictures/" + name, png),
            ("PUT", b"object/pictures/" + name, png),
            ("GET", b"object/pictures/" + name, {}),
            ("GET", b"object/authenticated/pictures/" + name, {}),
            ("GET", b"object/public/pictures/" + name, {}),
            ("GET", b"object/info/pictures/" + name, {}),
            (
                "GET",
                b"object/sign/pictures/" + name + b"?token=" + project.tokens[role].encode(),
                {},
            ),
            ("POST", b"object/sign/pictures/" + name, {"json": {"expiresIn": 60}}),
            ("DELETE", b"object/pictures/" + name, {}),
        ):
            expect_refused(
                await send_request(project, role, method, target, **content), (role, method, target)
            )
    assert stored_files(sandbox) == before


@pytest.mark.parametrize("name", UNUSUAL_NAMES, ids=repr)
async def test_a_service_key_can_use_an_unusual_name_and_a_user_cannot(
    project: SampleProject, sandbox: Any, name: bytes
):
    before = stored_files(sandbox)
    png = {"content": b"x", "headers": {"content-type": "image/png"}}
    target = b"object/pictures/" + name
    # A user may use only names that begin with the user's id.
    expect_refused(await send_request(project, "owner", "POST", target, **png), name)
    stored = await send_request(project, "service", "POST", target, **png)
    assert stored.status == 200, stored
    (file,) = stored_files(sandbox) - before
    assert file.read_bytes() == b"x"
    expect_refused(await send_request(project, "owner", "GET", target), name)
    assert (await send_request(project, "service", "GET", target)).text == "x"
    assert (await send_request(project, "service", "DELETE", target)).status == 200
    assert stored_files(sandbox) == before


@pytest.mark.parametrize("bucket", INVALID_BUCKETS, ids=repr)
async def test_an_invalid_bucket_is_refused(project: SampleProject, sandbox: Any, bucket: bytes):
    before = stored_files(sandbox)
    png = {"content": b"x", "headers": {"content-type": "image/png"}}
    for method, target, content in (
        ("POST", b"object/" + bucket + b"/x.png", png),
        ("GET", b"object/" + bucket + b"/x.png", {}),
        ("GET", b"object/public/" + bucket + b"/x.png", {}),
        ("GET", b"bucket/" + bucket, {}),
        ("POST", b"object/sign/" + bucket + b"/x.png", {"json": {"expiresIn": 60}}),
    ):
        expect_refused(
            await send_request(project, "service", method, target, **content), (method, target)
        )
    assert stored_files(sandbox) == before


async def test_no_other_spelling_opens_the_folder_of_another_user(project: SampleProject):
    """Try also names that begin in the user's own folder and continue elsewhere."""
    own_folder, foreign_path = project.users["other_user"], owner_image_path(project)
    for name in (
        f"{own_folder}/../{foreign_path}",
        f"{own_folder}/%2e%2e/{foreign_path}",
        f"{own_folder}%2f..%2f{foreign_path}",
        f"{own_folder}/..;/{foreign_path}",
        f"/{foreign_path}",
        f"./{foreign_path}",
        foreign_path.upper(),
        foreign_path.replace("/", "%2f"),
        foreign_path.replace("/", "//"),
        foreign_path + "/",
        foreign_path + "%20",
        f"%20{foreign_path}",
    ):
        for target in ("object/pictures/", "object/info/pictures/", "object/sign/pictures/"):
            content = {"json": {"expiresIn": 60}} if "sign" in target else {}
            method = "POST" if content else "GET"
            answer = await send_request(
                project, "other_user", method, (target + name).encode(), **content
            )
            expect_refused(answer, name)
            assert SECRET not in answer.text
        for prefix in (name, name.rpartition("/")[0]):
            listed = await project.request(
                "other_user", "POST", "/storage/v1/object/list/pictures", json={"prefix": prefix}
            )
            assert (listed.status, listed.json) == (200, [])


@pytest.mark.parametrize("text", ["\0", "a\0b", "../", "%", "_", "\\", "\U0001f600", "\u202e"])
async def test_prefixes_and_names_are_literal_text(project: SampleProject, text: str):
    """Check that `%` and `_` are not wildcards in a prefix."""
    for target, content in (
        ("object/list/pictures", {"prefix": "", "search": text}),
        ("object/list/pictures", {"prefix": text}),
        ("object/sign/pictures", {"expiresIn": 60, "paths": [text]}),
    ):
        answer = await project.request("service", "POST", f"/storage/v1/{target}", json=content)
        assert answer.status in (200, 400), answer
        if answer.status == 200:
            assert answer.json == [] or answer.json[0].get("signedURL", "x") is None, answer
    answer = await project.request(
        "service", "DELETE", "/storage/v1/object/pictures", json={"prefixes": [text]}
    )
    assert answer.status == 400 or (answer.status, answer.json) == (200, []), answer


async def test_invalid_utf8_is_refused(project: SampleProject):
    """Send invalid UTF-8 in a path, which no client does, and a lone surrogate in JSON."""
    host, _, port = project.api_url.removeprefix("http://").partition(":")
    key = project.keys["service"]["apikey"]
    for target in (b"object/pictures/\xff\xfe.png", b"bucket/\xff", b"\xff"):
        reader, writer = await asyncio.open_connection(host, int(port))
        head = (
            b"GET /storage/v1/" + target + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        )
        writer.write(head + b"apikey: " + key.encode() + b"\r\n\r\n")
        status = (await reader.readline()).split()[1]
        writer.close()
        assert status in (b"400", b"404"), (target, status)
    for target, text in (
        ("object/list/pictures", b'{"prefix": "\\ud800"}'),
        ("object/sign/pictures", b'{"expiresIn": 60, "paths": ["\\ud800"]}'),
        ("bucket", b'{"name": "\\ud800"}'),
    ):
        headers = {"content-type": "application/json"}
        answer = await project.request(
            "service", "POST", f"/storage/v1/{target}", content=text, headers=headers
        )
        assert answer.status == 400, (target, answer)
