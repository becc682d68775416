"""Calls that change model servers: to every endpoint of a pool, over REST, gRPC and gRPC-Web, where routes allow."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import grpc
import pytest
from datapath import Gate, Site, settle
from infer_site import error_of, gate_to, idle
from oip_site import Answer, ModelServer, ask, request

from lb.config.plan.routes import SERVER_CALLS
from lb.control.endpoints.server_calls import Rules
from lb.inference.server_calls import Kind
from lb.wire import grpc_service_pb2 as wire

SERVICE = "/inference.GRPCInferenceService/"
ALL = {"server_calls": int(Kind.MODELS | Kind.SETTINGS | Kind.SHARED_MEMORY)}


class Changing(ModelServer):
    """A model server that can be changed as Triton's can; it remembers in which order, and fails as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, Any]] = []
        self.models: set[str] = set()
        self.log: dict[str, Any] = {}
        self.regions: dict[str, Any] = {}
        self.failing: dict[str, str] = {}  # method -> message of its errors
        self.slow: dict[str, asyncio.Event] = {}  # model -> when it is loaded
        self.running = 0
        self.most = 0  # loads and unloads at once

    async def start(self) -> str:
        methods = [
            "RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings", "SystemSharedMemoryStatus",
            "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
        ]  # fmt: skip
        handlers = {name: grpc.unary_unary_rpc_method_handler(self._change(name)) for name in methods}
        service = "inference.GRPCInferenceService"
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        return await super().start()

    def _manage(self, method: str) -> Any:
        if method != "ModelReady":
            return super()._manage(method)

        async def ready(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            name = wire.ModelReadyRequest.FromString(data).name
            return bytes(wire.ModelReadyResponse(ready=name in self.models).SerializeToString())

        return ready

    def methods(self) -> list[str]:
        return [method for method, _ in self.told]

    def _change(self, method: str) -> Any:
        async def change(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            sent = getattr(wire, f"{method}Request").FromString(data)
            self.told.append((method, sent))
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                if method == "RepositoryModelLoad" and sent.model_name in self.slow:
                    await self.slow[sent.model_name].wait()
                if method in self.failing:
                    await context.abort(grpc.StatusCode.INTERNAL, self.failing[method])
                return bytes((await getattr(self, f"_{method}")(sent, context)).SerializeToString())
            finally:
                self.running -= 1

        return change

    async def _RepositoryModelLoad(self, sent: Any, _: Any) -> Any:
        self.models.add(sent.model_name)
        return wire.RepositoryModelLoadResponse()

    async def _RepositoryModelUnload(self, sent: Any, _: Any) -> Any:
        self.models.discard(sent.model_name)
        return wire.RepositoryModelUnloadResponse()

    async def _TraceSetting(self, sent: Any, _: Any) -> Any:
        response = wire.TraceSettingResponse()
        response.settings["trace_level"].value.extend(["OFF"])
        response.settings["trace_rate"].value.extend(["1000"])
        for name, value in sent.settings.items():
            del response.settings[name].value[:]
            response.settings[name].value.extend(value.value)
        return response

    async def _LogSettings(self, sent: Any, _: Any) -> Any:
        for name, value in sent.settings.items():
            self.log[name] = value
        response = wire.LogSettingsResponse()
        for name, value in self.log.items():
            response.settings[name].MergeFromString(value.SerializeToString())
        return response

    async def _SystemSharedMemoryStatus(self, sent: Any, _: Any) -> Any:
        status = wire.SystemSharedMemoryStatusResponse.RegionStatus
        found = {name: status(name=name, key=r.key, byte_size=r.byte_size) for name, r in self.regions.items()}
        return wire.SystemSharedMemoryStatusResponse(regions=found)

    async def _SystemSharedMemoryRegister(self, sent: Any, context: Any) -> Any:
        if sent.name in self.regions:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "it is there")
        self.regions[sent.name] = sent
        return wire.SystemSharedMemoryRegisterResponse()

    async def _SystemSharedMemoryUnregister(self, sent: Any, _: Any) -> Any:
        for name in [sent.name] if sent.name else list(self.regions):
            self.regions.pop(name, None)
        return wire.SystemSharedMemoryUnregisterResponse()


async def servers_at(site: Site, number: int = 2, **route: Any) -> tuple[Gate, list[Changing]]:
    servers = [Changing() for _ in range(number)]
    return await gate_to(site, *servers, route={**ALL, **route}), servers


async def post(gate: Gate, path: str, body: Any = b"") -> Answer:
    return await ask(gate, body, path)


async def get(gate: Gate, path: str) -> Any:
    answer = await ask(gate, path=path, method="GET")
    assert answer.status == 200, answer.body
    return answer.json


async def by_grpc(gate: Gate, method: str, **fields: Any) -> Any:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        sent = getattr(wire, f"{method}Request")(**fields)
        return getattr(wire, f"{method}Response").FromString(
            await channel.unary_unary(SERVICE + method)(sent.SerializeToString())
        )


async def rise(gate: Gate, address: str) -> None:
    """An endpoint that was down comes up, as the master's health states would have it."""
    up = asyncio.Event()
    if gate.master.server_calls.hold("pool", address, up.set):
        await asyncio.wait_for(up.wait(), 10)


def test_the_kinds_of_the_configuration() -> None:
    assert [1 << i for i in range(len(SERVER_CALLS))] == [Kind[name.upper()] for name in SERVER_CALLS]


async def test_models_are_loaded_and_unloaded_everywhere(site: Site) -> None:
    gate, servers = await servers_at(site)
    answer = await post(gate, "/v2/repository/models/a%20b/load", {"parameters": {"config": '{"max_batch_size": 4}'}})
    assert (answer.status, answer.body) == (200, b"")
    await by_grpc(gate, "RepositoryModelLoad", model_name="c")
    for server in servers:
        assert server.models == {"a b", "c"}
        assert server.told[0][1].parameters["config"].string_param == '{"max_batch_size": 4}'
    unload = {"parameters": {"unload_dependents": True}}
    assert (await post(gate, "/v2/repository/r/models/c/unload", unload)).status == 200
    for server in servers:
        assert server.models == {"a b"}
        assert server.told[-1][1].parameters["unload_dependents"].bool_param
        assert server.told[-1][1].repository_name == "r"
    assert gate.master.models_changed == ["pool"] * 3
    addresses = [each.address for each in gate.master.plan.pools[0].endpoints]
    told = [("a b", True), ("c", True), ("c", False)]
    assert gate.master.loaded == [(address, *one) for one in told for address in addresses]
    await idle(gate)


async def test_settings(site: Site) -> None:
    gate, servers = await servers_at(site)
    answer = await post(gate, "/v2/logging", {"log_verbose_level": 2, "log_info": False, "log_file": "f"})
    assert answer.json == {"log_file": "f", "log_info": False, "log_verbose_level": 2}
    assert [server.log["log_verbose_level"].uint32_param for server in servers] == [2, 2]
    assert await get(gate, "/v2/logging") == answer.json
    trace = {"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": "5", "trace_file": None}
    answer = await post(gate, "/v2/models/m/trace/setting", trace)
    assert answer.json == {"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": "5", "trace_file": []}
    assert [server.told[-1][1].model_name for server in servers] == ["m", "m"]
    assert (await by_grpc(gate, "TraceSetting")).settings["trace_rate"].value == ["1000"]
    told = [len(server.told) for server in servers]
    await get(gate, "/v2/trace/setting")
    assert sorted(len(server.told) - before for server, before in zip(servers, told, strict=True)) == [0, 1]
    await idle(gate)


async def test_shared_memory(site: Site) -> None:
    gate, servers = await servers_at(site)
    path = "/v2/systemsharedmemory/region/r/register"
    assert (await post(gate, path, {"key": "/k", "offset": 0, "byte_size": 8})).status == 200
    assert [list(server.regions) for server in servers] == [["r"], ["r"]]
    expected = [{"name": "r", "key": "/k", "offset": 0, "byte_size": 8}]
    assert await get(gate, "/v2/systemsharedmemory/status") == expected
    assert await get(gate, "/v2/systemsharedmemory/region/r/status") == expected
    assert (await post(gate, path, {"key": "/k", "byte_size": 8})).status == 400  # it is there already
    assert (await post(gate, "/v2/systemsharedmemory/unregister")).status == 200
    assert [server.regions for server in servers] == [{}, {}]
    answer = await post(gate, "/v2/cudasharedmemory/region/c/register", {
        "raw_handle": {"b64": base64.b64encode(b"h" * 64).decode()}, "device_id": 0, "byte_size": 8,
    })  # fmt: skip
    assert answer.status == 501
    assert "CudaSharedMemoryRegister" in error_of(answer)
    await idle(gate)


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v2/repository/models/m/load", b"[", "not valid JSON"),
        ("/v2/repository/models/m/load", [], "JSON object"),
        ("/v2/repository/models/m/load", {"parameters": 1}, "'parameters'"),
        ("/v2/repository/models/m/load", {"parameters": {"p": None}}, "parameter 'p'"),
        ("/v2/repository/models/m/load", {"parameters": {"file:1/model.onnx": "*"}}, "base64"),
        ("/v2/repository/models/%ff/load", {}, "UTF-8"),
        ("/v2/logging", {"log_info": []}, "log_info"),
        ("/v2/logging", {"log_verbose_level": 2**32}, "log_verbose_level"),
        ("/v2/trace/setting", {"trace_rate": [True]}, "trace_rate"),
        ("/v2/systemsharedmemory/region/r/register", {"byte_size": 1}, "'key'"),
        ("/v2/systemsharedmemory/region/r/register", {"key": "k"}, "'byte_size'"),
        ("/v2/systemsharedmemory/region/r/register", {"key": "k", "byte_size": -1}, "'byte_size'"),
        ("/v2/cudasharedmemory/region/r/register", {"raw_handle": "x", "byte_size": 1, "device_id": 0}, "'raw_handle'"),
    ],
)
async def test_bodies_that_are_no_request(site: Site, path: str, body: Any, said: str) -> None:
    gate, (server,) = await servers_at(site, 1)
    answer = await post(gate, path, body)
    assert answer.status == 400
    assert said in error_of(answer)
    assert not server.told


