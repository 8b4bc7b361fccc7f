"""What a person does with the page, and what must be seen; started by e2e_page.sh.

    drive_page.py CHROMIUM URL [--screenshot FILE | CASE...]

Every function case_* is a case. Each begins with a page that remembers nothing, unless it makes a memory itself."""
import base64
import json
import sys
import time
import urllib.request

from browser import Browser

URL = ""
ANSWER = "document.querySelector('article.assistant:last-of-type .words').textContent"
IS_IDLE = "!document.querySelector('.is-running') && document.querySelectorAll('article.assistant').length > 0"


def expect(is_so, text):
    if not is_so:
        raise AssertionError(text)


def fresh(b, before="", **kept):
    """The page as at a first visit, but for what the browser is to have kept."""
    b.window(1280, 800)
    b.media()
    b.js("localStorage.clear()")
    for name, value in kept.items():
        b.js(f"localStorage.setItem('caravan.' + {json.dumps(name)}, {json.dumps(json.dumps(value))})")
    if before:
        b.js(before)
    b.events.clear()
    b.reload()
    b.until("document.getElementById('notice').hidden && document.getElementById('model').textContent", 120)


def talk(n_pairs=1, text="A **bold** word."):
    messages = []
    for i in range(n_pairs):
        messages += [{"role": "user", "content": f"Question {i}"},
                     {"role": "assistant", "content": text, "state": "done"}]
    return messages


def send(b, text):
    b.js("document.getElementById('text').focus()")
    b.write(text)
    b.key("Enter")


# A model that is rewarded for repeating itself finds no end: an answer that lasts.
LONG = {"temperature": 0, "frequency_penalty": -2, "presence_penalty": -2, "max_tokens": 900}


def send_long(b, text="Give me examples of birds."):
    send(b, text)
    b.until(f"document.querySelector('.is-running') && {ANSWER}.length > 20")


def get(path):
    with urllib.request.urlopen(URL + path, timeout=20) as answer:
        return json.load(answer)


# ---- chat ----

def case_page_is_one_small_file(b):
    fresh(b)
    with urllib.request.urlopen(URL + "/", timeout=20) as answer:
        expect(len(answer.read()) < 60000, "60 kB or more")
        expect("default-src 'none'" in (answer.headers.get("Content-Security-Policy") or ""), "no policy")
    asked = [e["params"]["request"]["url"] for e in b.events if e["method"] == "Network.requestWillBeSent"]
    expect(asked and all(u.startswith((URL, "data:")) for u in asked), f"asked elsewhere: {asked}")


def case_answer_streams(b):
    fresh(b, settings={"temperature": 0})
    b.js("""window.lengths = new Set(); new MutationObserver(() => {
        const w = document.querySelector('article.assistant .words'); if (w) lengths.add(w.textContent.length); })
        .observe(document.getElementById('messages'), {subtree: true, childList: true, characterData: true})""")
    send(b, "What is a violin?")
    b.until(IS_IDLE)
    text = b.js(ANSWER)
    expect(text.startswith("A violin is a bowed stringed instrument"), f"the answer is {text!r}")
    lengths = b.js("[...lengths]")
    expect(len(lengths) > 2, f"the text came at once: {lengths}")
    expect("tokens" in b.js("document.querySelector('.note').textContent"), "no count of tokens")
    expect(b.js("document.getElementById('said').textContent").endswith(text.strip()), "not announced")
    expect(b.js("document.activeElement.id") == "text", "the focus has left the message")
    send(b, "What is a piano?")
    b.until(IS_IDLE + " && document.querySelectorAll('article').length === 4")


def case_stop_keeps_the_half_answer(b):
    fresh(b, settings=LONG)
    send_long(b)
    expect(b.js("document.getElementById('said').textContent") == "", "tokens are announced one by one")
    b.key("Escape")
    b.until(IS_IDLE)
    text = b.js(ANSWER)
    expect("stopped" in b.js("document.querySelector('.note').textContent"), "no note")
    b.idle(0.5)
    expect(b.js(ANSWER) == text, "it went on")
    for _ in range(50):
        if get("/cluster")["queue"]["running"] == 0:
            break
        time.sleep(0.1)
    expect(get("/cluster")["queue"]["running"] == 0, "the server went on")
    b.reload()
    expect(b.js(ANSWER) == text and len(text) > 20, "the half answer is lost")


