"""Who may ask: a token, the right Host, the right Origin; and headers that bind the browser.

A page of another site cannot read the token, so it has no cookie (SameSite);
its WebSockets have the wrong Origin; a name that was rebound to our address is
the wrong Host.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, Collection

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer.  Pictures may be data: the shape of a guest's pointer is."""


class Guard:
    """Checks each request, before anything else is done with it.

    ``hosts`` are the names that the server has, without a port.
    """

    def __init__(self, hosts: Collection[str], port: int) -> None:
        self.token = secrets.token_urlsafe(24)
        self._session = secrets.token_urlsafe(24)
        # Cookies do not know ports: another server's must not be overwritten.
        self._cookie = f"vdxgk-{port}"
        self._hosts = {f"{host}:{port}" for host in hosts} | (set(hosts) if port == 80 else set())
        self._origins = {f"http://{host}" for host in self._hosts}

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request pass, exchange a token for a cookie, or refuse."""
        if request.headers.getall("Host", []) != [request.host] or request.host not in self._hosts:
            raise web.HTTPMisdirectedRequest(text="This server has another name.\n")
        if not self._origin_is_ours(request):
            raise web.HTTPForbidden(text="Another site's page asks; it gets nothing.\n")
        if request.path == "/" and "token" in request.query:
            raise self._exchange(request.query["token"])
        if not _same(request.cookies.get(self._cookie, ""), self._session):
            raise _unauthorized()
        return await handler(request)

    def _origin_is_ours(self, request: web.Request) -> bool:
        origins = request.headers.getall("Origin", [])
        # Browsers always name the origin of a WebSocket.
        if not origins:
            return "Upgrade" not in request.headers
        return len(origins) == 1 and origins[0] in self._origins

    def _exchange(self, token: str) -> web.HTTPException:
        if not _same(token, self.token):
            return _unauthorized()
        answer = web.HTTPSeeOther("/")
        answer.set_cookie(self._cookie, self._session, httponly=True, samesite="Strict", path="/")
        return answer


def _same(given: str, ours: str) -> bool:
    return hmac.compare_digest(given.encode(errors="surrogateescape"), ours.encode())


def _unauthorized() -> web.HTTPException:
    return web.HTTPUnauthorized(
        text="The address that vdxgk printed holds a token: open that one.\n"
    )


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """On every answer, refusals too."""
    response.headers.update(HEADERS)
    response.headers.popall("Server", None)
    if not isinstance(response, web.WebSocketResponse):
        response.force_close()  # a connection carries one request
