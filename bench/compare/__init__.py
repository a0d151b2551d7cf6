"""Benchmarks that compare picture-queue with other queues on the same server."""