def case_stop_button(b):
    fresh(b, settings=LONG)
    send_long(b)
    b.click("#stop")
    b.until(IS_IDLE + " && !document.getElementById('send').hidden")


def case_reload_while_it_streams(b):
    fresh(b, settings=LONG)
    send_long(b)
    b.reload()
    b.until(IS_IDLE)
    expect(len(b.js(ANSWER)) > 20, "the half answer is lost")
    expect("stopped" in b.js("document.querySelector('.note').textContent"), "not said to be stopped")
    expect(b.js("document.querySelector('#talk-list .talk').textContent") == "Give me examples of birds.", "no title")


def case_a_stopped_answer_goes_on(b):
    fresh(b, settings={"temperature": 0, "max_tokens": 5})
    send(b, "What is a violin?")
    b.until(IS_IDLE)
    first = b.js(ANSWER)
    expect("limit" in b.js("document.querySelector('.note').textContent"), "the limit is not named")
    press(b, "Go on")
    b.until(IS_IDLE)
    expect(b.js(ANSWER).startswith(first) and len(b.js(ANSWER)) > len(first), f"after {first!r}: {b.js(ANSWER)!r}")
    expect(b.js("document.querySelectorAll('article').length") == 2, "a message more")


def case_retry_and_edit(b):
    fresh(b, settings={"temperature": 0})
    send(b, "What is a violin?")
    b.until(IS_IDLE)
    first = b.js(ANSWER)
    press(b, "Retry")
    b.until(IS_IDLE)
    expect(b.js(ANSWER) == first, "the same question has another answer")
    press(b, "Edit message")
    expect(b.js("document.getElementById('text').value") == "What is a violin?", "nothing to edit")
    b.js("document.getElementById('text').select()")
    b.write("What is a piano?")
    b.key("Enter")
    b.until(IS_IDLE)
    expect(b.js("document.querySelectorAll('article').length") == 2, "the old message is still there")
    expect(b.js("document.querySelector('article.user .words').textContent") == "What is a piano?", "not edited")


def press(b, name):
    b.js(f"[...document.querySelectorAll('button')].find(x => x.textContent === {json.dumps(name)})"
         ".setAttribute('data-test', '1')")
    b.click("[data-test]")
    b.js("document.querySelectorAll('[data-test]').forEach(x => x.removeAttribute('data-test'))")


def case_copy(b):
    fresh(b, **{"talks": [{"id": "a", "title": "A"}], "open": "a", "talk.a": talk()})
    b.js("window.copied = ''; navigator.clipboard.writeText = async text => { copied = text; }")
    press(b, "Copy answer")
    b.until("copied === 'A **bold** word.'")


# ---- conversations ----

def case_several_conversations(b):
    fresh(b, **{"talks": [{"id": "a", "title": "First"}, {"id": "b", "title": "Second"}], "open": "b",
                "talk.a": talk(2), "talk.b": talk(1)})
    count = "document.querySelectorAll('article').length"
    expect(b.js(count) == 2, "not the one that was open")
    press(b, "First")
    expect(b.js(count) == 4, "not switched")
    press(b, "Rename")
    b.js("document.activeElement.select()")
    b.write("Renamed")
    b.key("Enter")
    expect(b.js("document.querySelector('#talk-list .is-open .talk').textContent") == "Renamed", "not renamed")
    press(b, "Delete")
    expect(b.js("document.querySelectorAll('#talk-list li').length") == 1, "not deleted")
    expect(not b.js("localStorage.getItem('caravan.talk.a')"), "still kept")
    press(b, "Undo")
    expect(b.js("document.querySelectorAll('#talk-list li').length") == 2 and b.js(count) == 4, "not undone")
    press(b, "New conversation")
    expect(b.js(count) == 0, "not empty")
    b.reload()
    titles = b.js("[...document.querySelectorAll('#talk-list .talk')].map(x => x.textContent)")
    expect(titles == ["Renamed", "Second"], f"after a reload: {titles}")


