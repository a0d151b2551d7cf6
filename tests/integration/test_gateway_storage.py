"""Storage of the gateway, with the unmodified client library: permissions, objects, buckets."""

import asyncio
import hashlib
import http.client
import random
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from storage3 import AsyncStorageClient, SyncStorageClient
from storage3.exceptions import StorageApiError

ADA, BOB = uuid4(), uuid4()
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(56))
TYPED = {"content-type": "image/png"}

POLICY = """
insert into storage.buckets (id, name, public) values ('private', 'private', false),
                                                       ('open', 'open', true);
create policy own_folder on storage.objects for all to authenticated
  using (bucket_id in ('private', 'open')
         and (storage.foldername(name))[1] = (select auth.uid())::text);
"""


@pytest.fixture(scope="module", autouse=True)
def policies(platform):
    async def create():
        async with platform.connect() as connection:
            await connection.execute(POLICY)

    asyncio.run(create())


@pytest.fixture
async def storage(gateway, platform):
    """Return a function that creates a client for a user or a key."""
    async with httpx.AsyncClient(timeout=20) as http:

        def client(user=None, key=None):
            key = key or platform.settings.anon_key
            token = platform.token(user) if user else key
            headers = {"apikey": key, "Authorization": f"Bearer {token}"}
            return AsyncStorageClient(f"{gateway}/storage/v1/", headers, http_client=http)

        yield client


@pytest.fixture
def path():
    """Return a new path in Ada's folder."""
    return f"{ADA}/{uuid4()}/0.png"


async def storage_error(awaitable) -> StorageApiError:
    with pytest.raises(StorageApiError) as refused:
        await awaitable
    return refused.value


async def test_an_object_is_stored_signed_fetched_and_removed(storage, path):
    files = storage(ADA).from_("private")
    stored = await files.upload(path, PNG, TYPED)
    assert stored.full_path == f"private/{path}"
    assert await files.download(path) == PNG
    assert await files.exists(path)
    info = await files.info(path)
    assert (info["size"], info["content_type"]) == (64, "image/png")
    assert info["etag"] == f'"{hashlib.md5(PNG, usedforsecurity=False).hexdigest()}"'
    signed = await files.create_signed_url(path, 60)
    async with httpx.AsyncClient() as anonymous:
        answer = await anonymous.get(signed["signedURL"])
        assert (answer.content, answer.headers["content-type"]) == (PNG, "image/png")
    folder, _, name = path.rpartition("/")
    assert [entry["name"] for entry in await files.list(folder)] == [name]
    assert [entry["name"] for entry in await files.remove([path])] == [path]
    assert not await files.exists(path)
    assert await files.list(folder) == []


async def test_another_user_can_neither_read_nor_change_an_object(storage, path):
    await storage(ADA).from_("private").upload(path, PNG, TYPED)
    for other in (storage(BOB).from_("private"), storage().from_("private")):
        assert (await storage_error(other.download(path))).status == "404"
        assert (await storage_error(other.create_signed_url(path, 60))).status == "404"
        assert (await storage_error(other.upload(f"{ADA}/x", PNG, TYPED))).status == "403"
        overwriting = other.upload(path, b"mine", {**TYPED, "upsert": "true"})
        assert (await storage_error(overwriting)).status == "403"
        assert await other.list(str(ADA)) == []
        assert await other.remove([path]) == []
        assert not await other.exists(path)
        (entry,) = await other.create_signed_urls([path], 60)
        assert entry["signedURL"] is None
    assert await storage(ADA).from_("private").download(path) == PNG


async def test_a_public_bucket_is_readable_but_not_writable_without_a_user(storage, path):
    await storage(ADA).from_("open").upload(path, PNG, TYPED)
    url = await storage().from_("open").get_public_url(path)
    async with httpx.AsyncClient() as anonymous:
        assert (await anonymous.get(url)).content == PNG
        private = url.replace("/open/", "/private/")
        assert (await anonymous.get(private)).json()["error"] == "Bucket not found"
    assert (await storage_error(storage().from_("open").upload(f"{ADA}/x", PNG))).status == "403"


