"""The ASGI app of a project: `create_app`, and its settings."""

from picture_queue.web.app import create_app
from picture_queue.web.settings import WebSettings

__all__ = ["WebSettings", "create_app"]
