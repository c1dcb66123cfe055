"""A shop platform's API on 127.0.0.1: pages of orders, in three ways to page, behind a bearer token.

What is scripted for a path comes first (see receiver.py); here are more ways to misbehave.
"""
import gzip
import json
import time

from receiver import Answer, Receiver

TOKEN = "tok-4f1c-very-secret"
PER_PAGE = 10


def order(number):
    return {"order_id": "o%03d" % number, "amount": "%d.50" % number, "note": "订单 \"%d\" 😀" % number}


def packed(body, **more):
    """An answer that is compressed, asked for or not."""
    headers = {"Content-Encoding": "gzip", **more}
    return Answer(body=gzip.compress(body), headers=headers)


class Api(Receiver):
    """kinds beyond the receiver's: ends_early (promises more, then ends in good order), promises_less,
    chunk_break (the connection ends between two chunks), drip (a byte now and then), drip_headers (the
    same before the body), raw (the body is the whole answer, status line and all; then the end),
    raw_on (the connection stays)."""

    def __init__(self, orders=25, certificate=None):
        super().__init__(certificate=certificate)
        self.orders = [order(n) for n in range(1, orders + 1)]

    def _answer(self, peer, answer, request):
        body = answer.body
        head = "HTTP/1.1 %d X\r\nContent-Type: application/json\r\n" % answer.status
        if answer.kind == "ends_early":
            peer.sendall((head + "Content-Length: %d\r\n\r\n" % (len(body) + 5)).encode() + body)
            return False
        if answer.kind == "promises_less":
            peer.sendall((head + "Content-Length: %d\r\n\r\n" % (len(body) - 5)).encode() + body)
            return False
        if answer.kind == "chunk_break":
            peer.sendall((head + "Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body)).encode() + body + b"\r\n")
            return False
        if answer.kind == "drip":
            peer.sendall((head + "Content-Length: 1000\r\n\r\n").encode())
            for _ in range(1000):
                peer.sendall(b"x")
                time.sleep(0.05)  # the misbehaviour itself
            return False
        if answer.kind == "drip_headers":
            peer.sendall(b"HTTP/1.1 200 X\r\n")
            for n in range(1000):
                peer.sendall(b"X-%d: y\r\n" % n)
                time.sleep(0.05)  # the misbehaviour itself
            return False
        if answer.kind in ("raw", "raw_on"):
            peer.sendall(body)
            return answer.kind == "raw_on"
        return super()._answer(peer, answer, request)

    def _provider(self, r):
        if r.headers.get("authorization") != "Bearer " + TOKEN:
            return Answer(status=401, body={"error": "token"})
        page = int(r.query.get("page", "1"))
        part = self.orders[(page - 1) * PER_PAGE:page * PER_PAGE]
        more = page * PER_PAGE < len(self.orders)
        following = self.url("%s?date=%s&page=%d" % (r.path, r.query.get("date", ""), page + 1))
        if r.path == "/jsonpath":
            return Answer(body={"data": {"orders": part, "next": following if more else None}})
        if r.path == "/link":
            link = '<%s>; rel="first"\r\nLINK: <%s>; rel="%s"' % (self.url("/first"), following, "next" if more else "last")
            return Answer(body={"data": {"orders": part}}, headers={"Link": link})
        if r.path == "/number":
            return Answer(body={"data": {"orders": part}})
        return Answer(status=404, body={"error": "no such path"})


def body_of(orders):
    return json.dumps({"data": {"orders": orders}}, ensure_ascii=False).encode()