def case_markdown_is_safe(b):
    text = ('# Title\n\nA **bold** and *slanted* `code` [link](https://example.org/) [bad](javascript:alert(1))\n'
            '<img src=x onerror="window.isHurt=1"><script>window.isHurt=1</script>\n\n- one\n  1. inner\n- two\n\n'
            '```c\nint x = 1 < 2;\n**not bold**\n```\n\n> said\n\n```\nno end')
    fresh(b, **{"talks": [{"id": "a", "title": "A"}], "open": "a", "talk.a": talk(1, text)})
    count = lambda what: b.js(f"document.querySelectorAll('.words {what}').length")  # noqa: E731
    found = {what: count(what) for what in ("h3", "strong", "em", "p > code", "a", "ul > li", "ol > li", ".code pre",
                                            "blockquote", "img", "script")}
    expect(found == {"h3": 1, "strong": 1, "em": 1, "p > code": 1, "a": 1, "ul > li": 2, "ol > li": 1, ".code pre": 2,
                     "blockquote": 1, "img": 0, "script": 0}, f"found {found}")
    expect(b.js("window.isHurt") is None, "text was run as a program")
    expect("<img src=x" in b.js(ANSWER), "text is lost")
    expect(b.js("document.querySelector('.code pre').textContent") == "int x = 1 < 2;\n**not bold**", "code differs")


def case_markdown_of_random_text(b):
    """No text stops the page: random runs of what Markdown is made of, shown as they grow."""
    fresh(b)
    left = b.js("""(() => {
        let seed = 1; const next = n => (seed = (seed * 48271) % 2147483647) % n;
        const parts = ["**", "*", "_", "__", "`", "```", "\\n", "\\n\\n", "- ", "1. ", "  ", "# ", "> ", "[a](",
            "http://b)", "x", " y ", "<b>"];
        for (let i = 0; i < 400; i++) {
            const node = document.createElement("div"); let text = "";
            for (let k = 0; k < 40; k++) { text += parts[next(parts.length)]; showMarkdown(node, text); }
            if (node.querySelector("b")) return text;
            const whole = document.createElement("div"); showMarkdown(whole, text);
            if (whole.innerHTML !== node.innerHTML) return text;
        }
        const begin = performance.now(); showMarkdown(document.createElement("div"), "**_`[".repeat(20000));
        return performance.now() - begin < 3000 ? "" : "slow"; })()""")
    expect(left == "", f"at {left!r}")


# ---- when things go wrong ----

def answer_with(b, path, status, body, headers=()):
    """Requests for `path` get this in place of the server's answer, until answer_freely."""
    def paused(p):
        b.post("Fetch.fulfillRequest", requestId=p["requestId"], responseCode=status,
               responseHeaders=[{"name": k, "value": v} for k, v in headers],
               body=base64.b64encode(json.dumps(body).encode()).decode())
    b.watchers["Fetch.requestPaused"] = paused
    b.call("Fetch.enable", patterns=[{"urlPattern": "*" + path}])


def answer_freely(b):
    b.call("Fetch.disable")
    b.watchers.clear()


def case_errors_have_their_words_and_a_retry(b):
    fresh(b, settings={"temperature": 0})
    answer_with(b, "/v1/chat/completions", 429, {"error": {"message": "the queue is full"}}, [("Retry-After", "2")])
    send(b, "What is a violin?")
    b.until("document.querySelector('article .error')")
    text = b.js("document.querySelector('article .error').textContent")
    expect("the queue is full" in text and "2 s" in text, f"it says {text!r}")
    answer_freely(b)
    press(b, "Retry")
    b.until(IS_IDLE + " && !document.querySelector('article .error')")
    expect(len(b.js(ANSWER)) > 5, "no answer")


