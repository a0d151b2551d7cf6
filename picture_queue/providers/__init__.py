"""Clients of the APIs of picture providers; they do not depend on the queue."""
