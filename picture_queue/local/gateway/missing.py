"""The answer 501 for features of Supabase that the embedded stack lacks."""

from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

_HINT: Final = "Use this feature with `supabase start` or a hosted project."


def not_implemented(feature: str) -> Response:
    """Return the answer for a missing feature.

    Args:
        feature: The name of the feature in Supabase's documentation.
    """
    # The client libraries of Supabase read different keys of an error body: send them all.
    message = f"The embedded stack has no {feature}."
    body = {
        "code": "not_implemented",
        "error_code": "not_implemented",
        "error": "not_implemented",
        "statusCode": "501",
        "message": message,
        "msg": message,
        "hint": _HINT,
    }
    return JSONResponse(body, status_code=501)


# Prefixes of paths, each with the feature that is missing. The first match counts. Paths that a
# service serves never get here.
_MISSING: Final = (
    ("/functions/v1", "Edge Functions"),
    ("/graphql/v1", "GraphQL (pg_graphql)"),
    ("/pg", "postgres-meta"),
    ("/analytics/v1", "Logs and Analytics"),
    ("/realtime/v1/api/tenants", "Realtime tenant management"),
    ("/auth/v1/admin/generate_link", "e-mail links"),
    ("/auth/v1/admin", "Auth admin API beyond users"),
    ("/auth/v1/.well-known", "OAuth server"),
    ("/auth/v1/authorize", "OAuth sign-in"),
    ("/auth/v1/callback", "OAuth sign-in"),
    ("/auth/v1/oauth", "OAuth server"),
    ("/auth/v1/factors", "multi-factor authentication"),
    ("/auth/v1/otp", "one-time passwords and magic links"),
    ("/auth/v1/magiclink", "one-time passwords and magic links"),
    ("/auth/v1/verify", "one-time passwords and magic links"),
    ("/auth/v1/resend", "e-mail (every sign-up is confirmed at once)"),
    ("/auth/v1/recover", "password recovery by e-mail"),
    ("/auth/v1/reauthenticate", "reauthentication by e-mail"),
    ("/auth/v1/invite", "invitations"),
    ("/auth/v1/sso", "single sign-on (SAML)"),
    ("/auth/v1/user/identities", "linked identities"),
    ("/auth/v1/user/oauth", "OAuth server"),
    ("/auth/v1/passkeys", "passkeys"),
)


async def endpoint(request: Request) -> Response:
    """Answer a request without a route: 501 if Supabase has the route, otherwise 404."""
    path = request.url.path
    for prefix, feature in _MISSING:
        if path == prefix or path.startswith(prefix + "/"):
            return not_implemented(feature)
    return JSONResponse({"message": f"no Route matched with {request.method} {path}"}, 404)
