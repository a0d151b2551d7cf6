"""The project that is called: its addresses, keys and users, and the calls that set a case up."""

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

from tests.conformance.matrix.case import Names, filled
from tests.conformance.matrix.setups import SETUPS, TYPE
from tests.conformance.matrix.statement import SIGNATURES, Call

#: Tables with rows that cases created, and the column of their name.
_NAMED = {
    "worker": "name",
    "schedule": "name",
    "tenant": "name",
    "limit_rule": "key",
    "limit_key": "key",
    "queue": "name",
}


@dataclass(frozen=True)
class Project:
    """A project and its callers.

    Args:
        url: The address of the API.
        keys: The API key of each role.
        tokens: The token of each role: the key itself, or the token of a user.
        users: The ids of ada and bob.
        database: The address of the database, if known.
    """

    url: str
    keys: Mapping[str, str]
    tokens: Mapping[str, str]
    users: Mapping[str, str]
    database: str | None
    calls: "Calls" = field(repr=False)

    def claims(self, role: str) -> dict[str, Any]:
        """Return the claims of a caller that the API gives to the database."""
        parts = self.tokens[role].split(".")
        if len(parts) != 3:  # The gateway exchanges a key of the new kind for a token.
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

    def set_up(self, setup: str, names: Names) -> None:
        """Create the rows of a setup, and store their names."""
        names["ada"] = self.users["ada"]
        for step in SETUPS[setup]:
            answer = self.calls.make(step.function, filled(dict(step.args), names))
            for name, path in step.keep.items():
                try:
                    names[name] = _at(answer, path)
                except LookupError:
                    problem = f"setup {setup}: {step.function} answers {answer}, without {path}"
                    raise AssertionError(problem) from None

    def clear(self, names: Sequence[Names], generations: Sequence[str]) -> None:
        """Delete what would affect later cases: jobs, schedules, limits and pauses.

        Args:
            names: The names of all cases.
            generations: The ids of the jobs of their generations.
        """
        ended = [
            {"job_id": one["job"], "lease_id": one["lease"], "outcome": "cancelled"}
            for one in names
            if "job" in one and "lease" in one
        ]
        self.calls.make("report_jobs", {"outcomes": ended})
        ours = [{"job_type": TYPE}, {"job_ids": list(generations)}]
        for filter_ in (*ours, {"user_id": self.users["ada"]}, {"user_id": self.users["bob"]}):
            for action in ("cancel", "discard"):
                self.calls.make("change_jobs", {"action": action, "filter": filter_})
        if self.database:
            self.calls.forget()
            return
        for worker in {one["worker"] for one in names if "worker" in one}:
            self.calls.make("unregister_worker", {"worker": worker})
        for name in {one["name"] for one in names if "name" in one}:
            self.calls.make("delete_schedule", {"name": name})
        for one in names:
            # If an object was passed for the key, its JSON is the name.
            for key in (one["key"], f'{{"a":"{one["key"]}"}}') if "key" in one else ():
                self.calls.make("resume_key", {"key": key})
                with suppress(Refused):
                    self.calls.make("delete_limit", {"key": key})

    def close(self) -> None:
        """Close the connections."""
        self.calls.close()


class Refused(Exception):
    """A call of a setup was refused."""


class Calls:
    """Calls with a service key: over the database, which is faster, or over HTTP."""

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
            found = self._database.execute(SIGNATURES).fetchall()
            self._signatures = {row["name"]: row for row in found}

    def make(self, function: str, args: dict[str, Any]) -> Any:
        """Make a call and return its answer.

        Raises:
            Refused: The call was refused.
        """
        if self._database is None:
            answer = self.http.post(f"{self._url}/{function}", json=args)
            if answer.is_error:
                raise Refused(f"{function}: {answer.text}")
            return answer.json() if answer.content else None
        call = Call(self._signatures.get(function), function, args)
        try:
            row = self._database.execute(call.sql(lambda _: "%s").encode(), call.values).fetchone()
        except psycopg.Error as error:
            raise Refused(f"{function}: {error}") from error
        text = next(iter((row or {}).values()), None)
        return None if text is None else json.loads(text)

    def forget(self) -> None:
        """Delete all other rows with names of cases, including queues and tenants, for which there
        is not a function: lists of them would become slower with each interface."""
        if self._database is None:
            return
        for table, column in _NAMED.items():
            unused = (
                " and not exists (select from public.job_queue j where j.queue = t.name)"
                if table == "queue"
                else ""
            )
            statement = f"delete from picture_queue.{table} t where t.{column} like '%conform-%'"
            self._database.execute((statement + unused).encode())

    def close(self) -> None:
        """Close the connections."""
        self.http.close()
        if self._database is not None:
            self._database.close()


def _at(answer: Any, path: str) -> Any:
    for part in path.split("."):
        answer = answer[int(part) if part.isdigit() else part]
    return answer


def project_of(stack: Any) -> Project:
    """Sign two users up.

    Args:
        stack: Address and keys, as a `LocalSupabase` or the `RemoteStack` of tests/conftest.py.
    """

    def optional(name: str) -> str | None:
        known = getattr(stack, "knows", None)
        return None if known and not known(name) else getattr(stack, name)

    anon, service = stack.anon_key, stack.service_role_key
    calls = Calls(stack, optional("db_url"))
    people = {name: _sign_up(calls.http, stack.api_url, anon) for name in ("ada", "bob")}
    tokens = {"anon": anon, "service": service}
    tokens |= {name: token for name, (_, token) in people.items()}
    secret = optional("jwt_secret")
    if secret:
        claims = {"role": "authenticated", "aud": "authenticated", "exp": int(time.time()) + 3600}
        tokens["no_user"] = jwt.encode(claims, secret, algorithm="HS256")
    return Project(
        stack.api_url,
        {role: service if role == "service" else anon for role in tokens},
        tokens,
        {name: user for name, (user, _) in people.items()},
        optional("db_url"),
        calls,
    )


def _sign_up(http: httpx.Client, url: str, anon: str) -> tuple[str, str]:
    """Return the id and the token of a new user."""
    account = {"email": f"{uuid4().hex}@example.com", "password": "correct horse battery"}
    headers = {"apikey": anon, "Authorization": f"Bearer {anon}"}
    answer = http.post(f"{url}/auth/v1/signup", json=account, headers=headers)
    if answer.is_error or "access_token" not in answer.json():
        # The project requires a confirmation by e-mail. A service key creates users without one.
        made = http.post(f"{url}/auth/v1/admin/users", json={**account, "email_confirm": True})
        made.raise_for_status()
        signed_in = f"{url}/auth/v1/token?grant_type=password"
        answer = http.post(signed_in, json=account, headers=headers)
        answer.raise_for_status()
    session = answer.json()
    return session["user"]["id"], session["access_token"]
