"""The gateway of the embedded stack: one ASGI app in front of Postgres and PostgREST.

It speaks what the unchanged Supabase clients speak: ``/rest/v1`` is PostgREST itself behind a thin
proxy; ``/realtime/v1``, ``/storage/v1`` and ``/auth/v1`` are small re-implementations, because no
package of theirs exists outside a container. A development tool: what it does not do, it says so
with status 501 and the name of the missing thing.
"""

from picture_queue.local.gateway.app import create_app
from picture_queue.local.gateway.settings import FRAME_LIMIT, GatewaySettings, RealtimeLimits

__all__ = ["FRAME_LIMIT", "GatewaySettings", "RealtimeLimits", "create_app"]
