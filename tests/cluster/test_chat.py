# SPDX-License-Identifier: Apache-2.0
"""Chats in the terminal: plain lines, a person at a terminal, a running coordinator."""
import os
import pty
import signal

MESSAGES = b"hello there\n\nand now?\nno end of line"


def chat_lines(case, *args, text=MESSAGES):
    """The answers to lines that come from no terminal."""
    path = case.dir / "messages"
    path.write_bytes(text)
    with open(path, "rb") as stdin:
        result = case.caravan("run", "-n", "12", "--temp", "0", "--ignore-eos", *args, stdin=stdin)
    assert result.status == 0, result.err
    return result.out


class Terminal:
    """caravan run with a terminal as its standard input; what it says goes to files."""

    def __init__(self, case, *args):
        self.case = case
        self.master, slave = pty.openpty()
        self.chat = case.start("chat", [case.world.caravan, "run", *args], stdin=slave)
        os.close(slave)
        self.chat.wait_for("Type a message")

    def type(self, data):
        os.write(self.master, data)

    def answer_begins(self):
        """Waits until there is more on standard output than there was."""
        before = len(self.chat.out())
        self.case.until(lambda: len(self.chat.out()) > before, "an answer")

    def stop_answer(self):
        """Ctrl-C; waits for the prompt's next line."""
        self.chat.send(signal.SIGINT)
        before = len(self.chat.err())
        self.type(b"/help\n")
        self.case.until(lambda: "/clear" in self.chat.err()[before:], "the prompt")

    def ends_well(self):
        status = self.chat.wait()
        os.close(self.master)
        assert status == 0, self.chat.err()


def endless(case):
    return ["-m", case.world.small(), "-c", "65536", "--ignore-eos", "--temp", "0"]


def test_lines(case):
    model = case.world.small()
    once = chat_lines(case, "-m", model)
    # Three messages, three answers, and the conversation goes on from one to the next.
    assert chat_lines(case, "-m", model, "--local-workers", "2") == once
    first = chat_lines(case, "-m", model, text=b"hello there\n")
    assert once.startswith(first[:-1]) and len(once) > 2 * len(first)
    other = chat_lines(case, "-m", model, "--system", "Be brief.", text=b"hello there\n")
    assert other != first
    assert chat_lines(case, "-m", model, text=b"") == b""


def test_lines_through_a_server(case):
    model = case.world.small()
    server = case.start("server", [case.world.caravan, "serve", "-m", model, "--listen",
                                   "127.0.0.1:0"])
    url = server.wait_for(r"is served at (\S+)").group(1)
    assert chat_lines(case, "--server", url) == chat_lines(case, "-m", model)
    terminal = Terminal(case, "--server", url, "--ignore-eos", "--temp", "0")
    terminal.type(b"hello\n")
    terminal.answer_begins()
    terminal.stop_answer()
    terminal.type(b"\x04")
    terminal.ends_well()


def test_terminal(case):
    terminal = Terminal(case, *endless(case))
    terminal.type(b"hello\n")
    terminal.answer_begins()
    terminal.stop_answer()
    # The conversation goes on, with a line from the history.
    terminal.type(b"\x1b[A\x1b[A\n")
    terminal.answer_begins()
    terminal.stop_answer()
    terminal.type(b"/nonsense\n")
    terminal.chat.wait_for("there is no /nonsense")
    terminal.type(b"/clear\n/quit\n")
    terminal.ends_well()


def test_context_full(case):
    """A message that no longer fits is taken back, and the conversation can begin anew."""
    terminal = Terminal(case, "-m", case.world.small(), "-c", "64", "--ignore-eos", "--temp", "0")
    terminal.type(b"hello\n")
    terminal.chat.wait_for("the answer was cut off")
    terminal.type(b"again\n")
    terminal.chat.wait_for(r"prompt has \d+ tokens .*context is 64.*\n.*taken back; /clear")
    before = len(terminal.chat.out())
    terminal.type(b"/clear\nhello\n")
    case.until(lambda: len(terminal.chat.out()) > before, "an answer")
    terminal.type(b"\x04")
    terminal.ends_well()


def test_control_characters(case):
    """What a model says does not steer the terminal; where no terminal is, nothing is changed."""
    model = case.world.small()
    text = case.dir / "escape"
    text.write_bytes(b"\x1b")
    with open(text, "rb") as stdin:
        escape = int(case.succeed("tokenize", "-m", model, stdin=stdin).split()[-1])
    talk = ["run", "-m", model, "-n", "4", "--temp", "0", "--ignore-eos", "--logit-bias",
            f"{escape}=100"]
    messages = case.dir / "hello"
    messages.write_bytes(b"hello\n")
    with open(messages, "rb") as stdin:
        assert case.succeed(*talk, stdin=stdin) == b"\x1b\x1b\x1b\x1b\n"
    master, slave = pty.openpty()
    with open(messages, "rb") as stdin:
        result = case.run(["sh", "-c", f'exec "$0" "$@" >{os.ttyname(slave)}', case.world.caravan,
                           *talk], stdin=stdin)
    assert result.status == 0, result.err
    assert os.read(master, 100) == b"\r\n"
    os.close(slave)
    os.close(master)


def test_ctrl_d(case):
    terminal = Terminal(case, *endless(case))
    terminal.type(b"\x04")
    terminal.ends_well()


def test_termination(case):
    """SIGTERM ends a chat that waits for a line, and one that answers."""
    for line in (b"", b"hello\n"):
        terminal = Terminal(case, *endless(case))
        terminal.type(line)
        if line:
            terminal.answer_begins()
        terminal.chat.send(signal.SIGTERM)
        assert terminal.chat.wait() == 1
        assert "interrupted" in terminal.chat.err()
        os.close(terminal.master)


def test_refusals(case):
    model = case.world.small()
    case.caravan("run", "-m", model, "--stats").fails_with("--stats is not for a chat")
    case.caravan("run", "-m", model, "-p", "a", "--system", "b").fails_with("--system is for a chat")
