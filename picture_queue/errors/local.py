"""Errors of the embedded stack."""

from picture_queue.errors.base import PictureQueueError


class LocalStackError(PictureQueueError):
    """A command of the embedded stack failed."""


class StackNotRunning(LocalStackError):
    """No embedded stack is running in that data directory."""


class StackAlreadyRunning(LocalStackError):
    """An embedded stack is already running in that data directory."""


class PortTaken(LocalStackError):
    """Another program listens on the port."""


class MissingProgram(LocalStackError):
    """A program that the embedded stack needs is not installed."""
