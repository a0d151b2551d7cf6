"""Verification of users' tokens: algorithms, claims, rotation of keys, and bounds of fetches."""

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from picture_queue.errors import NotAllowed, NotAuthenticated
from picture_queue.web import key_set
from picture_queue.web.key_set import KeySet, KeysUnavailable, parse_key_set
from picture_queue.web.tokens import TokenVerifier
from tests.web.key_server import SECRET, KeyServer, SigningKey, claims


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with KeyServer().serving() as running:
        yield running


@pytest.fixture
def verifier(server: KeyServer, clock: Clock) -> TokenVerifier:
    return TokenVerifier(KeySet(server.url, clock), SECRET, "authenticated")


def hs256(changes: Any = None, secret: str = SECRET, **header: Any) -> str:
    return jwt.encode(claims(**(changes or {})), secret, "HS256", header or None)


def join(header: dict[str, Any], payload: dict[str, Any], signature: str = "") -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in (header, payload)
    ]
    return ".".join([*parts, signature])


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_a_token_that_a_key_of_the_project_signed_is_accepted(verifier, server, algorithm):
    key = SigningKey(algorithm)
    server.serve(SigningKey("RS256"), key)
    token = key.sign()
    assert await verifier.verify(f"Bearer {token}") == token
    assert await verifier.verify(f"bearer  {token}") == token
    assert server.fetches == 1


async def test_a_token_with_the_secret_is_accepted_without_a_fetch(verifier, server):
    token = hs256()
    assert await verifier.verify(f"Bearer {token}") == token
    assert await verifier.verify(f"Bearer {hs256({'aud': ['other', 'authenticated']})}")
    assert server.fetches == 0


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer x", "Bearer a.b.c"),
        *("Bearer " + "a" * 20_000, "Bearer ä.ö.ü", "Bearer " + "[" * 8000 + ".a.b"),
    ],
)
async def test_a_header_without_a_token_is_refused(verifier, header):
    with pytest.raises(NotAuthenticated):
        await verifier.verify(header)


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1_700_000_000},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": 4_000_000_000},
        {"aud": None},
        {"aud": "other"},
        {"aud": ["other"]},
        {"sub": None},
        {"sub": 7},
    ],
    ids=str,
)
async def test_a_token_with_a_wrong_claim_is_refused(verifier, server, changes):
    key = SigningKey()
    server.serve(key)
    for token in (hs256(changes), key.sign(changes)):
        with pytest.raises(NotAuthenticated):
            await verifier.verify(f"Bearer {token}")


@pytest.mark.parametrize("role", ["service_role", "anon", "postgres", "", None, 5])
async def test_a_token_of_another_role_is_not_allowed(verifier, role):
    with pytest.raises(NotAllowed):
        await verifier.verify(f"Bearer {hs256({'role': role})}")


async def test_a_forged_token_is_refused(verifier, server):
    key, other = SigningKey(), SigningKey()
    server.serve(key)
    good = key.sign()
    head, payload, signature = good.split(".")
    forged_payload = join({}, claims(sub="someone-else")).split(".")[1]
    for token in (
        hs256(secret="another-secret-with-at-least-32-characters"),
        other.sign(kid=key.id),
        f"{head}.{forged_payload}.{signature}",
        f"{head}.{payload}.{'A' * len(signature)}",
        f"{head}.{payload}.",
    ):
        with pytest.raises(NotAuthenticated):
            await verifier.verify(f"Bearer {token}")


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "HS384", "HS512", "ES384", "PS256", "", None]
)
async def test_an_algorithm_that_supabase_does_not_use_is_refused(verifier, server, algorithm):
    key = SigningKey()
    server.serve(key)
    header = {"alg": algorithm, "kid": key.id}
    for signature in ("", key.sign().split(".")[2]):
        with pytest.raises(NotAuthenticated):
            await verifier.verify(f"Bearer {join(header, claims(), signature)}")


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
@pytest.mark.parametrize("secret", [SECRET, None])
async def test_a_public_key_is_never_the_secret_of_hs256(server, clock, algorithm, secret):
    key = SigningKey(algorithm)
    server.serve(key)
    verifier = TokenVerifier(KeySet(server.url, clock), secret, "authenticated")
    assert await verifier.verify(f"Bearer {key.sign()}")  # the key is known now
    public = key.private.public_key()
    for encoding, format_ in (
        (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    ):
        material = public.public_bytes(encoding, format_)
        # PyJWT refuses to sign with a PEM, so the token is signed by hand.
        head, payload, _ = join({"alg": "HS256", "kid": key.id}, claims()).split(".")
        signature = hmac.digest(material, f"{head}.{payload}".encode(), hashlib.sha256)
        encoded = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
        with pytest.raises(NotAuthenticated):
            await verifier.verify(f"Bearer {head}.{payload}.{encoded}")


async def test_a_key_is_used_only_for_its_own_algorithm(verifier, server):
    key = SigningKey("RS256")
    server.serve(key)
    assert await verifier.verify(f"Bearer {key.sign()}")
    other = SigningKey("ES256")
    with pytest.raises(NotAuthenticated):
        await verifier.verify(f"Bearer {other.sign(kid=key.id)}")


@pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "x5c"])
async def test_keys_that_a_token_names_are_not_used(verifier, server, name):
    attacker = SigningKey()
    with KeyServer().serving() as foreign:
        foreign.serve(attacker)
        value = attacker.jwk() if name == "jwk" else foreign.url
        with pytest.raises(NotAuthenticated):
            await verifier.verify(f"Bearer {attacker.sign(**{name: value})}")
        assert foreign.fetches == 0


