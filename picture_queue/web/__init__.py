"""An ASGI app that receives the webhooks of providers: `create_app`."""

from picture_queue.web.app import create_app

__all__ = ["create_app"]
