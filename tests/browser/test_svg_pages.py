"""An SVG that a worker has stored runs no script and loads no file, even if opened as a page.

The server of the tests sends files as Supabase Storage does: inline, without a
Content-Security-Policy.
"""

import asyncio
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from picture_queue.generations.svg import clean_svg

from .conftest import Chromium

pytestmark = [pytest.mark.extra, pytest.mark.timeout(180)]

XLINK = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
RUN = "new Image().src = '/ran'"
#: Contents of SVGs that request `/ran` when they are opened.
ACTIVE = {
    "script": f"<script>{RUN}</script>",
    "script in a namespace": f'<s:script xmlns:s="http://www.w3.org/2000/svg">{RUN}</s:script>',
    "script of a file": '<script href="/ran"/>',
    "event handler": f'<image href="data:," onerror="{RUN}"/>',
    "animation": f'<animate attributeName="x" dur="1ms" onbegin="{RUN}"/>',
    "foreign content": '<foreignObject width="9" height="9">'
    f'<img xmlns="http://www.w3.org/1999/xhtml" src="data:," onerror="{RUN}"/></foreignObject>',
    "script of a page": f'<script xmlns="http://www.w3.org/1999/xhtml">{RUN}</script>',
    "frame": '<foreignObject width="9" height="9">'
    '<iframe xmlns="http://www.w3.org/1999/xhtml" src="/ran"/></foreignObject>',
    "picture": '<image href="/ran" width="9" height="9"/>',
    "old link of a picture": f'<image {XLINK} xlink:href="/ran" width="9" height="9"/>',
    "use": '<use href="/ran#a"/>',
    "style": '<style>@import "/ran";</style>',
    "style of an element": '<style>rect { fill: url("/ran#a") }</style><rect width="9"/>',
    "escaped style": '<style>svg { background: \\75rl("/ran") }</style>',
    "image set": '<style>svg { background: image-set("/ran" 1x) }</style>',
    "attribute": '<rect width="9" height="9" filter="url(/ran#a)"/>',
    "style attribute": '<g style="background:url(/ran);mask:url(/ran#a)"><rect width="9"/></g>',
    "picture of a filter": '<filter id="a"><feImage href="/ran"/></filter>'
    '<rect width="9" height="9" filter="url(#a)"/>',
}
#: Some versions of a browser load nothing for these contents. So the test does not expect that they
#: request `/ran` before they are cleaned.
_BROWSER_DEPENDENT = {"use", "style of an element", "attribute", "style attribute"}


class Site:
    """A server of SVGs on loopback, and the paths that were requested."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.requested: list[str] = []


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requested.append(self.path)
            body = site.files.get(self.path, b"")
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "image/svg+xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser(node: str, node_modules: Path, chromium: str) -> Iterator[Chromium]:
    driver = Path(__file__).parent / "driver.mjs"
    browser = Chromium([node, str(driver), str(node_modules), chromium])
    try:
        yield browser
    finally:
        browser.close()


async def open_page(browser: Chromium, site: Site, data: bytes, awaited: str) -> list[str]:
    """Open an SVG as a page, and return the paths that it requested.

    Args:
        browser: The browser.
        site: The server.
        data: The SVG.
        awaited: A path. The page stays open until this path is requested, or for some seconds.
    """
    site.files = {"/picture.svg": data}
    site.requested.clear()
    await browser.call("driver", "open", {})
    await browser.call("page", "goto", f"{site.url}/picture.svg")
    for _ in range(20):
        # Errors of pictures are reported in tasks after the load, so one fetch may be too early.
        await browser.call("page", "evaluate", "() => fetch('/done').then(() => 0)")
        if awaited in site.requested:
            break
        await asyncio.sleep(0.05)
    return [path for path in site.requested if path not in ("/favicon.ico", "/done")]


@pytest.mark.parametrize("name", ACTIVE)
async def test_a_cleaned_svg_runs_and_loads_nothing(browser: Chromium, site: Site, name: str):
    data = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="90" '
        f"onload=\"new Image().src = '/loaded'\">{ACTIVE[name]}</svg>"
    ).encode()
    expected = "/loaded" if name in _BROWSER_DEPENDENT else "/ran"
    assert expected in await open_page(browser, site, data, expected)
    # Other paths, since a request of the first page may arrive after the second page was opened.
    for path in (b"/ran", b"/loaded"):
        data = data.replace(path, b"/second" + path)
    requested = await open_page(browser, site, clean_svg(data, 1), "/second/ran")
    assert [path for path in requested if path not in ("/ran", "/loaded")] == ["/picture.svg"]
