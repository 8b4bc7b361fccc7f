#!/usr/bin/env python3
"""Makes the golden file of the chat templates: templates, conversations, and what Python's jinja2 makes of them with
the settings of Hugging Face transformers.

    pip install transformers==5.23.0 jinja2==3.1.6
    python3 tests/golden/make_template_golden.py                # rewrites tests/golden/chat_templates.json
    python3 tests/golden/make_template_golden.py OUT FOLDER     # every *.jinja of FOLDER, for
        CARAVAN_CHAT_GOLDEN=OUT build/tests/test_chat_template
    python3 tests/golden/make_template_golden.py OUT N SEED     # N random templates, for the same

The file is {"templates": [...], "inputs": [...], "cases": [[template, input, outcome], ...]}; an outcome is the text,
or {"error": 1}, or {"error": "what raise_exception said"}. Every template here was written for this file, in the
manner of published ones, or is one of model/chat_templates.
"""
import copy
import datetime
import glob
import json
import os
import random
import sys
import textwrap

import transformers.utils.chat_template_utils as hugging_face

HERE = os.path.dirname(os.path.abspath(__file__))
NOW_S = 1700000000  # for strftime_now


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW_S, datetime.timezone.utc)


hugging_face.datetime = FixedTime


def outcome_of(template, given):
    variables = {"bos_token": given["bos"], "eos_token": given["eos"], "messages": given["messages"],
                 "tools": given.get("tools"), "documents": None, "add_generation_prompt": given["add"]}
    variables.update(copy.deepcopy(given.get("variables", {})))  # |indent adds to a list
    try:
        return hugging_face._compile_jinja_template(template).render(**variables)
    except Exception as e:
        return {"error": str(e) if type(e).__name__ == "TemplateError" else 1}


# ---- conversations ----

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Get the \"current\" weather <b>&</b> more",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "The city's name"},
            "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
            "days": {"type": ["integer", "null"]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "place": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}}}}},
    {"type": "function", "function": {
        "name": "nothing", "description": "Does nothing: «ünïcode»", "parameters": {"type": "object", "properties": {}}}}]
SAID = ["Hello!", "  padded \n", "", "What is 2+2?\nTell me.", "Ünïcode 日本語 😀 {{x}} {% y %}",
        "It's \"quoted\" & <tagged> \\ back", "<think>\nhmm\n</think>\n\nThe answer is 4.", "line1\r\nline2\ttab",
        "a<|im_end|>b", "{\"a\": 1}"]
ARGUMENTS = [{"city": "Paris"}, {"city": "São Paulo", "days": 3, "unit": "c"}, {},
             {"x": [1, 2.5, None, True], "n": {"k": "v'"}}]


def content(rng, is_simple):
    kind = 0 if is_simple else rng.random()
    if kind < 0.7:
        return rng.choice(SAID)
    if kind < 0.8:
        return None
    return [{"type": "text", "text": rng.choice(SAID)} for _ in range(rng.randint(0, 2))]


def turn_with_tools(rng, is_simple):
    calls = [{"id": "call%05d" % rng.randrange(1000), "type": "function",
              "function": {"name": rng.choice(["get_weather", "nothing"]), "arguments": rng.choice(ARGUMENTS)}}
             for _ in range(rng.randint(1, 2))]
    yield {"role": "assistant", "content": rng.choice([None, "", "calling"]), "tool_calls": calls}
    for call in calls:
        yield {"role": "tool", "name": call["function"]["name"], "tool_call_id": call["id"],
               "content": rng.choice(["{\"t\": 20}", "sunny ☀", content(rng, is_simple)])}


