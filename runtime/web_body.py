"""The body of a request from a stranger: of limited size, in limited time."""

from __future__ import annotations

import asyncio

from aiohttp import web

LARGEST_BODY = 16 * 1024  # bytes, more is answered with 413
_BODY_S = 10.0


async def read_body(request: web.Request) -> bytes:
    """Return the body. Raises HTTPRequestTimeout where it takes too long, HTTPRequestEntityTooLarge where it is too large."""
    try:
        return await asyncio.wait_for(request.read(), _BODY_S)
    except asyncio.TimeoutError:
        raise web.HTTPRequestTimeout(text="the body took too long\n") from None
