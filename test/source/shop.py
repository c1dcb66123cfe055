"""A shop platform's API on 127.0.0.1: a day's orders in pages, behind a token, with trouble on the way."""
import json
import re

from api import Api
from receiver import Answer

DAY = "2026-03-01"
TOKEN = "tok/9c41+very secret=="
KEY = "key-77e0-not-for-logs"
PER_PAGE = 8


def text_of(body):
    """JSON in which "@1.50@" is the number 1.50, to the last digit."""
    return re.sub(r'"@([^"@]*)@"', r"\1", json.dumps(body, ensure_ascii=False)).encode()


class Shop(Api):
    """Orders of DAY: /v1/orders maps by jsonpath and pages by data.next, /v2/orders is as ecstats_order takes it and
    pages by Link. What trouble[path, page] holds is answered first: an Answer, or how the page itself is broken off."""

    def __init__(self):
        super().__init__()
        self.secrets = {"wecom": "ops-key"}
        self.trouble = {}
        self.first = [self._first(n) for n in range(1, 21)]
        self.second = [self._second(n) for n in range(1, 13)]

    @staticmethod
    def _first(n):
        lines = [{"no": 1, "sku": "茶-%d" % n, "n": n % 3 + 1, "total": "@%d.10@" % n}, {"no": 2, "sku": "cup", "n": 1, "total": "%d.05" % n}]
        if n == 20:
            lines = [{"no": 1, "sku": "coat", "n": 1, "total": "@12345678901234567.89@"}]
        if n == 19:
            lines = [{"no": 1, "sku": "coat", "n": -1, "total": "@-9.90@"}]
        return {"id": 88000000000000000 + n, "created": "2026-03-01 %02d:%02d:01.25" % (n % 24, n), "buyer": {"id": n % 7} if n % 4 else None,
                "state": "cancelled" if n % 10 == 0 else "placed", "paid": "2026-03-01T23:59:59.999" if n % 3 else None,
                "province": "上海" if n % 2 else None, "note": "礼物 \"%d\" \\ 😀" % n, "lines": lines}

    @staticmethod
    def _second(n):
        return {"order_id": "w-%02d" % n, "order_time": "2026-03-01T%02d:00:00+00:00" % n, "user_id": "web%d" % (n % 5), "channel": "web",
                "items": [{"product_id": "p%d" % n, "quantity": 2, "amount": "@%d.99@" % n}, {"product_id": "q", "quantity": 1, "amount": "@0.01@"}]}

    def pages_of_first(self):
        """Three pages; the order at the end of the first goes on on the second."""
        pages = [self.first[n:n + PER_PAGE] for n in range(0, len(self.first), PER_PAGE)]
        cut = pages[0][-1]
        pages[0] = pages[0][:-1] + [{**cut, "lines": cut["lines"][:1]}]
        pages[1] = [{**cut, "lines": cut["lines"][1:]}] + pages[1]
        return pages

    def _provider(self, r):
        if r.path == "/cgi-bin/webhook/send":
            return self._wecom(r)
        if r.path not in ("/v1/orders", "/v2/orders"):
            return Answer(status=404, body={"error": "no such path"})
        page = int(r.query["page"])
        given = r.headers.get("authorization", ""), r.headers.get("x-api-key", "")
        if given[r.path == "/v2/orders"] != ("Bearer " + TOKEN if r.path == "/v1/orders" else TOKEN) or r.query.get("date") != DAY:
            # an API that says too much
            return Answer(status=404, body={"error": "nothing for %s of %s with %s" % (r.query.get("date"), given, r.target)})
        whole = self._first_page(page) if r.path == "/v1/orders" else self._second_page(page)
        with self.lock:
            trouble = self.trouble.get((r.path, page))
            trouble = trouble.pop(0) if trouble else None
        if trouble in ("reset_mid", "ends_early", "promises_less"):
            return Answer(trouble, body=whole.body, headers=whole.headers)
        return trouble or whole

    def _first_page(self, page):
        pages = self.pages_of_first()
        following = self.url("/v1/orders?date=%s&page=%d&key=%s" % (DAY, page + 1, KEY)) if page < len(pages) else None
        return Answer(body=text_of({"data": {"orders": pages[page - 1], "next": following}}))

    def _second_page(self, page):
        part = self.second[(page - 1) * PER_PAGE:page * PER_PAGE]
        last = page * PER_PAGE >= len(self.second)
        link = '</v2/orders?date=%s&page=1>; rel="first"' % DAY + ("" if last else ', </v2/orders?date=%s&page=%d>; rel="next"' % (DAY, page + 1))
        return Answer(body=text_of(part), headers={"Link": link})
