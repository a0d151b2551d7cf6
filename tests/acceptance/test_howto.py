"""Every how-to page quotes its example unchanged, and every example runs."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "howto").glob("*.md"))
EXAMPLES = sorted((ROOT / "examples" / "howto").iterdir())
#: A link to an example, followed by the quoted text of the example.
QUOTED_EXAMPLE = re.compile(
    r"\[`(examples/howto/\S+)`\]\(\.\./\.\./\1\)\n\n```(?:python|sql)\n(.*?)```", re.S
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_quotes_its_examples_unchanged(page):
    quoted = QUOTED_EXAMPLE.findall(page.read_text("utf-8"))
    assert quoted
    for file, text in quoted:
        assert text == (ROOT / file).read_text("utf-8"), f"{page.name} differs from {file}"


def test_every_example_is_on_a_page():
    quoted = {file for page in PAGES for file, _ in QUOTED_EXAMPLE.findall(page.read_text("utf-8"))}
    assert quoted == {example.relative_to(ROOT).as_posix() for example in EXAMPLES}


@pytest.mark.parametrize(
    "example",
    [example for example in EXAMPLES if example.suffix == ".py"],
    ids=lambda example: example.stem,
)
async def test_a_python_example_runs_and_leaves_no_unfinished_job(example, stack, tmp_path, db):
    environment = {
        **os.environ,
        "SUPABASE_URL": stack.api_url,
        "SUPABASE_SERVICE_ROLE_KEY": stack.service_role_key,
    }
    if (preparation := example.with_suffix(".sql")) in EXAMPLES:
        await db.execute(preparation.read_text("utf-8"))
    last_seq = await db.fetchval("select coalesce(max(seq), 0) from job_queue")
    result = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, example],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    unfinished = "select job_type from job_queue where finished_at is null and seq > $1"
    assert await db.fetch(unfinished, last_seq) == []


@pytest.mark.parametrize(
    "example",
    [example for example in EXAMPLES if example.suffix == ".sql"],
    ids=lambda example: example.stem,
)
async def test_an_sql_example_runs(example, stack):
    connection = await asyncpg.connect(stack.db_url, timeout=10)
    try:
        await connection.execute(example.read_text("utf-8"), timeout=30)
    finally:
        await connection.close(timeout=5)
