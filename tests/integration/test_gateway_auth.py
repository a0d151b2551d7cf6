"""Auth of the gateway, with the unmodified client library: accounts, sessions, administration."""

import asyncio
import time
from uuid import UUID, uuid4

import httpx
import jwt
import pytest
from supabase_auth import AsyncGoTrueClient, SyncGoTrueClient
from supabase_auth.errors import AuthApiError, AuthWeakPasswordError

PASSWORD = "correct horse battery"


def new_email() -> str:
    return f"{uuid4().hex}@example.com"


@pytest.fixture
async def auth(gateway, platform):
    async with httpx.AsyncClient(timeout=20) as http:
        yield AsyncGoTrueClient(
            url=f"{gateway}/auth/v1",
            headers={"apikey": platform.settings.anon_key},
            auto_refresh_token=False,
            persist_session=True,
            http_client=http,
        )


async def error_code_of(awaitable) -> str:
    with pytest.raises(AuthApiError) as refused:
        await awaitable
    return refused.value.code


async def test_a_sign_up_starts_a_session_at_once(auth, gateway, platform):
    email = new_email()
    answer = await auth.sign_up(
        {"email": email.upper(), "password": PASSWORD, "options": {"data": {"name": "Ada"}}}
    )
    assert (answer.user.email, answer.user.user_metadata) == (email, {"name": "Ada"})
    assert answer.user.app_metadata == {"provider": "email", "providers": ["email"]}
    assert answer.user.confirmed_at is not None
    assert answer.session.expires_in == 3600
    claims = jwt.decode(
        answer.session.access_token,
        platform.settings.jwt_secret,
        algorithms=["HS256"],
        audience="authenticated",
        issuer=f"{gateway}/auth/v1",
    )
    assert claims["sub"] == answer.user.id
    assert claims["role"] == "authenticated"
    assert claims["exp"] - claims["iat"] == 3600
    assert UUID(claims["session_id"])
    assert (await auth.get_user()).user == answer.user
    assert (await auth.get_claims())["claims"]["email"] == email


async def test_a_sign_in_with_a_password_starts_a_new_session(auth):
    email = new_email()
    first = (await auth.sign_up({"email": email, "password": PASSWORD})).session
    second = (await auth.sign_in_with_password({"email": email, "password": PASSWORD})).session
    assert second.user.id == first.user.id
    assert second.refresh_token != first.refresh_token


@pytest.mark.parametrize("case", ["a wrong password", "an unknown address"])
async def test_the_error_of_a_failed_sign_in_does_not_reveal_whether_the_account_exists(auth, case):
    email = new_email()
    await auth.sign_up({"email": email, "password": PASSWORD})
    credentials = {
        "a wrong password": {"email": email, "password": "wrong horse battery"},
        "an unknown address": {"email": new_email(), "password": PASSWORD},
    }[case]
    with pytest.raises(AuthApiError) as refused:
        await auth.sign_in_with_password(credentials)
    assert (refused.value.status, refused.value.code) == (400, "invalid_credentials")
    assert refused.value.message == "Invalid login credentials"


async def test_passwords_and_tokens_are_stored_as_hashes(auth, sql):
    session = (await auth.sign_up({"email": new_email(), "password": PASSWORD})).session
    user = await sql.fetchrow("select * from auth.users where id = $1", UUID(session.user.id))
    assert user["encrypted_password"].startswith("scrypt$")
    assert PASSWORD not in str(user)
    tokens = await sql.fetch("select token from auth.refresh_tokens")
    assert session.refresh_token not in {row["token"] for row in tokens}


@pytest.mark.parametrize(
    ("email", "password", "code"),
    [
        ("no address", PASSWORD, "validation_failed"),
        ("a@b", PASSWORD, "validation_failed"),
        ("a@b.co", "x" * 73, "validation_failed"),
    ],
)
async def test_invalid_sign_ups_are_refused(auth, email, password, code):
    assert await error_code_of(auth.sign_up({"email": email, "password": password})) == code


async def test_a_short_password_is_refused_as_weak(auth):
    with pytest.raises(AuthWeakPasswordError) as refused:
        await auth.sign_up({"email": new_email(), "password": "short"})
    assert refused.value.reasons == ["length"]


async def test_a_second_account_with_the_same_address_is_refused(auth):
    email = new_email()
    await auth.sign_up({"email": email, "password": PASSWORD})
    again = auth.sign_up({"email": email, "password": PASSWORD})
    assert await error_code_of(again) == "user_already_exists"


