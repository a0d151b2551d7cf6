"""`docs/embedded-stack.md` lists exactly the endpoints and unsupported features of the gateway."""

import re
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route, WebSocketRoute

from picture_queue.local.gateway import create_app, missing

PAGE = Path(__file__).parents[2] / "docs" / "embedded-stack.md"
# A row of a table of endpoints: methods, path, and answer.
ROW = re.compile(r"^\| `([A-Z ]+)` \| `(/[^`]*)` \| (.*) \|$", re.MULTILINE)
ANY = "GET HEAD POST PUT PATCH DELETE OPTIONS"

ROWS = [
    (methods.replace("ANY", ANY).split(), path, answer)
    for methods, path, answer in ROW.findall(PAGE.read_text(encoding="utf-8"))
]
MISSING = [
    (methods[0], re.sub(r"\{\w*\}|[*…]", "x", path), answer.removeprefix("501: "))
    for methods, path, answer in ROWS
    if answer.startswith("501: ")
]


def _router(platform):
    """Return the router of the gateway, which is inside the origin check and CORS."""
    return create_app(platform.settings).app.app


def list_endpoints(platform):
    """Yield the method and path of every route of the gateway."""
    router = _router(platform)
    for prefix in router._services:
        yield from ((method, prefix + "…") for method in ANY.split())
    for prefix, _ in missing._MISSING:
        yield from ((method, prefix + "/…") for method in ANY.split())
    for route in router._services["/storage/v1/"]._routes:
        yield from ((method, f"/storage/v1/{route.pattern}") for method in route.methods.split())
    for route in router._default.routes:
        path = route.path.replace(":path}", "}")
        if isinstance(route, WebSocketRoute):
            yield "WS", path
        elif path != "/{path}":
            assert isinstance(route, Route)
            yield from ((method, path) for method in route.methods - {"HEAD"})


def test_the_page_lists_exactly_the_endpoints(platform):
    documented = [(method, path) for methods, path, _ in ROWS for method in methods]
    assert len(documented) == len(set(documented))
    assert set(documented) == set(list_endpoints(platform))


def test_the_page_lists_exactly_the_unsupported_features(platform):
    storage = _router(platform)._services["/storage/v1/"]
    # The feature is empty for a route that the gateway supports.
    routes = {(f"/storage/v1/{route.pattern}", route.missing) for route in storage._routes}
    routes |= {(f"{prefix}/…", feature) for prefix, feature in missing._MISSING}
    documented = {
        (path, answer.removeprefix("501: "))
        for _, path, answer in ROWS
        if answer.startswith("501: ")
    }
    assert documented == {(path, feature) for path, feature in routes if feature}


@pytest.mark.parametrize(("method", "path", "feature"), MISSING)
async def test_unsupported_endpoints_answer_501(gateway, platform, method, path, feature):
    headers = {"apikey": platform.settings.service_role_key}
    async with httpx.AsyncClient(headers=headers) as http:
        answer = await http.request(method, gateway + path)
    assert answer.status_code == 501
    assert feature in answer.json()["message"]
