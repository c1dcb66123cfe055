#!/usr/bin/python3
"""A loopback stand-in for the robots of WeCom and DingTalk.

    receiver.py DIR

Listens on a free port of 127.0.0.1, written to DIR/receiver.port. It answers as the providers do, with
HTTP 200 and the verdict in errcode, and keeps what it accepted: a line of JSON in DIR/received.jsonl and
the message alone in DIR/messages/. What it refuses is in the log only.

    POST /cgi-bin/webhook/send?key=demo-key                          WeCom
    POST /robot/send?access_token=demo-token&timestamp=…&sign=…      DingTalk, signed with SECRET
"""
import base64
import datetime
import hashlib
import hmac
import http.server
import json
import os
import sys
import threading
import time
import urllib.parse

KEY = "demo-key"
TOKEN = "demo-token"
SECRET = "SECdemo0000000000000000000000000000000000"
PER_MINUTE = 20


class Refused(Exception):
    """An answer with an errcode other than 0."""

    def __init__(self, errcode, errmsg):
        super().__init__(errmsg)
        self.answer = {"errcode": errcode, "errmsg": errmsg}


class Window:
    """At most so many messages in a minute and robot."""

    def __init__(self):
        self.lock = threading.Lock()
        self.seen = {}

    def full(self, robot):
        now = time.monotonic()
        with self.lock:
            recent = [t for t in self.seen.get(robot, []) if now - t < 60]
            full = len(recent) >= PER_MINUTE
            self.seen[robot] = recent if full else recent + [now]
        return full


def text_of(message, kind, member):
    """The text of a message of that kind, which must not be empty."""
    part = message.get(kind)
    text = part.get(member) if isinstance(part, dict) else None
    if not isinstance(text, str) or text == "":
        return None
    return text


def wecom(query, body, window):
    if query.get("key") != [KEY]:
        raise Refused(93000, "invalid webhook url")
    message = parse(body, 40033)
    kind = message.get("msgtype")
    limits = {"text": 2048, "markdown": 4096, "markdown_v2": 4096}
    if kind not in limits:
        raise Refused(40008, "invalid message type")
    text = text_of(message, kind, "content")
    if text is None:
        raise Refused(44004, "empty content")
    if len(text.encode("utf-8")) > limits[kind]:
        raise Refused(40058, "%s.content exceed max length %d" % (kind, limits[kind]))
    if window.full("wecom"):
        raise Refused(45009, "api freq out of limit")
    return None, text


def dingtalk(query, body, window):
    if query.get("access_token") != [TOKEN]:
        raise Refused(300005, "token is not exist")
    check_sign(query)
    if len(body) > 20000:
        raise Refused(460101, "message too long, exceed 20000 bytes")
    message = parse(body, 40035)
    kind = message.get("msgtype")
    if kind not in ("text", "markdown"):
        raise Refused(400105, "unsupported msgtype")
    title = text_of(message, "markdown", "title")
    text = text_of(message, kind, "text" if kind == "markdown" else "content")
    if text is None or (kind == "markdown" and title is None):
        raise Refused(40035, "missing parameter")
    if window.full("dingtalk"):
        raise Refused(130101, "send too fast, exceed 20 times per minute")
    return title, text


def check_sign(query):
    """timestamp in milliseconds, not an hour off, and base64(HMAC-SHA256(secret, timestamp LF secret))."""
    stamp = query.get("timestamp", [""])[0]
    if not stamp.isdigit() or abs(time.time() * 1000 - int(stamp)) > 3600 * 1000:
        raise Refused(310000, "invalid timestamp")
    digest = hmac.new(SECRET.encode(), ("%s\n%s" % (stamp, SECRET)).encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(query.get("sign", [""])[0].encode(), base64.b64encode(digest)):
        raise Refused(310000, "sign not match")


def parse(body, errcode):
    try:
        message = json.loads(body.decode("utf-8"))
    except ValueError:
        raise Refused(errcode, "invalid json") from None
    if not isinstance(message, dict):
        raise Refused(errcode, "invalid json")
    return message


PROVIDERS = {"/cgi-bin/webhook/send": ("wecom", wecom), "/robot/send": ("dingtalk", dingtalk)}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "receiver"
    sys_version = ""

    def do_POST(self):
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        provider, judge = PROVIDERS.get(url.path, (None, None))
        if provider is None:
            self.answer(404, {"errcode": 404, "errmsg": "no such path"})
            return
        try:
            if not self.headers.get("Content-Type", "").startswith("application/json"):
                raise Refused(43004, "invalid Content-Type")
            title, text = judge(urllib.parse.parse_qs(url.query), body, self.server.window)
        except Refused as refusal:
            self.log_message("%s refused: %s", provider, json.dumps(refusal.answer))
            self.answer(200, refusal.answer)
            return
        self.server.keep(provider, title, text, len(body))
        self.answer(200, {"errcode": 0, "errmsg": "ok"})

    def answer(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, code="-", size="-"):
        """The path holds credentials: only what happened is logged."""
        self.log_message("%s %s", urllib.parse.urlsplit(self.path).path, code)


class Receiver(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.window = Window()
        self.lock = threading.Lock()
        self.count = 0

    def keep(self, provider, title, text, size):
        at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        with self.lock:
            self.count += 1
            name = os.path.join(self.folder, "messages", "%02d-%s.md" % (self.count, provider))
            with open(name, "w", encoding="utf-8") as file:
                file.write(text + "\n")
            entry = {"at": at, "provider": provider, "title": title, "bytes": size, "text": text}
            with open(os.path.join(self.folder, "received.jsonl"), "a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def main():
    folder = sys.argv[1]
    os.makedirs(os.path.join(folder, "messages"), exist_ok=True)
    receiver = Receiver(folder)
    port = os.path.join(folder, "receiver.port")
    with open(port + ".new", "w", encoding="ascii") as file:
        file.write("%d\n" % receiver.server_address[1])
    os.rename(port + ".new", port)
    receiver.serve_forever()


if __name__ == "__main__":
    main()
