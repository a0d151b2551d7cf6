"""picture-queue beside other queues: one server, one run, the same work."""
