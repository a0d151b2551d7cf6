"""The ASGI app of a project: `create_app`, its settings, and a worker beside an app of yours."""

from picture_queue.web.app import create_app
from picture_queue.web.background_worker import BackgroundWorker
from picture_queue.web.settings import WebSettings

__all__ = ["BackgroundWorker", "WebSettings", "create_app"]
