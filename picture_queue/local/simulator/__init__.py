"""A simulator of Replicate's HTTP API that draws its own pictures.

`create_app` creates an ASGI app for the embedded stack or for a test. All data is in memory. The
app signs and delivers webhooks. For trainings, deployments, collections and streams, the answer is
501.
"""

from picture_queue.local.simulator.app import create_app
from picture_queue.local.simulator.state import SimulatorSettings

__all__ = ["SimulatorSettings", "create_app"]
