"""The tested project: its addresses, keys and users, and the setup and cleanup of cases."""

import base64
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import jwt
import psycopg
from psycopg.rows import dict_row

from tests.conformance.matrix.case import PlaceholderValues, fill_placeholders
from tests.conformance.matrix.setups import JOB_TYPE, SETUPS
from tests.conformance.matrix.statement import SIGNATURES, Call

#: Tables in which cases create rows, and the column that contains a name made for a placeholder.
_NAME_COLUMNS = {
    "worker": "name",
    "schedule": "name",
    "tenant": "name",
    "limit_rule": "key",
    "budget": "key",
    "limit_key": "key",
    "input_rule": "model",
    "model": "model_id",
    "queue": "name",
}


@dataclass(frozen=True)
class Project:
    """A project and its callers.

    Args:
        url: The address of the API.
        keys: The API key of each role.
        tokens: The token of each role: the key itself, or the token of a user.
        users: The ids of the users ada and bob, by name.
        database: The address of the database, if known.
        caller: The calls of the setup and the cleanup.
    """

    url: str
    keys: Mapping[str, str]
    tokens: Mapping[str, str]
    users: Mapping[str, str]
    database: str | None
    caller: "ServiceCaller" = field(repr=False)

    def claims(self, role: str) -> dict[str, Any]:
        """Return the token claims of a role, which PostgREST passes to the database."""
        parts = self.tokens[role].split(".")
        if len(parts) != 3:  # This is a publishable or secret key; the gateway sets the claims.
            return {"role": "service_role" if role == "service" else "anon"}
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(padded))
        return claims

    def headers(self, role: str) -> dict[str, str]:
        """Return the headers of a request."""
        return {"apikey": self.keys[role], "Authorization": f"Bearer {self.tokens[role]}"}

    def lacks(self, need: str) -> bool:
        """Return True if the project lacks an address or a secret that a case needs."""
        if need == "locks":
            return not self.database
        return need == "secret" and "no_user" not in self.keys

    def set_up(self, setup: str, placeholders: PlaceholderValues) -> None:
        """Create the rows of a setup, and store the values of its placeholders."""
        placeholders["ada"] = self.users["ada"]
        for step in SETUPS[setup]:
            answer = self.caller.call(
                step.function, fill_placeholders(dict(step.args), placeholders)
            )
            for name, path in step.saved.items():
                try:
                    placeholders[name] = _get_path(answer, path)
                except LookupError:
                    problem = f"setup {setup}: {step.function} answers {answer}, without {path}"
                    raise AssertionError(problem) from None

    def clear(
        self, all_placeholders: Sequence[PlaceholderValues], generation_jobs: Sequence[str]
    ) -> None:
        """Delete the jobs, schedules, limits and pauses that would affect later cases.

        Args:
            all_placeholders: The values of the placeholders of each case.
            generation_jobs: The ids of the jobs of the generations that the cases started.
        """
        outcomes = [
            {"job_id": values["job"], "lease_id": values["lease"], "outcome": "cancelled"}
            for values in all_placeholders
            if "job" in values and "lease" in values
        ]
        self.caller.call("report_jobs", {"outcomes": outcomes})
        filters: list[dict[str, Any]] = [{"job_type": JOB_TYPE}, {"job_ids": list(generation_jobs)}]
        filters += [{"user_id": self.users[name]} for name in ("ada", "bob")]
        for filter_ in filters:
            for action in ("cancel", "discard"):
                self.caller.call("change_jobs", {"action": action, "filter": filter_})
        if self.database:
            self.caller.delete_named_rows()
            return
        for worker in {values["worker"] for values in all_placeholders if "worker" in values}:
            self.caller.call("unregister_worker", {"worker": worker})
        for name in {values["name"] for values in all_placeholders if "name" in values}:
            self.caller.call("delete_schedule", {"name": name})
        for values in all_placeholders:
            # The cases with a wrong type pass an object as the key, which becomes its JSON text.
            for key in (values["key"], f'{{"a":"{values["key"]}"}}') if "key" in values else ():
                self.caller.call("resume_key", {"key": key})
                with suppress(CallFailed):
                    self.caller.call("delete_limit", {"key": key})
                for plan in (None, "free"):
                    rule = {"model": key, "input": "scale", "action": "cap", "plan": plan}
                    with suppress(CallFailed):
                        self.caller.call("delete_input_rule", rule)

    def close(self) -> None:
        """Close the connections."""
        self.caller.close()


class CallFailed(Exception):
    """A call to set up or clean up a case has failed."""