def case_waits_for_a_model_that_loads(b):
    fresh(b)
    answer_with(b, "/ready", 503, {"error": {"message": "loading the model, 40% read"}})
    b.reload()
    b.until("!document.getElementById('notice').hidden")
    expect("40% read" in b.js("document.getElementById('notice').textContent"), "no reason")
    expect(abs(b.js("document.getElementById('notice-progress').value") - 0.4) < 0.01, "no progress")
    answer_freely(b)
    b.until("document.getElementById('notice').hidden")
    expect(b.js("document.getElementById('said').textContent") == "The model is ready.", "not announced")


def case_settings(b):
    fresh(b)
    b.click("#settings-open")
    b.js("document.getElementById('set-temperature').focus()")
    b.write("hot")
    b.key("Enter")
    expect(b.js("document.getElementById('settings').open"), "closed in spite of a mistake")
    expect("Temperature: a number from 0 to 2" in b.js("document.getElementById('settings-error').textContent"), "?")
    expect(b.js("document.activeElement.id") == "set-temperature", "the focus is not at the mistake")
    b.js("document.activeElement.select()")
    b.write("0.7")
    b.js("document.getElementById('set-system').focus()")
    b.write("You are brief.")
    b.js("document.getElementById('set-key').focus()")
    b.write("secret")
    b.key("Enter")
    b.until("!document.getElementById('settings').open")
    b.reload()
    sent = []
    b.watchers["Network.requestWillBeSent"] = lambda p: sent.append(p["request"])
    send(b, "What is a violin?")
    b.until(IS_IDLE)
    b.watchers.clear()
    request = next(r for r in sent if r["url"].endswith("/v1/chat/completions"))
    body = json.loads(request["postData"])
    expect(body["temperature"] == 0.7 and "top_p" not in body, f"sent {body}")
    expect(body["messages"] == [{"role": "system", "content": "You are brief."},
                                {"role": "user", "content": "What is a violin?"}], f"sent {body['messages']}")
    expect(request["headers"].get("Authorization") == "Bearer secret", "the key was not sent")


# ---- the cluster ----

def case_cluster_is_seen(b):
    fresh(b, cluster=False)
    expect(b.js("document.getElementById('cluster').hidden"), "open already")
    b.click("#cluster-toggle")
    ranks = get("/cluster")["ranks"]
    b.until(f"document.querySelectorAll('.rank').length === {len(ranks)}")
    text = b.js("document.getElementById('cluster').innerText")
    for word in ["Stage 0", "busy", "weights", "KV cache", "running", ranks[0]["device"], ranks[0]["host"]]:
        expect(word in text, f"no {word!r} in {text!r}")
    b.until("document.querySelector('aside polyline').getAttribute('points').split(' ').length > 2")
    b.reload()
    b.until("document.querySelector('.rank')")


def case_cluster_shows_work(b):
    fresh(b, settings=LONG, cluster=True)
    send_long(b)
    b.until("/^[1-9]/.test([...document.querySelectorAll('aside dt')].find(x => x.textContent === 'running')"
            ".nextSibling.textContent)")
    b.key("Escape")
    b.until(IS_IDLE)


# ---- phone, keyboard, screen reader, eyes ----

