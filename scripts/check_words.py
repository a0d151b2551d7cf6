"""Check docstrings and names against the rules for plain English.

A docstring begins with an imperative or a noun phrase, never with a question word. Names that were
replaced do not come back.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("picture_queue", "cli", "scripts", "bench")
QUESTION = re.compile(r"(What|Who|Whose|How|Whether|Where|Which|When|Why)\b")
#: Retired names, and the words that replaced them.
RETIRED = {
    "Ears": "EventSource",
    "Housekeeper": "MaintenanceLoop",
    "Keeper": "MigrationTool",
    "Link": "WorkerCalls",
    "Pauses": "RetryDelay",
    "Trickle": "BatchSender",
    "Wish": "DemoOptions, ReplayRequest",
    "complain": "print_error",
    "named_error": "translate_error",
    "talk": "info",
    "worth_repeating": "is_transient",
}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def findings(path: Path) -> Iterator[str]:
    """Yield what is wrong in a file, with its line."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"
        if isinstance(node, _DOCUMENTED):
            first = (ast.get_docstring(node) or "").partition("\n")[0]
            if QUESTION.match(first):
                yield f"{where}: begin this docstring with a verb or a noun: {first}"
        name = getattr(node, "name", None) or getattr(node, "id", None)
        if name in RETIRED:
            yield f"{where}: {name} is now {RETIRED[name]}"


def main() -> int:
    """Print all findings; return 1 if there are any."""
    files = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
    found = [finding for file in files for finding in findings(file)]
    for finding in found:
        print(finding)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
