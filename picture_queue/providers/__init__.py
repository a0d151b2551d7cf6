"""Providers of pictures: clients of their APIs. They know no queue."""