def conversation(rng):
    messages, is_simple, has_tools = [], rng.random() < 0.6, rng.random() < 0.4
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": content(rng, is_simple)})
    for _ in range(rng.randint(1, 3)):
        messages.append({"role": "user", "content": content(rng, is_simple)})
        if has_tools and rng.random() < 0.7:
            messages += turn_with_tools(rng, is_simple)
        if rng.random() < 0.7:
            messages.append({"role": "assistant", "content": content(rng, is_simple)})
            if rng.random() < 0.2:
                messages[-1]["reasoning_content"] = rng.choice(SAID)
    if rng.random() < 0.15:
        rng.shuffle(messages)
    given = {"messages": messages, "bos": "<s>", "eos": "</s>", "add": rng.random() < 0.6}
    if has_tools:
        given["tools"] = rng.choice([TOOLS, TOOLS[:1], []])
    if rng.random() < 0.3:
        given["variables"] = rng.choice([{"enable_thinking": False}, {"enable_thinking": True}, {"date": "26 Jul 2024"}])
    return given


# ---- templates in the manner of published ones ----

TEMPLATES = {
    "tools in the system message, answers to tools grouped, thoughts before the last question left out": r'''
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' and messages[0].content is string %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- endif %}
{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not(message.content.startswith('<r>') and message.content.endswith('</r>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<|im_start|>' ~ message.role ~ '\n<think>\n' ~ thought.strip('\n') ~ '\n</think>\n\n' ~ content }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\n' }}{%- endif %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '<tool_call>\n{"name": "' }}{{- call.name }}{{- '", "arguments": ' }}
            {%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' }}{{- content }}{{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}''',
    "roles that must alternate, ids that must have nine letters": r'''
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, roles must alternate user/assistant/user/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS][" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}
                    {%- else %}{{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST]" + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST]" + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif (message.tool_calls is defined and message.tool_calls is not none) %}
        {{- "[TOOL_CALLS][" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- message["content"] + eos_token }}
    {%- elif message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS]{"content": ' + content|string + ", " }}
        {{- '"call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}''',
    "the schema of tools as types, by a macro that calls itself": r'''
{%- macro type_of(spec, depth=0) -%}
    {%- if spec.type == "array" -%}
        {{ type_of(spec['items'], depth) if spec['items'] else 'any' }}[]
    {%- elif spec.type is defined and spec.type is iterable and spec.type is not string -%}
        {{ spec.type | join(' | ') }}
    {%- elif spec.type == "object" and spec.properties -%}
        {{- '{\n' -}}
        {%- for name, inner in spec.properties | dictsort -%}
            {{ '  ' * (depth + 1) }}{{ name }}{{ '' if name in (spec.required or []) else '?' }}: {{ type_of(inner, depth=depth + 1) -}}
            {%- if inner.default is defined %}, // default: {{ inner.default | tojson }}{% endif %}
            {{- ',\n' if not loop.last }}
        {%- endfor -%}
        {{- '\n' ~ '  ' * depth ~ '}' -}}
    {%- elif spec.enum -%}
        {%- for e in spec.enum %}"{{ e }}"{% if not loop.last %} | {% endif %}{% endfor -%}
    {%- else -%}
        {{ spec.type or 'any' }}
    {%- endif -%}
{%- endmacro -%}
{%- macro show(name) -%}<{{ name }}>{{ caller(name | upper) }}</{{ name }}>{%- endmacro -%}
{{- bos_token -}}
{%- if tools %}namespace functions {
{% for tool in tools %}
// {{ tool.function.description | default("no description", true) }}
type {{ tool['function']['name'] }} = (_: {{ type_of(tool.function.parameters) }}) => any;
{% endfor %}
} // namespace
{% endif -%}
{% set names = messages | map(attribute='role') | unique | list -%}
Roles: {{ names | join(', ') }} ({{ names | length }}), today {{ date or strftime_now("%d %b %Y") }}
{% for role, group in messages | groupby('role') %}
{{ role }}={{ group | length }}{{ ';' if not loop.last }}
{%- endfor %}

{% for m in messages recursive -%}
    {% call(title) show(m.role) %}{{ title }}{% filter trim %} {{ m.content }} {% endfilter %}{% endcall %}
    {%- generation %}{{ loop.index }}/{{ loop.length }}{% endgeneration %}
    {#- a comment -#}
    {%+ if m.tool_calls %}
    {% for c in m.tool_calls %}{{ "%s(%s)" % (c.function.name, c.function.arguments.items() | map('join', '=') | join(', ')) }} {% endfor %}
    {% endif %}
{% else %}nobody
{% endfor %}''',
    "Parts of contents, one by one": r'''
{% set ns = namespace(n_images=0, is_first=true) %}
{% for message in messages %}
{% if message['role'] == 'system' %}{% continue %}{% endif %}
{% set role = {'assistant': 'model'}.get(message['role'], message['role']) %}
<start_of_turn>{{ role }}
{% if message['content'] is string %}
{{ message['content'] | trim }}
{%- elif message['content'] is iterable %}
    {% for item in message['content'] %}
        {%- if item['type'] == 'image' %}
            {% set ns.n_images = ns.n_images + 1 %}
            {{- '<image %d>' | format(ns.n_images) -}}
        {% elif item.type == 'text' %}
            {{- item['text'] | trim -}}
        {% endif %}
    {% endfor %}
{% else %}
    {{- raise_exception("Invalid content type: " ~ message.content) -}}
{% endif %}
<end_of_turn>
{% if loop.index > 6 %}{% break %}{% endif %}
{% endfor %}
{% if add_generation_prompt -%}
<start_of_turn>model
{% endif -%}
''',
}

