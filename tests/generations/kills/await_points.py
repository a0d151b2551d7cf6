"""Instrument each await of some packages, so that a test can act before and after the await.

`instrument` must be called before the modules of the packages are imported. It compiles them with
each ``await x`` replaced by ``await at(site, x)``, and with each ``async with`` and ``async for``
replaced accordingly. No list of awaits exists: a new await is instrumented like the others.

A site is ``<module>:<line>:<column>``. An ``async with`` has two sites, since it awaits its enter
and its exit. They end with ``:enter`` and ``:exit``.
"""

import ast
import asyncio
import builtins
import importlib.machinery
import importlib.util
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any, NamedTuple, Protocol

ROOT = Path(__file__).parents[3]

#: The packages in which a worker is killed at each await.
PACKAGES = (
    "picture_queue.generations",
    "picture_queue.providers",
    "picture_queue.worker.context",
    "picture_queue.worker.executor",
    "picture_queue.worker.reporter",
)
_NAME = "_picture_queue_await_points"  # in `builtins`, so that each instrumented module finds it


class Point(NamedTuple):
    """A point of a run: before or after one await.

    Attributes:
        when: ``before`` the awaited call begins, or ``after`` it, before its caller continues.
        site: The place of the await in the source.
        occurrence: The number of times that the run has reached the site, from 1.
    """

    when: str
    site: str
    occurrence: int

    def __str__(self) -> str:
        return f"{self.when} {self.site} #{self.occurrence}"


class Observer(Protocol):
    """The object that is called at each point."""

    def reach(self, point: Point, step: tuple[int, int]) -> None:
        """Act at a point.

        Args:
            point: The point.
            step: The step of the task. A task is not suspended between two points of a step, so no
                answer has arrived between them.
        """


class _AwaitPoints:
    """The functions that the instrumented code calls."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._counts: Counter[str] = Counter()
        self._iteration = 0  # of the event loop; a task makes at most one step in an iteration
        self._is_counting = False

    async def at(self, site: str, awaitable: Any) -> Any:
        """Await an object, with a point before and after it."""
        self._counts[site] += 1
        occurrence = self._counts[site]
        self._reach(Point("before", site, occurrence))
        try:
            return await awaitable
        finally:
            self._reach(Point("after", site, occurrence))

    def _reach(self, point: Point) -> None:
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._count_iteration)
        self._observer.reach(point, (id(asyncio.current_task()), self._iteration))

    def _count_iteration(self) -> None:
        self._is_counting = False
        self._iteration += 1

    def context(self, site: str, manager: Any) -> "_Context":
        return _Context(self, site, manager)

    def iteration(self, site: str, iterable: Any) -> "_Iteration":
        return _Iteration(self, site, iterable)


class _Context:
    """An async context manager with points around its enter and its exit."""

    def __init__(self, points: _AwaitPoints, site: str, manager: Any) -> None:
        self._points, self._site, self._manager = points, site, manager

    async def __aenter__(self) -> Any:
        return await self._points.at(f"{self._site}:enter", self._manager.__aenter__())

    async def __aexit__(self, *error: Any) -> Any:
        return await self._points.at(f"{self._site}:exit", self._manager.__aexit__(*error))


class _Iteration:
    """An async iterator with points around each step."""

    def __init__(self, points: _AwaitPoints, site: str, iterable: Any) -> None:
        self._points, self._site = points, site
        self._iterator = iterable.__aiter__()

    def __aiter__(self) -> "_Iteration":
        return self

    async def __anext__(self) -> Any:
        return await self._points.at(self._site, self._iterator.__anext__())


class _Instrumentation(ast.NodeTransformer):
    """Replace each await of a module, and list its sites.

    Attributes:
        sites: The sites of the module.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self.sites: list[str] = []

    def visit_Await(self, node: ast.Await) -> ast.Await:
        self.generic_visit(node)
        node.value = self._call("at", node, node.value)
        return node

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AsyncWith:
        self.generic_visit(node)
        for item in node.items:
            value = item.context_expr
            item.context_expr = self._call("context", value, value, (":enter", ":exit"))
        return node

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AsyncFor:
        self.generic_visit(node)
        node.iter = self._call("iteration", node, node.iter)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        self.generic_visit(node)
        if node.is_async:
            node.iter = self._call("iteration", node.iter, node.iter)
        return node

    def _call(
        self, function: str, place: Any, value: ast.expr, suffixes: tuple[str, ...] = ("",)
    ) -> ast.Call:
        site = f"{self._module}:{place.lineno}:{place.col_offset}"
        self.sites += [site + suffix for suffix in suffixes]
        points = ast.Name(_NAME, ast.Load())
        call = ast.Call(
            ast.Attribute(points, function, ast.Load()), [ast.Constant(site), value], []
        )
        return ast.fix_missing_locations(ast.copy_location(call, value))


class _Loader(importlib.machinery.SourceFileLoader):
    """A loader that instruments a module. It neither reads nor writes bytecode files."""

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        tree = _Instrumentation(fullname).visit(ast.parse(self.get_data(path)))
        return compile(tree, path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, packages: tuple[str, ...]) -> None:
        self._packages = packages

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if not _is_in(fullname, self._packages):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


def instrument(packages: Iterable[str], observer: Observer) -> None:
    """Call an observer at each await of the modules of some packages, which are imported later."""
    packages = tuple(packages)
    imported = [name for name in sys.modules if _is_in(name, packages)]
    if imported:
        raise RuntimeError(f"modules were imported before they were instrumented: {imported}")
    setattr(builtins, _NAME, _AwaitPoints(observer))
    sys.meta_path.insert(0, _Finder(packages))


def list_sites(packages: Iterable[str]) -> list[str]:
    """Return the sites of all awaits in the source of some packages."""
    sites = []
    for path in _source_files(packages):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        instrumentation = _Instrumentation(name.removesuffix(".__init__"))
        instrumentation.visit(ast.parse(path.read_bytes()))
        sites += instrumentation.sites
    return sites


def _source_files(packages: Iterable[str]) -> Iterator[Path]:
    for package in packages:
        path = ROOT.joinpath(*package.split("."))
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
