# Written by scripts/unasync.py from picture_queue/_async/client.py: edit that file.

"""The client of a project, with one attribute for each kind of object."""

import os
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from picture_queue._sync.accounts import Accounts
from picture_queue._sync.batches import Batches
from picture_queue._sync.budgets import Budgets
from picture_queue._sync.events import Events
from picture_queue._sync.generations import Generations
from picture_queue._sync.jobs import Jobs
from picture_queue._sync.limits import Limits
from picture_queue._sync.models import Models
from picture_queue._sync.queues import Queues
from picture_queue._sync.rules import Rules
from picture_queue._sync.schedules import Schedules
from picture_queue._sync.settings import Settings
from picture_queue._sync.tenants import Tenants
from picture_queue._realtime.sync_follow import Watcher
from picture_queue._rpc import project as _rpc
from picture_queue._transport.backend_sync import Backend
from picture_queue.errors import SettingsError
from picture_queue.records import Finding, Health, Maintenance, Version
from picture_queue.settings import DatabaseSettings, ProjectSettings, refuse_empty

if TYPE_CHECKING:
    from supabase import Client


class PictureQueue:
    """The jobs and generations of one Supabase project.

    Args:
        url: The URL of the project; ``SUPABASE_URL`` by default.
        key: A service, secret, publishable or anon key; from the environment by default.
        access_token: The token of a signed-in user; calls then have the privileges of this user.
            ``SUPABASE_ACCESS_TOKEN`` by default.
        client: A supabase client to use instead of ``url``, ``key`` and ``access_token``; you close
            it.
        database_url: The URL of the project's database. Calls then go directly to the database,
            with the privileges of a service key; only pictures and Realtime events need ``url`` and
            ``key``. Direct calls require the extra ``postgres``.
        timeout: Seconds to wait for the answer to a call, including retries.

    Raises:
        SettingsError: The URL or the key is missing or invalid, an argument is empty, or both an
            access token and a database URL are set.

    Example:
        >>> with PictureQueue.from_env() as pq:
        ...     job = pq.jobs.enqueue("resize", {"path": "a.png"})
        ...     result = pq.jobs.result(job.id, timeout=60)
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        access_token: str | None = None,
        client: "Client | None" = None,
        database_url: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        refuse_empty(url=url, key=key, access_token=access_token, database_url=database_url)
        database = DatabaseSettings(database_url, timeout) if database_url else None
        settings, api = None, None
        if client is not None:
            client_url = str(client.supabase_url).rstrip("/")
            settings = ProjectSettings(client_url, client.supabase_key, timeout=timeout)
        elif database is None or url or os.environ.get("SUPABASE_URL"):
            settings = ProjectSettings.resolve(url, key, access_token, timeout)
        if settings is not None:
            from picture_queue._transport.postgrest_sync import Postgrest

            api = Postgrest(settings, client)
            if database is not None and settings.access_token:
                raise SettingsError(
                    "An access token and a database URL are set, but direct calls are not made as "
                    "a user",
                    hint="Unset SUPABASE_ACCESS_TOKEN or PICTURE_QUEUE_DATABASE_URL",
                )
        self._use(Backend(api, database))

    def _use(self, backend: Backend) -> None:
        """Create the attributes, whose calls go through a backend."""
        self._backend = backend
        self._watcher = Watcher(backend)
        self.jobs = Jobs(self._backend, self._watcher)
        self.generations = Generations(self._backend, self._watcher)
        self.models = Models(self._backend)
        self.rules = Rules(self._backend)
        self.batches = Batches(self._backend)
        self.schedules = Schedules(self._backend)
        self.queues = Queues(self._backend)
        self.limits = Limits(self._backend)
        self.tenants = Tenants(self._backend)
        self.budgets = Budgets(self._backend)
        self.accounts = Accounts(self._backend)
        self.events = Events(self._backend)
        self.settings = Settings(self._backend)

    @classmethod
    def from_env(cls) -> Self:
        """Create a client from environment variables.

        It reads ``SUPABASE_URL`` and a key; or ``PICTURE_QUEUE_DATABASE_URL``, for calls that go
        directly to the database; or both.

        Returns:
            The client.

        Raises:
            SettingsError: The URL or the key is missing.
        """
        return cls(database_url=os.environ.get("PICTURE_QUEUE_DATABASE_URL") or None)

    def as_user(self, access_token: str) -> Self:
        """Return a client whose calls have the privileges of a signed-in user.

        It uses the connections of this client, so it is cheap: create one for each request. The
        project verifies the token with each call. Close this client, not the other; close the other
        only to end its waits, each of which has a Realtime connection.

        Args:
            access_token: The access token of the user's session, without ``Bearer ``.

        Returns:
            The client of the user.

        Raises:
            NotAuthenticated: The token is not a JSON Web Token.
            SettingsError: This client has no URL of the project's API.

        Example:
            >>> started = pq.as_user(token).generations.start("A lighthouse at dusk")
        """
        user = object.__new__(type(self))
        user._use(self._backend.for_user(access_token))
        return user

    def health(self) -> Health:
        """Return the health of the queues and workers.

        Returns:
            The queues, the workers, and the job types that have pending jobs but no worker.

        Raises:
            NotAllowed: The key is not a service key.
        """
        return self._backend.call(_rpc.queue_status())

    def doctor(self) -> list[Finding]:
        """Check the project.

        Returns:
            The findings, each with a verdict and a remedy.

        Raises:
            NotAllowed: The key is not a service key.
        """
        return self._backend.call(_rpc.queue_doctor(datetime.now(UTC)))

    def maintain(self, *, force: bool = False) -> Maintenance:
        """Run one round of maintenance, unless a worker holds the maintenance lease.

        Args:
            force: Run the round even if a worker holds the lease.

        Returns:
            The counts of the work that was done.

        Raises:
            NotAllowed: The key is not a service key.
        """
        return self._backend.call(_rpc.maintain_jobs(force=force))

    def version(self) -> Version:
        """Return the version of picture-queue in the project's database."""
        return self._backend.call(_rpc.picture_queue_version())

    def close(self) -> None:
        """Close all connections."""
        self._watcher.close()
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
