"""A simulator of Replicate's HTTP API that draws its own pictures.

`create_app` creates an ASGI app for the embedded stack or for a test. All data is in memory.
Trainings, deployments, collections and streams are answered with 501. Webhooks are signed and
delivered.
"""

from picture_queue.local.simulator.app import create_app
from picture_queue.local.simulator.state import SimulatorSettings

__all__ = ["SimulatorSettings", "create_app"]