def test_keys_that_cannot_verify_tokens_are_left_out():
    key, weak = SigningKey(), SigningKey("RS256", 1024)
    private = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.private))
    other_curve = jwt.algorithms.ECAlgorithm.to_jwk(
        ec.generate_private_key(ec.SECP384R1()).public_key()
    )
    entries = [
        key.jwk(),
        weak.jwk(),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "1", "alg": "HS256"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "2", "alg": "ES256"},
        private | {"kid": "3"},
        json.loads(other_curve) | {"kid": "4"},
        key.jwk(kid="5", use="enc"),
        key.jwk(kid="6", key_ops=["sign"]),
        key.jwk(kid="11", key_ops=None),
        key.jwk(kid="12", key_ops=5),
        key.jwk(kid="13", key_ops="verify"),
        key.jwk(kid="7", alg="RS256"),
        key.jwk(kid=8),
        key.jwk(kid="9", x="?"),
        {"kty": "EC", "kid": "10"},
        {},
        "text",
        None,
    ]
    assert set(parse_key_set(json.dumps({"keys": entries}).encode())) == {(key.id, "ES256")}


async def test_a_new_key_is_found_and_a_removed_key_is_refused(verifier, server, clock):
    old, new = SigningKey(), SigningKey()
    server.serve(old)
    assert await verifier.verify(f"Bearer {old.sign()}")
    server.serve(old, new)
    clock.now += 30
    assert await verifier.verify(f"Bearer {new.sign()}")
    server.serve(new)
    clock.now += 600
    assert await verifier.verify(f"Bearer {new.sign()}")
    with pytest.raises(NotAuthenticated):
        await verifier.verify(f"Bearer {old.sign()}")


async def test_a_flood_of_unknown_keys_causes_one_fetch_in_thirty_seconds(verifier, server, clock):
    key = SigningKey()
    server.serve(key)
    assert await verifier.verify(f"Bearer {key.sign()}")
    clock.now += 30

    async def refuse(number: int) -> None:
        with pytest.raises(NotAuthenticated):
            await verifier.verify(f"Bearer {key.sign(kid=f'unknown-{number}')}")

    await asyncio.gather(*map(refuse, range(500)))
    assert server.fetches == 2
    assert await verifier.verify(f"Bearer {key.sign()}")
    clock.now += 30
    await refuse(0)
    assert server.fetches == 3


async def test_concurrent_first_tokens_cause_one_fetch(verifier, server):
    key = SigningKey()
    server.serve(key)
    await asyncio.gather(*(verifier.verify(f"Bearer {key.sign()}") for _ in range(50)))
    assert server.fetches == 1


@pytest.mark.parametrize(
    ("status", "content"),
    [
        *((500, b""), (404, b"{}"), (200, b"<html>"), (200, b"[]"), (200, b'{"keys": 5}')),
        *((200, b"[" * 100_000), (200, b" " * 300_000)),
    ],
)
async def test_keys_are_kept_for_an_hour_if_the_fetch_fails(
    verifier, server, clock, status, content
):
    key = SigningKey()
    server.serve(key)
    assert await verifier.verify(f"Bearer {key.sign()}")
    server.status, server.content = status, content
    clock.now += 3599
    assert await verifier.verify(f"Bearer {key.sign()}")
    clock.now += 30
    with pytest.raises(KeysUnavailable):
        await verifier.verify(f"Bearer {key.sign()}")
    assert server.fetches == 3


async def test_keys_are_kept_if_the_key_set_cannot_be_parsed_for_any_reason(
    verifier, server, clock, monkeypatch, caplog
):
    key = SigningKey()
    server.serve(key)
    assert await verifier.verify(f"Bearer {key.sign()}")

    def fail(content: bytes) -> None:
        raise AttributeError("an error that no parser documents")

    monkeypatch.setattr(key_set, "parse_key_set", fail)
    clock.now += 600
    assert await verifier.verify(f"Bearer {key.sign()}")
    assert server.fetches == 2
    assert "AttributeError: an error that no parser documents" in caplog.text


async def test_a_key_for_which_the_parser_raises_any_error_is_left_out(monkeypatch):
    key, odd = SigningKey(), SigningKey()
    parse = jwt.PyJWK.from_dict

    def parse_or_fail(entry: dict[str, Any], algorithm: str) -> jwt.PyJWK:
        if entry["kid"] == odd.id:
            raise AttributeError("an error that the parser does not document")
        return parse(entry, algorithm)

    monkeypatch.setattr(jwt.PyJWK, "from_dict", parse_or_fail)
    content = json.dumps({"keys": [odd.jwk(), key.jwk()]}).encode()
    assert set(parse_key_set(content)) == {(key.id, "ES256")}


async def test_a_compressed_key_set_is_not_decompressed(verifier, server):
    """Each byte could decompress to a thousand bytes before the size is known."""
    key = SigningKey()
    server.serve(key)
    server.content = gzip.compress(server.content)
    server.headers = {"content-encoding": "gzip"}
    with pytest.raises(KeysUnavailable):
        await verifier.verify(f"Bearer {key.sign()}")
    assert server.accepted_encodings == ["identity"]


async def test_a_failed_first_fetch_is_repeated_after_two_seconds(verifier, server, clock):
    key = SigningKey()
    server.status = 500
    for _ in range(5):
        with pytest.raises(KeysUnavailable):
            await verifier.verify(f"Bearer {key.sign()}")
    assert server.fetches == 1
    server.status = 200
    server.serve(key)
    clock.now += 2
    assert await verifier.verify(f"Bearer {key.sign()}")


async def test_a_redirect_is_not_followed(verifier, server):
    key = SigningKey()
    with KeyServer().serving() as target:
        target.serve(key)
        server.status, server.headers = 302, {"location": target.url}
        with pytest.raises(KeysUnavailable):
            await verifier.verify(f"Bearer {key.sign()}")
        assert target.fetches == 0
