"""What templates may do gives the text that transformers gives, to the character."""

from importlib import import_module

import pytest

from smidgen.errors import SmidgenError
from smidgen.model.chat import render_chat
from smidgen.model.templates.budget import TooMuchWork, budget, spend

CHAT = [
    {"role": "context", "content": "Be <brief>."},
    {
        "role": "user", "content": "one two\n\nthree  \t", "n": 3, "tags": ["b", "a", "B"],
        "more": {"y": 1, "x": [None, 1.5]},
    },
    {"role": "assistant", "content": "<think>a</think> b"},
]  # fmt: skip
SPECIALS = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = {
    "operators": (
        "{{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 4 }} {{ -3 - +1 }} {{ 2 * 3 + 1 }} {{ 'ab' * 2 }} {{ [1] + [2] }} "
        "{{ 'a' + 'b' ~ 3 ~ none ~ x }}"
    ),
    "comparisons": (
        "{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 3 == 3.0 != 4 }} {{ 'a' in 'ab' }} {{ 'c' not in 'ab' }} "
        "{{ [1] == [1] }} {{ {'a': [1]} == {'a': [1]} }} {{ 'n' in messages[1] }} {{ 1 in (1, 2) }} "
        "{{ 2 in range(3) }} {{ x == y }} {{ 1 >= 2 <= undefined.a }}"
    ),
    "%": (
        "{{ '%s is %d and %5.1f%%' % ('a', 2, 3.14) }} {{ '%(a)s' % {'a': [1]} }} {{ '%s' | format('x') }} "
        "{{ '%03d' % 7 }}"
    ),
    "format": (
        "{{ '{} {1} {a:>5}'.format(1, 2, a='x') if false }}"
        "{{ '{0} {1[n]} {2.role} {a:>5} {b!r}'.format(1, messages[1], messages[0], a='x', b='y') }}"
    ),
    "cuts": (
        "{{ messages[1:] | length }} {{ messages[::-1][0].role }} {{ 'abcdef'[1:-1:2] }} {{ [1, 2, 3][:2] }} "
        "{{ (1, 2)[0] }} {{ range(9)[2:4] | list }} {{ 'abc'[-1] }}"
    ),
    "text": (
        "{{ messages[1].content.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} "
        "{{ 'a\nb'.splitlines() }} {{ ' x '.strip() }} {{ 'xxaxx'.strip('x') }} "
        "{{ 'abc'.replace('b', 'd').upper() }} {{ 'abc'.startswith(('a', 'b')) }} {{ 'abc'.find('c') }} "
        "{{ 'abcb'.rfind('b') }} {{ '-'.join(['a', 'b']) }} "
        "{{ 'a'.ljust(3) ~ '|' ~ 'a'.center(5, '*') ~ '7'.zfill(3) }} {{ 'a\tb'.expandtabs(4) }} "
        "{{ 'a=b'.partition('=') }} {{ 'tEst'.title() ~ 'x'.isdigit() }} {{ 'abc'.count('b') }} "
        "{{ 'pre-x'.removeprefix('pre-') }}"
    ),
    "filters of texts": (
        "{{ ' a ' | trim }} {{ 'aXb' | upper | lower | capitalize }} {{ 'two words' | title }} "
        "{{ 'abc' | replace('b', 'x') }} {{ 'a\nb\n\nc' | indent(2) }} {{ 'a\nb' | indent('> ', true) }} "
        "{{ 'a' | center(5) ~ '|' }} {{ 'a long text of words' | truncate(9) }} {{ 'a b' | wordcount }} "
        "{{ 3 | string ~ 'x' }} {{ '12' | int + 1 }} {{ 'x' | int(5) }} {{ '1.5' | float }} "
        "{{ 2.567 | round(1) }} {{ -2 | abs }} {{ 'abc' | reverse }} {{ '<a>' | e }} "
        "{{ '<' + ('>' | safe) }} {{ 'abc' | first ~ 'abc' | last }}"
    ),
    "filters of lists": (
        "{{ messages | map(attribute='role') | join(', ') }} "
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} "
        "{{ messages | rejectattr('n', 'defined') | map(attribute='role') | list }} "
        "{{ messages[1].tags | sort }} {{ messages[1].tags | unique | list }} "
        "{{ messages[1].tags | unique(true) | list }} {{ [3, 1, 2] | max ~ [3, 1] | min ~ [1, 2] | sum }} "
        "{{ messages | groupby('role') | map('first') | list }} {{ range(5) | batch(2, 0) | list }} "
        "{{ range(5) | slice(2) | list }} {{ messages[1].more | dictsort }} "
        "{{ messages[1].more | items | list }} {{ [1, 2] | reverse | list }} {{ 'ab' | list }} "
        "{{ [1, none] | select | list }} {{ ['a'] | map('upper') | list }} "
        "{{ messages | sum(attribute='n', start=1) if false }} "
        "{{ messages | map(attribute='n', default=0) | sum }} "
        "{{ messages | sort(attribute='role,content') | map(attribute='role') | list }} "
        "{{ [[1], [2]] | sum(start=[]) }}"
    ),
    "lazy ones are true": (
        "{% if messages | selectattr('role', 'equalto', 'nobody') %}yes{% endif %} "
        "{{ (messages | map('length')) is iterable }}"
    ),
    "json": (
        "{{ messages | tojson }} {{ messages[1] | tojson(indent=2) }} {{ 'é<' | tojson(ensure_ascii=true) }} "
        "{{ {'b': 1, 'a': [1.5, true]} | tojson(sort_keys=true, separators=(',', ':')) }}"
    ),
    "tests": (
        "{{ 3 is odd ~ 4 is even ~ 9 is divisibleby 3 }} {{ x is defined ~ x is undefined ~ none is none }} "
        "{{ 'a' is string ~ 1 is number ~ 1.5 is float ~ true is boolean ~ 1 is integer }} "
        "{{ {} is mapping ~ [] is sequence ~ 'a' is iterable ~ range is callable }} "
        "{{ 'a' is lower ~ 'A' is upper ~ 1 is in [1] ~ 2 is gt 1 ~ 1 is sameas 1 }}"
        "{{ true is true ~ 'tojson' is filter }}"
    ),
    "loops": (
        "{% for m in messages if m.role != 'context' %}"
        "{{ loop.index ~ loop.first ~ loop.last ~ loop.length ~ loop.revindex0 ~ loop.cycle('a', 'b') }}"
        "{{ loop.changed(m.role) }}"
        "{{ loop.previtem.role if not loop.first }}{{ loop.nextitem.role if loop.nextitem is defined }};"
        "{% else %}none{% endfor %}{% for k, v in {'a': 1}.items() %}{{ k ~ v }}{% endfor %}"
        "{% for c in 'ab' %}{{ c }}{% endfor %}{% for x in [] %}{% else %}empty{% endfor %}"
        "{% for x in nothing %}{% endfor %}"
    ),
    "loops in themselves": (
        "{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}{{ loop.depth }}"
        "{% endfor %}"
    ),
    "macros": (
        "{% macro f(a, b='x') %}{{ a ~ b ~ varargs ~ kwargs }}{% endmacro %}"
        "{{ f(1) ~ f(1, 2) ~ f(*[1, 2, 3]) ~ f(1, c=2) ~ f(**{'a': 5}) }}{% macro g() %}[{{ caller(1) }}]"
        "{% endmacro %}{% call(x) g() %}in {{ x }}{% endcall %}{% macro r(v) %}{% if v is mapping %}"
        "{% for k in v %}{{ k }}:{{ r(v[k]) }}{% endfor %}{% else %}{{ v }}{% endif %}{% endmacro %}"
        "{{ r(messages[1].more) }}"
    ),
    "blocks": (
        "{% set t %}a{{ 1 }}b{% endset %}{{ t | upper }}{% filter upper %}x{{ t }}{% endfilter %}"
        "{% with a = 1 %}{{ a }}{% endwith %}{% set u | trim %} y "
        "{% endset %}{{ u }}"
    ),
    "what there is": (
        "{% set n = namespace(a=1) %}{% set n.b = n.a + 1 %}{{ n.a ~ n.b ~ n.c }}{% set j = joiner('; ') %}"
        "{{ j() ~ j() }}{% set c = cycler('o', 'e') %}{{ c.next() ~ c.next() ~ c.current }}"
        "{{ dict(a=1, b=2) }}{{ dict([('a', 1)]).get('b', 3) }}{{ dict.fromkeys('ab') }}"
        "{{ range(1, 6, 2) | list }}{{ strftime_now('%%') }}"
    ),
    "looking up": (
        "{{ messages[1]['content'] ~ messages[1].nothing ~ messages[9] }} {{ messages[1].get('n') }} "
        "{{ messages[1].keys() | list }} {{ messages[1].more['y'] }} {{ messages[1] | attr('content') }} "
        "{{ [1, 2].index(2) ~ [1, 1].count(1) }} {{ bos_token }} {% if messages[0].items is defined %}method"
        "{% endif %}"
    ),
    "expressions": (
        "{{ 'a' if x else 'b' }} {{ x or 'c' }} {{ not x and 1 }} {{ (1, 2) }} {{ {'a': {'b': 1}}.a.b }} "
        "{{ 'a' 'b' }} {{ 1.5e3 }} {{ none }} {{ true }}"
    ),
    "assignments": (
        "{% set a, b = 1, 2 %}{{ a ~ b }}{% for i in range(3) %}{% set a = i %}{% if i == 1 %}{% continue %}"
        "{% endif %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}{{ a }}"
    ),
}  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_as_transformers_renders(template: str) -> None:
    reference = import_module("transformers.utils.chat_template_utils")
    expected = reference.render_jinja_template([CHAT], chat_template=template, add_generation_prompt=True, **SPECIALS)
    assert render_chat(template, CHAT, SPECIALS) == expected[0][0]


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ messages[0].__class__() }}",
        "{{ namespace(a=1)._Namespace__attrs.a }}",
        "{{ namespace(_a=1) }}",
        "{{ (messages | attr('append'))(1) }}",
        "{{ environment.spend(1) }}",
        "{{ self.environment.spend }}",
        "{{ ''.format.__globals__.x }}",
        "{{ '{0.__class__}'.format(messages) ~ [].x.y }}",
        "{{ (1).real.bit_length() }}",
        "{{ range }}",
        "{{ 'a' | urlize }}",
        "{% autoescape true %}{% endautoescape %}",
        "{% block a %}{% endblock %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% extends 'other' %}",
    ],
)
def test_what_no_template_may_do(template: str) -> None:
    with pytest.raises(SmidgenError):
        render_chat(template, CHAT)


def test_a_budget_is_one_renderings_own() -> None:
    with budget(100):
        spend(60)
        with budget(10), pytest.raises(TooMuchWork):
            spend(11)
        spend(40)
        with pytest.raises(TooMuchWork):
            spend(1)
