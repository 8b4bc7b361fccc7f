"""Drives every endpoint with the official client. Usage: openai_client.py URL KEY"""
import base64
import json
import struct
import sys
import threading
import time
import urllib.request

import openai

URL, KEY = sys.argv[1:3]
client = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0, timeout=60)
failed = False
QUESTION = [{"role": "user", "content": "What is a violin?"}]


def case(test):
    global failed
    try:
        test()
        print(f"[       OK ] {test.__name__}")
    except Exception as e:  # every failure is a line of the report
        print(f"[  FAILED  ] {test.__name__}\n  {type(e).__name__}: {str(e)[:500]}")
        failed = True


def cluster():
    request = urllib.request.Request(URL + "/cluster", headers={"Authorization": "Bearer " + KEY})
    return json.load(urllib.request.urlopen(request, timeout=10))


def wait_idle():
    for _ in range(100):
        c = cluster()
        if c["queue"]["running"] == 0 and c["kv"]["used"] == 0:
            return
        time.sleep(0.1)
    raise AssertionError(f"still busy: {c['queue']}, {c['kv']}")


def completion(**more):
    return client.completions.create(**{"model": MODEL, "prompt": "A cat is", "max_tokens": 12, "temperature": 0} | more)


def chat(**more):
    return client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, "max_tokens": 24, "temperature": 0} | more)


MODEL = client.models.list().data[0].id


def models():
    assert client.models.retrieve(MODEL).id == MODEL
    try:
        client.models.retrieve("no-such-model")
        raise AssertionError("found")
    except openai.NotFoundError:
        pass


def completion_plain():
    r = completion()
    assert r.object == "text_completion" and r.choices[0].text and r.choices[0].index == 0
    assert r.usage.prompt_tokens > 0 and r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens
    assert r.choices[0].finish_reason in ("stop", "length")


