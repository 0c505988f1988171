"""The ASGI application."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable

from fastapi import FastAPI

from server import errors, gateway
from server.api import chat, models, status
from server.api.base_url import BaseUrl
from server.api.responses import route as responses
from server.config import Config

logger = logging.getLogger("apportion")


def create_app(config: Config, *, progress: Callable[[str], None] = logger.info) -> FastAPI:
    """An application for one configuration. Its engine starts and stops with the application's lifespan.

    Raises nothing here; a model or an embedded engine that can't be used fails the start-up with one clear sentence.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with gateway.running(config, progress=progress) as running:
            app.state.gateway = running
            yield

    app = FastAPI(title="Apportion", docs_url=None, redoc_url=None, lifespan=lifespan)
    errors.install(app)
    app.add_middleware(BaseUrl, config=config)
    for module in (chat, responses, models, status):
        app.include_router(module.router)
    return app
