"""caravan chat on a terminal, made by Python's pty; started by e2e_chat.sh.

    drive_chat.py CARAVAN"""
import os
import pty
import re
import select
import signal
import stat
import sys
import tempfile
import time

MODEL = "models/demo.gguf"


class Terminal:
    def __init__(self, *args, **env):
        self.seen, self.rc = "", None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(env, TERM="xterm")
            os.execv(args[0], args)

    def until(self, pattern, wait_s=60):
        """Takes what is written up to and with a pattern; gives it, without escape codes."""
        end = time.monotonic() + wait_s
        while True:
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", self.seen)
            found = re.search(pattern, plain)
            if found:
                self.seen = plain[found.end():]
                return plain[:found.end()]
            if time.monotonic() > end:
                raise AssertionError(f"no {pattern!r} after {wait_s} s in {plain[-400:]!r}")
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:
                    data = b""
                if not data:
                    raise AssertionError(f"it ended; no {pattern!r} in {plain[-400:]!r}")
                self.seen += data.decode("utf-8", "replace")

    def write(self, text):
        os.write(self.fd, text.encode())

    def end(self, wait_s=30, key=""):
        """Waits for its end. `key` is typed each second: libedit shows its prompt before the terminal is in raw mode, and
        a Ctrl-D that comes between is lost."""
        end, typed = time.monotonic() + wait_s, 0
        while time.monotonic() < end:
            if key and time.monotonic() - typed > 1:
                self.write(key)
                typed = time.monotonic()
            if select.select([self.fd], [], [], 0)[0]:
                try:
                    os.read(self.fd, 65536)
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError("it did not end")


def expect(is_so, text):
    if not is_so:
        raise AssertionError(text)


def case_a_talk(caravan, folder):
    t = Terminal(caravan, "chat", MODEL, "--reference", XDG_STATE_HOME=folder, NO_COLOR="1")
    t.until("Ctrl-D ends\\)\n")
    t.until("> ")
    t.write("What is a violin?\n")
    t.until("A violin is a bowed stringed instrument.*\n")
    t.until("> ")
    t.write("/set frequency-penalty -2\n")  # it repeats itself then, and finds no end
    t.until("> ")
    t.write("/set presence-penalty -2\n")
    t.until("> ")
    t.write("Give me examples of birds.\n")
    t.until("Some kinds")
    t.write("\x03")
    t.until(r"\(stopped\)\n")
    t.until("> ")
    t.write("\x03")
    t.until("ends\\)\n")
    t.until("> ")
    t.write("/unknown\n")
    t.until("no command /unknown")
    t.until("> ")
    t.write("/set frequency-penalty 0\n")
    t.until("> ")
    t.write("/set presence-penalty 0\n")
    t.until("> ")
    t.write("/new\n")
    t.until("> ")
    t.write("What is\na violin?\n")  # pasted: one question
    t.until("A violin is a bowed.*\n")
    t.until("> ")
    t.write("/save " + folder + "/saved\n")
    t.until(r"2 messages are in .*\n")
    t.until("> ")
    expect(t.end(key="\x04") == 0, "it failed")
    history = os.path.join(folder, "caravan", "chat_history")
    expect(stat.S_IMODE(os.stat(history).st_mode) == 0o600, "others may read the history")
    with open(history, encoding="utf-8") as f:
        expect("birds" in f.read(), "the history is lost")


def case_history_and_utf8(caravan, folder):
    t = Terminal(caravan, "chat", MODEL, "--reference", XDG_STATE_HOME=folder, LC_ALL="C")
    t.until("Ctrl-D ends\\)\n")
    t.until("> ")
    t.write("/system Grüße €\n")
    t.until("> ")
    t.write("\x1b[A\x1b[A\n/exit\n")  # up, up: what was written in the run before
    expect(t.end() == 0, "it failed")
    with open(os.path.join(folder, "caravan", "chat_history"), "rb") as f:
        expect(b"Gr" in f.read(), "no history")


def case_a_signal_ends_it(caravan, folder):
    t = Terminal(caravan, "chat", MODEL, "--reference", XDG_STATE_HOME=folder)
    t.until("Ctrl-D ends\\)\n")
    os.kill(t.pid, signal.SIGTERM)
    expect(t.end() == 128 + signal.SIGTERM, "the exit code is another one")


def main():
    caravan, *wanted = sys.argv[1:]
    n_failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, run in [(k[5:], v) for k, v in globals().items() if k.startswith("case_")]:
            if wanted and name not in wanted:
                continue
            try:
                run(os.path.abspath(caravan), folder)
                print(f"[       OK ] chat_terminal_{name}", flush=True)
            except (AssertionError, OSError) as e:
                n_failed += 1
                print(f"[  FAILED  ] chat_terminal_{name}\n  {e}", flush=True)
    sys.exit(n_failed > 0)


if __name__ == "__main__":
    main()