async def test_replacing_an_object_deletes_its_old_file(storage, platform, path):
    files = storage(ADA).from_("private")
    await files.upload(path, PNG, TYPED)
    assert (await storage_error(files.upload(path, b"two", TYPED))).code == "Duplicate"
    before = stored_files(platform)
    await files.upload(path, b"two", {**TYPED, "upsert": "true"})
    await files.update(path, b"three", TYPED)
    assert await files.download(path) == b"three"
    assert len(stored_files(platform)) == len(before)
    await files.remove([path])
    assert len(stored_files(platform)) == len(before) - 1


def stored_files(platform):
    return [entry for entry in platform.settings.storage_dir.rglob("*") if entry.is_file()]


async def test_a_move_keeps_the_id_and_the_content_and_adds_no_file(storage, platform, path):
    files = storage(ADA).from_("private")
    await files.upload(path, PNG, TYPED)
    before, stored = await files.info(path), stored_files(platform)
    await files.move(path, path + ".moved")
    assert not await files.exists(path)
    after = await files.info(path + ".moved")
    assert (after["id"], after["etag"]) == (before["id"], before["etag"])
    assert after["version"] != before["version"]
    assert await files.download(path + ".moved") == PNG
    assert len(stored_files(platform)) == len(stored)
    assert (await storage_error(files.move(path, path + ".x"))).status == "404"
    assert (
        await storage_error(storage(BOB).from_("private").move(path + ".moved", "x"))
    ).status == "404"


async def test_a_copy_remains_after_the_original_is_deleted(storage, platform, path):
    files = storage(ADA).from_("private")
    await files.upload(path, PNG, TYPED)
    await files.copy(path, path + ".copy")
    assert (await files.info(path))["id"] != (await files.info(path + ".copy"))["id"]
    stored = stored_files(platform)
    assert (await storage_error(files.copy(path, path + ".copy"))).code == "Duplicate"
    assert (await storage_error(files.copy(path, f"{BOB}/mine"))).status == "403"
    assert (
        await storage_error(storage(BOB).from_("private").copy(path, f"{BOB}/x"))
    ).status == "404"
    assert stored_files(platform) == stored
    await files.remove([path])
    assert await files.download(path + ".copy") == PNG


async def test_a_signed_upload_url_permits_one_upload_without_a_token(storage, path):
    files = storage(ADA).from_("private")
    signed = await files.create_signed_upload_url(path)
    anonymous = storage().from_("private")
    await anonymous.upload_to_signed_url(path, signed["token"], PNG, TYPED)
    assert await files.download(path) == PNG
    second_upload = anonymous.upload_to_signed_url(path, signed["token"], b"two", TYPED)
    assert (await storage_error(second_upload)).code == "Duplicate"
    other_path = anonymous.upload_to_signed_url(path + "x", signed["token"], PNG, TYPED)
    assert (await storage_error(other_path)).code == "InvalidSignature"
    for other in (storage(BOB), storage()):
        refused = other.from_("private").create_signed_upload_url(f"{ADA}/x")
        assert (await storage_error(refused)).status == "403"


async def test_the_token_of_a_signed_url_permits_one_operation(gateway, storage, path):
    files = storage(ADA).from_("private")
    upload = await files.create_signed_upload_url(path)
    await files.upload(path, PNG, TYPED)
    download = await files.create_signed_url(path, 60)
    async with httpx.AsyncClient(base_url=f"{gateway}/storage/v1/object") as http_client:
        refused = await http_client.get(f"/sign/private/{path}", params={"token": upload["token"]})
        assert refused.json()["message"] == "Token is not scoped for download"
        token = httpx.URL(download["signedURL"]).params["token"]
        refused = await http_client.put(f"/upload/sign/private/{path}", params={"token": token})
        assert refused.json()["message"] == "Token is not scoped for upload"