async def test_a_refresh_rotates_the_token(auth):
    first = (await auth.sign_up({"email": new_email(), "password": PASSWORD})).session
    second = (await auth.refresh_session()).session
    assert second.refresh_token != first.refresh_token
    assert second.user.id == first.user.id
    third = (await auth.refresh_session(second.refresh_token)).session
    assert third.refresh_token not in (first.refresh_token, second.refresh_token)
    first_session_id, third_session_id = (
        jwt.decode(session.access_token, options={"verify_signature": False})["session_id"]
        for session in (first, third)
    )
    assert first_session_id == third_session_id


async def test_a_refresh_token_can_be_reused_for_ten_seconds(auth, sql):
    """A client repeats a refresh whose response was lost."""
    first = (await auth.sign_up({"email": new_email(), "password": PASSWORD})).session
    await auth.refresh_session(first.refresh_token)
    assert (await auth.refresh_session(first.refresh_token)).session is not None
    # More than 10 seconds later, a reused token counts as stolen, so the whole session ends.
    newest = (await auth.refresh_session(first.refresh_token)).session
    await sql.execute("update auth.refresh_tokens set revoked_at = revoked_at - interval '11 s'")
    reuse = auth.refresh_session(first.refresh_token)
    assert await error_code_of(reuse) == "refresh_token_already_used"
    assert (
        await error_code_of(auth.refresh_session(newest.refresh_token)) == "refresh_token_not_found"
    )


async def test_two_concurrent_refreshes_both_succeed(auth):
    session = (await auth.sign_up({"email": new_email(), "password": PASSWORD})).session
    answers = await asyncio.gather(*(auth.refresh_session(session.refresh_token) for _ in range(2)))
    assert all(answer.session for answer in answers)


async def test_an_unknown_refresh_token_is_refused(auth):
    assert await error_code_of(auth.refresh_session("unknown")) == "refresh_token_not_found"


async def test_a_user_changes_password_and_data(auth):
    email, other = new_email(), new_email()
    await auth.sign_up({"email": email, "password": PASSWORD, "options": {"data": {"a": 1}}})
    changed = await auth.update_user(
        {"password": "another password", "data": {"a": None, "b": 2}, "email": other}
    )
    assert (changed.user.email, changed.user.user_metadata) == (other, {"b": 2})
    old = auth.sign_in_with_password({"email": other, "password": PASSWORD})
    assert await error_code_of(old) == "invalid_credentials"
    new = await auth.sign_in_with_password({"email": other, "password": "another password"})
    assert new.session is not None
    same = auth.update_user({"password": "another password"})
    assert await error_code_of(same) == "same_password"
    await auth.sign_up({"email": email, "password": PASSWORD})
    assert await error_code_of(auth.update_user({"email": other})) == "email_exists"


@pytest.mark.parametrize(("scope", "remaining"), [("global", 0), ("local", 1), ("others", 1)])
async def test_a_sign_out_ends_the_sessions_of_its_scope(auth, sql, scope, remaining):
    email = new_email()
    first = (await auth.sign_up({"email": email, "password": PASSWORD})).session
    await auth.sign_in_with_password({"email": email, "password": PASSWORD})
    await auth.sign_out({"scope": scope})
    count = "select count(*) from auth.sessions where user_id = $1"
    assert await sql.fetchval(count, UUID(first.user.id)) == remaining
    if scope != "local":
        assert await error_code_of(auth.get_user(first.access_token)) == "session_not_found"


async def test_an_expired_access_token_is_refused(platform):
    with platform.serve(token_seconds=-1) as url:
        async with httpx.AsyncClient(timeout=20) as http:
            auth = AsyncGoTrueClient(
                url=f"{url}/auth/v1",
                headers={"apikey": platform.settings.anon_key},
                auto_refresh_token=False,
                http_client=http,
            )
            session = (await auth.sign_up({"email": new_email(), "password": PASSWORD})).session
            assert session.expires_at < time.time()
            assert await error_code_of(auth.get_user(session.access_token)) == "bad_jwt"


async def test_the_token_of_an_unknown_user_is_refused(auth, platform):
    assert await error_code_of(auth.get_user(platform.token(uuid4()))) == "user_not_found"
    assert await error_code_of(auth.get_user(platform.settings.anon_key)) == "bad_jwt"
    assert await error_code_of(auth.get_user("nonsense")) == "bad_jwt"


def test_the_sync_auth_client_works(gateway, platform):
    with httpx.Client(timeout=20) as http:
        auth = SyncGoTrueClient(
            url=f"{gateway}/auth/v1",
            headers={"apikey": platform.settings.anon_key},
            auto_refresh_token=False,
            http_client=http,
        )
        email = new_email()
        auth.sign_up({"email": email, "password": PASSWORD})
        session = auth.sign_in_with_password({"email": email, "password": PASSWORD}).session
        assert auth.get_user(session.access_token).user.email == email


