"""Tasks, threads and signals of a process that runs functions of users.

They keep such a function from stopping the process, its event loop, or other functions. Nothing
here knows of jobs.
"""
