"""Tools that a model may call, and which of them it must.

A named tool is enforced as llama.cpp can do it: the model is given no other, and must call one.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from smidgen.serving.refusals import Refusal
from smidgen.serving.requests.fields import Body, Lenient, ToolsOf, Unused
from smidgen.serving.requests.tool_schemas import for_tools

ToolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]
NOTHING = {"type": "object", "properties": {}}  # the parameters of a function without any


class Function(Lenient):
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema of type object."""
    strict: bool | None = None
    """Arguments always follow the schema here."""


class Tool(Body):
    """A function, as chat completions have them."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    name: ToolName


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class ResponsesTool(Lenient):
    """A function, as responses have them."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedResponsesTool(Body):
    type: Literal["function"]
    name: ToolName


class AnthropicTool(Lenient):
    """A function, as Anthropic's messages have them."""

    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    """A JSON schema of type object."""
    cache_control: Unused[dict[str, Any]] = None


class AnthropicChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: Literal[False] | None = None


Tools = Annotated[ToolsOf[Tool], Field(description="Functions that the model may call.")]


def in_chat_shape(tools: list[dict[str, Any]] | None, warnings: list[str]) -> list[dict[str, Any]]:
    """Tools of any dialect, checked already, as chat completions have them. Raises Refusal for bad schemas.

    What llama.cpp does not enforce of their schemas joins the warnings, where they are not strict.
    """
    found, seen = [], set[str]()
    for place, tool in enumerate(tools or []):
        given = tool.get("function", tool)
        where = f"tools[{place}].{'function.' if 'function' in tool else ''}"
        name = given["name"]
        if name in seen:
            raise Refusal(f"{where}name is {name!r} a second time; give each tool its own.", param=f"{where}name")
        seen.add(name)
        key = "input_schema" if "input_schema" in given else "parameters"
        schema = given.get(key) or NOTHING
        if schema.get("type", "object") != "object":
            raise Refusal(f"{where}{key} must be a schema of type object.", param=f"{where}{key}")
        function = {"name": name, "parameters": for_tools(schema, f"{where}{key}", bool(given.get("strict")), warnings)}
        for also in ("description", "strict"):
            if given.get(also) is not None:
                function[also] = given[also]
        found.append({"type": "function", "function": function})
    return found


def choose(tools: list[dict[str, Any]], choice: Any) -> tuple[list[dict[str, Any]], str, str | None]:
    """The tools that the model is given, whether it may, must or must not call one, and the name of the one it must.

    choice: as any dialect spells it. Raises Refusal for a tool that is not among them.
    """
    kind, name = _read(choice)
    if kind == "none":
        return [], "none", None
    if not tools and kind == "required":
        raise Refusal("tool_choice asks for a call, but there are no tools; add tools.", param="tool_choice")
    if name is None:
        return tools, kind, None
    chosen = [tool for tool in tools if tool["function"]["name"] == name]
    if not chosen:
        raise Refusal(f"tool_choice names {name!r}, which is not among the tools.", param="tool_choice")
    return chosen, "required", name


def _read(choice: Any) -> tuple[str, str | None]:
    if choice is None:
        return "auto", None
    if isinstance(choice, str):
        return choice, None
    if choice["type"] == "function":
        return "required", choice.get("function", choice)["name"]
    if choice["type"] == "tool":
        if choice.get("name") is None:
            raise Refusal("tool_choice of type tool needs the name of a tool.", param="tool_choice.name")
        return "required", choice["name"]
    return ("required" if choice["type"] == "any" else str(choice["type"])), None