@pytest.mark.parametrize(
    ("call", "feature"),
    [
        (lambda auth: auth.sign_in_anonymously(), "anonymous sign-in"),
        (lambda auth: auth.sign_up({"phone": "+1", "password": PASSWORD}), "phone sign-up"),
        (
            lambda auth: auth.sign_in_with_password({"phone": "+1", "password": PASSWORD}),
            "phone sign-in",
        ),
        (lambda auth: auth.sign_in_with_otp({"email": "a@b.co"}), "one-time passwords"),
        (lambda auth: auth.reset_password_for_email("a@b.co"), "password recovery"),
        (lambda auth: auth.admin.oauth.list_clients(), "Auth admin API beyond users"),
        (
            lambda auth: auth.admin.generate_link({"type": "magiclink", "email": "a@b.co"}),
            "e-mail links",
        ),
        (lambda auth: auth.admin.invite_user_by_email("a@b.co"), "invitations"),
        (lambda auth: auth.exchange_code_for_session({"auth_code": "x"}), "grant type pkce"),
    ],
)
async def test_unsupported_auth_calls_answer_501_and_name_the_feature(auth, call, feature):
    with pytest.raises(AuthApiError) as refused:
        await call(auth)
    assert (refused.value.status, refused.value.code) == (501, "not_implemented")
    assert feature in refused.value.message


async def test_requests_without_an_api_version_get_the_older_error_format(gateway, platform):
    headers = {"apikey": platform.settings.publishable_key}
    async with httpx.AsyncClient(base_url=f"{gateway}/auth/v1", headers=headers) as http:
        answer = await http.post("/signup", content="{")
        assert answer.json()["error_code"] == "bad_json"
        assert (await http.get("/user")).json()["error_code"] == "no_authorization"
        answer = await http.post("/signup", json={"email": "a@b.co"})
        assert answer.json()["error_code"] == "validation_failed"
        answer = await http.post("/token?grant_type=password", json={"email": "a@b.co"})
        assert answer.json()["error_code"] == "invalid_credentials"
        answer = await http.post("/token?grant_type=refresh_token", json={})
        assert answer.json()["msg"] == "refresh_token required"
        assert (await http.post("/logout?scope=none")).status_code == 400
        assert (await http.get("/.well-known/jwks.json")).json() == {"keys": []}
        assert (await http.get("/settings")).json()["mailer_autoconfirm"] is True
        assert (await http.get("/health")).status_code == 200


# --- Administration of users, with a service key ---


@pytest.fixture
async def admin(gateway, platform):
    async with httpx.AsyncClient(timeout=20) as http:
        key = platform.settings.service_role_key
        yield AsyncGoTrueClient(
            url=f"{gateway}/auth/v1",
            headers={"apikey": key, "Authorization": f"Bearer {key}"},
            http_client=http,
        ).admin


async def test_an_administrator_creates_changes_and_deletes_users(admin, auth):
    email = new_email()
    created = await admin.create_user(
        {
            "email": email.upper(),
            "password": PASSWORD,
            "email_confirm": True,
            "user_metadata": {"name": "Ada", "old": 1},
            "app_metadata": {"plan": "pro"},
        }
    )
    user = created.user
    assert (user.email, user.user_metadata) == (email, {"name": "Ada", "old": 1})
    assert user.app_metadata == {"provider": "email", "providers": ["email"], "plan": "pro"}
    session = (await auth.sign_in_with_password({"email": email, "password": PASSWORD})).session
    changed = await admin.update_user_by_id(
        user.id,
        {"password": "another " + PASSWORD, "user_metadata": {"old": None, "new": 2}},
    )
    assert changed.user.user_metadata == {"name": "Ada", "new": 2}
    assert (await admin.get_user_by_id(user.id)).user == changed.user
    wrong = auth.sign_in_with_password({"email": email, "password": PASSWORD})
    assert await error_code_of(wrong) == "invalid_credentials"
    await auth.sign_in_with_password({"email": email, "password": "another " + PASSWORD})
    await admin.delete_user(user.id)
    assert await error_code_of(admin.get_user_by_id(user.id)) == "user_not_found"
    assert await error_code_of(admin.delete_user(user.id)) == "user_not_found"
    assert await error_code_of(auth.get_user(session.access_token)) == "user_not_found"
    assert (
        await error_code_of(auth.refresh_session(session.refresh_token))
        == "refresh_token_not_found"
    )


async def test_auth_refuses_the_token_of_a_deleted_user(admin, auth, gateway, platform):
    # As on Supabase, other services accept the token until it expires.
    session = (await auth.sign_up({"email": new_email(), "password": PASSWORD})).session
    await admin.delete_user(session.user.id)
    headers = {
        "apikey": platform.settings.publishable_key,
        "authorization": f"Bearer {session.access_token}",
    }
    async with httpx.AsyncClient(base_url=gateway, headers=headers, timeout=20) as http:
        for method, path, body in (
            ("GET", "user", None),
            ("PUT", "user", {"password": "another " + PASSWORD}),
            ("PUT", "user", {"data": {"name": "Ada"}}),
            *(("POST", f"logout?scope={scope}", None) for scope in ("global", "local", "others")),
        ):
            answer = await http.request(method, f"/auth/v1/{path}", json=body)
            assert (answer.status_code, answer.json()["error_code"]) == (403, "user_not_found")
        answer = await http.get("/storage/v1/bucket")
        assert answer.status_code == 200