# ---- random templates ----

STRINGS = [
    'a', 'B c', '', 'héé 日本', 'x,y,,z', '  pad ', '<b>&\'"', '12', '-3.5', 'ABC', 'ß', 'a\\nb\\n\\nc', '%s',
    'aXbXc', '1e3', 'Straße', "don't", '0x1f', '😀z']
NUMBERS = [
    '0', '1', '2', '3', '-1', '7', '10', '2.5', '0.1', '1e20', '-0.0', '100', '9007199254740993', '1.0',
    '3.14159', '0.5', '1_000', 'true', 'false']
VARIABLES = [
    's', 'n', 'f', 'l', 'd', 'e', 'u', 't', 'b', 'nn', 'l2', 'd2', 'undefd', 'obj', 'ls']
FILTERS = [
    'trim', 'length', 'count', 'upper', 'lower', 'capitalize', 'title', "default('z')", "d('q',true)",
    "join(',')", 'join', 'first', 'last', 'list', 'string', 'int', 'float', 'abs', 'round', 'round(1)',
    "round(2,'floor')", "round(0,'ceil')", "replace('a','b')", "replace('','-')", "replace('X','',1)",
    'tojson', 'tojson(indent=2)', 'items|list', 'dictsort', "dictsort(by='value')", 'dictsort(reverse=true)',
    "map('upper')", "map('upper')|list", "map(attribute='k')|list", "map(attribute='k',default=0)|list",
    "map('int')|list", 'select|list', "select('odd')|list", "reject('none')|list", 'reject|list',
    "selectattr('k')|list", "selectattr('k','defined')|list", "selectattr('k','equalto',1)|list",
    "rejectattr('k','gt',1)|list", "selectattr('k','in',[1,2])|list", 'sort', 'sort(reverse=true)',
    "sort(attribute='k')", 'sort(case_sensitive=true)', 'reverse', 'reverse|list', 'unique|list', 'safe', 'e',
    'escape', 'indent', 'indent(2)', 'indent(2,true)', 'indent(first=true,width=3)', "indent('>>',blank=true)",
    'sum', 'sum(start=5)', "sum(attribute='k')", 'min', 'max', "max(attribute='k')", 'batch(2)|list',
    "batch(2,'f')|list", 'slice(2)|list', 'wordcount', "groupby('k')", "groupby('k')|list", 'format(1)',
    "format('x',2)", 'center(9)', "attr('k')", "attr('upper')", "trim('a')", 'int(7)', 'int(base=16)',
    'float(1.5)', 'list|length', 'string|length', 'tojson(sort_keys=true)', 'tojson(ensure_ascii=true)',
    "tojson(separators=(',',':'))", 'first|upper', 'default(none)', "map('default','x')|join('-')",
    "map('trim')|join(' ')", "map('length')|list", "map('tojson')|join(', ')", "join('-',attribute='k')",
    "unique(attribute='k')|list", "select('string')|list", "select('mapping')|list",
    "map(attribute='k.0')|list", "selectattr('k','none')|list"]
