# SPDX-License-Identifier: Apache-2.0
"""Chat templates that do not end, take too much or are none: one clear line, or a 400, and the
model still completes texts."""
import json
import struct

from cluster import Cluster

HI = {"messages": [{"role": "user", "content": "hi"}]}

RENDER_BYTES = 256 << 20  # memory in which any template can be tried

# Whatever is asked of them, these fail.
HOPELESS = {
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "100 calls of macros"),
    "mutual recursion": ("{% macro f(g) %}{{ g(f) }}{% endmacro %}{% macro g(f) %}{{ f(g) }}"
                         "{% endmacro %}{{ f(g) }}", "100 calls of macros"),
    "steps": ("{% set s = 'a' * 8000000 %}{% for i in range(99999) %}{% if 'b' in s %}x{% endif %}"
              "{% endfor %}", "steps"),
    "nested loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% for c in "
                     "range(99999) %}x{% endfor %}{% endfor %}{% endfor %}", "bytes of values"),
    "doubling": ("{% set n = namespace(s='ab') %}{% for i in range(99) %}"
                 "{% set n.s = n.s + n.s %}{% endfor %}", "a text longer than"),
    "range": ("{{ range(10 ** 18) }}", "a range of more than"),
    "replace": ("{{ ('a' * 9999999)|replace('a', 'b' * 9999) }}", "more than"),
    "join": ("{{ (['a'] * 99999)|join('b' * 100000) }}", "a text longer than"),
    "values": ("{% set n = namespace(l=[]) %}{% for i in range(9999) %}{% set n.l = [n.l, n.l] %}"
               "{% endfor %}{{ n.l == [n.l] }}{{ n.l }}", "nested too deeply"),
}
# These are refused before anything is asked of them.
MALFORMED = {
    "brackets": ("{{ " + "(" * 100000 + "1" + ")" * 100000 + " }}", "brackets"),
    "lists": ("{{ " + "[" * 100000 + "]" * 100000 + " }}", "brackets"),
    "signs": ("{{ " + "-" * 100000 + "1 }}", "nested too deeply"),
    "statements": ("{% if 1 %}" * 50000, "nested too deeply"),
    "size": ("x" * ((1 << 20) + 1), "at most 1048576"),
    "unended": ("{% if 1", ""),
}
# As deep as a template may get: on a request's thread, this must not be too deep for its stack.
DEEP = ("{% macro f(n, v) %}{% if n > 0 %}{{ f(n - 1, [v]) }}{% else %}{{ v|tojson }}{% endif %}"
        "{% endmacro %}{{ f(98, messages[0].content) }}")
# Fails over long conversations only.
LONG = ("{% set n = namespace(s=messages[0].content) %}{% for i in range(20) %}"
        "{% set n.s = n.s + n.s %}{% endfor %}{{ messages[0].content }}")


def gguf_string(text):
    return struct.pack("<Q", len(text)) + text


def with_template(case, name, source):
    """The small model with a chat template: metadata goes in front of what is there, and a second
    value keeps the tensors' alignment."""
    data = case.world.small().read_bytes()
    magic, version, tensors, values = struct.unpack_from("<4sIQQ", data)
    string_type = struct.pack("<I", 8)
    more = (gguf_string(b"tokenizer.chat_template") + string_type + gguf_string(source.encode()) +
            gguf_string(b"test.padding") + string_type)
    more += gguf_string(b"." * ((-len(more) - 8) % 32))
    path = case.dir / f"{name.replace(' ', '-')}.gguf"
    path.write_bytes(struct.pack("<4sIQQ", magic, version, tensors, values + 2) + more + data[24:])
    return path


def render(case, source):
    template, messages = case.dir / "template", case.dir / "messages.json"
    template.write_text(source)
    messages.write_text(json.dumps({**HI, "add_generation_prompt": True}))
    # Addresses are no measure of what a sanitizer's build uses.
    bound = [] if case.world.sanitized else ["prlimit", f"--as={RENDER_BYTES}"]
    return case.run([*bound, case.world.caravan, "template", "--template", template, "--messages",
                     messages])


def test_command(case):
    for name, (source, word) in {**HOPELESS, **MALFORMED}.items():
        result = render(case, source)
        result.fails_with("caravan template: ", word)
        assert not result.out, (name, result.out[:100])


def serve(case, name, source):
    c = Cluster(case, with_template(case, name, source), workers=0,
                options=["--local-workers", "1", "-c", "64", "-t", "1"])
    c.start_server()
    c.wait_ready()
    return c


def check_refused(c, body, word):
    status, answer = c.request("POST", "/v1/chat/completions", body)
    assert status == 400, (status, answer)
    error = answer["error"]
    assert word in error["message"] and "\n" not in error["message"], error
    assert error["param"] == "messages" and error["type"] == "invalid_request_error", error


def test_served(case):
    """The server says at once that there will be no chats, refuses them, and goes on."""
    everything = {**HOPELESS, **MALFORMED}
    for name in ("recursion", "steps", "nested loops", "doubling", "brackets"):
        source, word = everything[name]
        c = serve(case, name, source)
        workers = case.children(c.server)
        c.server.wait_for("API-NO-CHAT .*" + word)
        for _ in range(3):
            check_refused(c, HI, word)
        assert len(c.complete(4)) > 0 and c.health() == 200
        assert case.children(c.server) == workers, "a worker was started again"
        assert c.server.stop() == 0


def test_served_to_some(case):
    """A template that goes beyond its limits over some messages takes others."""
    c = serve(case, "long", LONG)
    assert "API-NO-CHAT" not in c.server.err()
    long = {"messages": [{"role": "user", "content": "hello " * 1000}], "max_tokens": 2}
    for stream in (False, True):
        check_refused(c, {**long, "stream": stream}, "a text longer than")
        status, answer = c.request("POST", "/v1/chat/completions", {**HI, "max_tokens": 2})
        assert status == 200, answer
    # On the stack of a request's thread.
    c = serve(case, "deep", DEEP)
    status, answer = c.request("POST", "/v1/chat/completions", {**HI, "max_tokens": 2})
    assert status == 400 and "64" in answer["error"]["message"], answer


def test_terminal(case):
    """A chat that cannot be is no prompt that waits."""
    model = with_template(case, "recursion", HOPELESS["recursion"][0])
    result = case.caravan("run", "-m", model, "-c", "64")
    lines = [line for line in result.err.splitlines() if line.startswith("caravan run: ")]
    assert result.status == 1 and len(lines) == 1, result.err
    assert "100 calls of macros" in lines[0] and "chat template" in lines[0], lines
    assert len(case.generate(model, "-c", "64", n=4)) > 0
    case.caravan("template", "-m", model, "--messages", messages_file(case)).fails_with("macros")


def messages_file(case):
    path = case.dir / "hi.json"
    path.write_text(json.dumps(HI))
    return path
