"""An endpoint that answers with the head that it got, and curl to ask with."""

from __future__ import annotations

import asyncio
import subprocess

from aiohttp import web


class Echo:
    """Answers with the head that it got."""

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.address = f"127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        fields = [(name.lower(), value) for name, value in request.headers.items()]
        return web.json_response({"target": request.raw_path, "fields": fields, "body": len(body)})


async def curl(*arguments: str) -> str:
    done = await asyncio.to_thread(
        subprocess.run, ["curl", "-sS", "--noproxy", "*", *arguments], capture_output=True, text=True, timeout=60
    )
    return done.stdout + done.stderr
