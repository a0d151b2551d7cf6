"""Workers: `Worker`, the decisions of its handlers, and the contexts that they get.

The path of a job. Each line names a task of the event loop, or a thread, and what it does:

    Claimer           claim_jobs -> Supervisor._accept_job starts, holds, releases or fails the job
    heartbeat thread  heartbeat_jobs confirms starts and extends leases;
                      Supervisor._on_heartbeat (in the event loop) starts or stops jobs
    HandlerTask       runs an async handler, or waits for the thread of a plain def
                      -> Supervisor.on_outcome passes the outcome to the Reporter
                      -> Supervisor.on_end gives the slot to a held job, or claims another
    Reporter          report_jobs -> Supervisor._on_written drops the lease
    MaintenanceLoop   maintain_jobs, for the whole project
    DrainMonitor      ends a run after `max_jobs`, or a drain when no job is due

A job that has started keeps its slot until its handler has ended. It keeps its lease until the
database has answered for its outcome, or until the lease is lost. The slot or the lease can end
first.
"""

from picture_queue.worker.context import JobContext, SyncJobContext
from picture_queue.worker.drain import DrainResult
from picture_queue.worker.hooks import AttemptEnd
from picture_queue.worker.verdicts import Cancel, Park, PermanentFailure, RateLimited, Retry, Snooze
from picture_queue.worker.worker import Worker

__all__ = [
    "AttemptEnd",
    "Cancel",
    "DrainResult",
    "JobContext",
    "Park",
    "PermanentFailure",
    "RateLimited",
    "Retry",
    "Snooze",
    "SyncJobContext",
    "Worker",
]
