"""``/auth/v1``: the routes the clients use to sign up, sign in, stay signed in and sign out."""

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final

import asyncpg
import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from picture_queue.local.gateway.auth import passwords
from picture_queue.local.gateway.auth.accounts import Accounts, Session
from picture_queue.local.gateway.auth.errors import AuthError
from picture_queue.local.gateway.credentials import BadToken, Credentials
from picture_queue.local.gateway.database import Database
from picture_queue.local.gateway.missing import not_implemented
from picture_queue.local.gateway.settings import GatewaySettings

_Handler = Callable[[Request], Awaitable[Response]]

_SHORTEST_PASSWORD: Final = 6
_LONGEST_PASSWORD: Final = 72  # bytes bcrypt looks at; the platform refuses more
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
_SCOPES: Final = ("global", "local", "others")


class AuthService:
    """Accounts over HTTP. Every sign-up is confirmed at once: there is no e-mail here."""

    def __init__(
        self, settings: GatewaySettings, credentials: Credentials, database: Database
    ) -> None:
        self._secret = settings.jwt_secret
        self._issuer = f"{settings.api_url}/auth/v1"
        self._token_seconds = settings.token_seconds
        self._credentials = credentials
        self._accounts = Accounts(database)

    def routes(self) -> list[BaseRoute]:
        """The routes below ``/auth/v1``."""
        served: tuple[tuple[str, str, _Handler], ...] = (
            ("POST", "/signup", self._sign_up),
            ("POST", "/token", self._token),
            ("GET", "/user", self._user),
            ("PUT", "/user", self._change_user),
            ("POST", "/logout", self._sign_out),
            ("GET", "/health", self._health),
            ("GET", "/settings", self._settings),
            ("GET", "/.well-known/jwks.json", self._keys),
        )
        return [
            Route("/auth/v1" + path, _answering_errors(handler), methods=[method])
            for method, path, handler in served
        ]

    async def _sign_up(self, request: Request) -> Response:
        body = await _json(request)
        if "email" not in body:
            return not_implemented("phone sign-up" if "phone" in body else "anonymous sign-in")
        email, password = _email(body), _password(body)
        metadata = body.get("data")
        metadata = metadata if isinstance(metadata, dict) else {}
        digest = await passwords.hash_password(password)
        return self._session(await self._accounts.create(email, digest, metadata))

    async def _token(self, request: Request) -> Response:
        grant = request.query_params.get("grant_type", "")
        if grant not in ("password", "refresh_token"):
            return not_implemented(f"grant type {grant or '(none)'}")
        body = await _json(request)
        if grant == "refresh_token":
            token = body.get("refresh_token")
            if not isinstance(token, str) or not token:
                raise AuthError(400, "validation_failed", "refresh_token required")
            return self._session(await self._accounts.refresh(token))
        if "email" not in body:
            return not_implemented("phone sign-in")
        user = await self._accounts.by_email(str(body["email"]).strip().lower())
        kept = None if user is None else user["encrypted_password"]
        if not await passwords.matches(str(body.get("password") or ""), kept) or user is None:
            raise AuthError(400, "invalid_credentials", "Invalid login credentials")
        return self._session(await self._accounts.sign_in(user))

    async def _user(self, request: Request) -> Response:
        return JSONResponse(_user_json(await self._accounts.current(self._claims(request))))

    async def _change_user(self, request: Request) -> Response:
        user = await self._accounts.current(self._claims(request))
        body = await _json(request)
        if body.get("phone"):
            return not_implemented("phone numbers")
        metadata = body.get("data")
        digest = None
        if body.get("password") is not None:
            password = _password(body)
            if await passwords.matches(password, user["encrypted_password"]):
                raise AuthError(
                    422,
                    "same_password",
                    "New password should be different from the old password.",
                )
            digest = await passwords.hash_password(password)
        changed = await self._accounts.update(
            user["id"],
            email=_email(body) if body.get("email") else None,
            password_hash=digest,
            metadata=metadata if isinstance(metadata, dict) else {},
        )
        return JSONResponse(_user_json(changed))

    async def _sign_out(self, request: Request) -> Response:
        scope = request.query_params.get("scope", "global")
        if scope not in _SCOPES:
            raise AuthError(400, "validation_failed", f"Unsupported logout scope {scope!r}")
        claims = self._claims(request)
        await self._accounts.current(claims)
        await self._accounts.sign_out(claims, scope)
        return Response(status_code=204)

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"name": "GoTrue", "version": "picture-queue embedded stack"})

    async def _settings(self, _: Request) -> Response:
        return JSONResponse(
            {
                "external": {"email": True, "phone": False, "anonymous_users": False},
                "disable_signup": False,
                "mailer_autoconfirm": True,
                "phone_autoconfirm": False,
                "sms_provider": "",
                "saml_enabled": False,
            }
        )

    async def _keys(self, _: Request) -> Response:
        # HS256: the key is a shared secret, so there is none to publish.
        return JSONResponse({"keys": []})

    def _claims(self, request: Request) -> Mapping[str, Any]:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise AuthError(401, "no_authorization", "This endpoint requires a valid Bearer token")
        try:
            claims = self._credentials.claims(token.strip(), leeway=0)
        except BadToken as error:
            raise AuthError(
                403,
                "bad_jwt",
                f"invalid JWT: unable to parse or verify signature, {error.message}",
            ) from None
        if not claims.get("sub"):
            raise AuthError(403, "bad_jwt", "invalid claim: missing sub claim")
        return claims

    def _session(self, session: Session) -> Response:
        now = int(time.time())
        user = _user_json(session.user)
        claims = {
            "iss": self._issuer,
            "sub": user["id"],
            "aud": "authenticated",
            "role": "authenticated",
            "exp": now + self._token_seconds,
            "iat": now,
            "email": user["email"],
            "phone": "",
            "app_metadata": user["app_metadata"],
            "user_metadata": user["user_metadata"],
            "aal": "aal1",
            "amr": [{"method": "password", "timestamp": now}],
            "session_id": str(session.session_id),
            "is_anonymous": False,
        }
        return JSONResponse(
            {
                "access_token": jwt.encode(claims, self._secret, algorithm="HS256"),
                "token_type": "bearer",
                "expires_in": self._token_seconds,
                "expires_at": now + self._token_seconds,
                "refresh_token": session.refresh_token,
                "user": user,
            }
        )


