"""The matrix of functions and error codes by interface, with the number of right answers."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from picture_queue.errors import BY_CODE
from tests.conformance.matrix.case import Case, ExpectedError
from tests.conformance.matrix.run import CASES, FUNCTIONS, Column

#: The rows of the table: the cases of each function or error code, by its name.
Rows = dict[str, list[Case]]


@dataclass(frozen=True)
class Cell:
    """The numbers of cases with a right answer, with a wrong answer, and not run."""

    right: int
    wrong: int
    left_out: int

    def __str__(self) -> str:
        """Return the text of a cell of the table."""
        if self.wrong:
            return f"[red]{self.right}/{self.right + self.wrong}[/]"
        return str(self.right) if self.right else "–"


def group_cases(cases: Sequence[Case] = CASES) -> tuple[Rows, Rows]:
    """Return the cases of each function, and the cases of each expected error code.

    The codes of this library come first, in the order of `errors.BY_CODE`.
    """
    by_function: Rows = {function.name: [] for function in FUNCTIONS}
    by_code: Rows = {}
    for case in cases:
        by_function[case.function].append(case)
        if isinstance(case.expected, ExpectedError):
            by_code.setdefault(f"{case.expected.code} {case.expected.status}", []).append(case)
    order = [f"{code} {error.http_status}" for code, error in BY_CODE.items()]
    by_code = {name: by_code[name] for name in (*order, *sorted(by_code.keys() - set(order)))}
    return by_function, by_code


def count_answers(cases: Sequence[Case], column: Column) -> Cell:
    """Return the numbers for one cell of the matrix."""
    wrong = sum(case.id in column.problems for case in cases)
    ran = sum(case.id in column.answers for case in cases)
    return Cell(ran - wrong, wrong, len(cases) - ran)


def print_matrix(
    columns: Sequence[Column], unavailable: Mapping[str, str], console: Console
) -> None:
    """Print the matrix, the wrong answers, and the reasons why cases were not run.

    Args:
        columns: The result of each interface.
        unavailable: The reason for each interface that could not be tested.
        console: The output.
    """
    table = Table(header_style="bold", row_styles=["", "dim"])
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column.interface, justify="right")
    for group in group_cases():
        for name, cases in group.items():
            table.add_row(name, *(str(count_answers(cases, column)) for column in columns))
        table.add_section()
    table.add_row("all", *(str(count_answers(CASES, column)) for column in columns))
    table.add_row("not run", *(str(len(column.left_out)) for column in columns))
    table.add_row("seconds", *(f"{column.seconds:.1f}" for column in columns))
    console.print(table)
    for column in columns:
        for case, problem in column.problems.items():
            console.print(f"[red]{column.interface}[/] {case}: {problem}", highlight=False)
    for line in list_left_out(columns):
        console.print(line, highlight=False)
    for interface, reason in unavailable.items():
        console.print(f"{interface}: not available: {reason}", highlight=False)
    wrong = sum(len(column.problems) for column in columns)
    ran = sum(len(column.answers) for column in columns)
    console.print(
        f"{len(FUNCTIONS)} functions, {len(CASES)} cases, {len(columns)} interfaces: {ran} "
        f"answers, {wrong} not as expected"
    )


def list_left_out(columns: Sequence[Column]) -> list[str]:
    """Return a line for each reason why cases were not run, with their number and interfaces."""
    interfaces_by_reason: dict[tuple[str, int], list[str]] = {}
    for column in columns:
        for reason, count in Counter(column.left_out.values()).items():
            interfaces_by_reason.setdefault((reason, count), []).append(column.interface)
    return [
        f"{count} cases not run over {', '.join(interfaces)}: {reason}"
        for (reason, count), interfaces in interfaces_by_reason.items()
    ]


def as_json(columns: Sequence[Column], unavailable: Mapping[str, str]) -> str:
    """Return the results as JSON."""
    functions, codes = group_cases()

    def count(rows: Rows) -> dict[str, dict[str, dict[str, int]]]:
        return {
            name: {column.interface: vars(count_answers(cases, column)) for column in columns}
            for name, cases in rows.items()
        }

    return json.dumps(
        {
            "cases": len(CASES),
            "functions": count(functions),
            "codes": count(codes),
            "problems": {column.interface: column.problems for column in columns},
            "not_run": {column.interface: column.left_out for column in columns},
            "unavailable": dict(unavailable),
            "seconds": {column.interface: round(column.seconds, 2) for column in columns},
        }
    )