async def test_verbs(site: Site) -> None:
    gate, _ = await servers_at(site, 1)
    answer = await ask(gate, path="/v2/repository/models/m/load", method="GET")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    answer = await ask(gate, path="/v2/logging", method="DELETE")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert (await post(gate, "/v2/systemsharedmemory/status")).status == 405


async def test_only_what_the_route_allows(site: Site) -> None:
    gate, (server,) = await servers_at(site, 1, server_calls=int(Kind.SETTINGS))
    assert (await post(gate, "/v2/logging", {"log_info": True})).status == 200
    answer = await post(gate, "/v2/repository/models/m/load")
    assert answer.status == 404
    assert "server_calls do not name models" in error_of(answer)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await by_grpc(gate, "SystemSharedMemoryUnregister")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "server_calls do not name shared_memory" in str(error.value.details())
    assert server.methods() == ["LogSettings"]


async def test_grpc_web(site: Site) -> None:
    gate, servers = await servers_at(site)
    message = wire.RepositoryModelLoadRequest(model_name="m").SerializeToString()
    body = b"\0" + len(message).to_bytes(4) + message
    kind = {"Content-Type": "application/grpc-web"}
    answer = await gate.exchange(request("POST", SERVICE + "RepositoryModelLoad", body, kind))
    assert b"grpc-status:0" in answer.replace(b" ", b"")
    assert [server.models for server in servers] == [{"m"}, {"m"}]


