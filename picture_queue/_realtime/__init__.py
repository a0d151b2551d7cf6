"""Live events of jobs.

`subscriptions` keeps the Realtime connection open; `follow` waits for events and reads the rows.
"""
