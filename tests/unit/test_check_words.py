"""scripts/check_words.py finds docstrings with an unsuitable first word, and retired names."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_words.py"


def findings(path: Path) -> list[str]:
    """Return the findings in a file, as if its directory were the root."""
    script = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
    script.findings.__globals__["ROOT"] = path.parent
    return list(script.findings(path))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.py", '"""How it works."""\n', "a.py:1: begin this docstring with a verb or a noun"),
        ("a.py", 'def f():\n    """Whether it is."""\n', "a.py:1: begin this docstring"),
        ("a.py", 'def f():\n    """Returns it."""\n', "a.py:1: begin this docstring with an imp"),
        ("a.py", '"""Polls the job."""\n', "a.py:1: begin this docstring with an imperative"),
        (
            "a.py",
            'def f():\n    """Do it.\n\n    Args:\n        x: What to do.\n    """\n',
            "a.py:1: begin this description with a noun: What to do.",
        ),
        ("a.py", "class Trickle: ...\n", "a.py:1: Trickle is now BatchSender"),
        ("a.py", "\nx.complain()\n", "a.py:2: complain is now print_error"),
        ("a.py", "def f(hurry): ...\n", "a.py:1: hurry is now stop_now"),
        ("a.py", "def test_nobody_waits(): ...\n", "a.py:1: say in plain words what test_nobody"),
        ("a.py", '"""It works."""\n', "a.py:1: begin this docstring with a verb or a noun"),
        ("ears.py", "x = 1\n", "ears.py:1: the module ears is now event_source"),
        ("a.sql", "\nselect picture_queue._line_up(1);\n", "a.sql:2: _line_up is now"),
    ],
)
def test_a_finding_has_its_line(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (tmp_path / name).write_text(text)
    (finding,) = findings(tmp_path / name)
    assert finding.startswith(expected)


@pytest.mark.parametrize(
    "first_line",
    ["Whole jobs.", "Calls of SQL functions.", "Process a job.", "Limits that apply.", "Claims."],
)
def test_an_imperative_or_a_noun_phrase_has_no_finding(tmp_path: Path, first_line: str) -> None:
    function = 'def talks():\n    """Return it.\n\n    Args:\n        x: A job.\n    """\n'
    (tmp_path / "a.py").write_text(f'"""{first_line}"""\n\n\n{function}')
    assert findings(tmp_path / "a.py") == []