async def test_a_bucket_is_changed_emptied_and_deleted(storage, platform):
    service = storage(key=platform.settings.secret_key)
    await service.create_bucket("short-lived")
    await service.update_bucket("short-lived", {"public": True, "file_size_limit": 100})
    bucket = await service.get_bucket("short-lived")
    assert (bucket.public, bucket.file_size_limit) == (True, 100)
    before = stored_files(platform)
    await service.from_("short-lived").upload("a.png", PNG, TYPED)
    assert (await storage_error(service.delete_bucket("short-lived"))).code == "ResourceNotEmpty"
    assert (await storage_error(storage(ADA).empty_bucket("short-lived"))).status == "403"
    assert (await storage_error(storage(ADA).delete_bucket("short-lived"))).status == "404"
    await service.empty_bucket("short-lived")
    assert stored_files(platform) == before
    await service.delete_bucket("short-lived")
    assert (await storage_error(service.get_bucket("short-lived"))).code == "Bucket not found"


async def test_a_large_object_is_streamed(storage, platform, path):
    content = random.Random(7).randbytes(8_000_000)
    service = storage(key=platform.settings.secret_key).from_("private")
    await service.upload(path, content, {"content-type": "application/octet-stream"})
    assert await service.download(path) == content


@pytest.mark.parametrize("column", ["name", "created_at", "updated_at"])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_listing_is_paginated(storage, column, order):
    folder = f"{ADA}/{uuid4()}"
    files = storage(ADA).from_("private")
    names = [f"{folder}/{name}" for name in ("B", "a", "c/1", "c/2", "d e", "z")]
    for name in names:
        await files.upload(name, PNG, TYPED)
    sort, listed, cursor = {"column": column, "order": order}, [], None
    while cursor is not None or not listed:
        options = {"prefix": folder + "/", "limit": 4, "sortBy": sort}
        page = await files.list_v2(options | ({"cursor": cursor} if cursor else {}))
        listed += [entry.name for entry in page.objects]
        cursor = page.nextCursor
        assert page.hasNext is (cursor is not None)
    assert listed == (names if order == "asc" else names[::-1])


async def test_an_object_and_a_folder_with_the_same_name_are_on_the_same_page(storage):
    folder = f"{ADA}/{uuid4()}"
    files = storage(ADA).from_("private")
    for name in ("a", "x", "x/1", "y"):
        await files.upload(f"{folder}/{name}", PNG, TYPED)
    options = {"prefix": folder + "/", "limit": 2, "with_delimiter": True}
    first = await files.list_v2(options)
    second = await files.list_v2({**options, "cursor": first.nextCursor})
    assert [entry.key for entry in first.objects] == ["a", "x"]
    assert [entry.key for entry in first.folders] == ["x"]
    assert [entry.key for entry in second.objects] == ["y"]
    assert not second.hasNext
    by_time = files.list_v2({**options, "sortBy": {"column": "created_at", "order": "asc"}})
    assert "list v2 of folders by time" in (await storage_error(by_time)).message


async def test_a_bucket_limits_size_and_type(storage, platform):
    service = storage(key=platform.settings.service_role_key)
    options = {"file_size_limit": 100, "allowed_mime_types": ["image/*"]}
    await service.create_bucket("small", options=options)
    bucket = await service.get_bucket("small")
    assert (bucket.file_size_limit, bucket.allowed_mime_types) == (100, ["image/*"])
    assert "small" in {bucket.id for bucket in await service.list_buckets()}
    files = service.from_("small")
    await files.upload("a.png", PNG, TYPED)
    assert (await storage_error(files.upload("b.png", PNG * 2, TYPED))).status == "413"
    wrong_type = files.upload("c.txt", b"", {"content-type": "text/plain"})
    assert (await storage_error(wrong_type)).status == "415"
    assert (await storage_error(storage(ADA).create_bucket("mine"))).status == "403"


