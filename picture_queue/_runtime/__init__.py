"""Tasks, threads and signals of a process that runs functions of users.

These modules keep a function of a user from stopping the process, its event loop, or other
functions. They do not depend on jobs.
"""
