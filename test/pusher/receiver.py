"""A target on 127.0.0.1 that behaves like WeCom, DingTalk, Feishu and a Standard Webhooks receiver.

Answers are scripted per path; what is not scripted gets the provider's own answer, which says no
when a signature is wrong. Plain sockets, so that it can misbehave: reset, hang, flood.
"""
import base64
import hashlib
import hmac
import json
import socket
import ssl
import struct
import threading
import time
from urllib.parse import parse_qs, urlsplit

OK = {"errcode": 0, "errmsg": "ok"}


class Request:
    def __init__(self, connection, method, target, headers, body):
        self.connection = connection
        self.method = method
        self.target = target
        self.path = urlsplit(target).path
        self.query = {k: v[0] for k, v in parse_qs(urlsplit(target).query).items()}
        self.headers = headers
        self.body = body

    def json(self):
        return json.loads(self.body.decode("utf-8"))


class Answer:
    """One scripted answer. kind: http, reset, reset_mid, hang, flood, gate."""

    def __init__(self, kind="http", status=200, body=OK, headers=None):
        self.kind = kind
        self.status = status
        self.headers = dict(headers or {})
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


class Receiver:
    def __init__(self, certificate=None, secrets=None):
        self.secrets = secrets or {}
        self.requests = []
        self.connections = 0
        self.flooded = 0
        self.waiting = 0
        self.most_waiting = 0
        self.scripts = {}
        self.gate = threading.Event()
        self.lock = threading.Lock()
        self.closing = False
        self.tls = None
        if certificate:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*certificate)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, target, host="127.0.0.1"):
        return "%s://%s:%d%s" % ("https" if self.tls else "http", host, self.port, target)

    def script(self, path, *answers):
        """Answers to the next requests of a path, in order; after them the provider's own."""
        with self.lock:
            self.scripts[path] = list(answers)

    def seen(self, path):
        with self.lock:
            return [r for r in self.requests if r.path == path]

    def close(self):
        self.closing = True
        self.gate.set()
        self.listener.close()

    # ------------------------------------------------------------ connections

    def _accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.connections += 1
                number = self.connections
            threading.Thread(target=self._serve, args=(peer, number), daemon=True).start()

    def _serve(self, peer, number):
        try:
            if self.tls:
                peer = self.tls.wrap_socket(peer, server_side=True)
            stream = peer.makefile("rb")
            while not self.closing:
                request = self._read(stream, number)
                if request is None:
                    break
                with self.lock:
                    self.requests.append(request)
                    script = self.scripts.get(request.path)
                    answer = script.pop(0) if script else None
                if not self._answer(peer, answer or self._provider(request), request):
                    break
        except (OSError, ValueError):
            pass
        finally:
            peer.close()

    @staticmethod
    def _read(stream, number):
        line = stream.readline().decode("latin-1").split()
        if len(line) != 3:
            return None
        headers = {}
        while True:
            h = stream.readline().decode("latin-1").rstrip("\r\n")
            if not h:
                break
            name, _, value = h.partition(":")
            headers[name.strip().lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", "0")))
        return Request(number, line[0], line[1], headers, body)

    def _answer(self, peer, answer, request):
        """Sends one answer; False ends the connection."""
        if answer.kind == "reset":
            self._reset(peer)
            return False
        if answer.kind in ("gate", "hang"):
            with self.lock:
                self.waiting += 1
                self.most_waiting = max(self.most_waiting, self.waiting)
            if answer.kind == "gate":
                self.gate.wait(60)
            else:
                peer.recv(1)  # until the client gives up
            with self.lock:
                self.waiting -= 1
            if answer.kind == "hang":
                return False
            answer = self._provider(request)
        head = "HTTP/1.1 %d X\r\n" % answer.status
        headers = {"Content-Type": "application/json", "Content-Length": str(len(answer.body))}
        headers.update(answer.headers)
        if answer.kind == "reset_mid":
            headers["Content-Length"] = str(len(answer.body) + 1000)
        if answer.kind == "flood":
            headers.pop("Content-Length")
        head += "".join("%s: %s\r\n" % h for h in headers.items()) + "\r\n"
        peer.sendall(head.encode("latin-1") + answer.body)
        if answer.kind == "reset_mid":
            self._reset(peer)
            return False
        if answer.kind == "flood":
            while True:
                peer.sendall(b"x" * 65536)
                self.flooded += 65536
        return True

    @staticmethod
    def _reset(peer):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()

    # ------------------------------------------------------------ providers

    def _provider(self, r):
        if r.path == "/cgi-bin/webhook/send":
            return self._wecom(r)
        if r.path == "/robot/send":
            return self._dingtalk(r)
        if r.path.startswith("/open-apis/bot/v2/hook/"):
            return self._feishu(r)
        if r.path.startswith("/hook"):
            return self._standard(r)
        return Answer(status=404, body={"error": "no such path"})

    def _wecom(self, r):
        if r.query.get("key") != self.secrets.get("wecom"):
            return Answer(body={"errcode": 93000, "errmsg": "invalid webhook url"})
        message = r.json()
        if not isinstance(message.get(message.get("msgtype")), dict):
            return Answer(body={"errcode": 40008, "errmsg": "invalid message type"})
        return Answer()

    def _dingtalk(self, r):
        secret = self.secrets["dingtalk"]
        stamp = r.query.get("timestamp", "")
        want = hmac.new(secret.encode(), ("%s\n%s" % (stamp, secret)).encode(), hashlib.sha256)
        sign = base64.b64encode(want.digest()).decode()
        fresh = stamp.isdigit() and abs(int(stamp) / 1000 - time.time()) < 3600
        if r.query.get("sign") != sign or not fresh:
            return Answer(body={"errcode": 310000, "errmsg": "sign not match"})
        return Answer()

    def _feishu(self, r):
        message = r.json()
        stamp = message.get("timestamp", "")
        key = "%s\n%s" % (stamp, self.secrets["feishu"])
        sign = base64.b64encode(hmac.new(key.encode(), b"", hashlib.sha256).digest()).decode()
        fresh = isinstance(stamp, str) and stamp.isdigit() and abs(int(stamp) - time.time()) < 3600
        if message.get("sign") != sign or not fresh:
            return Answer(body={"code": 19021, "msg": "sign match fail"})
        return Answer(body={"StatusCode": 0, "StatusMessage": "success", "code": 0, "data": {}, "msg": "success"})

    def _standard(self, r):
        key = base64.b64decode(self.secrets["webhook"].removeprefix("whsec_"))
        ident = r.headers.get("webhook-id", "")
        stamp = r.headers.get("webhook-timestamp", "")
        signed = ("%s.%s." % (ident, stamp)).encode() + r.body
        want = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        if want not in r.headers.get("webhook-signature", "").split() or not ident:
            return Answer(status=401, body={"error": "signature"})
        if abs(int(stamp) - time.time()) > 300:
            return Answer(status=401, body={"error": "timestamp"})
        return Answer(status=200, body={"ok": True})
