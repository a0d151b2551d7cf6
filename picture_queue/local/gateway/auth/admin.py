"""``/auth/v1/admin/users``: the administration of users, which needs a service key."""

import math
import uuid
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from picture_queue.local.gateway.api_key import read_key
from picture_queue.local.gateway.auth import bodies, passwords
from picture_queue.local.gateway.auth.errors import AuthError, Handler
from picture_queue.local.gateway.auth.user_directory import Attributes, UserDirectory
from picture_queue.local.gateway.credentials import Credentials, InvalidToken
from picture_queue.local.gateway.database import Database
from picture_queue.local.gateway.missing import not_implemented

_PAGE_SIZE: Final = 50
# Fields that Supabase supports and the embedded stack refuses, each with its feature.
_UNSUPPORTED_FIELDS: Final = {
    "phone": "phone numbers",
    "phone_confirm": "phone numbers",
    "ban_duration": "banning of users",
    "password_hash": "passwords given as a hash",
    "nonce": "reauthentication",
}


class AdminUsers:
    """The routes of ``/auth/v1/admin/users``.

    Args:
        credentials: The keys of the stack.
        database: The database of the users.
    """

    def __init__(self, credentials: Credentials, database: Database) -> None:
        self._credentials = credentials
        self._users = UserDirectory(database)

    def routes(self) -> tuple[tuple[str, str, Handler], ...]:
        """Method, path and handler of each route."""
        return (
            ("GET", "/admin/users", self._list),
            ("POST", "/admin/users", self._create),
            ("GET", "/admin/users/{user_id}", self._get),
            ("PUT", "/admin/users/{user_id}", self._change),
            ("DELETE", "/admin/users/{user_id}", self._delete),
        )

    async def _list(self, request: Request) -> Response:
        self._require_service_key(request)
        page = _parse_positive_integer(request, "page", 1)
        size = _parse_positive_integer(request, "per_page", _PAGE_SIZE)
        users, total = await self._users.page(page, size)
        last_page = max(math.ceil(total / size), 1)
        links = [f'</admin/users?page={last_page}&per_page={size}>; rel="last"']
        if page < last_page:
            links.insert(0, f'</admin/users?page={page + 1}&per_page={size}>; rel="next"')
        return JSONResponse(
            {"users": [bodies.encode_user(user) for user in users], "aud": "authenticated"},
            headers={"X-Total-Count": str(total), "Link": ", ".join(links)},
        )

    async def _create(self, request: Request) -> Response:
        self._require_service_key(request)
        body = await bodies.read_object(request)
        refusal = _refuse_unsupported(body)
        if refusal is not None:
            return refusal
        if not body.get("email"):
            raise AuthError(
                400, "validation_failed", "Cannot create a user without either an email or phone"
            )
        user_id = _parse_uuid(body["id"]) if body.get("id") else uuid.uuid4()
        user = await self._users.add(user_id, await _parse_attributes(body, is_new=True))
        return JSONResponse(bodies.encode_user(user))

    async def _get(self, request: Request) -> Response:
        self._require_service_key(request)
        user = await self._users.find(_parse_uuid(request.path_params["user_id"]))
        return JSONResponse(bodies.encode_user(user))

    async def _change(self, request: Request) -> Response:
        self._require_service_key(request)
        user_id = _parse_uuid(request.path_params["user_id"])
        body = await bodies.read_object(request)
        refusal = _refuse_unsupported(body)
        if refusal is not None:
            return refusal
        attributes = await _parse_attributes(body, is_new=False)
        user = await self._users.change(user_id, attributes)
        return JSONResponse(bodies.encode_user(user))

    async def _delete(self, request: Request) -> Response:
        self._require_service_key(request)
        body = await bodies.read_object(request, optional=True)
        if body.get("should_soft_delete"):
            return not_implemented("soft deletion of users")
        await self._users.remove(_parse_uuid(request.path_params["user_id"]))
        return JSONResponse({})

    def _require_service_key(self, request: Request) -> None:
        authorization = request.headers.get("authorization")
        token = self._credentials.token(authorization, read_key(request))
        if token is None:
            raise AuthError(401, "no_authorization", "This endpoint requires a valid Bearer token")
        try:
            caller = self._credentials.verify(token, leeway=0)
        except InvalidToken as error:
            message = f"invalid JWT: unable to parse or verify signature, {error.message}"
            raise AuthError(403, "bad_jwt", message) from None
        if caller.role != "service_role":
            raise AuthError(403, "not_admin", "User not allowed")


async def _parse_attributes(body: dict[str, Any], *, is_new: bool) -> Attributes:
    app_metadata = bodies.parse_metadata(body, "app_metadata")
    if is_new:
        app_metadata = {"provider": "email", "providers": ["email"]} | app_metadata
    password_hash = None
    if body.get("password"):
        password_hash = await passwords.hash_password(bodies.parse_password(body))
    role = body.get("role")
    return Attributes(
        role=str(role) if role else "authenticated" if is_new else None,
        email=bodies.parse_email(body) if body.get("email") else None,
        password_hash=password_hash,
        confirmed=body.get("email_confirm") is True,
        app_metadata=app_metadata,
        user_metadata=bodies.parse_metadata(body, "user_metadata"),
    )


def _refuse_unsupported(body: dict[str, Any]) -> Response | None:
    for name, feature in _UNSUPPORTED_FIELDS.items():
        if body.get(name):
            return not_implemented(feature)
    return None


def _parse_positive_integer(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name) or str(default)
    is_number = text.isascii() and text.isdigit() and len(text) <= 10
    if not is_number or not 0 < int(text) < 2**31:
        raise AuthError(400, "validation_failed", f"Bad Pagination Parameters: {name} is {text!r}")
    return int(text)


def _parse_uuid(text: object) -> uuid.UUID:
    try:
        return uuid.UUID(str(text))
    except ValueError:
        raise AuthError(404, "validation_failed", "user_id must be an UUID") from None