async def test_the_answer_names_who_failed_and_who_did_it(site: Site) -> None:
    gate, servers = await servers_at(site, 3)
    addresses = [endpoint.address for endpoint in gate.plan.pools[0].endpoints]
    servers[1].failing["RepositoryModelLoad"] = "no memory"
    answer = await post(gate, "/v2/repository/models/m/load")
    assert answer.status == 500
    said = error_of(answer)
    assert f"failed at 1 of 3 endpoints ({addresses[1]}: no memory)" in said
    assert said.endswith(f"done by {addresses[0]}, {addresses[2]}")
    # No requests for it go there, as it is said to do with them, until it has done it.
    assert gate.master.withheld["pool"] == {addresses[1]: frozenset({"m"})}
    servers[1].failing.clear()
    assert (await post(gate, "/v2/repository/models/m/load")).status == 200
    assert gate.master.withheld["pool"] == {}


@pytest.mark.parametrize(
    ("quorum", "failing", "status"),
    [("majority", 1, 200), ("majority", 2, 500), ("one", 2, 200), ("one", 3, 500), ("all", 1, 500)],
)
async def test_quorum(site: Site, quorum: Any, failing: int, status: int) -> None:
    gate, servers = await servers_at(site, 3)
    gate.master.rules = Rules(quorum, 5.0)
    for server in servers[:failing]:
        server.failing["RepositoryModelLoad"] = "no"
    assert (await post(gate, "/v2/repository/models/m/load")).status == status