def case_phone_scrolls_one_way(b):
    text = "word " * 50 + "\n\n```\n" + "x" * 300 + "\n```\n\n" + "y" * 300
    fresh(b, **{"talks": [{"id": "a", "title": "A" * 60}], "open": "a", "talk.a": talk(2, text)})
    b.window(360, 740, True)
    wide = """[...document.querySelectorAll('body *')].filter(e =>
        !e.closest('.quiet, .skip, pre, [hidden], dialog:not([open])') &&
        getComputedStyle(e).visibility === 'visible' && e.getBoundingClientRect().right > 361)
        .map(e => e.tagName + '.' + e.className).slice(0, 5)"""
    for step in [None, "talks-toggle", "talks-toggle", "cluster-toggle", "cluster-close", "settings-open"]:
        if step:
            b.js(f"document.getElementById('{step}').click()")
        b.idle(0.2)
        width = b.js("document.scrollingElement.scrollWidth")
        expect(width <= 360, f"{width} pixels wide after {step}")
        expect(b.js("window.innerWidth") == 360, f"zoomed out to {b.js('window.innerWidth')} after {step}")
        expect(b.js(wide) == [], f"{b.js(wide)} stick out after {step}")
    b.js("document.getElementById('settings').close()")
    for selector in ("#send", "#text", "#talks-toggle", "#cluster-toggle", "#settings-open"):
        box = f"document.querySelector('{selector}').getBoundingClientRect()"
        r = b.js(f"(r => [r.left, r.right, r.top, r.bottom])({box})")
        expect(r[0] >= 0 and r[1] <= 360 and r[2] >= 0 and r[3] <= 740, f"{selector} is at {r}")


def focused(b):
    return b.js("(e => e.id || e.textContent || e.className)(document.activeElement)")


def case_keyboard_alone(b):
    fresh(b, **{"settings": {"temperature": 0}, "cluster": True, "talks": [{"id": "a", "title": "Old"}], "open": "a",
                "talk.a": talk()})
    b.until("document.querySelector('.rank')")
    first = b.js("document.querySelector('a, button, input, textarea, [tabindex]').textContent")
    expect(first == "Skip to the message", f"first is {first!r}")
    b.js("document.querySelector('.skip').focus()")
    seen = []
    for _ in range(25):
        b.key("Tab")
        name = focused(b)
        if name in seen or b.js("document.activeElement === document.body"):
            break
        ring = b.js("getComputedStyle(document.activeElement).outlineStyle")
        expect(ring != "none", f"no ring around {name!r}")
        seen.append(name)
    expect(seen == ["cluster-toggle", "settings-open", "talk-new", "Old", "Rename", "Delete", "messages",
                    "Copy message", "Edit message", "Copy answer", "Retry", "text", "send", "cluster-close"],
           f"in order: {seen}")
    b.js("document.querySelector('.skip').focus()")
    expect(b.js("document.querySelector('.skip').getBoundingClientRect().top") >= 0, "the skip link is out of sight")
    b.key("Enter")
    expect(focused(b) == "text", "the skip link does not lead to the message")
    b.write("What is")
    b.key("Enter", shift=True)
    b.write("a violin?")
    expect(b.js("document.getElementById('text').value") == "What is\na violin?", "no new line")
    expect(b.js("document.querySelectorAll('article').length") == 2, "sent too early")
    b.key("Enter")
    b.until(IS_IDLE + " && document.querySelectorAll('article').length === 4")
    for _ in range(2):
        b.key("Tab", shift=True)
    expect(focused(b) == "Copy answer", f"before the message is {focused(b)!r}")
    b.js("document.getElementById('settings-open').focus()")
    b.key("Enter")
    b.until("document.querySelector('dialog:focus-within')")
    b.key("Escape")
    b.until("!document.getElementById('settings').open")
    expect(focused(b) == "settings-open", "the focus does not come back from the settings")


def case_everything_has_a_name(b):
    fresh(b, **{"cluster": True, "talks": [{"id": "a", "title": "Old"}], "open": "a",
                "talk.a": talk(1, "Text\n\n```\ncode\n```\n")})
    b.until("document.querySelector('.rank')")
    names = b.names()
    b.click("#settings-open")
    names += b.names()
    expect(all(name for role, name in names), f"without a name: {sorted({r for r, n in names if not n})}")
    roles = {role for role, _ in names}
    for role in ("navigation", "main", "complementary", "form", "article", "meter", "textbox", "dialog", "image"):
        expect(role in roles, f"no {role}")
    for name in (("button", "Send"), ("textbox", "Message"), ("button", "New conversation"), ("article", "Caravan"),
                 ("textbox", "API key"), ("button", "Delete Old")):
        expect(name in names, f"no {name}")


