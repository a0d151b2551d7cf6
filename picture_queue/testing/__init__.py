"""Helpers for the tests of programs that use or extend picture-queue."""