async def test_what_all_refuse_is_passed_on_and_not_kept(site: Site) -> None:
    gate, servers = await servers_at(site)
    for server in servers:
        server.failing["RepositoryModelLoad"] = "no such model"
    answer = await post(gate, "/v2/repository/models/m/load")
    assert (answer.status, error_of(answer)) == (500, "no such model")
    assert not gate.master.server_calls.remembers("pool")
    assert gate.master.models_changed == []


async def test_an_endpoint_that_joins_is_told_first(site: Site) -> None:
    gate, (first, late) = await servers_at(site)
    address = gate.plan.pools[0].endpoints[1].address
    gate.master.down.add(address)
    for method, fields in (
        ("RepositoryModelLoad", {"model_name": "a"}),
        ("RepositoryModelLoad", {"model_name": "b"}),
        ("RepositoryModelUnload", {"model_name": "a"}),
        ("SystemSharedMemoryRegister", {"name": "r", "key": "k", "byte_size": 1}),
        ("SystemSharedMemoryRegister", {"name": "s", "key": "k", "byte_size": 1}),
        ("SystemSharedMemoryUnregister", {"name": "r"}),
    ):
        await by_grpc(gate, method, **fields)
    await post(gate, "/v2/logging", {"log_info": True, "log_verbose_level": 1})
    await post(gate, "/v2/logging", {"log_verbose_level": 3})
    assert late.told == []
    late.models = {"a"}  # which it loads by itself
    await rise(gate, address)
    assert (late.models, set(late.regions)) == ({"b"}, {"s"})
    assert {name: str(value) for name, value in late.log.items()} == {n: str(v) for n, v in first.log.items()}
    gate.master.down.clear()
    await by_grpc(gate, "RepositoryModelLoad", model_name="d")
    assert "d" in late.models


async def test_an_endpoint_that_was_away_is_told_what_it_missed_and_no_more(site: Site) -> None:
    gate, (_, late) = await servers_at(site)
    address = gate.plan.pools[0].endpoints[1].address
    await by_grpc(gate, "RepositoryModelLoad", model_name="a")
    await by_grpc(gate, "RepositoryModelLoad", model_name="b")
    gate.master.server_calls.fell("pool", address)
    gate.master.down.add(address)
    await by_grpc(gate, "RepositoryModelLoad", model_name="b")  # replaced
    late.told.clear()
    await rise(gate, address)
    assert [(method, sent.model_name) for method, sent in late.told] == [("RepositoryModelLoad", "b")]
    # One that has ended has nothing of it.
    gate.master.server_calls.ended("pool", address)
    late.told.clear()
    late.models.clear()
    await rise(gate, address)
    assert late.models == {"a", "b"}


async def test_a_model_that_the_late_cannot_load_is_withheld_from_it_alone(site: Site) -> None:
    gate, (_, late) = await servers_at(site)
    address = gate.plan.pools[0].endpoints[1].address
    gate.master.down.add(address)
    await by_grpc(gate, "RepositoryModelLoad", model_name="m")
    late.failing["RepositoryModelLoad"] = "no memory"
    await rise(gate, address)
    assert gate.master.withheld["pool"] == {address: frozenset({"m"})}


async def test_an_endpoint_that_cannot_be_reached_stays_down(site: Site) -> None:
    gate, (_, late) = await servers_at(site)
    address = gate.plan.pools[0].endpoints[1].address
    gate.master.down.add(address)
    await by_grpc(gate, "RepositoryModelLoad", model_name="m")
    await late.server.stop(None)
    up = asyncio.Event()
    assert gate.master.server_calls.hold("pool", address, up.set)
    assert gate.master.server_calls.hold("pool", address, up.set)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(up.wait(), 0.8)
    assert gate.master.server_calls.holding("pool", address)
    gate.master.server_calls.fell("pool", address)
    assert not gate.master.server_calls.holding("pool", address)