CONTRAST = """(() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const bad = []; const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n; (n = walk.nextNode());) {
    const e = n.parentElement;
    if (!n.data.trim() || e.closest('script, style, noscript, .quiet') || !e.getClientRects().length) continue;
    const a = light(parse(getComputedStyle(e).color)), b = light(ground(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) bad.push(n.data.trim().slice(0, 30) + ' ' + ratio.toFixed(2));
  }
  return bad; })()"""


def case_contrast_in_light_and_dark(b):
    messages = talk(1, "Text `code` [link](https://example.org/)\n\n> said\n\n```\ncode\n```\n")
    messages += [{"role": "user", "content": "q"},
                 {"role": "assistant", "content": "", "state": "failed", "error": "No."}]
    grounds = []
    for look in ("light", "dark"):
        fresh(b, **{"cluster": True, "talks": [{"id": "a", "title": "Old"}], "open": "a", "talk.a": messages})
        b.media(prefers_color_scheme=look)
        b.until("document.querySelector('.rank')")
        expect(b.js(CONTRAST) == [], f"{look}: {b.js(CONTRAST)}")
        b.click("#settings-open")
        expect(b.js(CONTRAST) == [], f"settings, {look}: {b.js(CONTRAST)}")
        grounds.append(b.js("getComputedStyle(document.body).backgroundColor"))
    expect(grounds[0] != grounds[1], "light and dark look the same")


def case_reduced_motion(b):
    fresh(b, settings=LONG)
    moves = "getComputedStyle(document.querySelector('.is-running .words'), '::after').animationName"
    send_long(b)
    expect(b.js(moves) == "breathe", "nothing moves at all")
    b.media(prefers_reduced_motion="reduce")
    expect(b.js(moves) == "none", "it moves")
    b.key("Escape")
    b.until(IS_IDLE)


def complaints(b):
    """What the browser had to say about the page: exceptions, refused resources."""
    out = []
    for e in b.events:
        if e["method"] == "Runtime.exceptionThrown":
            out.append(e["params"]["exceptionDetails"].get("exception", {}).get("description", "exception"))
        if e["method"] == "Log.entryAdded" and e["params"]["entry"]["source"] in ("security", "javascript"):
            out.append(e["params"]["entry"]["text"])
    return out


def screenshot(b, path):
    fresh(b, settings={"temperature": 0}, cluster=True)
    for question in ("What is a violin?", "What is a caravan?", "What is the capital of France?"):
        n = b.js("document.querySelectorAll('article').length")
        send(b, question)
        b.until(IS_IDLE + f" && document.querySelectorAll('article').length === {n + 2}")
    b.window(1280, 860)
    b.idle(3)
    data = b.call("Page.captureScreenshot", format="png")["data"]
    with open(path, "wb") as f:
        f.write(base64.b64decode(data))


def main():
    global URL
    chromium, URL, *rest = sys.argv[1:]
    URL = URL.rstrip("/")
    picture = rest.pop(rest.index("--screenshot") + 1) if "--screenshot" in rest else None
    wanted = [w for w in rest if w != "--screenshot"]
    b = Browser(chromium)
    n_failed = 0
    try:
        b.go(URL + "/")
        if picture:
            screenshot(b, picture)
            return
        for name, run in [(k[5:], v) for k, v in globals().items() if k.startswith("case_")]:
            if wanted and name not in wanted:
                continue
            try:
                run(b)
                expect(not complaints(b), f"the browser complains: {complaints(b)}")
                print(f"[       OK ] page_{name}", flush=True)
            except (AssertionError, RuntimeError, TimeoutError, StopIteration) as e:
                n_failed += 1
                print(f"[  FAILED  ] page_{name}\n  {type(e).__name__}: {e}", flush=True)
                answer_freely(b)
    finally:
        b.close()
    sys.exit(n_failed > 0)


if __name__ == "__main__":
    main()