@pytest.mark.parametrize(
    "name",
    [
        "../../../../etc/passwd",
        "%2e%2e/%2e%2e/secret",
        "..%2f..%2fsecret",
        "a/../../b",
        "./a",
        "..",
        "a\\..\\b",
        "a%00b",
    ],
)
def test_a_name_outside_the_storage_directory_is_refused(gateway, platform, name):
    before = stored_files(platform)
    address = urlsplit(gateway)
    headers = {"Authorization": f"Bearer {platform.settings.service_role_key}"}
    for method in ("POST", "GET"):
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        path = f"/storage/v1/object/private/{name}"
        connection.request(method, path, b"x" if method == "POST" else None, headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        assert (answer.status, b"InvalidKey" in body) == (400, True), body
    assert stored_files(platform) == before


def test_an_interrupted_upload_leaves_no_file(gateway, platform, path):
    before = stored_files(platform)
    address = urlsplit(gateway)
    for content_type in ("image/png", "multipart/form-data; boundary=zz"):
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        connection.putrequest("POST", f"/storage/v1/object/private/{path}")
        connection.putheader("Authorization", f"Bearer {platform.settings.service_role_key}")
        connection.putheader("Content-Type", content_type)
        connection.putheader("Content-Length", "1000")
        connection.endheaders(
            b"--zz\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\nx"
        )
        connection.close()
    url = f"{gateway}/storage/v1/object/private/{path}"
    headers = {"Authorization": f"Bearer {platform.settings.service_role_key}"}
    assert httpx.get(url, headers=headers).json()["error"] == "not_found"
    assert stored_files(platform) == before


async def test_the_download_of_an_object_without_its_file_is_an_error(storage, platform, path):
    files = storage(ADA).from_("private")
    before = set(stored_files(platform))
    await files.upload(path, PNG, TYPED)
    (file,) = set(stored_files(platform)) - before
    file.unlink()
    assert (await storage_error(files.download(path))).status == "500"
    assert [entry["name"] for entry in await files.remove([path])] == [path]


async def test_an_upload_refused_by_a_trigger_leaves_no_file(storage, platform, path):
    before = stored_files(platform)
    async with platform.connect() as sql:
        await sql.execute(
            "create function storage.refuse() returns trigger language plpgsql"
            " as $$ begin if current_user = 'service_role' then raise 'no'; end if;"
            " return new; end $$;"
            "create trigger refuse before insert on storage.objects"
            " for each row execute function storage.refuse()"
        )
        try:
            refused = await storage_error(storage(ADA).from_("private").upload(path, PNG, TYPED))
            assert refused.message == "database error, code: P0001"
        finally:
            await sql.execute("drop function storage.refuse() cascade")
    assert stored_files(platform) == before


async def test_incomplete_files_of_an_earlier_run_are_deleted(platform, tmp_path):
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "half").write_bytes(b"half")
    with platform.serve(storage_dir=tmp_path):
        assert list((tmp_path / "incoming").iterdir()) == []


def test_the_sync_storage_client_works(gateway, platform, path):
    headers = {
        "apikey": platform.settings.anon_key,
        "Authorization": f"Bearer {platform.token(ADA)}",
    }
    with httpx.Client(timeout=20) as http_client:
        client = SyncStorageClient(f"{gateway}/storage/v1/", headers, http_client=http_client)
        files = client.from_("private")
        files.upload(path, PNG, TYPED)
        assert files.download(path) == PNG


@pytest.mark.parametrize(
    ("method", "path", "feature"),
    [
        ("POST", "upload/resumable", "resumable uploads"),
        ("PATCH", "upload/resumable/abc", "resumable uploads"),
        ("GET", "render/image/public/open/a.png", "image transformations"),
        ("GET", "s3/private/a", "S3"),
        ("POST", "vector/CreateIndex", "vector buckets"),
        ("POST", "iceberg/bucket", "analytics buckets"),
        ("DELETE", "cdn/private/a", "CDN"),
    ],
)
async def test_unsupported_storage_calls_answer_501_and_name_the_feature(
    gateway, platform, method, path, feature
):
    headers = {"Authorization": f"Bearer {platform.settings.service_role_key}"}
    async with httpx.AsyncClient(headers=headers) as http_client:
        answer = await http_client.request(method, f"{gateway}/storage/v1/{path}")
    assert answer.status_code == 501
    assert (answer.json()["statusCode"], feature in answer.json()["message"]) == ("501", True)