def completion_stream_equals_plain():
    whole = completion(max_tokens=40).choices[0].text
    chunks = list(completion(max_tokens=40, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole
    assert chunks[-1].usage.completion_tokens > 0 and not chunks[-1].choices
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")


def completion_n_and_seed():
    r = completion(n=3, temperature=1, seed=7)
    assert [c.index for c in r.choices] == [0, 1, 2]
    assert len({c.text for c in r.choices}) > 1
    assert [c.text for c in completion(n=3, temperature=1, seed=7).choices] == [c.text for c in r.choices]


def completion_best_of():
    r = completion(n=1, best_of=3, temperature=1, seed=7, logprobs=0)
    each = [sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs)
            for c in completion(n=3, temperature=1, seed=7, logprobs=0).choices]
    got = sum(r.choices[0].logprobs.token_logprobs) / len(r.choices[0].logprobs.token_logprobs)
    assert abs(got - max(each)) < 1e-5, (got, each)


def completion_batch_and_ids():
    r = completion(prompt=["A cat is", "A dog is"])
    assert [c.index for c in r.choices] == [0, 1]
    assert r.choices[0].text == completion().choices[0].text
    body = json.dumps({"content": "A cat is"}).encode()
    request = urllib.request.Request(URL + "/tokenize", body, {"Authorization": "Bearer " + KEY, "Content-Type": "application/json"})
    ids = json.load(urllib.request.urlopen(request, timeout=10))["tokens"]
    assert completion(prompt=ids).choices[0].text == completion().choices[0].text


def completion_echo_logprobs():
    r = completion(echo=True, logprobs=3, max_tokens=3).choices[0]
    p = r.logprobs
    assert r.text.startswith("A cat is") and p.token_logprobs[0] is None
    assert "".join(p.tokens) == r.text
    assert [r.text[at:at + len(t)] for at, t in zip(p.text_offset, p.tokens)] == p.tokens
    assert all(len(t) >= 3 for t in p.top_logprobs[1:]) and all(v <= 0 for v in p.token_logprobs[1:])


def completion_stop():
    whole = completion(max_tokens=40).choices[0].text
    word = whole.strip().split()[2]
    r = completion(max_tokens=40, stop=[word]).choices[0]
    assert r.finish_reason == "stop" and word not in r.text and whole.startswith(r.text)
    middle = whole[3:9]  # across the borders of tokens
    r = completion(max_tokens=40, stop=middle).choices[0]
    assert r.text == whole[:whole.index(middle)], (r.text, whole)


def completion_bias_and_penalties():
    first = completion(max_tokens=1, logprobs=1).choices[0]
    body = json.dumps({"content": first.text}).encode()
    request = urllib.request.Request(URL + "/tokenize", body, {"Authorization": "Bearer " + KEY, "Content-Type": "application/json"})
    ids = json.load(urllib.request.urlopen(request, timeout=10))["tokens"]
    assert completion(max_tokens=1, logit_bias={str(ids[0]): -100}).choices[0].text != first.text
    assert completion(max_tokens=40, frequency_penalty=2, presence_penalty=2).choices[0].text != completion(max_tokens=40).choices[0].text


def chat_plain():
    r = chat()
    assert r.object == "chat.completion" and r.choices[0].message.role == "assistant" and r.choices[0].message.content


def chat_stream_equals_plain():
    whole = chat().choices[0].message.content
    chunks = list(chat(stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole


def chat_logprobs():
    r = chat(logprobs=True, top_logprobs=4, max_tokens=5).choices[0]
    assert 0 < len(r.logprobs.content) <= 5 and len(r.logprobs.content[0].top_logprobs) == 4
    assert r.logprobs.content[0].logprob == r.logprobs.content[0].top_logprobs[0].logprob
    text = b"".join(bytes(t.bytes) for t in r.logprobs.content).decode()
    assert text.startswith(r.message.content) or r.message.content.startswith(text.split("<|")[0])


def chat_n_stream():
    r = list(chat(n=2, temperature=1, seed=3, stream=True))
    texts = ["".join(c.choices[0].delta.content or "" for c in r if c.choices and c.choices[0].index == i) for i in (0, 1)]
    plain = chat(n=2, temperature=1, seed=3).choices
    assert texts == [c.message.content for c in plain]


def chat_max_completion_tokens():
    assert chat(max_tokens=openai.NOT_GIVEN, max_completion_tokens=3).usage.completion_tokens <= 3


def chat_content_parts():
    parts = [{"role": "user", "content": [{"type": "text", "text": "What is a violin?"}]}]
    assert chat(messages=parts).choices[0].message.content == chat().choices[0].message.content


def embeddings():
    r = client.embeddings.create(model=MODEL, input=["a cat", "a dog"])  # the client asks for base64
    f = client.embeddings.create(model=MODEL, input="a cat", encoding_format="float")
    assert len(r.data) == 2 and r.usage.prompt_tokens > 0
    assert max(abs(a - b) for a, b in zip(r.data[0].embedding, f.data[0].embedding)) < 1e-6
    assert abs(sum(x * x for x in f.data[0].embedding) - 1) < 1e-4
    mean = client.embeddings.create(model=MODEL, input="a cat", extra_body={"pooling": "mean"})
    assert mean.data[0].embedding != r.data[0].embedding


def embeddings_base64():
    raw = client.embeddings.with_raw_response.create(model=MODEL, input="a cat", encoding_format="base64")
    data = base64.b64decode(json.loads(raw.text)["data"][0]["embedding"])
    assert len(data) % 4 == 0 and all(abs(x) <= 1 for x in struct.unpack(f"<{len(data) // 4}f", data))


def refused(kind, param, call):
    try:
        call()
    except kind as e:
        body = e.body or {}
        assert param is None or body.get("param") == param, body
        return
    raise AssertionError("accepted")


def errors():
    bad = openai.BadRequestError
    refused(bad, "temperature", lambda: completion(temperature=-1))
    refused(bad, "top_p", lambda: chat(top_p=2))
    refused(bad, "messages", lambda: chat(messages=[]))
    refused(bad, "n", lambda: completion(n=0))
    refused(bad, "response_format.type", lambda: chat(response_format={"type": "json_object"}))
    refused(bad, "logit_bias", lambda: completion(logit_bias={"9999999": 1}))
    refused(bad, None, lambda: completion(prompt="cat " * 5000))
    refused(openai.AuthenticationError, None, lambda: client.with_options(api_key="wrong").models.list())
    refused(openai.NotFoundError, None, lambda: completion(model="no-such-model"))


def cancel_frees():
    stream = completion(max_tokens=900, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    assert cluster()["queue"]["running"] >= 1
    stream.close()
    wait_idle()


def many_at_once():
    alone = [completion(prompt=f"The {i}th", temperature=1, seed=i).choices[0].text for i in range(8)]
    together = [None] * 8

    def ask(i):
        together[i] = completion(prompt=f"The {i}th", temperature=1, seed=i).choices[0].text

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert alone == together


for test in (models, completion_plain, completion_stream_equals_plain, completion_n_and_seed, completion_best_of,
             completion_batch_and_ids, completion_echo_logprobs, completion_stop, completion_bias_and_penalties, chat_plain,
             chat_stream_equals_plain, chat_logprobs, chat_n_stream, chat_max_completion_tokens, chat_content_parts,
             embeddings, embeddings_base64, errors, cancel_frees, many_at_once):
    case(test)
sys.exit(failed)