@pytest.mark.parametrize("number", [2, 3, 5])
async def test_endpoints_that_come_up_together_do_not_wait_for_each_other(site: Site, number: int) -> None:
    gate, servers = await servers_at(site, number)
    for model in "ab":
        assert (await post(gate, f"/v2/repository/models/{model}/load")).status == 200
    addresses = [each.address for each in gate.master.plan.pools[0].endpoints]
    for _ in range(5):
        for server in servers:
            server.models.clear()
        await asyncio.gather(*(rise(gate, address) for address in addresses))
        assert [server.models for server in servers] == [{"a", "b"}] * number
    await idle(gate)


async def test_one_that_comes_up_during_a_call_is_told_before(site: Site) -> None:
    """Nothing is kept yet, but a load is under way."""
    gate, (first, late) = await servers_at(site)
    address = gate.plan.pools[0].endpoints[1].address
    gate.master.down.add(address)
    first.slow["m"] = asyncio.Event()
    loading = asyncio.create_task(by_grpc(gate, "RepositoryModelLoad", model_name="m"))
    await settle(lambda: bool(first.told), "the load")
    rising = asyncio.create_task(rise(gate, address))
    await asyncio.sleep(0.05)
    assert not rising.done()
    first.slow["m"].set()
    await loading
    await rising
    assert late.models == {"m"}


async def test_one_that_came_up_without_being_held_is_told_as_well(site: Site) -> None:
    gate, (first, late) = await servers_at(site)
    address = gate.plan.pools[0].endpoints[1].address
    gate.master.down.add(address)
    first.slow["m"] = asyncio.Event()
    loading = asyncio.create_task(by_grpc(gate, "RepositoryModelLoad", model_name="m"))
    await settle(lambda: bool(first.told), "the load")
    gate.master.down.clear()
    first.slow["m"].set()
    await loading
    assert late.models == {"m"}


async def test_calls_about_one_model_keep_their_order(site: Site) -> None:
    gate, servers = await servers_at(site)
    servers[0].slow["m"] = asyncio.Event()
    load = asyncio.create_task(by_grpc(gate, "RepositoryModelLoad", model_name="m"))
    await settle(lambda: all(server.told for server in servers), "the load")
    unload = asyncio.create_task(by_grpc(gate, "RepositoryModelUnload", model_name="m"))
    await by_grpc(gate, "RepositoryModelLoad", model_name="other")  # which does not wait
    assert not unload.done()
    servers[0].slow["m"].set()
    await load
    await unload
    for server in servers:
        of_model = [method for method, sent in server.told if sent.model_name == "m"]
        assert of_model == ["RepositoryModelLoad", "RepositoryModelUnload"]
        assert server.models == {"other"}
    await idle(gate)


async def test_a_call_goes_on_when_its_client_leaves(site: Site) -> None:
    gate, servers = await servers_at(site)
    servers[0].slow["m"] = asyncio.Event()
    sent = wire.RepositoryModelLoadRequest(model_name="m").SerializeToString()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(SERVICE + "RepositoryModelLoad")(sent, timeout=0.3)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await idle(gate)
    servers[0].slow["m"].set()
    await settle(lambda: gate.master.models_changed == ["pool"], "the end of the call")
    assert [server.models for server in servers] == [{"m"}, {"m"}]


async def test_a_load_may_take_longer_than_answers_may(site: Site) -> None:
    server = Changing()
    gate = await gate_to(site, server, route=ALL, pool={"response_timeout_ns": 200_000_000})
    server.slow["m"] = asyncio.Event()
    for made in (post(gate, "/v2/repository/models/m/load"), by_grpc(gate, "RepositoryModelLoad", model_name="m")):
        loading = asyncio.create_task(made)
        await asyncio.sleep(0.5)
        assert not loading.done()
        server.slow["m"].set()
        await loading
        server.slow["m"] = asyncio.Event()


async def test_one_that_could_not_be_reached_is_asked_again(site: Site) -> None:
    gate, (_, second) = await servers_at(site)
    gate.master.rules = Rules("all", 0.3)
    second.slow["m"] = asyncio.Event()
    answer = await post(gate, "/v2/repository/models/m/load")
    assert answer.status == 503
    assert "no answer within 0.3 s" in error_of(answer)
    address = gate.plan.pools[0].endpoints[1].address
    assert gate.master.withheld["pool"] == {address: frozenset({"m"})}
    second.slow["m"].set()
    await settle(lambda: gate.master.withheld["pool"] == {}, "it catches up")
    assert second.models == {"m"}


