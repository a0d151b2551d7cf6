"""Attempts of a role to read and write an object through every interface.

A method returns `yes`, `nothing` (the answer for an object that does not exist) or `no`. If it
sends several requests, their answers must agree. Any other answer fails the test, and so does text
that the role must not read.
"""

from typing import Any

from tests.security.calls import CALLS
from tests.security.sample_project import Answer, SampleProject

YES, NOTHING, NO = "yes", "nothing", "no"
MARKS = {YES: "", NOTHING: "0", NO: "-"}

_EXACT_COUNT = {"prefer": "count=exact"}
_UNWRITABLE = ("55000", "42809")  # No role can write to the object.
# The codes of status 404: the function or table does not exist.
_NOT_FOUND = ("PGRST202", "PGRST205", "42P01", "42883")


def _refused(role: str, answer: Answer) -> bool:
    """Return True if the answer reports a missing permission, with the status for the role."""
    return answer.code == "42501" and answer.status == (401 if role == "anon" else 403)


def _absent(answer: Answer) -> bool:
    """Return True if the object does not exist; PostgREST 12 answers a write with `{}`."""
    if answer.status == 404:
        return answer.code in _NOT_FOUND or answer.text == "{}"
    return answer.status == 406 and answer.code == "PGRST106"


class AccessAttempts:
    """The attempts of one role; no answer may contain text that the role must not read."""

    def __init__(self, project: SampleProject, role: str) -> None:
        self.project = project
        self.role = role

    async def request(self, method: str, path: str, **content: Any) -> Answer:
        """Send a request as the role, and check that the answer contains no hidden word."""
        answer = await self.project.request(self.role, method, path, **content)
        received = answer.text + str(answer.headers.multi_items())
        sent = path + repr(content)
        for word in self.project.hidden_words(self.role, sent):
            assert word not in received, f"{self.role} reads {word} in {method} {path}: {received}"
        return answer

    # Through PostgREST.

    async def read(self, name: str, headers: dict[str, str] | None = None) -> str:
        answer = await self.request(
            "GET", f"/rest/v1/{name}", headers={**_EXACT_COUNT, **(headers or {})}
        )
        if answer.status in (200, 206):
            rows, (_, _, total) = answer.json, answer.headers["content-range"].partition("/")
            assert len(rows) == int(total), "the count includes rows that are not returned"
            for row in rows:
                owners = {self.project.users.get(self.role), row.get("user_id")}
                assert self.role == "service" or len(owners) == 1, row
            return YES if rows else NOTHING
        assert _refused(self.role, answer) or _absent(answer), answer
        return NO

    async def write(self, name: str, headers: dict[str, str] | None = None) -> str:
        column = "queue" if name == "queue_health" else "user_id"
        values = {column: self.project.users["other_user"]}
        where = f"/rest/v1/{name}?{column}=eq.{self.project.users['owner']}"
        upsert = {"prefer": "resolution=merge-duplicates,return=representation"}
        for method, path, content in (
            ("POST", f"/rest/v1/{name}", {"json": values}),
            ("POST", f"/rest/v1/{name}", {"json": [values], "headers": upsert}),
            ("PATCH", where, {"json": values}),
            ("DELETE", where, {}),
        ):
            content["headers"] = {**content.get("headers", {}), **(headers or {})}
            answer = await self.request(method, path, **content)
            if answer.code in _UNWRITABLE:
                continue  # A view over a function or a sequence fails before any permission check.
            if _absent(answer):
                break  # The name is not a table, so the other methods would give the same answer.
            assert _refused(self.role, answer), (method, path, answer)
        return NO

    async def execute(self, name: str, headers: dict[str, str] | None = None) -> str:
        arguments = CALLS[name](self.project) if name in CALLS else {}
        if name == "get_account" and self.role != "service":
            arguments = {}  # the account of the caller
        path = f"/rest/v1/rpc/{name}"
        answer = await self.request("POST", path, json=arguments, headers=headers)
        if answer.status < 300:
            empty = isinstance(answer.json, list) and all(
                isinstance(item, dict) and item.get("reason") == "unknown" for item in answer.json
            )
            return NOTHING if self.role == "other_user" and empty else YES
        if answer.status == 404 and (answer.code or "").startswith("PQ_UNKNOWN"):
            return NOTHING
        assert _refused(self.role, answer) or _absent(answer), (name, answer)
        return NO

    # Through Storage.

    async def read_file(self, bucket: str, name: str) -> str:
        folder, _, base = name.rpartition("/")
        outcomes = set()
        for method, path, content in (
            ("GET", f"object/{bucket}/{name}", {}),
            ("HEAD", f"object/{bucket}/{name}", {}),
            ("GET", f"object/authenticated/{bucket}/{name}", {}),
            ("GET", f"object/info/{bucket}/{name}", {}),
            ("GET", f"object/info/authenticated/{bucket}/{name}", {}),
            ("POST", f"object/sign/{bucket}/{name}", {"json": {"expiresIn": 60}}),
            ("POST", f"object/sign/{bucket}", {"json": {"expiresIn": 60, "paths": [name]}}),
            ("POST", f"object/list/{bucket}", {"json": {"prefix": folder}}),
        ):
            answer = await self.request(method, f"/storage/v1/{path}", **content)
            if answer.status == 400:
                assert method == "HEAD" or answer.json["statusCode"] in ("403", "404"), answer
                outcomes.add(NO)
            elif path == f"object/list/{bucket}":
                assert answer.status == 200
                outcomes.add(YES if base in [entry["name"] for entry in answer.json] else NO)
            elif path == f"object/sign/{bucket}":
                assert answer.status == 200
                outcomes.add(YES if answer.json[0]["signedURL"] else NO)
            else:
                assert answer.status == 200, (path, answer)
                outcomes.add(YES)
        # The public endpoints of a private bucket refuse every role.
        for path in (f"object/public/{bucket}/{name}", f"object/info/public/{bucket}/{name}"):
            answer = await self.request("GET", f"/storage/v1/{path}")
            assert (answer.status, answer.json["statusCode"]) == (400, "404"), answer
        assert len(outcomes) == 1, (
            f"{self.role} may read {name} through one interface but not another"
        )
        return outcomes.pop()

    async def write_file(self, bucket: str, name: str) -> str:
        new = f"{name.rpartition('/')[0]}/new-{self.role}.png"
        png = {"content": b"x", "headers": {"content-type": "image/png"}}
        upsert = {**png, "headers": {**png["headers"], "x-upsert": "true"}}

        def move_request(source: str, to: str) -> dict[str, Any]:
            return {"json": {"bucketId": bucket, "sourceKey": source, "destinationKey": to}}

        outcomes = set()
        for method, path, content in (
            ("POST", f"object/{bucket}/{new}", png),
            ("PUT", f"object/{bucket}/{name}", png),
            ("POST", f"object/{bucket}/{name}", upsert),
            ("POST", "object/copy", move_request(name, new + ".2")),
            ("POST", "object/move", move_request(name, new + ".4")),
            ("POST", "object/move", move_request(new + ".4", name)),
            ("POST", f"object/upload/sign/{bucket}/{new}.3", {"json": {}}),
            ("DELETE", f"object/{bucket}/{name}", {}),
            ("DELETE", f"object/{bucket}", {"json": {"prefixes": [new, new + ".2"]}}),
        ):
            answer = await self.request(method, f"/storage/v1/{path}", **content)
            if answer.status == 400:
                assert answer.json["statusCode"] in ("403", "404"), (method, path, answer)
                outcomes.add(NO)
            elif path == f"object/{bucket}":
                assert answer.status == 200
                outcomes.add(YES if answer.json else NO)
            else:
                assert answer.status == 200, (method, path, answer)
                outcomes.add(YES)
        assert len(outcomes) == 1, (
            f"{self.role} may write {name} through one interface but not another"
        )
        return outcomes.pop()

    async def read_bucket(self, bucket: str) -> str:
        answer = await self.request("GET", f"/storage/v1/bucket/{bucket}")
        listed = await self.request("GET", "/storage/v1/bucket")
        assert listed.status == 200
        names = [entry["name"] for entry in listed.json]
        if answer.status == 200:
            assert bucket in names
            return YES
        assert (answer.status, answer.json["statusCode"], names) == (400, "404", []), answer
        return NO

    async def write_bucket(self, bucket: str) -> str:
        created = await self.request(
            "POST", "/storage/v1/bucket", json={"name": f"{bucket}-{self.role}"}
        )
        for method, path in (("PUT", bucket), ("DELETE", bucket), ("POST", f"{bucket}/empty")):
            if self.role != "service":
                answer = await self.request(
                    method, f"/storage/v1/bucket/{path}", json={"public": True}
                )
                assert answer.status in (400, 403, 501), answer
        if created.status == 200:
            return YES
        assert (created.status, created.json["statusCode"]) == (400, "403"), created
        return NO
