"""supabase-js in Node and in headless Chromium; both run the script `calls.cjs`."""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from tests.conformance.matrix.answer import Answer, Request, error_answer
from tests.conformance.matrix.project import Project

SOURCES = Path(__file__).parent.parent / "javascript"
_OWN_MODULES = Path(__file__).parents[3] / "scripts" / "own_modules.cjs"
_TIMEOUT = 120  # The timeout of all calls together, in seconds.
_CHROMIUM = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
)


class _SupabaseJs:
    """A program that runs supabase-js.

    Args:
        program: The path of the program.
        node_modules: The directory with supabase-js, and with esbuild, which bundles the script.
    """

    extra, direct = True, False

    def __init__(self, program: str, node_modules: Path) -> None:
        self._program = program
        self._modules = node_modules

    def skip_reason(self, role: str) -> str | None:
        return None

    def _copy_sources(self, directory: Path) -> Path:
        """Copy the scripts and link `node_modules` in a new directory; return this directory.

        Node and esbuild look for `node_modules` and `package.json` in all directories above a
        script. If this clone is below /tmp, another user may have created them in /tmp.
        """
        sources = directory / "sources"
        shutil.copytree(SOURCES, sources)
        (sources / "node_modules").symlink_to(self._modules)
        (sources / "package.json").write_text("{}")
        return sources

    async def run(self, project: Project, requests: Sequence[Request]) -> list[Answer]:
        return await asyncio.to_thread(self._run, project, requests)

    def _run(self, project: Project, requests: Sequence[Request]) -> list[Answer]:
        raise NotImplementedError


class Node(_SupabaseJs):
    """supabase-js in Node."""

    name = "supabase-js node"

    def _run(self, project: Project, requests: Sequence[Request]) -> list[Answer]:
        with TemporaryDirectory(prefix="conformance-") as directory:
            script = self._copy_sources(Path(directory)) / "node.cjs"
            process = subprocess.run(
                [self._program, "--require", _OWN_MODULES, script],
                input=json.dumps(_task(project, requests)),
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                check=False,
            )
        if process.returncode:
            raise AssertionError(f"node: {process.stderr}")
        return _answers(json.loads(process.stdout))


class Chromium(_SupabaseJs):
    """supabase-js in a page whose origin differs from that of the API."""

    name = "supabase-js chromium"

    def _run(self, project: Project, requests: Sequence[Request]) -> list[Answer]:
        with TemporaryDirectory(prefix="conformance-") as directory:
            site = _Site(self._bundle_script(Path(directory)), _task(project, requests))
            with site as address, (Path(directory) / "chromium.log").open("w+b") as log:
                profile = f"--user-data-dir={directory}/profile"
                # The address is not an argument, because other users see arguments in `ps`.
                start = Path(directory) / "start.html"
                start.write_text(f'<meta http-equiv="refresh" content="0; url={address}">')
                browser = subprocess.Popen(
                    [self._program, *_CHROMIUM, profile, start.as_uri()], stdout=log, stderr=log
                )
                try:
                    results = site.results.get(timeout=_TIMEOUT)
                except Empty:
                    log.seek(0)
                    raise AssertionError(f"chromium: {log.read().decode()[-2000:]}") from None
                finally:
                    browser.terminate()
                    browser.wait(30)
        if "failed" in results:
            raise AssertionError(f"the page: {results['failed']}")
        return _answers(results["answers"])

    def _bundle_script(self, directory: Path) -> bytes:
        bundle = directory / "browser.js"
        esbuild = self._modules / ".bin" / "esbuild"
        sources = self._copy_sources(directory)
        subprocess.run(
            [esbuild, sources / "browser.cjs", "--bundle", "--log-level=warning",
             "--tsconfig-raw={}", f"--outfile={bundle}"],
            env={name: value for name, value in os.environ.items() if name != "NODE_PATH"},
            cwd=sources,
            timeout=_TIMEOUT,
            check=True,
        )  # fmt: skip
        return bundle.read_bytes()


class _Site:
    """A web server for the page that makes the calls: it serves the page and receives its answers.

    The page fetches a task, which contains API keys, and every user of the machine can reach the
    server. Therefore all paths begin with a random secret.
    """

    def __init__(self, script: bytes, task: dict[str, Any]) -> None:
        self.results: Queue[dict[str, Any]] = Queue()
        page = b'<!doctype html><title>conformance</title><script src="script.js"></script>'
        self._root = root = f"/{secrets.token_urlsafe()}/"
        pages = {
            root: ("text/html", page),
            f"{root}script.js": ("text/javascript", script),
            f"{root}task": ("application/json", json.dumps(task).encode()),
        }
        results = self.results

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content_type, body = pages.get(self.path, ("", b""))
                self.send_response(200 if content_type else 404)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                if self.path == f"{root}answers":
                    results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                    self.send_response(204)
                else:
                    self.send_response(404)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}{self._root}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _task(project: Project, requests: Sequence[Request]) -> dict[str, Any]:
    roles = {request.role for request in requests}
    return {
        "url": project.url,
        "clients": {
            role: {"key": project.keys[role], "token": project.tokens[role]} for role in roles
        },
        "requests": [asdict(request) for request in requests],
    }


def _answers(results: Sequence[dict[str, Any]]) -> list[Answer]:
    return [_answer(result) for result in results]


def _answer(result: dict[str, Any]) -> Answer:
    error = result["error"]
    if error is None:
        return Answer(data=result["data"], status=result["status"])
    texts = (error.get(name) for name in ("code", "message", "details", "hint"))
    return error_answer(*texts, status=result["status"])
