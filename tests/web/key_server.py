"""A server of public keys, and tokens that are signed with them."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

SECRET = "a-secret-of-the-project-with-32-characters"


class SigningKey:
    """A key pair of a project.

    Args:
        algorithm: ES256 or RS256.
        bits: The size of an RSA key.
    """

    def __init__(self, algorithm: str = "ES256", bits: int = 2048) -> None:
        self.id = uuid4().hex
        self.algorithm = algorithm
        if algorithm == "ES256":
            self.private: Any = ec.generate_private_key(ec.SECP256R1())
        else:
            self.private = rsa.generate_private_key(65537, bits)

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """Return the public key as an entry of a key set."""
        to_jwk = (ECAlgorithm if self.algorithm == "ES256" else RSAAlgorithm).to_jwk
        entry = json.loads(to_jwk(self.private.public_key()))
        return entry | {"kid": self.id, "alg": self.algorithm, "use": "sig"} | changes

    def sign(self, changes: Any = None, **header: Any) -> str:
        """Return a token of a user."""
        headers = {"kid": self.id} | header
        return jwt.encode(claims(**(changes or {})), self.private, self.algorithm, headers)


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of a token of a user; None leaves out a claim."""
    values = {
        "sub": str(uuid4()),
        "role": "authenticated",
        "aud": "authenticated",
        "exp": int(time.time()) + 600,
    } | changes
    return {name: value for name, value in values.items() if value is not None}


class KeyServer:
    """A server of a key set.

    Attributes:
        content: The body of the next answers.
        status: The status of the next answers.
        headers: Further headers of the next answers.
        fetches: The number of requests.
        accepted_encodings: The header Accept-Encoding of each request.
    """

    def __init__(self) -> None:
        self.content = b'{"keys": []}'
        self.status = 200
        self.headers: dict[str, str] = {}
        self.fetches = 0
        self.accepted_encodings: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                server.fetches += 1
                server.accepted_encodings.append(self.headers["accept-encoding"])
                self.send_response(server.status)
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(server.content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def serve(self, *keys: SigningKey) -> None:
        """Set the keys of the next answers."""
        self.content = json.dumps({"keys": [key.jwk() for key in keys]}).encode()

    @contextmanager
    def serving(self) -> Iterator["KeyServer"]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
