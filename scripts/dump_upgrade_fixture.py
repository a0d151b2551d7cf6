"""Dump a database with jobs in each state, which the tests of upgrades restore and upgrade.

``python scripts/dump_upgrade_fixture.py NAME [COMMIT]`` installs the SQL of the working tree, or of
a commit, and creates jobs in each state. Then it dumps the schemas public and picture_queue, the
policies on the tables of Realtime and Storage, and the bucket to
``tests/migration/fixtures/NAME.sql.gz``. To create the jobs, it calls only functions that every
commit has.
"""

import asyncio
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import asyncpg
from connection import split_password

from picture_queue._resources import Migration, migrations
from picture_queue.local.binaries import find_postgres
from picture_queue.local.stack import LocalSupabase

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "migration" / "fixtures"
MIGRATIONS = "supabase/migrations"
USER = "00000000-0000-4000-8000-0000000000aa"
TIMEOUT = 60.0  # seconds
POLICIES = """
select format('create policy %I on %I.%I for %s to %s using (%s);', p.policyname, p.schemaname,
  p.tablename, p.cmd, array_to_string(p.roles, ', '), p.qual)
from pg_policies p where p.schemaname in ('realtime', 'storage') order by 1
"""
BUCKET = "insert into storage.buckets (id, name, public) values ('pictures', 'pictures', false);"
# Lines that are removed from a dump: session settings, psql commands, objects of every database.
OMITTED_LINE = re.compile(
    r"^(SET (?!check_function_bodies).*|\\.*|CREATE SCHEMA public;|.* ON SCHEMA public .*)$"
)


def migrations_at(commit: str | None) -> list[Migration]:
    """Return the migrations of the working tree, or of a commit."""
    if commit is None:
        return migrations()

    def git(*words: str) -> str:
        return subprocess.check_output(["git", *words], cwd=ROOT, text=True, timeout=TIMEOUT)

    names = git("ls-tree", "--name-only", f"{commit}:{MIGRATIONS}").split()
    return [Migration(name, git("show", f"{commit}:{MIGRATIONS}/{name}")) for name in names]


async def create_jobs(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Create a job in each state, and a generation in progress."""

    async def enqueue(
        state: str, priority: int = 0, scheduled_for: str = "null", max_attempts: int = 3
    ) -> str:
        return str(
            await connection.fetchval(
                f"""select enqueue_job('resize', jsonb_build_object('as', $1::text), $2, null,
                  {scheduled_for}, $3)""",
                state,
                priority,
                max_attempts,
            )
        )

    async def claim(job_type: str) -> dict[str, str]:
        claimed = await connection.fetchval(
            "select claim_jobs('worker-1', '{default}', array[$1], 1, 3600, $2)", job_type, uuid4()
        )
        (job,) = json.loads(claimed)
        return {"job_id": job["id"], "lease_id": job["lease_id"]}

    async def report(lease: dict[str, str], **outcome: object) -> None:
        await connection.fetchval("select report_jobs($1)", json.dumps([{**lease, **outcome}]))

    await enqueue("completed")
    await report(await claim("resize"), outcome="completed", result={"ok": True})
    await enqueue("failed", max_attempts=1)
    await report(await claim("resize"), outcome="failed", error="no such file")
    await enqueue("retried")
    await report(await claim("resize"), outcome="failed", error="timed out")
    await connection.fetchval("select cancel_job($1)", await enqueue("cancelled"))
    await enqueue("running")
    await claim("resize")
    await enqueue("pending")
    await enqueue("urgent", priority=7)
    await enqueue("later", scheduled_for="'2199-01-01'")
    await connection.fetchval(
        "select start_generation('a cat', 'black-forest-labs/flux-schnell', '{}', $1)",
        json.dumps({"user_id": USER}),
    )
    lease = await claim("generate-image")
    answer = await connection.fetchval("select begin_prediction($1, $2)", *lease.values())
    prediction = json.loads(answer)["prediction"]["id"]
    await connection.fetchval(
        "select record_prediction($1, $2, $3, 'prediction-1')", *lease.values(), prediction
    )


def dump_schemas(url: str) -> str:
    """Return the SQL of the schemas public and picture_queue, without commands of psql."""
    address, environment = split_password(url)
    dump = subprocess.run(
        [
            find_postgres().path / "pg_dump",
            *("--schema=public", "--schema=picture_queue", "--no-owner", "--inserts"),
            address,
        ],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return "".join(
        line
        for line in dump.stdout.splitlines(keepends=True)
        if not OMITTED_LINE.match(line.rstrip())
    )


async def main(name: str, commit: str | None = None) -> None:
    """Write the fixture."""
    async with LocalSupabase(migrations=False) as stack:
        connection = await asyncpg.connect(stack.db_url, timeout=TIMEOUT, command_timeout=TIMEOUT)
        try:
            for file in migrations_at(commit):
                await connection.execute(file.sql)
                if await connection.fetchval("select to_regclass('picture_queue.migration')"):
                    record = "insert into picture_queue.migration (name, digest) values ($1, $2)"
                    await connection.execute(record, file.name, file.digest)
            await create_jobs(connection)
            policies = [row[0] for row in await connection.fetch(POLICIES)]
        finally:
            await connection.close(timeout=TIMEOUT)
        text = "\n".join([dump_schemas(stack.db_url), *policies, BUCKET, ""])
    path = FIXTURES / f"{name}.sql.gz"
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
