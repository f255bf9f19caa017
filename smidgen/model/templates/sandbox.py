"""Jinja's immutable sandbox, in which nothing runs that is not paid for.

Jinja compiles a template to Python. Here, all that such a program can do with values goes through the methods of
`Sandbox`: operators, comparisons, looking up and cutting, calls, and what is written. Only values and methods known
by name are let through, each method with its price (`text`, `filters`), and each block of statements costs its length
whenever it runs. So no list of dangerous things has to be complete, no tracing slows Python down, and nothing is
computed while the template is compiled (Jinja's optimizer would).
"""

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from sys import getsizeof
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace

from smidgen.model.templates import text
from smidgen.model.templates.budget import (
    LONGEST_RANGE,
    LONGEST_TEXT,
    STEP,
    VIEWS,
    counted,
    fitting,
    key,
    spend,
    text_of,
    weigh,
)
from smidgen.model.templates.clock import now
from smidgen.model.templates.filters import FILTERS, TESTS

MOST_TOKENS = 30_000  # the longest templates in use have about 6,000
MOST_NESTED = 40  # brackets in brackets; Jinja's own parser ends at about 65
DEEPEST = 100  # levels of statements and expressions in one another; templates in use have at most 25

_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "gteq": operator.ge, "lt": operator.lt,
    "lteq": operator.le,
}  # fmt: skip
_OPERANDS = (str, int, float, list, tuple, type(None), Undefined)  # Python refuses what does not go together
_CONTAINERS = (list, tuple, Mapping, *VIEWS)
_NOT_FOR_CHATS = (
    nodes.EvalContextModifier, nodes.ScopedEvalContextModifier, nodes.Block, nodes.Extends, nodes.Include, nodes.Import,
    nodes.FromImport,
)  # fmt: skip
_LOOP = frozenset(
    "index index0 revindex revindex0 first last length depth depth0 previtem nextitem cycle changed".split()
)
_OPENING, _CLOSING = ("lparen", "lbracket", "lbrace"), ("rparen", "rbracket", "rbrace")
_LONGEST_TIME = 200  # characters of a form for strftime


