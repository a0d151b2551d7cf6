"""The permissions in docs/security.md, tried for every object, every role and every operation."""

from typing import Any
from uuid import uuid4

import pytest

from tests.security.access_attempts import MARKS, NO, YES, AccessAttempts
from tests.security.calls import CALLS
from tests.security.matrix import OPERATIONS, ROLES, Rule, objects, privileges, rules
from tests.security.realtime_socket import broadcast_event, open_socket
from tests.security.sample_project import (
    SECRET,
    SampleProject,
    owner_image_path,
    store_file,
    stored_files,
)

API = rules("Through the API")
INSIDE = rules("Inside the schema `picture_queue`")
REST = [rule for rule in API if rule.kind in ("table", "view", "sequence", "function")]
OUTSIDE_REST = [rule for rule in API if rule not in REST and rule.kind != "private"]
_DATABASE_ROLES = ["anon", "authenticated", "service_role"]
_ROWS = """
select coalesce(json_agg(j order by j.id), '[]')::text || (
    select coalesce(json_agg(g order by g.id), '[]')::text from public.generations g) || (
    select coalesce(json_agg(i order by i.id), '[]')::text from public.images i)
from public.job_queue j"""


def test_the_table_has_no_empty_cell_and_no_duplicate():
    for table, columns in ((API, 4), (INSIDE, 3)):
        assert table
        assert len({(rule.kind, rule.name) for rule in table}) == len(table)
        for rule in table:
            assert len(rule.cells) == columns, rule
            assert all(rule.cells), rule
    for rule in API:
        for cell in rule.cells:
            assert len(cell) == (3 if rule in REST or rule.kind == "private" else 2), rule
            for mark, operation in zip(cell, OPERATIONS, strict=False):
                assert mark in ("-", "0", operation), rule


async def test_every_object_is_in_the_table(admin):
    listed = {(rule.kind, rule.name) for rule in REST}
    assert set(await objects(admin, "public")) == listed
    # Every function of the table has a call that the attempts can make.
    assert CALLS.keys() == {name for kind, name in listed if kind == "function"}


async def test_the_grants_equal_the_table(admin):
    documented = {}
    for rule in INSIDE:
        for role, cell in zip(_DATABASE_ROLES, rule.cells, strict=True):
            if cell != "-":
                documented[rule.kind, rule.name, role] = cell
    assert await privileges(admin, "picture_queue", _DATABASE_ROLES) == documented
    documented = {("usage", "public", role): "x" for role in _DATABASE_ROLES}
    for rule in REST:
        anon, owner, other, service = rule.cells
        # Owner and other user have the same role in the database. Policies distinguish their rows.
        assert [mark == "-" for mark in owner] == [mark == "-" for mark in other], rule
        for role, cell in zip(_DATABASE_ROLES, (anon, owner, service), strict=True):
            if marks := cell.replace("-", ""):
                documented[rule.kind, rule.name, role] = marks
    assert await privileges(admin, "public", _DATABASE_ROLES) == documented


@pytest.mark.parametrize("operation", OPERATIONS.values())
async def test_operations_through_postgrest(project: SampleProject, admin: Any, operation: str):
    """Try the refused operations first and check that they changed no row; then try the others."""
    position = list(OPERATIONS.values()).index(operation)
    before = await admin.fetchval(_ROWS)
    for marks in ("-", "0", "rwx"):
        for role in ROLES:
            attempts = AccessAttempts(project, role)
            for rule in _in_order(REST):
                cell = rule.cells[ROLES.index(role)]
                if cell[position] in marks:
                    found = await getattr(attempts, operation)(rule.name)
                    assert (MARKS[found] or "rwx"[position]) == cell[position], (rule, role)
        if marks != "rwx":
            assert await admin.fetchval(_ROWS) == before


def _in_order(unsorted_rules: list[Rule]) -> list[Rule]:
    """Return the rules in an order in which their calls can run."""
    order = list(CALLS)
    return sorted(
        unsorted_rules, key=lambda rule: order.index(rule.name) if rule.name in CALLS else -1
    )


async def test_private_objects_are_unreachable(project: SampleProject, admin: Any):
    """The other user tries all names. The other roles try the names with a privilege."""
    (rule,) = (rule for rule in API if rule.kind == "private")
    assert set(rule.cells) == {"---"}
    # A public wrapper of the same name is another function, with a separate row.
    public = {(rule.kind, rule.name) for rule in REST}
    inside = [found for found in await objects(admin, "picture_queue") if found not in public]
    with_privileges = {(rule.kind, rule.name) for rule in INSIDE}
    assert len(inside) > 100
    profiles = {"accept-profile": "picture_queue", "content-profile": "picture_queue"}
    for role in ROLES:
        attempts = AccessAttempts(project, role)
        for kind, name in inside:
            if role == "other_user" or (kind, name) in with_privileges:
                found = await (
                    attempts.execute(name) if kind == "function" else attempts.read(name)
                )
                assert found == NO, name
        for name in ("setting", "_enqueue", "start_generation", "picture_queue.setting"):
            for operation in (attempts.read, attempts.write, attempts.execute):
                assert await operation(name, profiles) == NO