TESTS = [
    'defined', 'undefined', 'none', 'string', 'number', 'integer', 'float', 'boolean', 'true', 'false',
    'mapping', 'iterable', 'sequence', 'callable', "in [1,2,'a']", "in 'abc'", 'equalto 1', "eq('a')", 'ne 2',
    'lt 3', 'le 2.5', 'gt 1', 'ge 1', 'even', 'odd', 'divisibleby 3', 'divisibleby(2)', 'lower', 'upper',
    'sameas none', 'sameas true', '== 1', 'in(d)', 'not none']
METHODS = [
    'strip()', 'lstrip()', "rstrip('z')", "strip('a ')", 'split()', "split(',')", "split(',',1)",
    'split(none,1)', "rsplit(',',1)", 'rsplit(none,1)', "startswith('a')", "endswith('c')",
    "startswith(('x','a'))", "replace('a','é')", 'upper()', 'lower()', 'title()', 'capitalize()', "find('b')",
    "rfind('c')", "find('é',1)", "count('a')", "count('')", "join(['x','y'])", 'join(l)', 'splitlines()',
    'splitlines(true)', 'isdigit()', 'isalpha()', 'isalnum()', 'isupper()', 'islower()', 'isspace()',
    'isnumeric()', "get('k')", "get('zz')", "get('zz',3)", 'items()|list', 'keys()|list', 'values()|list',
    'copy()', 'append(1)', 'pop()', "index('a')", 'index(1)', "format(1,k='v')", "format('é',2)",
    "partition(',')", "rpartition(',')", "removeprefix('a')", "removesuffix('c')", 'zfill(5)', "ljust(6,'*')",
    'rjust(6)', "center(7,'-')", "startswith('b',2)", "endswith('b',0,2)", 'casefold()', 'update({})', 'k',
    'k.v', 'zz', 'length', '0', 'count(1)']
SUBSCRIPTS = [
    "['k']", '[0]', '[-1]', '[1:]', '[:2]', '[::-1]', '[1:3]', '[-2:]', '[::2]', "['zz']", '[5]', '[true]',
    '[:-1]', '[2:0:-1]', '[s]', '[n]', "['items']", "['upper']", '[10:]', '[:none]', '[-100:100]', '[u]',
    '[l]', '[0][0]', "['k']['v']"]
TEXTS = [
    'x', ' ', '\n', '  \n', '\n  ', 'y\n\n', '  z  ', '\t', 'a\r\nb', '{ ', 'é', '-', ' }}', '# ']


