"""Finds names of TensorRT that our code uses where a release may run that does not have them. Reads the code without running it.

Every release may run a line unless a condition around it or before it says otherwise (function_reader.py). What a function uses is
run by those releases that come to a place where it is named; a method, or a function that nothing names, may be run by all.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping

from tests.export.tensorrt_names.function_reader import Function, FunctionReader, Scope, Split, Versions
from tests.export.tensorrt_names.release_lists import MODULE, Release

PACKAGE = "retinanet_edge"


def problems(sources: Mapping[str, str], releases: Mapping[str, Release]) -> list[str]:
    """Return a line for each use that a release lacks, and for what cannot be followed. sources: text by file, "export/nms.py"."""
    functions = read_functions(sources, releases)
    found = {problem for function in functions for problem in function.problems}
    running = _running(functions, frozenset(releases))
    for function in functions:
        for line, owner, name, versions in function.uses:
            here = versions & running[function.name]
            if lacking := [version for version, release in releases.items() if version in here and not release.find(owner, name)]:
                path = name if owner == MODULE else f"{owner}.{name}"
                found.add(f"{function.name.partition(':')[0]}:{line}: {path} is not in TensorRT {', '.join(lacking)}")
    return sorted(found)


def read_functions(sources: Mapping[str, str], releases: Mapping[str, Release]) -> list[Function]:
    """Return all functions and methods of the files, and for each file what it does outside of them."""
    trees = {file: ast.parse(text) for file, text in sources.items()}
    definitions = {
        f"{file}:{node.name}": node for file, tree in trees.items() for node in tree.body if isinstance(node, ast.FunctionDef)
    }
    with_tensorrt = {file for file, tree in trees.items() if _handles_tensorrt(tree)}
    conditions: dict[str, Split] = {}
    functions: list[Function] = []
    for _ in range(2):  # the second time it is known which functions return a condition
        functions = []
        for file, tree in trees.items():
            modules, names = set(_names_of_tensorrt(tree.body)), _functions_in_sight(file, tree, definitions)
            scope = Scope(releases, file in with_tensorrt, modules, names, definitions, conditions, with_tensorrt)
            functions += _read_file(file, tree, scope)
        conditions = {function.name: function.condition for function in functions if function.condition is not None}
    return functions


def _read_file(file: str, tree: ast.Module, scope: Scope) -> Iterator[Function]:
    own: list[ast.stmt] = []
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef):
            yield _read_function(f"{file}:{statement.name}", statement, scope)
        elif isinstance(statement, ast.ClassDef):
            for part in statement.body:
                if isinstance(part, ast.FunctionDef):
                    yield _read_function(f"{file}:{statement.name}.{part.name}", part, scope)
                else:
                    own.append(part)
        else:
            own.append(statement)
    function = Function(f"{file}:")
    FunctionReader(function, scope).read(own)
    yield function


def _read_function(name: str, node: ast.FunctionDef, scope: Scope) -> Function:
    function = Function(name)
    FunctionReader(function, scope).read_function(node)
    return function


def _running(functions: list[Function], everywhere: Versions) -> dict[str, Versions]:
    """Return for each function the versions in which it may run."""
    named = {callee for function in functions for callee, _ in function.calls if callee != function.name}
    running = {function.name: frozenset() if function.name in named else everywhere for function in functions}
    changed = True
    while changed:
        before = dict(running)
        for function in functions:
            for callee, versions in function.calls:
                running[callee] |= versions & running[function.name]
        changed = running != before
    return running


def _handles_tensorrt(tree: ast.Module) -> bool:
    """Say whether a file imports tensorrt or has a parameter that is it."""
    return any(_names_of_tensorrt(ast.walk(tree))) or any(
        (isinstance(node, ast.ImportFrom) and node.module == "tensorrt")
        or (isinstance(node, ast.arg) and node.arg == "trt")
        for node in ast.walk(tree)
    )


def _names_of_tensorrt(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names that imports among `nodes` give to tensorrt."""
    aliases = (alias for node in nodes if isinstance(node, ast.Import) for alias in node.names)
    return (alias.asname or alias.name for alias in aliases if alias.name == "tensorrt")


def _functions_in_sight(file: str, tree: ast.Module, definitions: Mapping[str, ast.FunctionDef]) -> dict[str, str]:
    """Return the project's functions that a file defines or imports, by the names that they have there."""
    names = {name.partition(":")[2]: name for name in definitions if name.startswith(f"{file}:")}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith(f"{PACKAGE}."):
            origin = node.module.removeprefix(f"{PACKAGE}.").replace(".", "/") + ".py"
            names |= {alias.asname or alias.name: f"{origin}:{alias.name}" for alias in node.names}
    return {short: name for short, name in names.items() if name in definitions}
