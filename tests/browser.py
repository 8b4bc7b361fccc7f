"""A headless Chromium, driven by the DevTools protocol over a pair of pipes (https://chromedevtools.github.io): no
packages, no port. One page; events are kept as they come."""
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time


class Browser:
    def __init__(self, program):
        self.folder = tempfile.mkdtemp(prefix="browser-")
        to_read, self.to = os.pipe()
        self.back, back_write = os.pipe()
        # The browser reads commands at 3 and writes answers at 4.
        shell = f'exec 3<&{to_read} 4>&{back_write}; exec "$@"'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "browser", program, "--headless=new", "--no-sandbox", "--disable-gpu",
             "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run", "--disable-background-networking",
             f"--user-data-dir={self.folder}", "--remote-debugging-pipe", "about:blank"],
            pass_fds=(to_read, back_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True)
        os.close(to_read)
        os.close(back_write)
        self.held, self.n, self.answers, self.events, self.session = b"", 0, {}, [], None
        self.watchers = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self.call(domain + ".enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # as a window that is looked at

    def close(self):
        try:
            self.session = None
            self.call("Browser.close", wait_s=5)
            self.process.wait(5)
        except (OSError, TimeoutError, subprocess.TimeoutExpired):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- the protocol ----

    def post(self, method, **params):
        self.n += 1
        message = {"id": self.n, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        return self.n

    def call(self, method, wait_s=30, **params):
        n, end = self.post(method, **params), time.monotonic() + wait_s
        while n not in self.answers:
            self.pump(end - time.monotonic(), method)
        answer = self.answers.pop(n)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def pump(self, wait_s, what):
        """Takes what the browser sent, waiting for it if there is nothing."""
        if wait_s <= 0 or not select.select([self.back], [], [], wait_s)[0]:
            raise TimeoutError(f"no answer to {what}")
        data = os.read(self.back, 1 << 20)
        if not data:
            raise OSError("the browser has ended")
        *messages, self.held = (self.held + data).split(b"\0")
        for text in messages:
            message = json.loads(text)
            if "id" in message:
                self.answers[message["id"]] = message
            else:
                self.events.append(message)
                watcher = self.watchers.get(message["method"])
                if watcher:
                    watcher(message["params"])

    def idle(self, wait_s):
        """Lets events come for so long."""
        end = time.monotonic() + wait_s
        while time.monotonic() < end:
            try:
                self.pump(end - time.monotonic(), "nothing")
            except TimeoutError:
                return

    # ---- the page ----

    def js(self, text):
        """The value of an expression; promises are awaited."""
        r = self.call("Runtime.evaluate", expression=text, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in r:
            raise RuntimeError(f"{text}: {r['exceptionDetails'].get('exception', {}).get('description')}")
        return r["result"].get("value")

    def until(self, text, wait_s=20):
        """Waits for an expression to be true."""
        end = time.monotonic() + wait_s
        while not self.js(f"!!({text})"):
            if time.monotonic() > end:
                raise TimeoutError(f"still not true after {wait_s} s: {text}")
            self.idle(0.03)

    def go(self, url):
        self.js("window.isOld = true")
        self.post("Page.navigate", url=url)
        self.until("!window.isOld && document.readyState === 'complete'")

    def reload(self):
        self.js("window.isOld = true")
        self.post("Page.reload")
        self.until("!window.isOld && document.readyState === 'complete'")

    KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "Backspace": 8, " ": 32}

    def key(self, name, shift=False):
        text = {"Enter": "\r", " ": " "}.get(name, "")
        common = {"key": name, "code": {" ": "Space"}.get(name, name), "modifiers": 8 if shift else 0,
                  "windowsVirtualKeyCode": self.KEYS[name]}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def write(self, text):
        self.call("Input.insertText", text=text)

    def click(self, selector):
        """A real click at the middle of what is seen of an element."""
        box = self.js(f"""(() => {{
            const e = document.querySelector({json.dumps(selector)});
            if (!e) return null;
            e.scrollIntoView({{block: "nearest"}});
            const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2, r.width]; }})()""")
        if not box or box[2] == 0:
            raise RuntimeError(f"nothing to click at {selector}")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def window(self, width, height, is_phone=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=is_phone)

    def media(self, **features):
        """prefers-color-scheme and the like, with _ for -."""
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": k.replace("_", "-"), "value": v} for k, v in features.items()])

    def names(self):
        """(role, name) of everything in the accessibility tree that a person can operate."""
        roles = {"button", "textbox", "link", "checkbox", "combobox", "slider", "spinbutton", "meter", "dialog", "main",
                 "navigation", "complementary", "region", "form", "image", "article", "progressbar", "heading"}
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes
                if not n.get("ignored") and n["role"]["value"] in roles]
