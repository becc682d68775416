"""Clients of AWS by botocore, whose blocking calls run in threads; it is loaded with the first call."""

from __future__ import annotations

import asyncio
from typing import Any

from lb.config.schema.pools.platforms import AwsConfig
from lb.platforms.error import MissingError, PlatformError

CONNECT_TIMEOUT = 5  # s
READ_TIMEOUT = 8  # s


class Aws:
    """One user of AWS. `call(service, operation, …)` gives the answer of an operation as botocore has it."""

    def __init__(self, options: AwsConfig) -> None:
        self._options = options
        self._session: Any = None
        self._clients: dict[str, Any] = {}
        self._lock = asyncio.Lock()

    async def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Raises PlatformError; MissingError for a group or target group that does not exist."""
        answer = await self._translated(service, operation, lambda c: getattr(c, operation)(**parameters))
        return dict(answer)

    async def pages(self, service: str, operation: str, key: str, **parameters: Any) -> list[dict[str, Any]]:
        """All items of an operation that answers in pages."""

        def read(client: Any) -> list[dict[str, Any]]:
            pages = client.get_paginator(operation).paginate(**parameters)
            return [item for page in pages for item in page.get(key) or ()]

        found: list[dict[str, Any]] = await self._translated(service, operation, read)
        return found

    async def close(self) -> None:
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.close()

    async def _translated(self, service: str, operation: str, ask: Any) -> Any:
        try:
            import botocore.exceptions
        except ImportError:
            raise PlatformError("AWS needs the package botocore: pip install 'tidegate[aws]'") from None
        try:
            async with self._lock:  # a session is for one thread at a time
                client = self._clients.get(service)
                if client is None:
                    client = self._clients[service] = await asyncio.to_thread(self._make, service)
            return await asyncio.to_thread(ask, client)
        except botocore.exceptions.ClientError as error:
            said = error.response.get("Error", {})
            kind = MissingError if str(said.get("Code", "")).endswith("NotFound") else PlatformError
            raise kind(_line(f"{service} {operation}: {said.get('Code')}: {said.get('Message')}")) from None
        except (botocore.exceptions.BotoCoreError, OSError) as error:
            raise PlatformError(_line(f"{service} {operation}: {error}")) from None

    def _make(self, service: str) -> Any:
        import botocore.config
        import botocore.session

        if self._session is None:
            self._session = botocore.session.Session(profile=self._options.profile)
        # Retries are the caller's, which waits longer with each and asks anew what is so.
        config = botocore.config.Config(
            connect_timeout=CONNECT_TIMEOUT, read_timeout=READ_TIMEOUT, retries={"total_max_attempts": 1}
        )
        return self._session.create_client(
            service, region_name=self._options.region, endpoint_url=self._options.endpoint_url, config=config
        )


async def private_addresses(aws: Aws, instances: list[str]) -> dict[str, str]:
    """The private IPv4 address of each of these instances that has one."""
    if not instances:
        return {}
    found = await aws.pages("ec2", "describe_instances", "Reservations", InstanceIds=sorted(instances))
    rows = [row for reservation in found for row in reservation.get("Instances") or ()]
    return {row["InstanceId"]: row["PrivateIpAddress"] for row in rows if row.get("PrivateIpAddress")}


def _line(text: str) -> str:
    return " ".join(text.split())
