"""Templates by strangers who want to hang us or to fill our memory: each ends in one line, soon.

They run in a process of their own, on a part of the budget: one that hangs fails the test, it does not stop it.
"""

import json
import re
import subprocess
import sys
from typing import Any

import pytest

LOOP, END = "{% set n = namespace(x='a', y=[1], z=3) %}{% for i in range(9999) %}", "{% endfor %}"
FOREVER = "{% for j in range(9999) %}{% for i in range(9999) %}"
FIFTY = "{% set n = namespace(y=[1], x=[1]) %}{% for i in range(50) %}"
GROWN = f"{FIFTY}{{% set n.y = [n.y, n.y] %}}{{% set n.x = [n.x, n.x] %}}{END}"
TUPLES = f"{FIFTY}{{% set n.y = (n.y, n.y) %}}{END}"
LARGE = "{% set b = 'ab ' * 300000 %}"
SPACED = "{% set b = 'a ' * 8000000 %}"
PATH = "{% set p = 'a.' * 400000 %}"


def forever(statement: str) -> str:
    return FOREVER + statement + END * 2


GROWING = {
    "squaring": f"{LOOP}{{% set n.z = n.z * n.z %}}{END}",
    "adding": f"{LOOP}{{% set n.z = n.z + n.z %}}{END}",
    "doubling by ~": f"{LOOP}{{% set n.x = n.x ~ n.x %}}{END}",
    "doubling by +": f"{LOOP}{{% set n.x = n.x + n.x %}}{END}",
    "doubling by join": f"{LOOP}{{% set n.x = [n.x, n.x] | join %}}{END}",
    "doubling by replace": f"{LOOP}{{% set n.x = n.x.replace('a', 'aa') %}}{END}",
    "doubling by format": f"{LOOP}{{% set n.x = '{{0}}{{0}}'.format(n.x) %}}{END}",
    "doubling by %": f"{LOOP}{{% set n.x = '%s%s' % (n.x, n.x) %}}{END}",
    "doubling by a macro": "{% macro f(t) %}{{ t }}{{ t }}{% endmacro %}" + f"{LOOP}{{% set n.x = f(n.x) %}}{END}",
    "doubling by a set block": f"{LOOP}{{% set t %}}{{{{ n.x }}}}{{{{ n.x }}}}{{% endset %}}{{% set n.x = t %}}{END}",
    "doubling lists": f"{LOOP}{{% set n.y = n.y + n.y %}}{END}",
    "escaping": f"{LOOP}{{% set n.x = (n.x ~ '<<<<' ~ n.x) | forceescape %}}{END}",
    "power": "{{ 2 ** 1000000000 }}",
    "% width": "{{ '%1000000000d' % 1 }}",
    "% precision": "{{ '%.1000000000f' % 1 }}",
    "% star": "{{ '%*d' % (1000000000, 1) }}",
    "% of a long name": "{{ ('%(' ~ 'a' * 200 ~ ')1000000000d') % {'a' * 200: 1} }}",
    "% of a name in brackets": "{{ '%((a))1000000000d' % {'(a)': 1} }}",
    "fields of fields": "{{ ('{0' ~ '[0]' * 500000 ~ '}').format('a') }}",
    "% of a name": "{{ '%(a)1000000000d' % {'a': 1} }}",
    "% many times": LARGE + "{{ ('%(a)s' * 50000) % {'a': b} }}",
    "% in a test": "{{ '%1000000000d' is odd }}",
    "% in another test": "{{ '%1000000000d' is divisibleby(1) }}",
    "% as a filter": "{{ '%1000000000d' | format(1) }}",
    "format width": "{{ '{:1000000000}'.format(1) }}",
    "format width given": "{{ '{:{}}'.format(1, 1000000000) }}",
    "format many times": LARGE + "{{ ('{0}' * 50000).format(b) }}",
    "join": LARGE + "{{ b.join(range(9999) | map('string')) }}",
    "join filter": LARGE + "{{ range(9999) | join(b) }}",
    "replace": LARGE + "{{ b.replace('', b) }}",
    "replace filter": LARGE + "{{ b | replace('a', b) }}",
    "ljust": "{{ 'a'.ljust(10000000000) }}",
    "center": "{{ 'a'.center(10000000000) }}",
    "zfill": "{{ 'a'.zfill(10000000000) }}",
    "expandtabs": "{{ ('\\t' * 1000).expandtabs(1000000000) }}",
    "center filter": "{{ 'a' | center(10000000000) }}",
    "indent": "{{ 'a\\nb' | indent(10000000000) }}",
    "indent by a text": LARGE + "{{ ('\\n' * 1000) | indent(b) }}",
    "batch": "{{ [1] | batch(10000000000, 1) | list }}",
    "slice": "{{ [1] | slice(10000000000, 1) | list }}",
    "int": "{{ ('9' * 4000) | int }}",
    "int in base 16": "{{ ('f' * 300000) | int(0, 16) }}",
    "int of a float": "{{ 1e308 | int }}",
    "round": "{{ 1.5 | round(1000000000, 'ceil') }}",
    "time": "{{ strftime_now('%1000000000Y') }}",
    "long time": "{{ strftime_now('%Y' * 100000) }}",
    "split": SPACED + "{{ b.split() }}",
    "split at": SPACED + "{{ b.split('a') }}",
    "splitlines": "{% set b = '\\n' * 8000000 %}{{ b.splitlines() }}",
    "list of a text": SPACED + "{{ b | list }}",
    "many arguments": SPACED + "{{ cycler(*b) }}",
    "translate": "{{ 'a'.translate({97: 'b' * 1000}) }}",
    "to_bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "json indent": "{{ [1] | tojson(indent=1000000000) }}",
    "json separators": "{{ [1, 2] | tojson(separators=('a' * 300000, 'b')) }}",
}
SHARED = {
    "json": GROWN + "{{ n.y | tojson }}",
    "indented json": GROWN + "{{ n.y | tojson(indent=16) }}",
    "written": GROWN + "{{ n.y }}",
    "~": GROWN + "{% set t = n.y ~ '' %}",
    "string": GROWN + "{% set t = n.y | string %}",
    "join": GROWN + "{% set t = [n.y] | join %}",
    "%": GROWN + "{% set t = '%s' % n.y %}",
    "format": GROWN + "{% set t = '{}'.format(n.y) %}",
    "==": GROWN + "{{ n.y == n.x }}",
    "test": GROWN + "{{ n.y is eq(n.x) }}",
    "in": GROWN + "{{ n.y in [n.x] }}",
    "index": GROWN + "{{ [n.x].index(n.y) }}",
    "changed": GROWN + "{% for q in [n.x, n.y] %}{{ loop.changed(q) }}{% endfor %}",
    "sort": GROWN + "{{ [n.x, n.y] | sort }}",
    "max": GROWN + "{{ [n.x, n.y] | max }}",
    "key of a dict": TUPLES + "{{ {n.y: 1} }}",
    "key of a made dict": TUPLES + "{{ dict([(n.y, 1)]) }}",
    "key": TUPLES + "{{ {}[n.y] }}",
    "get": TUPLES + "{{ {}.get(n.y) }}",
    "unique": TUPLES + "{{ [n.y] | unique | list }}",
    "itself": "{% set n = namespace() %}{% set n.x = [n] %}{{ n.x | tojson }}",
    "sum": "{{ ([[1] * 1000] * 9999) | sum(start=[]) }}",
    "sort of long texts": "{% set b = 'a' * 200000 %}{{ ([b ~ '1', b ~ '2'] * 50000) | sort }}",
    "in long texts": "{% set a = 'a' * 400000 %}{% set b = 'a' * 399999 ~ 'b' %}{{ a in [b] * 9999 }}",
}
SLOW = {
    "loops": forever(""),
    "loops that skip": "{% for j in range(9999) %}{% for i in range(9999) if false %}{% endfor %}{% endfor %}",
    "straight": forever("{% set a = 1 %}" * 3000),
    "literals": forever("{% set a = [" + "1," * 10000 + "] %}"),
    "written to a buffer": "{% macro f() %}" + "a" * 300000 + "{% endmacro %}" + forever("{% set x = f() %}"),
    "recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "endless loop": "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "callers": "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call f() %}" * 30 + "a" + "{% endcall %}" * 30,
    "text": "{% set b = 'a' * 1000000 %}{% for i in b %}{% endfor %}",
    "cycler": "{% set c = cycler(1, 2) %}" + forever("{% set a = c.next() %}"),
    "find backwards": "{% set b = 'a' * 400000 %}{% set c = 'ab' ~ 'a' * 200000 %}{{ b.rfind(c) }}",
    "find": "{% set b = 'a' * 2499 %}{% set c = 'a' * 1200 ~ 'b' %}" + forever("{% set a = c in b %}"),
    "strip": "{% set b = 'a' * 400000 %}{% set c = 'b' * 400000 ~ 'a' %}{{ b.strip(c) }}",
    "trim": "{% set b = 'a' * 400000 %}{% set c = 'b' * 400000 ~ 'a' %}{{ b | trim(c) }}",
    "filters": forever("{% set a = 'x' | upper | lower | trim | string | safe | escape %}"),
    "json": forever("{% set a = messages | tojson %}"),
    "select": forever("{% set a = messages | selectattr('role', 'equalto', 'user') | list %}"),
    "sort": forever("{% set a = [3, 1, 2] | sort %}"),
    "index": "{% set b = range(9999) | list %}" + forever("{% set a = b.index(9998) %}"),
    "cuts": "{% set b = 'a' * 400000 %}" + forever("{% set a = b[1:] %}"),
    "lazy": f"{LOOP}{{% set n.y = n.y | map('string') %}}{END}{{{{ n.y | list }}}}",
    **{
        f"path {place}": PATH + "{{ [1] | " + use + " }}"
        for place, use in enumerate(
            ("map(attribute=p) | list", "groupby(p)", "selectattr(p) | list", "sort(false, false, p)", "join('', p)",
             "sum(p)", "unique(attribute=p) | list", "max(attribute=p)")
        )
    },
}  # fmt: skip
HOARDING = {
    name: f"{{% set b = '一😀' * 20000 %}}{LOOP}{{% set n.y = [n.y, {value}] %}}{END}"
    for name, value in {
        "lists": "range(9999) | list", "texts": "range(9999) | map('string') | list", "characters": "b | list",
        "dicts": "dict.fromkeys(range(9999))", "cuts": "b[1:]", "words": "b.split('一')",
    }.items()
}  # fmt: skip
COMPILED = {
    "not": "{{ " + "not " * 12_000 + "1 }}",
    "minus": "{{ " + "-" * 12_000 + "1 }}",
    "parentheses": "{{ " + "(" * 12_000 + "1" + ")" * 12_000 + " }}",
    "brackets": "{{ " + "[" * 12_000 + "]" * 12_000 + " }}",
    "open brackets": "{{ " + "[" * 12_000,
    "open braces": "{" * 12_000,
    "if": "{% if 1 %}" * 12_000 + "{% endif %}" * 12_000,
    "for": "{% for i in [1] %}" * 10_000 + "{% endfor %}" * 10_000,
    "elif": "{% if 1 %}" + "{% elif 1 %}" * 12_000 + "{% endif %}",
    "filters": "{{ 1" + "|abs" * 12_000 + " }}",
    "attributes": "{{ a" + ".a" * 12_000 + " }}",
    "calls": "{{ a" + "()" * 12_000 + " }}",
    "+": "{{ 1" + "+1" * 12_000 + " }}",
    "~": "{{ 1" + "~1" * 12_000 + " }}",
    "==": "{{ 1" + "==1" * 12_000 + " }}",
    "and": "{{ 1" + " and 1" * 12_000 + " }}",
    "if else": "{{ " + "1 if 1 else " * 12_000 + "1 }}",
    "variables": "{{x}}" * 200_000,
    "digits": "{{ " + "9" * 1_000_000 + " }}",
    "longer than any": "a" * ((1 << 20) + 1),
}
RUN = """
import json, sys
from smidgen.engines.machine import peak_memory  # not ru_maxrss, which a process inherits
from smidgen.errors import SmidgenError
from smidgen.model import chat
chat.MOST_WORK >>= 2
for name, template in json.load(sys.stdin).items():
    try:
        print(json.dumps([name, None, chat.render_chat(template, [{"role": "user", "content": "hi"}])]), flush=True)
    except SmidgenError as error:
        print(json.dumps([name, str(error), ""]), flush=True)
print(json.dumps(["memory", str(peak_memory() // 1024), ""]))
"""


def results(templates: dict[str, str]) -> dict[str, list[Any]]:
    """What became of each: the error, and what was written."""
    program = [sys.executable, "-c", RUN]
    try:
        done = subprocess.run(program, input=json.dumps(templates), text=True, capture_output=True, timeout=120)
    except subprocess.TimeoutExpired as late:
        ended = len((late.stdout or b"").splitlines())
        pytest.fail(f"{list(templates)[ended]} hangs")
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize(
    "templates", [GROWING, SHARED, SLOW, HOARDING, COMPILED], ids=str.split("growing shared slow hoarding compiled")
)
def test_hostile_templates_end_soon_in_one_line(templates: dict[str, str]) -> None:
    found = results(templates)
    [memory, _] = found.pop("memory")
    assert found.keys() == templates.keys()
    assert {name for name, (error, _) in found.items() if not re.fullmatch(r"[^\n]{1,300}", error or "")} == set()
    assert int(memory) < 600_000  # kilobytes, of which Python and its libraries take a tenth
