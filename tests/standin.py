"""A stand-in for an OpenAI-compatible endpoint on loopback, which misbehaves on order and remembers.

With `upstream`, the base URL of a real server, it stands before that one and answers with what it answers.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Endpoint:
    """Answers with `reply(prompt)`; `faults(prompt, nth)` may name what goes wrong with the nth request for it.

    Faults: an HTTP status with headers and a text or bytes (503, {"Retry-After": "0"}, "why"), or one of "cut" (the
    connection), "cut after" (the real server answered), "hang" (until the server closes), "garbage", "empty", "length",
    "no usage".
    """

    def __init__(self, reply=None, faults=lambda prompt, nth: None, upstream=None):
        self.reply = reply or (lambda prompt: f"about {prompt}")
        self.upstream = upstream
        self.faults = faults
        self.asked, self.answered, self.bodies, self.keys = Counter(), Counter(), [], set()
        self.under_way = self.most_under_way = 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                endpoint.handle(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def handle(self, request):
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        with self.lock:
            self.asked[prompt] += 1
            nth = self.asked[prompt]
            self.bodies.append({"path": request.path, **body})
            self.keys.add(request.headers.get("Authorization", ""))
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            self.respond(request, body, prompt, self.faults(prompt, nth))
        except OSError:  # the client is gone
            request.close_connection = True
        finally:
            with self.lock:
                self.under_way -= 1

    def respond(self, request, body, prompt, fault):
        if fault == "hang":
            self.closing.wait(30)
            request.close_connection = True
        elif fault == "cut":
            request.close_connection = True
        elif isinstance(fault, tuple):
            status, headers, text = fault
            self.send(request, status, text if isinstance(text, bytes) else text.encode(), headers)
        elif fault == "garbage":
            self.send(request, 200, b'{"choices": [{"message"')
        elif self.upstream and fault != "empty":
            self.pass_on(request, body, prompt, cut=fault == "cut after")
        else:
            text = "" if fault == "empty" else self.reply(prompt)
            finish = "length" if fault == "length" else "stop"
            choice = {"message": {"content": text}} if "messages" in body else {"text": text}
            answer = {"choices": [{**choice, "finish_reason": finish}]}
            if fault != "no usage":
                answer["usage"] = {"prompt_tokens": 10, "completion_tokens": 5}
            with self.lock:
                self.answered[prompt] += 1
            self.send(request, 200, json.dumps(answer).encode())

    def pass_on(self, request, body, prompt, *, cut):
        url = self.upstream + request.path.removeprefix("/v1")
        post = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(post, timeout=60) as answer:
                status, data = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, data = error.code, error.read()
        if cut:
            request.close_connection = True
            return
        if status == 200:
            with self.lock:
                self.answered[prompt] += 1
        self.send(request, status, data)

    def send(self, request, status, data, headers=None):
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)


@contextmanager
def endpoint(**given):
    """A running stand-in."""
    made = Endpoint(**given)
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.closing.set()
        made.server.shutdown()
        made.server.server_close()
        thread.join()
