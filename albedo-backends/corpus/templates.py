"""Writes templates.jsonl: chat templates of our own with what transformers makes of them.

    python templates.py > templates.jsonl          needs transformers (5) and jinja2

Each line has a template, its conversations, and for each what is rendered, or null where
Jinja2 refuses. Templates are written out or put together from parts by a fixed seed.
"""

import datetime
import itertools
import json
import random
import sys
import unittest.mock

from transformers.utils import chat_template_utils

DATE = datetime.datetime(2026, 11, 28)
SPECIAL = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
COUNT = 300

CONVERSATIONS = [
    [("user", "Hello")],
    [("system", "You repair projects."), ("user", "Fix <it> & 'that' \"now\".\n\n"), ("assistant", "<think>\nwhy\n</think>\n\nDone."), ("user", "  Thanks é 日本 😀 ")],
    [("user", ""), ("assistant", "a,b;c"), ("tool", "{\"k\": [1, 2.5, null]}"), ("user", "naïve\tTAB\r\nline\u2028end")],
]

# What is printed of a message `m`.
PRINTED = """
m.content | tojson
m | tojson
m | tojson(indent=2)
{'b': m.content, 'a': [1, 2.0, true, none], 'n': 1e20} | tojson
{'b': 1, 'a': {'x': []}} | tojson(sort_keys=true, separators=(',', ':'))
m.content | tojson(ensure_ascii=true)
[m.role, loop.index, loop.first, none, 1.5, 1e16, 1e-7, 100.0]
(m.role, loop.last)
{'role': m.role, 2: 'two', 'quote': "it's", 'n': m.content}
'%s' % m.content
'%s: %d %5.2f %r' % (m.role, loop.index, 3.14159, m.content)
'%-8s|%08.3f|%+d|%x|%%' % (m.role, 2.5, 7, 255)
'%(role)s and %(content)s' % m
'{} {0}'.replace('{} ', '').format(m.role)
'{}-{:>6}-{:<4}|{:^7}|{:05.1f}'.format(loop.index, m.role, 'x', 'mid', 2.25)
'{a}{b!r}'.format(a=m.role, b=m.content)
m.content is sequence
m.content is iterable
m is mapping
m is sequence
m.content is string
m.missing is defined
m.missing is sequence
loop.index is number
true is number
true is integer
loop.index is odd
loop.index is divisibleby 2
m.role is in ['user', 'tool']
m.role is eq 'user'
m.content is lower
loop.first is sameas true
none is none
m.content.strip()
m.content.lstrip('  \\n')
m.content.rstrip()
m.content.split()
m.content.split(',')
m.content.split('</think>')[-1].lstrip('\\n')
m.content.rsplit(' ', 1)
m.content.split(' ', 1)
m.content.splitlines()
m.content.upper()
m.content.title()
m.content.capitalize()
m.content.replace('a', 'bb')
m.content.startswith('<think>')
m.content.endswith(('x', '.'))
m.content.find('t')
m.content.count('')
m.content.partition(',')
m.content.removeprefix('Hel')
m.role.center(11, '*')
m.role.ljust(9, '.') + m.role.rjust(9) + m.role.zfill(7)
', '.join([m.role, 'x'])
m.items() | list
m.keys() | list
m.get('nothing', 'default')
m.get('nothing')
m['content'][0:3]
m.content[::-1]
m.content[-3:]
m.content[1]
m.content[99]
m['role'] ~ 1 ~ none ~ true ~ [1]
m.content ~ m.missing
1 / 2
7 // 2 * 3 % 4
-7 // 2
-7 % 3
7 % -3
2 ** 10
1 == true
'a' < 'b' and 1 < 2 <= 2
not m.content
m.content or 'empty'
m.content and m.role
m.role if loop.first else 'other'
m.role if false
m.content | length
m.content | trim
m.content | upper
m.content | title
m.content | capitalize
m.content | replace('e', 'E')
m.content | default('nothing', true)
m.missing | default('nothing')
m.content | list | first
m.content | list | last
m.content | reverse
m.content | indent
m.content | indent(2, true)
m.content | indent(width=3, blank=true)
m.content | wordcount
m.content | truncate(9)
m.content | truncate(9, true, '!')
m.content | e
m.content | safe
m.content | string
m.content | center(30)
m.role | list | join('-')
m.role | list | sort | join
m.role | list | unique | join
m.role | batch(3) | list
m.role | list | slice(2) | list
[3, 1, 2] | sort(reverse=true)
[3, 1, 2] | sum
[3, 1, 2] | max
['b', 'A', 'c'] | sort
['b', 'A', 'c'] | min
[1.5, 2.5, 3.456] | map('round', 1) | list
2.5 | round
'42abc' | int
'42' | int + 1
' 3.7 ' | float
'x' | float
-3 | abs
messages | length
messages | map(attribute='role') | list
messages | map(attribute='role') | join(', ')
messages | map(attribute='missing', default='?') | join
messages | selectattr('role', 'equalto', 'user') | list | length
messages | rejectattr('role', 'eq', 'user') | map(attribute='content') | list
messages | selectattr('content') | list | length
[1, 0, 2] | select | list
[1, 2, 3, 4] | select('odd') | list
[1, 2, 3, 4] | reject('even') | join
messages | groupby('role') | map('first') | list
messages | last
messages[0].role
messages[-1]['content']
(messages | first).role
{'z': 1, 'a': 2} | dictsort
{'z': 1, 'a': 2} | dictsort(by='value', reverse=true)
{'z': 1, 'a': 2} | items | list
range(3) | list
range(10, 0, -3) | list
dict(a=1, b='x')
dict({'a': 1}, b=2)
loop.index ~ loop.index0 ~ loop.revindex ~ loop.revindex0 ~ loop.length ~ loop.depth
loop.previtem.role if loop.previtem is defined else 'none'
loop.nextitem.role if not loop.last else 'none'
loop.cycle('odd', 'even')
loop.changed(m.role)
namespace(a=1).a
bos_token
eos_token ~ pad_token
tools is none
documents is none
enable_thinking is defined
add_generation_prompt
[1, 2] + [3]
[1, 2] * 2
'ab' * 3
'a' in m.content
'x' not in ['x']
'role' in m
1.0
1e100
0.1 + 0.2
10 / 4
3 | string ~ 'x'
'é' ~ '\\u00e9\\x41\\t'
"double 'quoted'" ~ 'single "quoted"'
none
true
m.role == m['role'] == m.get('role')
m.content.missing is defined
m.content is not none and m.content is defined
strftime_now('%d %B %Y')
strftime_now('%Y-%m-%d, %a')
""".strip().split("\n")

