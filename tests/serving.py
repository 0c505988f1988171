"""The real application in the test's own event loop, over real sockets, in front of a scripted engine."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import httpx
import uvicorn

from server.app import create_app
from server.config import Config
from server.gateway import Gateway
from server.serving import http
from tests.fake_engine import until, within

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused, but httpx would read all certificates for every client
NO_ALGEBRA = {"maths": "never"}  # its process takes longer to start than most tests here


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopped = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals are the test run's."""
        yield

    async def main_loop(self) -> None:
        """Ends when told to, not at the next tenth of a second."""
        await self.on_tick(0)
        await self.stopped.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Without the tenth of a second that is meant for connections: there are none any more."""
        for listener in self.servers:
            listener.close()
            await listener.wait_closed()
        await self.lifespan.shutdown()


class Served:
    """A gateway that listens, and a client of it."""

    def __init__(self, gateway: Gateway, port: int, client: httpx.AsyncClient) -> None:
        self.gateway = gateway
        self.port = port
        self.client = client

    async def chat(
        self, strategy: str = "single", *, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json=body(strategy, **fields), headers=headers)

    async def idle(self) -> None:
        """No request in flight, no sequence on the engine, as the metrics say too."""
        await until(lambda: self.gateway.in_flight == 0 and self.gateway.engine.running == 0, "being idle")
        page = (await self.client.get("/metrics")).text
        assert "\napportion_requests_in_flight 0.0\n" in page
        assert "\napportion_engine_running_sequences 0.0\n" in page


def body(strategy: str = "single", *, content: str = "How much is 3 + 4?", **fields: Any) -> dict[str, Any]:
    """A request's body. apportion: beside the strategy."""
    own = {"strategy": strategy, **fields.pop("apportion", {})}
    return {"messages": [{"role": "user", "content": content}], "apportion": own, **fields}


@asynccontextmanager
async def serving(url: str, *, ready: bool = True, **sections: Mapping[str, Any]) -> AsyncGenerator[Served, None]:
    """A gateway for an engine; sections: of the configuration."""
    engine = {"url": url, **sections.get("engine", {})}
    config = Config.model_validate({"answers": NO_ALGEBRA, **sections, "engine": engine})
    app = create_app(config)
    options = http(app, config, lifespan="on")
    options.port = 0
    server = _Server(options)
    task = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started or task.done(), "the start of the gateway")
        gateway = cast("Gateway", app.state.gateway)
        if ready:
            await until(lambda: gateway.ready, "the probe of the engine")
        port = int(server.servers[0].sockets[0].getsockname()[1])
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False, verify=NO_TLS) as client:
            served = Served(gateway, port, client)
            yield served
            await served.idle()
        await until(lambda: not server.server_state.connections, "the client's leaving")
    finally:
        server.stopped.set()
        await within(task)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object, in OpenAI's shape."""
    assert response.headers["content-type"].startswith("application/json")
    content = response.json()
    assert set(content) == {"error"}
    assert set(content["error"]) == {"message", "type", "param", "code"}
    return content["error"]


def events_of(text: str) -> list[Any]:
    """The events of a stream, checked for what the OpenAI SDKs can't take. [DONE] as a string."""
    assert text.endswith("\n\n")
    events: list[Any] = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        for line in block.split("\n"):
            assert line.startswith(("data: ", ":")), f"not for the SDKs: {line!r}"
            if line.startswith("data: "):
                shown = line.removeprefix("data: ")
                events.append(shown if shown == "[DONE]" else json.loads(shown))
    return events
