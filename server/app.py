"""The ASGI application."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from server import errors, gateway
from server.access.middleware import AccessMiddleware
from server.api import chat, completions, document, feedback, models, passthrough, status
from server.api.base_url import BaseUrl
from server.api.responses import route as responses
from server.config import Config

logger = logging.getLogger("apportion")
# what a page in a browser may read, beside what it always may
_READABLE = (
    "retry-after", "server-timing", "x-request-id", "x-apportion-strategy", "x-apportion-tokens",
    *(f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset") for kind in ("requests", "tokens")),
)  # fmt: skip


def create_app(config: Config, *, progress: Callable[[str], None] = logger.info) -> FastAPI:
    """An application for one configuration. Its engine starts and stops with the application's lifespan.

    Raises nothing here; a model or an embedded engine that can't be used fails the start-up with one clear sentence.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with gateway.running(config, progress=progress) as running:
            app.state.gateway = running
            yield

    # a redirect from /x/ to /x would go to the host that the request names, and leave out the base URL's word
    app = FastAPI(title="Apportion", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    errors.install(app)
    for module in (chat, responses, completions, models, feedback, status):
        app.include_router(module.router)
    app.router.default = passthrough.app
    document.install(app, config)
    app.add_middleware(BaseUrl, config=config)  # each one added is around those before
    app.add_middleware(AccessMiddleware)
    if config.access.cors_origins:  # the outermost: browsers ask beforehand, without a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.access.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_READABLE,
        )
    return app