async def test_users_are_listed_in_pages_newest_first(admin, gateway, platform):
    created = [(await admin.create_user({"email": new_email()})).user.id for _ in range(3)]
    assert [user.id for user in await admin.list_users(per_page=3)] == created[::-1]
    second_page = await admin.list_users(page=2, per_page=2)
    assert second_page[0].id == created[0]
    headers = {"apikey": platform.settings.secret_key}
    async with httpx.AsyncClient(headers=headers) as http:
        answer = await http.get(f"{gateway}/auth/v1/admin/users?page=1&per_page=1")
        total = int(answer.headers["x-total-count"])
        assert answer.json()["aud"] == "authenticated"
        assert answer.headers["link"] == (
            '</admin/users?page=2&per_page=1>; rel="next",'
            f' </admin/users?page={total}&per_page=1>; rel="last"'
        )
        for page in ("0", "-1", "x", "²", "9" * 30):
            answer = await http.get(f"{gateway}/auth/v1/admin/users", params={"page": page})
            assert (answer.status_code, answer.json()["error_code"]) == (400, "validation_failed")


async def test_an_unconfirmed_user_cannot_sign_in(admin, auth):
    account = {"email": new_email(), "password": PASSWORD}
    user = (await admin.create_user(account)).user
    assert await error_code_of(auth.sign_in_with_password(account)) == "email_not_confirmed"
    await admin.update_user_by_id(user.id, {"email_confirm": True})
    assert (await auth.sign_in_with_password(account)).user.id == user.id


async def test_the_access_token_contains_the_role_of_the_user(admin, auth):
    account = {"email": new_email(), "password": PASSWORD, "email_confirm": True}
    await admin.create_user({**account, "role": "editor"})
    session = (await auth.sign_in_with_password(account)).session
    assert jwt.decode(session.access_token, options={"verify_signature": False})["role"] == "editor"


async def test_ids_and_email_addresses_of_users_are_unique(admin):
    email, user_id = new_email(), str(uuid4())
    assert (await admin.create_user({"email": email, "id": user_id})).user.id == user_id
    assert await error_code_of(admin.create_user({"email": email})) == "email_exists"
    other = (await admin.create_user({"email": new_email()})).user
    assert (
        await error_code_of(admin.update_user_by_id(other.id, {"email": email})) == "email_exists"
    )
    assert await error_code_of(admin.create_user({})) == "validation_failed"


@pytest.mark.parametrize(
    ("attributes", "feature"),
    [
        ({"phone": "+1"}, "phone numbers"),
        ({"ban_duration": "1h"}, "banning of users"),
        ({"password_hash": "$2a$10$x"}, "passwords given as a hash"),
    ],
)
async def test_unsupported_admin_calls_answer_501_and_name_the_feature(admin, attributes, feature):
    user = (await admin.create_user({"email": new_email()})).user
    for call in (
        admin.create_user({"email": new_email(), **attributes}),
        admin.update_user_by_id(user.id, attributes),
    ):
        with pytest.raises(AuthApiError) as refused:
            await call
        assert (refused.value.status, feature in refused.value.message) == (501, True)
    assert (
        await error_code_of(admin.delete_user(user.id, should_soft_delete=True))
        == "not_implemented"
    )


@pytest.mark.parametrize(
    ("token", "status", "code"),
    [
        (None, 403, "not_admin"),
        ("nonsense", 403, "bad_jwt"),
        ("anon", 403, "not_admin"),
        ("user", 403, "not_admin"),
    ],
)
async def test_only_a_service_key_may_administer_users(gateway, platform, token, status, code):
    tokens = {"anon": platform.settings.anon_key, "user": platform.token(uuid4())}
    headers = {"apikey": platform.settings.anon_key}
    if token is not None:
        headers["Authorization"] = f"Bearer {tokens.get(token, token)}"
    async with httpx.AsyncClient(base_url=f"{gateway}/auth/v1", headers=headers) as http:
        for method, path in (
            ("GET", "/admin/users"),
            ("POST", "/admin/users"),
            ("GET", f"/admin/users/{uuid4()}"),
            ("PUT", f"/admin/users/{uuid4()}"),
            ("DELETE", f"/admin/users/{uuid4()}"),
        ):
            answer = await http.request(method, path)
            assert (answer.status_code, answer.json()["error_code"]) == (status, code)
