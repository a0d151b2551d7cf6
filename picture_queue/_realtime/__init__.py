"""Live events of jobs.

`subscriptions` and `notifications` receive events; `follow` waits for them and reads the rows.
"""