async def test_files_of_a_load_and_their_bound(site: Site) -> None:
    gate, servers = await servers_at(site)
    content = bytes(range(256)) * (8 << 10)  # 2 MiB
    body = {"parameters": {"config": "{}", "file:1/model.onnx": base64.b64encode(content).decode()}}
    assert (await post(gate, "/v2/repository/models/m/load", body)).status == 200
    for server in servers:
        assert server.told[-1][1].parameters["file:1/model.onnx"].bytes_param == content
    parameter = wire.ModelRepositoryParameter(bytes_param=bytes(17 << 20))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await by_grpc(gate, "RepositoryModelLoad", model_name="m", parameters={"file:x": parameter})
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    body["parameters"]["file:1/model.onnx"] = base64.b64encode(bytes(17 << 20)).decode()
    assert (await post(gate, "/v2/repository/models/m/load", body)).status == 413


async def test_a_server_that_has_the_name_in_another_field(site: Site) -> None:
    """KServe's: model_name = 1."""
    gate, (server,) = await servers_at(site, 1)
    triton = server._RepositoryModelLoad

    async def load(sent: Any, context: Any) -> Any:
        if not sent.repository_name:
            await context.abort(grpc.StatusCode.NOT_FOUND, "Model with name  does not exist.")
        return await triton(sent, context)

    server._RepositoryModelLoad = load  # type: ignore[method-assign]
    assert (await post(gate, "/v2/repository/models/m/load")).status == 200
    assert server.models == {"m"}
    server.failing["RepositoryModelLoad"] = "failed to load 'm'"
    server.told.clear()
    assert error_of(await post(gate, "/v2/repository/models/m/load")) == "failed to load 'm'"
    assert len(server.told) == 1


class KServe(Changing):
    """model_name = 1, and an answer that is made of nothing: the call fails when it is done. `stuck`: nothing is."""

    stuck = False

    async def _told(self, sent: Any, context: Any, change: Any) -> Any:
        if not sent.repository_name:
            await context.abort(
                grpc.StatusCode.UNKNOWN,
                "Unexpected <class 'AttributeError'>: 'ModelNotReady' object has no attribute 'reason'",
            )
        if not self.stuck:
            change(sent.repository_name)
        await context.abort(grpc.StatusCode.INTERNAL, "Internal server error")

    async def _RepositoryModelLoad(self, sent: Any, context: Any) -> Any:
        return await self._told(sent, context, self.models.add)

    async def _RepositoryModelUnload(self, sent: Any, context: Any) -> Any:
        if sent.repository_name and sent.repository_name not in self.models:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Model with name {sent.repository_name} does not exist.")
        return await self._told(sent, context, self.models.discard)


async def test_a_server_that_breaks_at_its_answer(site: Site) -> None:
    servers = [KServe(), KServe()]
    gate = await gate_to(site, *servers, route=ALL)
    assert (await post(gate, "/v2/repository/models/m/load")).status == 200
    assert [server.models for server in servers] == [{"m"}] * 2
    await by_grpc(gate, "RepositoryModelUnload", model_name="m")
    assert [server.models for server in servers] == [set()] * 2
    gone = await post(gate, "/v2/repository/models/m/unload")
    assert (gone.status, error_of(gone)) == (404, "Model with name m does not exist.")
    servers[1].stuck = True
    failed = await post(gate, "/v2/repository/models/m/load")
    assert failed.status == 400
    assert "'ModelNotReady' object" in error_of(failed)
    assert "failed at 1 of 2 endpoints" in error_of(failed)
    assert [server.models for server in servers] == [{"m"}, set()]
    await idle(gate)


async def test_a_pool_without_endpoints_that_are_up(site: Site) -> None:
    gate, _ = await servers_at(site, 1)
    gate.master.down.add(gate.plan.pools[0].endpoints[0].address)
    answer = await post(gate, "/v2/repository/models/m/load")
    assert (answer.status, error_of(answer)) == (503, "no endpoint of pool pool is available")
