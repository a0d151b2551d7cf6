"""The command line of picture-queue: one file for each noun (jobs, queues, …) or command."""
