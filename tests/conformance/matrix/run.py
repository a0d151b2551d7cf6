"""Run every case over every interface, and compare the answers."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import psycopg

from tests.conformance.matrix.answer import (
    Answer,
    build_request,
    describe_difference,
    differs,
    select_compared_part,
)
from tests.conformance.matrix.case import NEEDS, Case, Function, PlaceholderValues, build_cases
from tests.conformance.matrix.codes import CODES
from tests.conformance.matrix.functions_jobs import JOBS
from tests.conformance.matrix.functions_queues import PROJECT, QUEUES, SCHEDULES
from tests.conformance.matrix.functions_work import GENERATIONS, WORKERS
from tests.conformance.matrix.interfaces import Interface
from tests.conformance.matrix.ours import exception_name
from tests.conformance.matrix.project import Project

FUNCTIONS: list[Function] = [*JOBS, *QUEUES, *SCHEDULES, *PROJECT, *WORKERS, *GENERATIONS]
CASES: list[Case] = [case for function in FUNCTIONS for case in build_cases(function)] + CODES
_VOID = {function.name for function in FUNCTIONS if function.right is None}


@dataclass
class Column:
    """The results of one interface.

    Args:
        interface: The name of the interface.
        answers: The answers by the id of the case.
        problems: The differences by the id of the case.
        left_out: The reason why a case was not run, by its id.
        seconds: The duration of the calls, without setup and cleanup.
    """

    interface: str
    answers: dict[str, Answer] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


async def run(project: Project, interface: Interface, cases: Sequence[Case] = CASES) -> Column:
    """Set up the cases, make their calls over an interface, and check the answers."""
    column = Column(interface.name)
    prepared: list[tuple[Case, PlaceholderValues]] = []
    shared: dict[tuple[str, str], PlaceholderValues] = {}
    with ExitStack() as locks:
        for case in cases:
            reason = (
                NEEDS[case.needs] if project.lacks(case.needs) else interface.skip_reason(case.role)
            )
            if reason:
                column.left_out[case.id] = reason
                continue
            placeholders: PlaceholderValues = {}
            if case.read_only and case.setup:
                placeholders = shared.setdefault((case.function, case.setup), placeholders)
            if not placeholders:
                await asyncio.to_thread(project.set_up, case.setup, placeholders)
            if case.needs == "locks":
                locks.enter_context(lock_job(project, placeholders["job"]))
            prepared.append((case, placeholders))
        began = time.monotonic()
        requests = [
            build_request(case, placeholders, case.function in _VOID)
            for case, placeholders in prepared
        ]
        answers: list[Answer] = []
        try:
            answers = await interface.run(project, requests)
        finally:
            column.seconds = time.monotonic() - began
            locks.close()
            generation_jobs = [
                answer.data["job_id"]
                for request, answer in zip(requests, answers, strict=False)
                if request.function == "start_generation" and answer.code is None
            ]
            project.clear([placeholders for _, placeholders in prepared], generation_jobs)
    for (case, placeholders), answer in zip(prepared, answers, strict=True):
        compared = select_compared_part(case, answer, placeholders)
        column.answers[case.id] = compared
        problem = describe_difference(case, compared)
        expected_exception = exception_name(answer.code or "")
        if problem is None and answer.exception and answer.exception != expected_exception:
            problem = f"{answer.code} is raised as {answer.exception}, not {expected_exception}"
        if problem is not None:
            column.problems[case.id] = problem
    return column


def compare(column: Column, reference: Column) -> None:
    """Compare the answers of two interfaces; add the differences to the problems of the first."""
    for case, answer in column.answers.items():
        expected = reference.answers.get(case)
        if case not in column.problems and expected and differs(answer, expected):
            column.problems[case] = (
                f"{reference.interface} has {expected.text()}, {column.interface} {answer.text()}"
            )


@contextmanager
def lock_job(project: Project, job: str) -> Iterator[None]:
    """Lock the row of a job until the block ends."""
    with psycopg.connect(project.database or "") as connection:
        connection.execute("select from public.job_queue where id = %s for update", (job,))
        yield
        connection.rollback()
