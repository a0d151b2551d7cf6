"""Live events of jobs and wake-ups of workers.

`subscriptions` and `notifications` receive events; `follow` waits for them and reads the rows.
"""