class ServiceCaller:
    """Calls with the privileges of the service key: over the database if it is known, or over HTTP.

    The database is faster.
    """

    def __init__(self, stack: Any, database: str | None) -> None:
        headers = {
            "apikey": stack.service_role_key,
            "Authorization": f"Bearer {stack.service_role_key}",
        }
        self.http = httpx.Client(headers=headers, timeout=60)
        self._url = f"{stack.api_url}/rest/v1/rpc"
        self._database: psycopg.Connection[dict[str, Any]] | None = None
        if database:
            self._database = psycopg.connect(database, autocommit=True, row_factory=dict_row)
            rows = self._database.execute(SIGNATURES).fetchall()
            self._signatures = {row["name"]: row for row in rows}

    def call(self, function: str, args: dict[str, Any]) -> Any:
        """Make a call and return its answer.

        Raises:
            CallFailed: The call has failed.
        """
        if self._database is None:
            answer = self.http.post(f"{self._url}/{function}", json=args)
            if answer.is_error:
                raise CallFailed(f"{function}: {answer.text}")
            return answer.json() if answer.content else None
        call = Call(self._signatures.get(function), function, args)
        try:
            row = self._database.execute(call.sql(lambda _: "%s").encode(), call.values).fetchone()
        except psycopg.Error as error:
            raise CallFailed(f"{function}: {error}") from error
        text = next(iter((row or {}).values()), None)
        return None if text is None else json.loads(text)

    def delete_named_rows(self) -> None:
        """Delete the rows whose names were made for placeholders, directly from the tables.

        Otherwise each interface would make lists longer and slower. No SQL function deletes queues
        and tenants.
        """
        if self._database is None:
            return
        for table, column in _NAME_COLUMNS.items():
            # A queue that still has jobs cannot be deleted.
            unused_condition = (
                " and not exists (select from public.job_queue j where j.queue = t.name)"
                if table == "queue"
                else ""
            )
            statement = f"delete from picture_queue.{table} t where t.{column} like '%conform-%'"
            self._database.execute((statement + unused_condition).encode())

    def close(self) -> None:
        """Close the connections."""
        self.http.close()
        if self._database is not None:
            self._database.close()


def _get_path(answer: Any, path: str) -> Any:
    for part in path.split("."):
        answer = answer[int(part) if part.isdigit() else part]
    return answer


def open_project(stack: Any) -> Project:
    """Return the project of a stack, with two new users.

    Args:
        stack: A `LocalSupabase`, or a `RemoteStack` of tests/conftest.py.
    """

    def optional(name: str) -> str | None:
        has_variable = getattr(stack, "has_variable", None)
        return None if has_variable and not has_variable(name) else getattr(stack, name)

    anon, service = stack.anon_key, stack.service_role_key
    caller = ServiceCaller(stack, optional("db_url"))
    users = {name: _sign_up(caller.http, stack.api_url, anon) for name in ("ada", "bob")}
    for user, _ in users.values():  # The cases start more generations than the default permits.
        rates = {"per_minute": 10_000, "per_hour": 10_000, "max_pending": 10_000}
        caller.call("set_budget", {"key": f"user:{user}", "changes": rates})
    tokens = {"anon": anon, "service": service}
    tokens |= {name: token for name, (_, token) in users.items()}
    secret = optional("jwt_secret")
    if secret:
        claims = {"role": "authenticated", "aud": "authenticated", "exp": int(time.time()) + 3600}
        tokens["no_user"] = jwt.encode(claims, secret, algorithm="HS256")
    return Project(
        stack.api_url,
        {role: service if role == "service" else anon for role in tokens},
        tokens,
        {name: user for name, (user, _) in users.items()},
        optional("db_url"),
        caller,
    )


def _sign_up(http: httpx.Client, url: str, anon: str) -> tuple[str, str]:
    """Return the id and the token of a new user."""
    account = {"email": f"{uuid4().hex}@example.com", "password": "correct horse battery"}
    headers = {"apikey": anon, "Authorization": f"Bearer {anon}"}
    answer = http.post(f"{url}/auth/v1/signup", json=account, headers=headers)
    if answer.is_error or "access_token" not in answer.json():
        # The project requires confirmed e-mail addresses. A service key can create a user whose
        # address is confirmed.
        created = http.post(f"{url}/auth/v1/admin/users", json={**account, "email_confirm": True})
        created.raise_for_status()
        signed_in = f"{url}/auth/v1/token?grant_type=password"
        answer = http.post(signed_in, json=account, headers=headers)
        answer.raise_for_status()
    session = answer.json()
    return session["user"]["id"], session["access_token"]
