"""The gateway of the embedded stack: one ASGI app in front of Postgres and PostgREST.

The gateway serves the unchanged Supabase clients: ``/rest/v1`` is a thin proxy to PostgREST;
``/realtime/v1``, ``/storage/v1`` and ``/auth/v1`` are small re-implementations, because these
services are available only as containers. For a feature of Supabase that the gateway lacks, the
answer is 501 with the name of the feature.
"""

from picture_queue.local.gateway.app import create_app
from picture_queue.local.gateway.settings import FRAME_LIMIT, GatewaySettings, RealtimeLimits

__all__ = ["FRAME_LIMIT", "GatewaySettings", "RealtimeLimits", "create_app"]
