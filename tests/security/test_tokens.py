"""Forged tokens: each service refuses them, with an error that names the reason."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
import websockets

from tests.security.realtime_socket import open_socket
from tests.security.sample_project import SampleProject, owner_image_path

_FAR_FUTURE = 4102444800
_OTHER_SECRET = "another-secret-of-at-least-32-characters"


def _encode_part(content: Any) -> str:
    text = json.dumps(content, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def _claims(project: SampleProject, **changes: Any) -> dict[str, Any]:
    """Return the claims of the token of the owner, with changes."""
    claims = {
        "sub": project.users["owner"],
        "role": "authenticated",
        "aud": "authenticated",
        "exp": _FAR_FUTURE,
    }
    return {**claims, **changes}


def _sign(claims: dict[str, Any], secret: str, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, secret, algorithm=algorithm)


def _make_unsigned(claims: dict[str, Any], algorithm: str) -> str:
    return f"{_encode_part({'alg': algorithm, 'typ': 'JWT'})}.{_encode_part(claims)}."


def _replace_claims(project: SampleProject, secret: str) -> str:
    """Return a token with a valid signature whose claims were replaced."""
    head, _, signature = _sign(_claims(project), secret).split(".")
    return f"{head}.{_encode_part(_claims(project, role='service_role'))}.{signature}"


BAD_TOKENS: dict[str, Callable[[SampleProject, str], str]] = {
    "forged": lambda project, secret: _sign(_claims(project), _OTHER_SECRET),
    "forged for the service": lambda project, secret: _sign(
        {"role": "service_role", "exp": _FAR_FUTURE}, _OTHER_SECRET
    ),
    "alg none": lambda project, secret: _make_unsigned(_claims(project), "none"),
    "alg NONE": lambda project, secret: _make_unsigned(
        _claims(project, role="service_role"), "NONE"
    ),
    "alg none with a signature": lambda project, secret: (
        _make_unsigned(_claims(project), "none") + _sign(_claims(project), secret).split(".")[2]
    ),
    "no signature": lambda project, secret: (
        _sign(_claims(project), secret).rpartition(".")[0] + "."
    ),
    "another algorithm": lambda project, secret: _sign(_claims(project), secret + secret, "HS512"),
    "claims exchanged": _replace_claims,
    "expired": lambda project, secret: _sign(_claims(project, exp=int(time.time()) - 60), secret),
    "not yet valid": lambda project, secret: _sign(
        _claims(project, nbf=int(time.time()) + 3600), secret
    ),
    "a role of the database": lambda project, secret: _sign(
        _claims(project, role="postgres"), secret
    ),
    "a role that is not a text": lambda project, secret: _sign(
        _claims(project, role=["service_role"]), secret
    ),
    "no token": lambda project, secret: "nonsense",
}


@pytest.fixture(params=BAD_TOKENS, ids=lambda name: name.replace(" ", "-"))
def bad_token(request: Any, project: SampleProject, sandbox: Any) -> str:
    """A token that is invalid for this stack."""
    return BAD_TOKENS[request.param](project, sandbox.jwt_secret)


async def test_rest_refuses_a_forged_token(project: SampleProject, bad_token: str, sandbox: Any):
    for headers in ({"apikey": bad_token}, {"authorization": f"Bearer {bad_token}"}):
        answer = await project.http.get("/rest/v1/job_queue", headers=headers)
        assert (answer.status_code, "API key" in answer.json()["message"]) == (401, True)
    for headers in (
        {"apikey": sandbox.anon_key, "authorization": f"Bearer {bad_token}"},
        {"apikey": sandbox.service_role_key, "authorization": f"Bearer {bad_token}"},
    ):
        for method, target in (
            ("GET", "job_queue"),
            ("POST", "rpc/list_jobs"),
            ("POST", "rpc/queue_status"),
            ("GET", ""),
        ):
            answer = await project.http.request(method, f"/rest/v1/{target}", headers=headers)
            code = answer.json()["code"]
            if code in ("42501", "22023"):  # The database has no such role for the API.
                assert answer.status_code in (400, 401, 403), answer.text
                continue
            assert (answer.status_code, code) in ((401, "PGRST301"), (401, "PGRST303")), answer.text
            assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_realtime_refuses_a_forged_token(
    project: SampleProject, bad_token: str, sandbox: Any
):
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with open_socket(sandbox.api_url, bad_token):
            pass
    assert refused.value.response.status_code == 401
    topic = f"pq:user:{project.users['owner']}"
    async with open_socket(sandbox.api_url, sandbox.anon_key) as socket:
        reason = await socket.join(topic, bad_token)
        assert reason is not None
        assert reason.partition(":")[0] in ("InvalidJWTToken", "JwtSignatureError", "MalformedJWT")
        # A channel is closed if the client replaces its valid token by an invalid one.
        assert await socket.join(topic, project.tokens["owner"]) is None
        await socket.send(f"realtime:{topic}", "access_token", {"access_token": bad_token})
        assert [message["event"] for message in socket.messages] == ["system", "phx_close"]
    url = f"/realtime/v1/api/broadcast/{topic}/events/x?private=true"
    for headers in (
        {"apikey": bad_token},
        {"apikey": sandbox.anon_key, "authorization": f"Bearer {bad_token}"},
    ):
        answer = await project.http.post(url, headers=headers, json={})
        assert answer.status_code == 401


async def test_storage_refuses_a_forged_token(project: SampleProject, bad_token: str, sandbox: Any):
    headers = {"apikey": sandbox.anon_key, "authorization": f"Bearer {bad_token}"}
    name = owner_image_path(project)
    for method, target, status, content in (
        ("GET", f"object/pictures/{name}", "404", None),
        ("GET", f"object/info/pictures/{name}", "404", None),
        ("GET", f"object/authenticated/pictures/{name}", "403", None),
        ("POST", "object/list/pictures", "403", {"prefix": ""}),
        ("POST", f"object/sign/pictures/{name}", "403", {"expiresIn": 60}),
        ("DELETE", "object/pictures", "403", {"prefixes": [name]}),
        ("POST", f"object/pictures/{name}", "403", {}),
        ("GET", "bucket", "403", None),
        ("POST", "bucket", "403", {"name": "mine"}),
    ):
        answer = await project.http.request(
            method, f"/storage/v1/{target}", headers=headers, json=content
        )
        assert (answer.status_code, answer.json()["statusCode"]) == (400, status), answer.text
    url = f"/storage/v1/object/sign/pictures/{name}"
    answer = await project.http.get(url, params={"token": bad_token})
    assert answer.status_code == 400
    assert answer.json()["error"] in ("InvalidJWT", "InvalidSignature")


# Auth requires the subject but not the role, here as on Supabase.
@pytest.mark.parametrize("flaw", [flaw for flaw in BAD_TOKENS if not flaw.startswith("a role")])
async def test_auth_refuses_a_forged_token(project: SampleProject, flaw: str, sandbox: Any):
    token = BAD_TOKENS[flaw](project, sandbox.jwt_secret)
    headers = {"apikey": sandbox.anon_key, "authorization": f"Bearer {token}"}
    for method, target, content in (
        ("GET", "user", None),
        ("PUT", "user", {"password": "another horse battery"}),
        ("POST", "logout", None),
    ):
        answer = await project.http.request(
            method, f"/auth/v1/{target}", headers=headers, json=content
        )
        assert (answer.status_code, answer.json()["error_code"]) == (403, "bad_jwt")


async def test_a_forged_token_cannot_set_a_fault(project: SampleProject, bad_token: str):
    for headers in ({"apikey": bad_token}, {"authorization": f"Bearer {bad_token}"}):
        answer = await project.http.post("/_faults", headers=headers, json={"network_cut": True})
        assert answer.status_code == 403


async def test_requests_without_a_key_are_refused(project: SampleProject):
    name = owner_image_path(project)
    for method, target, status in (
        ("GET", "/rest/v1/job_queue", 401),
        ("POST", "/rest/v1/rpc/list_jobs", 401),
        ("POST", "/realtime/v1/api/broadcast", 401),
        ("GET", "/auth/v1/user", 401),
        ("GET", f"/storage/v1/object/pictures/{name}", 400),
        ("POST", "/storage/v1/object/list/pictures", 400),
        ("GET", "/_faults", 403),
    ):
        answer = await project.http.request(method, target)
        assert answer.status_code == status, answer.text


async def test_a_token_without_a_role_has_no_permissions_of_its_user(
    project: SampleProject, sandbox: Any
):
    claims = _claims(project)
    del claims["role"]
    token = _sign(claims, sandbox.jwt_secret)
    await _expect_no_user(project, sandbox, token)


async def test_the_token_of_a_signed_url_opens_only_this_url(project: SampleProject, sandbox: Any):
    """The token of a signed URL has the signature of the stack, but another audience."""
    name = owner_image_path(project)
    signed = await project.request(
        "owner", "POST", f"/storage/v1/object/sign/pictures/{name}", json={"expiresIn": 60}
    )
    url = signed.json["signedURL"]
    assert (await project.http.get(f"/storage/v1{url}")).status_code == 200
    token = url.partition("token=")[2]
    await _expect_no_user(project, sandbox, token)
    headers = {"apikey": sandbox.anon_key, "authorization": f"Bearer {token}"}
    assert (await project.http.get("/auth/v1/user", headers=headers)).status_code == 403
    # The token opens no other image, and no other token opens this image.
    for bucket, other, key in (
        ("pictures", "nobody/xyzzy.png", token),
        (project["bucket"], name, token),
        ("pictures", name, project.tokens["owner"]),
        ("pictures", name, sandbox.service_role_key),
    ):
        answer = await project.http.get(
            f"/storage/v1/object/sign/{bucket}/{other}", params={"token": key}
        )
        assert (answer.status_code, answer.json()["error"]) == (400, "InvalidSignature")


async def _expect_no_user(project: SampleProject, sandbox: Any, token: str) -> None:
    headers = {"apikey": sandbox.anon_key, "authorization": f"Bearer {token}"}
    for target in ("job_queue", "generations", "queue_health"):
        answer = await project.http.get(f"/rest/v1/{target}", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "42501")
    answer = await project.http.post("/rest/v1/rpc/list_jobs", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "42501")
    name = owner_image_path(project)
    answer = await project.http.get(f"/storage/v1/object/pictures/{name}", headers=headers)
    assert (answer.status_code, answer.json()["statusCode"]) == (400, "404")
    async with open_socket(sandbox.api_url, sandbox.anon_key) as socket:
        reason = await socket.join(f"pq:user:{project.users['owner']}", token)
        assert reason is not None and reason.startswith(("Unauthorized: ", "InvalidJWTToken: "))


@pytest.mark.parametrize("audience", ["another-project", ["a", "b"], "", None, "service_role"])
async def test_another_audience_gives_no_more_permissions(
    project: SampleProject, sandbox: Any, audience: Any
):
    """Supabase ignores the claim `aud`, because other issuers set audiences of their own.

    The permissions of a token come only from its role and its subject.
    """
    claims = _claims(project, sub=project.users["other_user"], aud=audience)
    token = _sign(claims, sandbox.jwt_secret)
    headers = {"apikey": sandbox.anon_key, "authorization": f"Bearer {token}"}
    for method, target in (("GET", "generations"), ("POST", "rpc/list_jobs")):
        answer = await project.http.request(method, f"/rest/v1/{target}", headers=headers)
        assert (answer.status_code, answer.json()) == (200, [])
    answer = await project.http.post("/rest/v1/rpc/queue_status", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "42501")
    name = owner_image_path(project)
    answer = await project.http.get(f"/storage/v1/object/pictures/{name}", headers=headers)
    assert (answer.status_code, answer.json()["statusCode"]) == (400, "404")
    async with open_socket(sandbox.api_url, sandbox.anon_key) as socket:
        assert await socket.join(f"pq:user:{project.users['owner']}", token) is not None
        assert await socket.join(f"pq:user:{project.users['other_user']}", token) is None