class Writer:
    """Random expressions and templates of the language."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def pick(self, *choices):
        return self.rng.choice(choices)

    def quoted(self):
        s = self.rng.choice(STRINGS)
        return self.pick("'" + s.replace("'", "\\'") + "'", '"' + s.replace('"', '\\"') + '"')

    def atom(self, depth):
        kind = self.rng.random()
        if kind < 0.25 or depth < 0:
            return self.rng.choice(VARIABLES)
        if kind < 0.45:
            return self.quoted()
        if kind < 0.6:
            return self.rng.choice(NUMBERS)
        if kind < 0.65:
            return self.pick("none", "None", "True", "[]", "{}", "()", "(1,)", "range(3)|list", "dict(a=1,k=2)")
        if kind < 0.75:
            return "[" + ", ".join(self.expression(depth - 1) for _ in range(self.rng.randint(0, 3))) + "]"
        if kind < 0.82:
            return "{" + ", ".join(f"'{self.pick('k', 'a', 'B')}': {self.expression(depth - 1)}"
                                   for _ in range(self.rng.randint(0, 3))) + "}"
        return "(" + self.expression(depth - 1) + ")"

    def expression(self, depth):
        kind = self.rng.random()
        if depth <= 0 or kind < 0.12:
            return self.atom(depth)
        if kind < 0.36:
            return self.atom(depth) + "|" + self.rng.choice(FILTERS)
        if kind < 0.44:
            return self.atom(depth) + " is " + self.rng.choice(TESTS)
        if kind < 0.6:
            return self.atom(depth) + "." + self.rng.choice(METHODS)
        if kind < 0.7:
            return self.rng.choice(VARIABLES) + self.rng.choice(SUBSCRIPTS)
        if kind < 0.9:
            op = self.pick("+", "-", "*", "/", "//", "%", "~", "**", "==", "!=", "<", ">", "<=", ">=", "in", "not in",
                           "and", "or")
            return f"{self.expression(depth - 1)} {op} {self.expression(depth - 1)}"
        if kind < 0.93:
            return self.pick("not ", "-") + self.atom(depth - 1)
        if kind < 0.97:
            return f"{self.expression(depth - 1)} if {self.expression(depth - 1)} else {self.expression(depth - 1)}"
        return self.pick("'%s'", "'%d|'", "'%5.2f'", "'%-6s|'", "'%05d'", "'%r'") + " % " + self.expression(depth - 1)

    def text(self):
        return "".join(self.rng.choice(TEXTS) for _ in range(self.rng.randint(0, 3)))

    def tag(self, inside):
        return "{%" + self.pick("", "", "-", "+") + f" {inside} " + self.pick("", "", "-", "+") + "%}"

    def body(self, depth):
        return "".join(self.statement(depth) for _ in range(self.rng.randint(1, 3)))

    def loop(self, depth):
        target = self.pick("x", "x", "k, v")
        items = self.pick("l", "d", "s", "ls", "d.items()", "range(4)", "u", "[(1,2),(3,4)]", self.expression(1))
        rest = self.pick("", "{{ loop.index }}", "{{ loop.first }}{{ loop.last }}", "{{ loop.length }}{{ loop.revindex }}",
                         "{{ loop.previtem }}<{{ loop.nextitem }}", "{{ loop.cycle('a','b') }}{{ loop.changed(x) }}",
                         "{% if loop.index > 2 %}{% break %}{% endif %}", "{% if x %}{% continue %}{% endif %}q",
                         "{% set ns.n = ns.n + 1 %}", "{{ x }}{{ v }}", "{% set n = n ~ 1 %}{{ n }}")
        otherwise = self.tag("else") + self.body(depth - 1) if self.rng.random() < 0.3 else ""
        condition = self.pick("", "", " if x", " if x is not none")
        return (self.tag(f"for {target} in {items}{condition}") + self.body(depth - 1) + rest + otherwise +
                self.tag("endfor"))

    def macro(self, depth):
        uses = self.pick("", "{{ varargs }}", "{{ kwargs }}", "{{ caller is defined }}")
        given = self.pick("1", "1,2", "b=2,a=1", "1,c=3", "", "1,2,3,4", "q=1", "*l", "**d")
        return (self.tag(f"macro m(a, b={self.expression(1)}, c='C')") + self.body(depth - 1) + "{{ a }}{{ b }}{{ c }}" +
                uses + self.tag("endmacro") + "{{ m(" + given + ") }}")

    def statement(self, depth):
        kind = self.rng.random()
        if depth <= 0 or kind < 0.3:
            return self.text() + "{{" + self.pick("", "-") + f" {self.expression(2)} " + self.pick("", "-") + "}}" + self.text()
        inner = depth - 1
        if kind < 0.5:
            return (self.text() + self.tag("if " + self.expression(2)) + self.body(inner) + self.tag("else") +
                    self.body(inner) + self.tag("endif"))
        if kind < 0.65:
            return self.loop(depth) + self.text()
        if kind < 0.75:
            return self.tag(f"set {self.pick('n', 's', 'z', 'ns.n', 'a, z')} = {self.expression(2)}") + "{{ z }}"
        if kind < 0.8:
            return self.tag("set z" + self.pick("", " | upper | trim")) + self.body(inner) + self.tag("endset") + "[{{ z }}]"
        if kind < 0.86:
            return self.macro(depth)
        if kind < 0.9:
            return self.tag("filter " + self.pick("upper", "trim", "indent(2)")) + self.body(inner) + self.tag("endfilter")
        if kind < 0.93:
            return self.tag(f"with a={self.expression(1)}, z=n") + self.body(inner) + "{{ a }}" + self.tag("endwith")
        if kind < 0.96:
            return "{#" + self.pick("", "-") + self.text() + " c " + self.pick("", "-") + "#}"
        return self.tag("raw") + self.text() + "{{ x }}{% if %}" + self.tag("endraw") + self.text()

    def template(self):
        if self.rng.random() < 0.6:
            return "{{ " + self.expression(3) + " }}"
        return "{% set ns = namespace(n=0) %}" + self.body(2)


VALUES = {"s": "héllo, World", "n": 5, "f": 2.5, "l": [3, 1, 2], "d": {"k": "v", "b": 1, "a": None}, "e": "", "t": True,
          "b": False, "nn": None, "l2": ["b", "A", "a", ""], "d2": {"k": {"v": [1]}, "items": "I"}, "obj": {"k": 1},
          "ls": [{"k": 1, "n": "x"}, {"k": None}, {"k": "v"}, {"n": 2}]}
# What Python shows of an object has no meaning elsewhere; whole numbers have 64 bits here.
NOT_COMPARED = ("<", "Markup(", "dict_", "range(")


def is_compared(outcome):
    return not isinstance(outcome, str) or not (any(x in outcome for x in NOT_COMPARED) or
                                                any(len(x) > 15 and x.isdigit() for x in outcome.split()))


# ---- the file ----


class Golden:
    def __init__(self):
        self.templates, self.inputs, self.cases = [], [], []

    def add(self, template, given, index, is_random=False):
        outcome = outcome_of(template, given)
        if is_random and not is_compared(outcome):
            return
        if not self.templates or self.templates[-1] != template:
            self.templates.append(template)
        self.cases.append([len(self.templates) - 1, index, outcome])

    def add_random(self, n, seed):
        writer = Writer(seed)
        self.inputs.append({"messages": [], "bos": "", "eos": "", "add": False, "variables": VALUES})
        for _ in range(n):
            self.add(writer.template(), self.inputs[-1], len(self.inputs) - 1, is_random=True)

    def add_conversations(self, templates, n, seed):
        rng = random.Random(seed)
        first = len(self.inputs)
        self.inputs += [conversation(rng) for _ in range(n)]
        for template in templates:
            for index in range(first, first + n):
                self.add(template, self.inputs[index], index)

    def write(self, path):
        with open(path, "w") as f:
            f.write('{"now": %d,\n' % NOW_S)
            for name in ("templates", "inputs", "cases"):
                rows = ",\n".join(json.dumps(x, ensure_ascii=False, separators=(",", ":")) for x in getattr(self, name))
                f.write(f'"{name}": [\n{rows}\n]{"}" if name == "cases" else ","}\n')
        print(f"{path}: {len(self.templates)} templates, {len(self.inputs)} inputs, {len(self.cases)} cases")


def read_all(folder):
    return [open(path, newline="").read() for path in sorted(glob.glob(os.path.join(folder, "*.jinja")))]


def main():
    golden = Golden()
    if len(sys.argv) == 4:
        golden.add_random(int(sys.argv[2]), int(sys.argv[3]))
    elif len(sys.argv) == 3:
        golden.add_conversations(read_all(sys.argv[2]), 100, 1)
    else:
        golden.add_conversations(read_all(os.path.join(HERE, "../../model/chat_templates")), 12, 1)
        golden.add_conversations([textwrap.dedent(t) for t in TEMPLATES.values()], 40, 2)
        golden.add_random(1500, 3)
    golden.write(sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "chat_templates.json"))


if __name__ == "__main__":
    main()