# Whole templates.
WHOLE = [
    # White space.
    "{% for m in messages %}\n{{ m.role }}\n{% endfor %}\n",
    "{%- for m in messages -%}\n {{- m.role -}} \n{%- endfor -%}\n\n",
    "{% for m in messages %}\n    {% if loop.first %}\n    first\n    {% endif %}\n  x {{ m.role }} \n{% endfor %}",
    "{% for m in messages %}\r\n{{ m.role }}\r\n{% endfor %}\r\n",
    "  {%+ if true %} kept {% endif +%}\n next\n",
    "{# a comment #}\n  {# another -#}  \nx{#- close -#} y\n",
    "{% raw %}{{ not this }} {% nor %}{% endraw %}\n{{ messages[0].role }}",
    "a\n\n{% set x = 1 %}\n\nb{{ x }}\n\n\n",
    "{{ '\n' }}x{{ '\\n' }}y\n",
    # Scopes.
    "{% set x = 1 %}{% for m in messages %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}",
    "{% set ns = namespace(x=0) %}{% for m in messages %}{% set ns.x = ns.x + loop.index %}{% endfor %}{{ ns.x }}",
    "{% if true %}{% set y = 5 %}{% endif %}{{ y }}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% set c = 3 %}{% endwith %}{{ c is defined }}",
    "{% set a, b = 1, 'two' %}{{ a }}{{ b }}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
    "{% set text %}{% for m in messages %}{{ m.role }} {% endfor %}{% endset %}[{{ text }}]{{ text | length }}",
    "{% set text | upper %}shout {{ messages[0].role }}{% endset %}{{ text }}",
    "{% filter upper %}{{ messages[0].role }} x{% endfilter %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }} {{ m.content }}{% else %}none{% endfor %}",
    "{% for m in messages if m.role == 'nobody' %}x{% else %}nobody{% endfor %}",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}{{ m.role }}{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}",
    "{% for m in messages %}{% for c in m.role %}{{ loop.depth }}{{ c }}{% endfor %}{% endfor %}",
    # Macros.
    "{% macro turn(m, end='<|im_end|>') %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ end }}\n{% endmacro %}{% for m in messages %}{{ turn(m) }}{{ turn(m, end='') }}{% endfor %}",
    "{% set late = 1 %}{% macro see() %}{{ late }}{% endmacro %}{% set late = 2 %}{{ see() }}",
    "{% macro wrap(x) %}({{ caller(x) }}){% endmacro %}{% call(y) wrap('in') %}{{ y }}!{% endcall %}",
    "{% macro fact(n) %}{{ 1 if n <= 1 else n * (fact(n - 1) | int) }}{% endmacro %}{{ fact(6) }}",
    "{% macro two(a, b) %}{{ a }}-{{ b }}{% endmacro %}{{ two(1) }}{{ two(b=2, a=1) }}",
    # Generation.
    "{% for m in messages %}{{ m.role }}{% generation %}{% set x = 1 %}{{ m.content }}{% endgeneration %}{{ x is defined }}{% endfor %}",
    "{%- for m in messages -%}{%- generation -%} {{ m.content }} {%- endgeneration -%}{%- endfor -%}",
    # Refusals.
    "{{ raise_exception('no') }}",
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('the system first') }}{% endif %}{{ m.role }}{% endfor %}",
    "{{ messages[0].missing.deeper }}",
    "{{ missing + 'x' }}",
    "{{ missing.x }}",
    "{{ missing() }}",
    "{{ none + 1 }}",
    "{{ 'a' + 1 }}",
    "{{ 'a' < 1 }}",
    "{{ 1 / 0 }}",
    "{{ messages.append('x') }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ '%d' % 'x' }}",
    "{{ '%s %s' % ('x',) }}",
    "{{ missing | tojson }}",
    "{{ range(200000) | length }}",
    "{{ nofilter | nofilter }}",
    "{{ 1 is notest }}",
    # What published templates do.
    "{%- set ns = namespace(multi=true, last=messages|length - 1) %}\n{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n    {%- if ns.multi and message.role == \"user\" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}\n        {%- set ns.multi = false %}\n        {%- set ns.last = index %}\n    {%- endif %}\n{%- endfor %}\n{{ ns.last }}",
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim + '\\n\\n' %}{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}{%- for m in messages %}{{- system if loop.index0 == 0 }}{{- m['content'] | trim }}{%- endfor %}",
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}Today: {{ date_string }}\n",
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}{% endfor %}",
    "{%- set roles = messages | map(attribute='role') | unique | list -%}{%- for r in roles %}{{ loop.index }}.{{ r }} {% endfor -%}",
    "{%- for m in messages %}{%- if m.content is string %}{{ m.content }}{%- else %}{%- for part in m.content %}{{ part.text }}{%- endfor %}{%- endif %}{%- endfor %}",
    "{% set found = messages | selectattr('role', 'equalto', 'nobody') %}{% if found %}a generator is true{% endif %}{{ found | list | length }}",
    "{% set once = messages | map(attribute='role') %}{{ once | join(',') }}|{{ once | join(',') }}",
]

