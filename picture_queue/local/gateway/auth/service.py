"""``/auth/v1``: the routes for sign-up, sign-in, refresh of tokens, and sign-out."""

import time
from collections.abc import Mapping
from typing import Any, Final

import asyncpg
import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from picture_queue.local.gateway.auth import bodies, passwords
from picture_queue.local.gateway.auth.accounts import Accounts, Session
from picture_queue.local.gateway.auth.admin import AdminUsers
from picture_queue.local.gateway.auth.errors import AuthError, Handler
from picture_queue.local.gateway.credentials import Credentials, InvalidToken
from picture_queue.local.gateway.database import Database
from picture_queue.local.gateway.missing import not_implemented
from picture_queue.local.gateway.settings import GatewaySettings

_SIGN_OUT_SCOPES: Final = ("global", "local", "others")
_USER_CREATION_PATHS: Final = ("/signup", "/admin/users")
_UNAVAILABLE_ERRORS: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
)


class AuthService:
    """The routes of Auth. Sign-ups are confirmed at once, because the stack sends no e-mail."""

    def __init__(
        self, settings: GatewaySettings, credentials: Credentials, database: Database
    ) -> None:
        self._secret = settings.jwt_secret
        self._issuer = f"{settings.api_url}/auth/v1"
        self._token_seconds = settings.token_seconds
        self._credentials = credentials
        self._accounts = Accounts(database)
        self._admin = AdminUsers(credentials, database)

    def routes(self) -> list[BaseRoute]:
        """The routes below ``/auth/v1``."""
        routes: tuple[tuple[str, str, Handler], ...] = (
            ("POST", "/signup", self._sign_up),
            ("POST", "/token", self._token),
            ("GET", "/user", self._user),
            ("PUT", "/user", self._change_user),
            ("POST", "/logout", self._sign_out),
            ("GET", "/health", self._health),
            ("GET", "/settings", self._settings),
            ("GET", "/.well-known/jwks.json", self._keys),
            *self._admin.routes(),
        )
        return [
            Route("/auth/v1" + path, _respond_to_errors(handler), methods=[method])
            for method, path, handler in routes
        ]

    async def _sign_up(self, request: Request) -> Response:
        body = await bodies.read_object(request)
        if "email" not in body:
            return not_implemented("phone sign-up" if "phone" in body else "anonymous sign-in")
        email, password = bodies.parse_email(body), bodies.parse_password(body)
        metadata = bodies.parse_metadata(body, "data")
        digest = await passwords.hash_password(password)
        return self._session_response(await self._accounts.create(email, digest, metadata))

    async def _token(self, request: Request) -> Response:
        grant = request.query_params.get("grant_type", "")
        if grant not in ("password", "refresh_token"):
            return not_implemented(f"grant type {grant or '(none)'}")
        body = await bodies.read_object(request)
        if grant == "refresh_token":
            token = body.get("refresh_token")
            if not isinstance(token, str) or not token:
                raise AuthError(400, "validation_failed", "refresh_token required")
            return self._session_response(await self._accounts.refresh(token))
        if "email" not in body:
            return not_implemented("phone sign-in")
        user = await self._accounts.find_by_email(str(body["email"]).strip().lower())
        stored = None if user is None else user["encrypted_password"]
        if not await passwords.matches(str(body.get("password") or ""), stored) or user is None:
            raise AuthError(400, "invalid_credentials", "Invalid login credentials")
        if user["email_confirmed_at"] is None:
            raise AuthError(400, "email_not_confirmed", "Email not confirmed")
        return self._session_response(await self._accounts.sign_in(user))

    async def _user(self, request: Request) -> Response:
        return JSONResponse(
            bodies.encode_user(await self._accounts.find_user(self._claims(request)))
        )

    async def _change_user(self, request: Request) -> Response:
        claims = self._claims(request)
        user = await self._accounts.find_user(claims)
        body = await bodies.read_object(request)
        if body.get("phone"):
            return not_implemented("phone numbers")
        digest = None
        if body.get("password") is not None:
            password = bodies.parse_password(body)
            if await passwords.matches(password, user["encrypted_password"]):
                raise AuthError(
                    422,
                    "same_password",
                    "New password should be different from the old password.",
                )
            digest = await passwords.hash_password(password)
        changed = await self._accounts.update(
            user["id"],
            email=bodies.parse_email(body) if body.get("email") else None,
            password_hash=digest,
            metadata=bodies.parse_metadata(body, "data"),
            session_id=claims.get("session_id"),
        )
        return JSONResponse(bodies.encode_user(changed))

    async def _sign_out(self, request: Request) -> Response:
        scope = request.query_params.get("scope", "global")
        if scope not in _SIGN_OUT_SCOPES:
            raise AuthError(400, "validation_failed", f"Unsupported logout scope {scope!r}")
        claims = self._claims(request)
        await self._accounts.find_user(claims)
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
        # HS256 signs and verifies with one secret, so there is no public key.
        return JSONResponse({"keys": []})

    def _claims(self, request: Request) -> Mapping[str, Any]:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise AuthError(401, "no_authorization", "This endpoint requires a valid Bearer token")
        try:
            claims = self._credentials.claims(token.strip(), leeway=0)
        except InvalidToken as error:
            raise AuthError(
                403,
                "bad_jwt",
                f"invalid JWT: unable to parse or verify signature, {error.message}",
            ) from None
        if not claims.get("sub"):
            raise AuthError(403, "bad_jwt", "invalid claim: missing sub claim")
        return claims

    def _session_response(self, session: Session) -> Response:
        now = int(time.time())
        user = bodies.encode_user(session.user)
        claims = {
            "iss": self._issuer,
            "sub": user["id"],
            "aud": "authenticated",
            "role": user["role"],
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


def _respond_to_errors(handler: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except AuthError as error:
            return error.response(request)
        except asyncpg.DataError:
            # The value is too long for its column, or has a zero byte, which Postgres refuses.
            unstorable = AuthError(400, "validation_failed", "A value cannot be stored")
            return unstorable.response(request)
        except (OSError, TimeoutError, asyncpg.InterfaceError, *_UNAVAILABLE_ERRORS):
            unavailable = AuthError(503, "unexpected_failure", "the database cannot be reached")
            return unavailable.response(request)
        except asyncpg.PostgresError:
            # Most likely an error of a trigger of the project. Postgres has logged it.
            path = request.url.path
            is_creation = request.method == "POST" and path.endswith(_USER_CREATION_PATHS)
            message = "Database error" + (" saving new user" if is_creation else "")
            return AuthError(500, "unexpected_failure", message).response(request)

    return answer