@dataclass(frozen=True, repr=False, eq=False)
class _Method:
    """A method that a template has looked up, with what it is called on."""

    function: Callable[..., Any]
    first: tuple[Any, ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*self.first, *args, **kwargs)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment in which chat templates are compiled and run; see the module."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)
    intercepted_unops = frozenset(ImmutableSandboxedEnvironment.default_unop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_written,
            extensions=[_Bounds, _GenerationBlock, "jinja2.ext.loopcontrols"],
        )
        self.code_generator_class = _Generator
        self.filters = dict(FILTERS)
        self.tests = dict(TESTS)
        self.globals = {
            "range": _range,
            "dict": _dict,
            "namespace": _Namespace,
            "cycler": Cycler,
            "joiner": Joiner,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }
        self.afford = _afford
        self._functions = {*map(id, self.globals.values()), id(self.afford)}

    spend, key = staticmethod(spend), staticmethod(key)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The template's tree, if it is not too deep, with a price on the conditions of loops."""
        tree = super()._parse(source, name, filename)
        _refuse_deep(tree)
        if any(tree.find_all(_NOT_FOR_CHATS)):
            raise SecurityError("it is for web pages: it escapes, has blocks to be filled, or takes other files in")
        for loop in list(tree.find_all(nodes.For)):
            if loop.test is not None:
                price = nodes.Const(STEP + _price([loop.test]))
                paid = nodes.Call(nodes.EnvironmentAttribute("afford"), [price], [], None, None)
                loop.test = nodes.And(paid, loop.test)
        for call in list(tree.find_all((nodes.Call, nodes.Filter, nodes.Test))):
            if call.dyn_args is not None:
                call.dyn_args = nodes.Filter(call.dyn_args, "list", [], [], None, None)
        tree.set_environment(self)
        return tree

    # -- operators -------------------------------------------------------------------------------------------------

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`left + right` and so on."""
        return self.binary(operator, left, right)

    def binary(self, operator: str, left: Any, right: Any) -> Any:
        """The same outside a template."""
        if operator == "%" and isinstance(left, str):
            return text.percent(left, right)
        if operator == "**":
            raise SecurityError("it raises to a power")
        for value in (left, right):
            if not isinstance(value, _OPERANDS):
                raise SecurityError(f"it computes with a {type(value).__name__}")
        if operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, str | list | tuple) and isinstance(times, int):
                    if len(sequence) * times > LONGEST_TEXT:
                        raise SecurityError(f"it repeats a value to more than {LONGEST_TEXT} characters")
                    spend(getsizeof(sequence) * max(1, times))
        elif operator == "+" and isinstance(left, str | list | tuple):
            spend(getsizeof(left) + 5 * getsizeof(right))
        return fitting(self.binop_table[operator](left, right))

    def call_unop(self, context: Context, operator: str, arg: Any) -> Any:
        """`-arg` and `+arg`."""
        if not isinstance(arg, _OPERANDS):
            raise SecurityError(f"it computes with a {type(arg).__name__}")
        return fitting(self.unop_table[operator](arg))

    def concat_values(self, values: Iterable[Any]) -> str:
        """`a ~ b ~ c`."""
        texts = [text_of(value) for value in values]
        spend(sum(map(getsizeof, texts)))
        return fitting("".join(texts))

    def compare(self, left: Any, name: str, right: Any, *more: Any) -> Any:
        """`left == right`, `in` and so on; more: further operators, each with a function for its right side."""
        result = self._compared(left, name, right)
        if not more or not result:
            return result
        return self.compare(right, more[0], more[1](), *more[2:])

    def _compared(self, left: Any, name: str, right: Any) -> Any:
        if name in ("in", "notin"):
            return self._contains(right, left) == (name == "in")
        if isinstance(left, str) and isinstance(right, str):
            spend(min(getsizeof(left), getsizeof(right)))
        elif isinstance(left, _CONTAINERS) and isinstance(right, _CONTAINERS):
            weigh(left)
            weigh(right)
        return _COMPARISONS[name](left, right)

    def _contains(self, values: Any, value: Any) -> bool:
        if isinstance(values, str):
            if isinstance(value, str):
                spend(text.search_cost(values, value))
        elif isinstance(values, Mapping):
            key(value)
        elif isinstance(values, (list, tuple, *VIEWS)):
            if isinstance(value, _CONTAINERS):
                weigh(values)
            spend((STEP + weigh(value)) * len(values))
        return operator.contains(values, value)

    # -- looking up and cutting ------------------------------------------------------------------------------------

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`obj.attribute`: the attribute, else the element of this name."""
        found = self._attribute(obj, attribute)
        if found is not None:
            return found[0]
        if isinstance(obj, Mapping):
            try:
                return obj[attribute]
            except (TypeError, LookupError):
                pass
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]`: the element, else the attribute of this name."""
        if isinstance(argument, slice):
            return self._cut(obj, argument)
        if isinstance(obj, (str, list, tuple, Mapping, range)):
            try:
                return obj[key(argument)]
            except (TypeError, LookupError):
                pass
        elif isinstance(obj, Undefined):
            return obj[argument]
        if isinstance(argument, str) and (found := self._attribute(obj, argument)) is not None:
            return found[0]
        return self.undefined(obj=obj, name=argument)

    def attribute(self, obj: Any, name: str) -> Any:
        """`obj | attr(name)`: never an element."""
        found = self._attribute(obj, name)
        return self.undefined(obj=obj, name=name) if found is None else found[0]

    def _attribute(self, obj: Any, name: str) -> tuple[Any] | None:
        """In a tuple, so that None can be a value; None where Python's object has no such attribute."""
        if isinstance(obj, Undefined):
            return (obj[name],)  # which raises the error that says what is undefined
        method = self._method(obj, name)
        if method is not None:
            return (method,)
        if isinstance(obj, _Namespace):
            try:
                return (self.unsafe_undefined(obj, name) if name.startswith("_") else getattr(obj, name),)
            except AttributeError:
                return None
        if (isinstance(obj, LoopContext) and name in _LOOP) or (isinstance(obj, Cycler) and name == "current"):
            return (getattr(obj, name),)
        return (self.unsafe_undefined(obj, name),) if hasattr(obj, name) else None

    def _method(self, obj: Any, name: str) -> _Method | None:
        if isinstance(obj, str):
            if name in text.METHODS:
                return _Method(text.METHODS[name], (obj,))
            if name in text.METHODS_IN_SANDBOX:
                return _Method(text.METHODS_IN_SANDBOX[name], (self, obj))
        elif isinstance(obj, Mapping) and name in _MAPPING:
            return _Method(_MAPPING[name], (obj,))
        elif isinstance(obj, list | tuple) and name in _SEQUENCE:
            return _Method(_SEQUENCE[name], (obj,))
        elif isinstance(obj, LoopContext) and name in ("cycle", "changed"):
            return _Method(_weighed(getattr(obj, name)), ())
        elif isinstance(obj, Cycler) and name in ("next", "reset"):
            return _Method(getattr(obj, name), ())
        elif obj is _dict and name == "fromkeys":
            return _Method(_from_keys, ())
        return None

    def _cut(self, obj: Any, part: slice) -> Any:
        if isinstance(obj, str | list | tuple):
            spend(getsizeof(obj) * len(range(*part.indices(len(obj)))) // max(1, len(obj)))
        elif not isinstance(obj, range | Undefined):
            raise TypeError(f"{type(obj).__name__} cannot be cut")
        return obj[part]

    # -- calls -----------------------------------------------------------------------------------------------------

    def call(self, context: Context, callee: Any, /, *args: Any, **kwargs: Any) -> Any:
        """`callee(…)`: a macro, a method or function that is known here, or a loop that calls itself."""
        spend(STEP * (4 + len(args) + len(kwargs)))
        if not isinstance(callee, _Method | Macro | LoopContext | Joiner | Undefined) and (
            id(callee) not in self._functions
        ):
            raise SecurityError(f"it calls a {type(callee).__name__}")
        return context.call(callee, *args, **kwargs)


class _Generator(CodeGenerator):
    """Writes the Python program of a template so that all it does goes through the sandbox."""

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        body = list(nodes)
        self.writeline(f"environment.spend({STEP + _price(body)})")
        super().blockvisit(body, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for pair in node.items:
            self.write("environment.key(")
            self.visit(pair.key, frame)
            self.write("): ")
            self.visit(pair.value, frame)
            self.write(", ")
        self.write("}")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat_values((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        self.write("environment.compare(")
        self.visit(node.expr, frame)
        for place, operand in enumerate(node.ops):
            self.write(f", {operand.op!r}, {'lambda: ' if place else ''}")
            self.visit(operand.expr, frame)
        self.write(")")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.getitem(")
        self.visit(node.node, frame)
        self.write(", slice(")
        for bound in (node.arg.start, node.arg.stop, node.arg.step):
            if bound is None:
                self.write("None")
            else:
                self.visit(bound, frame)
            self.write(", ")
        self.write("))")


def _price(body: Iterable[nodes.Node]) -> int:
    """What statements cost, without the blocks in them, which pay for themselves."""
    price, waiting = 0, list(body)
    while waiting:
        node = waiting.pop()
        price += STEP
        if isinstance(node, nodes.TemplateData):
            price += len(node.data)
        waiting.extend(node.iter_child_nodes(exclude=("body", "else_")))
    return price


def _refuse_deep(tree: nodes.Template) -> None:
    """Count the levels as a reader does that nests what Jinja lists: `elif`, chains of `~` and of comparisons."""
    waiting: list[tuple[nodes.Node, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > DEEPEST:
            raise SecurityError(f"it is nested more than {DEEPEST} levels deep")
        if isinstance(node, nodes.Concat):
            depth += len(node.nodes)
        elif isinstance(node, nodes.Compare):
            depth += len(node.ops)
        elif isinstance(node, nodes.If):
            waiting += [(branch, depth + place) for place, branch in enumerate(node.elif_, 1)]
            waiting += [(child, depth + len(node.elif_)) for child in node.else_]
        waiting += [(child, depth + 1) for child in node.iter_child_nodes(exclude=("elif_",))]


class _Bounds(Extension):
    """Counts the tokens, and the brackets that are open, before the parser meets them."""

    def filter_stream(self, stream: TokenStream) -> Iterable[Token]:
        opened = 0
        for number, token in enumerate(stream):
            if number == MOST_TOKENS:
                raise SecurityError(f"it has more than {MOST_TOKENS} words and signs")
            opened += (token.type in ("lparen", "lbracket", "lbrace")) - (
                token.type in ("rparen", "rbracket", "rbrace")
            )
            if opened > MOST_NESTED:
                raise SecurityError(f"it has more than {MOST_NESTED} brackets in one another")
            yield token


class _GenerationBlock(Extension):
    """{% generation %} … {% endgeneration %} marks the assistant's words, for training; here only they count."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


# -- what templates find by name --------------------------------------------------------------------------------------


@pass_context  # so that Jinja does not call it while compiling
def _written(context: Context, value: Any) -> str:
    """What `{{ value }}` writes."""
    return text_of(value)


def _afford(work: int) -> bool:
    spend(work)
    return True


def _raise_exception(message: Any) -> None:
    raise TemplateError(text_of(message))


def _strftime_now(form: str) -> str:
    if len(form) > _LONGEST_TIME or re.search(r"\d{3}", form):
        raise SecurityError("it asks for the time in a form that no real template needs")
    spend(STEP * len(form))
    return now().strftime(form)


def _range(*bounds: int) -> range:
    steps = range(*bounds)
    if len(steps) > LONGEST_RANGE:
        raise SecurityError(f"it asks for a range of more than {LONGEST_RANGE}")
    return steps


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    made = {key(name): value for name, value in _pairs(*args)}
    return made | kwargs


def _pairs(values: Any = ()) -> Iterable[Any]:
    return counted(values.items() if isinstance(values, Mapping) else values)


def _from_keys(names: Iterable[Any], value: Any = None) -> dict[Any, Any]:
    return {key(name): value for name in counted(names)}


class _Namespace(Namespace):
    """Without names that begin with an underscore, as in transformers."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *given = args
        attributes = _dict(*given, **kwargs)
        for name in attributes:
            _refuse_private(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"  # not what it holds, which may be itself


def _refuse_private(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError("it sets a name that begins with an underscore")


def _weighed(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        weigh(args)
        return function(*args)

    return run


def _get(values: Mapping[Any, Any], name: Any, default: Any = None) -> Any:
    return values.get(key(name), default)


def _copied(values: Mapping[Any, Any]) -> dict[Any, Any]:
    spend(getsizeof(values) + STEP * len(values))
    return dict(values)


def _index(values: Any, value: Any, *bounds: int) -> int:
    weigh(value)
    spend(weigh(values))
    return values.index(value, *bounds)


def _count(values: Any, value: Any) -> int:
    weigh(value)
    spend(weigh(values))
    return values.count(value)


_MAPPING: Mapping[str, Callable[..., Any]] = {
    "items": lambda values: values.items(),
    "keys": lambda values: values.keys(),
    "values": lambda values: values.values(),
    "get": _get,
    "copy": _copied,
}
_SEQUENCE: Mapping[str, Callable[..., Any]] = {"index": _index, "count": _count}