def _answering_errors(handler: _Handler) -> _Handler:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except AuthError as error:
            return error.response(request)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            unavailable = AuthError(503, "unexpected_failure", "the database is not there")
            return unavailable.response(request)

    return answer


async def _json(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise AuthError(400, "bad_json", "Could not parse request body as JSON")
    return body


def _email(body: dict[str, Any]) -> str:
    email = str(body["email"]).strip().lower()
    if not _EMAIL.fullmatch(email):
        raise AuthError(
            400, "validation_failed", "Unable to validate email address: invalid format"
        )
    return email


def _password(body: dict[str, Any]) -> str:
    password = body.get("password")
    if not isinstance(password, str) or not password:
        raise AuthError(400, "validation_failed", "Signup requires a valid password")
    if len(password.encode()) > _LONGEST_PASSWORD:
        raise AuthError(
            400,
            "validation_failed",
            f"Password cannot be longer than {_LONGEST_PASSWORD} characters",
        )
    if len(password) < _SHORTEST_PASSWORD:
        raise AuthError(
            422,
            "weak_password",
            f"Password should be at least {_SHORTEST_PASSWORD} characters.",
            weak_password={"reasons": ["length"]},
        )
    return password


def _user_json(user: asyncpg.Record) -> dict[str, Any]:
    return {
        "id": str(user["id"]),
        "aud": user["aud"],
        "role": user["role"],
        "email": user["email"],
        "email_confirmed_at": _time(user["email_confirmed_at"]),
        "phone": "",
        "confirmed_at": _time(user["confirmed_at"]),
        "last_sign_in_at": _time(user["last_sign_in_at"]),
        "app_metadata": user["raw_app_meta_data"] or {},
        "user_metadata": user["raw_user_meta_data"] or {},
        "identities": [],
        "created_at": _time(user["created_at"]),
        "updated_at": _time(user["updated_at"]),
        "is_anonymous": user["is_anonymous"],
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