SHAPES = [
    "{%% for m in messages %%}{{ %s }}\n{%% endfor %%}",
    "{%%- for m in messages %%}\n<|im_start|>{{ m.role }}\n{{ %s }}<|im_end|>\n{%%- endfor %%}\n{%% if add_generation_prompt %%}\n<|im_start|>assistant\n{%% endif %%}\n",
    "{%% for m in messages -%%}\n  {%%- set x = %s %%}\n  {{- x }};\n{%%- endfor %%}",
]


def templates():
    yield from WHOLE
    chosen = random.Random(21)
    for index, expression in enumerate(PRINTED):
        yield SHAPES[index % len(SHAPES)] % expression.replace("\\\\", "\\")
    while True:
        parts = [part.replace("\\\\", "\\") for part in chosen.sample(PRINTED, 3)]
        condition, one, other = parts
        yield (
            "{%% for m in messages %%}\n{%% if (%s) %%}\n[{{ %s }}]\n{%% else %%}\n({{ %s }})\n{%% endif %%}\n{%% endfor %%}"
            % (condition, one, other)
        )


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return DATE


def rendered(template, conversation):
    messages = [{"role": role, "content": content} for role, content in conversation]
    try:
        compiled = chat_template_utils._compile_jinja_template(template)
        return compiled.render(messages=messages, tools=None, documents=None, add_generation_prompt=True, **SPECIAL)
    except Exception:
        return None


with unittest.mock.patch.object(chat_template_utils, "datetime", Clock):
    for template in itertools.islice(templates(), int(sys.argv[1]) if len(sys.argv) > 1 else COUNT):
        line = {"template": template, "rendered": [rendered(template, conversation) for conversation in CONVERSATIONS]}
        print(json.dumps(line, ensure_ascii=False))
