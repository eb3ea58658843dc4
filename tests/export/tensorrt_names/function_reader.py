"""Reads one function: what it takes from TensorRT, what it calls, and which releases its conditions leave at each place.

A condition on the release is `hasattr(<object of TensorRT>, "<name>")`, a function that returns just one, a variable that holds one,
and `not`, `and`, `or` of these. What an expression is, is followed from `import tensorrt as trt` through assignments and the types
in the lists; parameters, attributes and what our own functions return are known by their names, VARIABLES.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from tests.export.tensorrt_names.release_lists import MODULE, Release

# What our code calls TensorRT's objects, the underscore before an attribute apart; None where such a name is something else.
VARIABLES = {
    "trt": MODULE, "builder": "Builder", "cache": "ITimingCache", "config": "IBuilderConfig", "context": "IExecutionContext",
    "engine": "ICudaEngine", "fp32": "DataType", "layer": "ILayer", "network": "INetworkDefinition", "parser": "OnnxParser",
    "profile": "IOptimizationProfile", "runtime": "Runtime", "severity": "ILogger.Severity", "tensor": "ITensor",
    "logger": None,  # ours, of runtime/tensorrt_library.py
}  # fmt: skip
# What the signatures of all releases call by another name than the module does.
RETURNED = {"OnnxParser.get_error": "ParserError"}
# Functions in which such names are other things: parts of the engine inspector's JSON.
WITHOUT_TENSORRT = frozenset({"export/fp32_layers.py:nms_input_formats"})
_UNKNOWN = "unknown"
_ANY = re.compile(r"Any|(list|tuple|Iterator|Iterable|Sequence)\[Any(, \.\.\.)?\]")

Versions = frozenset[str]
Split = tuple[Versions, Versions]  # where a condition may be true, and where it may be false


@dataclass
class Function:
    """What a function does with TensorRT. `name` is that of its file, a colon and its own; empty after the colon for a file's own lines.

    uses: line, owner, name and the versions that may come there. calls: functions that it names, likewise. condition: where it may
    be true and false, for one that returns nothing but a condition on the release. problems: what could not be followed.
    """

    name: str
    uses: set[tuple[int, str, str, Versions]] = field(default_factory=set)
    calls: set[tuple[str, Versions]] = field(default_factory=set)
    condition: Split | None = None
    problems: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Scope:
    """What a function's text can refer to.

    with_tensorrt: whether its file handles TensorRT's objects. modules: the names that tensorrt has in all of the file. functions: the
    full names of the project's functions that the file knows, by their names there. definitions: of all functions, by full name.
    conditions: of those that return one. files_with_tensorrt: all files that handle TensorRT's objects.
    """

    releases: Mapping[str, Release]
    with_tensorrt: bool
    modules: Set[str]
    functions: Mapping[str, str]
    definitions: Mapping[str, ast.FunctionDef]
    conditions: Mapping[str, Split]
    files_with_tensorrt: Set[str]


class FunctionReader:
    """Fills `function` with what statements do. `at` is where, of all versions, the statement that is being read may run."""

    def __init__(self, function: Function, scope: Scope) -> None:
        self.function, self.scope = function, scope
        self.with_tensorrt = scope.with_tensorrt and function.name not in WITHOUT_TENSORRT
        self.all = self.at = frozenset(scope.releases)
        self.types = dict.fromkeys(scope.modules, MODULE)
        self.conditions: dict[str, Split] = {}

    def read(self, statements: Sequence[ast.stmt]) -> None:
        """Read the statements of a block in their order; `at` is then what falls out of its end."""
        for statement in statements:
            self._statement(statement)

    def read_function(self, node: ast.FunctionDef) -> None:
        """Read a function as a whole."""
        self._nested(node)
        *before, last = node.body
        if isinstance(last, ast.Return) and last.value is not None and all(map(_does_nothing, before)):
            split = self._split(last.value)
            self.function.condition = None if split == (self.all, self.all) else split

    def _nested(self, node: ast.FunctionDef) -> None:
        """Read a function where it is defined, which may then run wherever that is."""
        start = self.at
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            self._declared(argument, argument.arg, argument.annotation)
        self.read(node.body)
        self.at = start

    def _statement(self, node: ast.stmt) -> None:
        start = self.at
        match node:
            case ast.If(test=test, body=body, orelse=orelse):
                self._type(test)
                true, false = self._split(test)
                self.at = start & true
                self.read(body)
                after, self.at = self.at, start & false
                self.read(orelse)
                self.at |= after
            case ast.Assert(test=test):
                self._type(test)
                self.at &= self._split(test)[0]
            case ast.Return() | ast.Raise() | ast.Break() | ast.Continue():
                self._parts(node)
                self.at = frozenset()
            case ast.Import(names=names):
                self.types |= {alias.asname or alias.name: MODULE for alias in names if alias.name == "tensorrt"}
            case ast.ImportFrom(module="tensorrt"):
                self._problem(node, "from tensorrt import ... cannot be followed: import tensorrt as trt")
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self._bind(name, value)
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
                self._bind(name, value)
                if name not in self.types:
                    self._declared(node.target, name, annotation)
            case ast.AnnAssign(target=ast.Attribute(attr=name) as target, annotation=annotation):
                self._declared(target, name, annotation)
                self._parts(node)
            case ast.For(target=ast.Name(id=name), iter=iterable):
                self._bind(name, iterable)
                self._parts(node)
                self.at = start
            case ast.FunctionDef():
                self._nested(node)
            case _:
                self._parts(node)
                self.at = start

    def _parts(self, node: ast.AST) -> None:
        """Read what a node is made of; each of its blocks may run where the node does."""
        start = self.at
        for _, value in ast.iter_fields(node):
            parts = value if isinstance(value, list) else [value]
            if parts and isinstance(parts[0], ast.stmt):
                self.at = start
                self.read(parts)
                self.at = start
            else:
                for part in parts:
                    if isinstance(part, ast.expr):
                        self._type(part)
                    elif isinstance(part, ast.AST):
                        self._parts(part)

    def _type(self, node: ast.expr) -> str | None:
        """Read an expression and return the class that it is, MODULE, or _UNKNOWN; None for what is not TensorRT's."""
        match node:
            case ast.Name(id=name):
                return self._named(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                return self._variable(name)
            case ast.Attribute(value=value, attr=name):
                return self._member(node, self._type(value), name)
            case ast.Call(func=ast.Name(id="hasattr" | "getattr" | "setattr"), args=[value, name, *_]):
                return self._by_name(node, self._type(value), name)
            case ast.Call(func=callee):
                kind = self._type(callee)
                arguments = [self._type(argument) for argument in (*node.args, *(keyword.value for keyword in node.keywords))]
                self._handed_over(node, arguments)
                return kind
            case ast.BoolOp(op=operator, values=values):
                self._in_turn(isinstance(operator, ast.And), values)
                return None
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._either(test, body, orelse)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                for generator in node.generators:
                    if isinstance(generator.target, ast.Name):
                        self._bind(generator.target.id, generator.iter)
                self._parts(node)
                return None
            case _:
                self._parts(node)
                return None

    def _in_turn(self, conjunction: bool, values: Sequence[ast.expr]) -> None:
        start = self.at
        for value in values:
            self._type(value)
            self.at &= self._split(value)[0 if conjunction else 1]
        self.at = start

    def _either(self, test: ast.expr, body: ast.expr, orelse: ast.expr) -> str | None:
        start = self.at
        self._type(test)
        true, false = self._split(test)
        self.at = start & true
        first = self._type(body)
        self.at = start & false
        second = self._type(orelse)
        self.at = start
        return first or second

    def _named(self, name: str) -> str | None:
        if name in self.scope.functions:
            self.function.calls.add((self.scope.functions[name], self.at))
            return None
        return self._variable(name)

    def _variable(self, name: str) -> str | None:
        if name in self.types:
            return self.types[name]
        return VARIABLES.get(name.removeprefix("_")) if self.with_tensorrt else None

    def _member(self, node: ast.expr, owner: str | None, name: str) -> str | None:
        """Note the use of a member and return what it is."""
        if owner is None or name.startswith("__"):
            return None
        if owner == _UNKNOWN:
            self._problem(node, f"{ast.unparse(node)} cannot be followed: say in RETURNED what it is a member of")
            return None
        self.function.uses.add((node.lineno, owner, name, self.at))
        return self._kind(owner, name)

    def _kind(self, owner: str, name: str) -> str | None:
        kinds: set[str] = set()
        classes: set[str] = set()
        for release in self.scope.releases.values():
            if path := release.find(owner, name):
                kinds.add(kind := RETURNED.get(path, release.kinds[path]))
                classes |= {kind.rpartition("::")[2]} & release.classes  # some signatures have the name in C++
        if not classes:
            return _UNKNOWN if any(not kind or "::" in kind for kind in kinds) else None
        return classes.pop() if len(classes) == 1 else _UNKNOWN

    def _by_name(self, node: ast.Call, owner: str | None, name: ast.expr) -> str | None:
        """Read hasattr, getattr, setattr: a name that is only asked for need not be there, but some release must have it."""
        for part in node.args[2:]:
            self._type(part)
        if owner is None:
            self._type(name)
            return None
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str) or owner == _UNKNOWN:
            self._problem(node, f"{ast.unparse(node)} cannot be followed: write the name out")
            return None
        if isinstance(node.func, ast.Name) and node.func.id != "hasattr" and (node.func.id == "setattr" or len(node.args) == 2):
            return self._member(node, owner, name.value)
        if not any(release.find(owner, name.value) for release in self.scope.releases.values()):
            self._problem(node, f"{ast.unparse(node)} asks for what no release has")
        return None

    def _bind(self, name: str, value: ast.expr) -> None:
        """Note what a variable is that is assigned `value`, or one element of it after another."""
        kind = self._type(value)
        self.types.pop(name, None)
        self.conditions.pop(name, None)
        if kind is not None and (kind != _UNKNOWN or name not in VARIABLES):
            self.types[name] = kind
        if (split := self._split(value)) != (self.all, self.all):
            self.conditions[name] = split
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in self.scope.functions:
            self._declared(value, name, self.scope.definitions[self.scope.functions[value.func.id]].returns)

    def _declared(self, node: ast.expr | ast.arg, name: str, annotation: ast.expr | None) -> None:
        untyped = annotation is not None and _ANY.fullmatch(ast.unparse(annotation))
        if self.with_tensorrt and untyped and name.removeprefix("_") not in VARIABLES:
            self._problem(node, f"{name} may be an object of TensorRT: say in VARIABLES which")

    def _handed_over(self, node: ast.Call, arguments: Sequence[str | None]) -> None:
        callee = self.scope.functions.get(node.func.id) if isinstance(node.func, ast.Name) else None
        if callee and any(arguments) and callee.partition(":")[0] not in self.scope.files_with_tensorrt:
            self._problem(node, f"{callee} takes an object of TensorRT, but its file does not import tensorrt, so it is not read")

    def _split(self, node: ast.expr) -> Split:
        """Return for which versions a condition may be true and for which false; all and all where it is not on the release."""
        match node:
            case ast.Call(func=ast.Name(id="hasattr"), args=[value, ast.Constant(value=str(name))]):
                owner = self._type(value)
                if owner is None or owner == _UNKNOWN:
                    return self.all, self.all
                true = frozenset(version for version, release in self.scope.releases.items() if release.find(owner, name))
                return true, self.all - true
            case ast.Call(func=ast.Name(id=name)):
                return self.scope.conditions.get(self.scope.functions.get(name, ""), (self.all, self.all))
            case ast.Name(id=name):
                return self.conditions.get(name, (self.all, self.all))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                true, false = self._split(operand)
                return false, true
            case ast.BoolOp(op=operator, values=values):
                trues, falses = zip(*map(self._split, values), strict=True)
                if isinstance(operator, ast.And):
                    return frozenset.intersection(*trues), frozenset.union(*falses)
                return frozenset.union(*trues), frozenset.intersection(*falses)
            case _:
                return self.all, self.all

    def _problem(self, node: ast.expr | ast.stmt | ast.arg, text: str) -> None:
        self.function.problems.add(f"{self.function.name.partition(':')[0]}:{node.lineno}: {text}")


def _does_nothing(node: ast.stmt) -> bool:
    """Say whether a statement is a docstring or an import."""
    return isinstance(node, (ast.Import, ast.ImportFrom)) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