@pytest.mark.parametrize(
    "rule", [rule for rule in OUTSIDE_REST if rule.kind == "topic"], ids=lambda rule: rule.name
)
async def test_operations_on_topics(project: SampleProject, rule: Rule):
    name = rule.name.replace("<owner>", project.users["owner"])
    name = name.replace("<job>", project["ownerless"]).replace("<queue>", project.queue)
    async with open_socket(project.api_url, project.tokens["service"]) as observer:
        assert await observer.join(name, project.tokens["service"]) is None
        for role, cell in zip(ROLES, rule.cells, strict=True):
            assert await _join_and_broadcast(project, role, name, f"{role} on socket") == (
                YES if cell[0] == "r" else NO,
                YES if cell[1] == "w" else NO,
            ), role
            for kind, status in (("single", 403), ("batch", 202)):
                answer = await _broadcast_over_http(project, role, name, f"{role} by {kind}", kind)
                assert answer == (202 if cell[1] == "w" else status), role
        await observer.receive_until("service by batch")
    assert [broadcast_event(message) for message in observer.messages] == [
        f"{role} {kind}"
        for role, cell in zip(ROLES, rule.cells, strict=True)
        if cell[1] == "w"
        for kind in ("on socket", "by single", "by batch")
    ]


async def _join_and_broadcast(
    project: SampleProject, role: str, name: str, event: str
) -> tuple[str, str]:
    """Join a topic and write to it; return the two outcomes."""
    async with open_socket(project.api_url, project.tokens["anon"]) as socket:
        reason = await socket.join(name, project.tokens[role])
        if reason is not None:
            # The reason contains only the requested topic, and is the same for a topic that does
            # not exist.
            assert reason == (
                f"Unauthorized: You do not have permissions to read from this Channel topic: {name}"
            )
            missing = await socket.join(f"pq:user:{uuid4()}", project.tokens[role])
            assert missing is not None and missing.startswith("Unauthorized: ")
        wrote = await socket.broadcast(name, event)
        assert reason is None or not wrote
        return (YES if reason is None else NO), (YES if wrote else NO)


async def _broadcast_over_http(
    project: SampleProject, role: str, name: str, event: str, kind: str
) -> int:
    base = "/realtime/v1/api/broadcast"
    if kind == "single":
        url = f"{base}/{name}/events/{event}?private=true"
        return (await project.request(role, "POST", url, json={})).status
    message = {"topic": name, "event": event, "payload": {}, "private": True}
    return (await project.request(role, "POST", base, json={"messages": [message]})).status


@pytest.mark.parametrize(
    "rule", [rule for rule in OUTSIDE_REST if rule.kind == "files"], ids=lambda rule: rule.name
)
async def test_operations_on_files(project: SampleProject, rule: Rule):
    bucket, name = _file_of(project, rule)
    for role, cell in zip(ROLES, rule.cells, strict=True):
        assert await AccessAttempts(project, role).read_file(bucket, name) == _expected_outcome(
            cell[0]
        ), role
    for role, cell in zip(ROLES, rule.cells, strict=True):
        if cell[1] == "w":
            await store_file(project, bucket, name)  # another role may have replaced or moved it
            stored = await project.request("service", "GET", f"/storage/v1/object/{bucket}/{name}")
            assert (stored.status, stored.text) == (200, SECRET)
        assert await AccessAttempts(project, role).write_file(bucket, name) == _expected_outcome(
            cell[1]
        ), role


def _file_of(project: SampleProject, rule: Rule) -> tuple[str, str]:
    file = {
        "pictures/<owner>": ("pictures", owner_image_path(project)),
        "pictures/nobody": ("pictures", f"nobody/{SECRET}.png"),
        "uploads/<owner>": ("uploads", owner_image_path(project)),
        "elsewhere/<owner>": (project["bucket"], owner_image_path(project)),
    }[rule.name]
    assert file in stored_files(project)
    return file


def _expected_outcome(mark: str) -> str:
    return NO if mark == "-" else YES


async def test_operations_on_buckets(project: SampleProject):
    rules = [rule for rule in OUTSIDE_REST if rule.kind == "bucket"]
    assert rules
    for rule in rules:
        for role, cell in zip(ROLES, rule.cells, strict=True):
            attempts = AccessAttempts(project, role)
            assert await attempts.read_bucket(rule.name) == _expected_outcome(cell[0]), role
            assert await attempts.write_bucket(rule.name) == _expected_outcome(cell[1]), role


async def test_no_role_can_create_objects(admin):
    """Without the privilege to create objects, the privilege USAGE of a type is useless."""
    for schema in ("public", "picture_queue"):
        for role in _DATABASE_ROLES:
            assert not await admin.fetchval(
                "select has_schema_privilege($1, $2, 'create')", role, schema
            )
