"""Every method of one of tritonclient's four clients against one address; runs where tritonclient is installed.

    python methods.py KIND ADDRESS HTTP        KIND: http, grpc, http.aio, grpc.aio, plain (HTTP without a client)

HTTP is the server's address for requests without a client. Prints a JSON object: a case's title to "" where it works,
to the reason where it does not. A case checks what it is told: values are compared, counts have to grow, settings have
to stay set.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import itertools
import json
import queue
import signal
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
import tritonclient.utils.shared_memory as shm
from google.protobuf.json_format import MessageToDict
from tritonclient.utils import InferenceServerException

MODULES = {
    "http": tritonclient.http,
    "grpc": tritonclient.grpc,
    "http.aio": tritonclient.http.aio,
    "grpc.aio": tritonclient.grpc.aio,
}
HTTP, GRPC, BOTH = ("http", "http.aio"), ("grpc", "grpc.aio"), ("http", "http.aio", "grpc", "grpc.aio")
LIMIT = 12.0  # seconds for a case
SETTLE = 3.0  # seconds in which a count has to be right
AGAIN = 6  # calls, so that each of three endpoints is asked

Case = Callable[["Client"], None]
CASES: dict[str, tuple[tuple[str, ...], Case]] = {}


def case(title: str, kinds: tuple[str, ...] = BOTH) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES[title] = (kinds, function)
        return function

    return add


class Client:
    """One of the four clients: `call` runs a method, a coroutine as well."""

    def __init__(self, kind: str, address: str, http: str) -> None:
        self.kind = kind
        self.address = address
        self.http = http
        self.json = kind in HTTP
        self.module = MODULES.get(kind)
        self.loop = asyncio.new_event_loop()
        self.client: Any = None
        if self.module is not None:
            self.client = self.run(self._made())

    async def _made(self) -> Any:
        options = {"concurrency": 8} if self.kind == "http" else {}
        return self.module.InferenceServerClient(self.address, **options)

    def run(self, found: Any) -> Any:
        return self.loop.run_until_complete(found) if inspect.isawaitable(found) else found

    def call(self, method: str, *words: Any, **options: Any) -> Any:
        return self.run(getattr(self.client, method)(*words, **options))

    def told(self, method: str, *words: Any, **options: Any) -> Any:
        """The answer as JSON has it."""
        found = self.call(method, *words, **options)
        return found if self.json or found is None else MessageToDict(found, preserving_proto_field_name=True)

    def tensor(self, values: np.ndarray, name: str = "x", datatype: str = "FP32", **options: Any) -> Any:
        made = self.module.InferInput(name, list(values.shape), datatype)
        made.set_data_from_numpy(values, **options)
        return made

    def output(self, name: str = "y", **options: Any) -> Any:
        return self.module.InferRequestedOutput(name, **options)

    def infer(self, values: np.ndarray, model: str = "affine", inputs: Any = None, **options: Any) -> Any:
        result = self.call("infer", model, inputs or [self.tensor(values)], **options)
        right(result, values)
        return result


_numbers = itertools.count(1)


def rows(count: int = 1) -> np.ndarray:
    """Values that no call before had."""
    start = next(_numbers) * 100
    return np.arange(start, start + 4 * count, dtype=np.float32).reshape(count, 4)


def right(result: Any, values: np.ndarray) -> None:
    got = result.as_numpy("y")
    if got is None or got.shape != values.shape or not np.allclose(got, values * 2 + 1):
        raise AssertionError(f"{values.tolist()} gives {None if got is None else got.tolist()}")


def check(held: object, what: object) -> None:
    if not held:
        raise AssertionError(str(what))


def settles(asked: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + SETTLE
    while not asked():
        if time.monotonic() > limit:
            raise AssertionError(what)
        time.sleep(0.1)


# ---- health and descriptions


@case("is_server_live")
def _(c: Client) -> None:
    check(c.call("is_server_live"), "it says no")


@case("is_server_ready")
def _(c: Client) -> None:
    check(c.call("is_server_ready"), "it says no")


@case("is_model_ready")
def _(c: Client) -> None:
    check(c.call("is_model_ready", "affine"), "it says no")


@case("is_model_ready of an unknown model")
def _(c: Client) -> None:
    check(not c.call("is_model_ready", "nobody"), "it says yes")


@case("grpc.health.v1 Check", ("grpc",))
def _(c: Client) -> None:
    with grpc.insecure_channel(c.address) as channel:
        check(channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5) == b"\x08\x01", "it does not serve")


@case("get_server_metadata")
def _(c: Client) -> None:
    check(c.told("get_server_metadata")["name"], "it has no name")


@case("get_model_metadata")
def _(c: Client) -> None:
    found = c.told("get_model_metadata", "affine")
    described = [(each["name"], each["datatype"]) for each in [*found["inputs"], *found["outputs"]]]
    check(described == [("x", "FP32"), ("y", "FP32")], found)


@case("get_model_config")
def _(c: Client) -> None:
    found = c.told("get_model_config", "affine")
    found = found if c.json else found["config"]
    check(found["name"] == "affine" and found["input"][0]["name"] == "x", found)


@case("get_model_repository_index")
def _(c: Client) -> None:
    found = c.told("get_model_repository_index")
    names = {each["name"] for each in (found if c.json else found["models"])}
    check({"affine", "words"} <= names, names)


# ---- models at run time


@case("unload_model")
def _(c: Client) -> None:
    c.infer(rows(), "spare")
    c.call("unload_model", "spare")

    def gone() -> bool:
        return not any(c.call("is_model_ready", "spare") for _ in range(AGAIN))

    settles(gone, "the model is ready at some server all the same")


@case("load_model")
def _(c: Client) -> None:
    c.call("load_model", "spare")

    def there() -> bool:
        return all(c.call("is_model_ready", "spare") for _ in range(AGAIN))

    settles(there, "the model is not ready at every server")
    for _ in range(AGAIN):
        c.infer(rows(), "spare")


@case("load_model with config")
def _(c: Client) -> None:
    found = c.told("get_model_config", "spare")
    found = found if c.json else found["config"]
    c.call("load_model", "spare", config=json.dumps({**found, "max_batch_size": 7}))

    def changed() -> bool:
        asked = [c.told("get_model_config", "spare") for _ in range(AGAIN)]
        return all((each if c.json else each["config"])["max_batch_size"] == 7 for each in asked)

    settles(changed, "max_batch_size is not that of the call")
    c.call("load_model", "spare")


@case("load_model of an unknown model fails")
def _(c: Client) -> None:
    if not _works(c, "load_model", "spare"):
        raise AssertionError("load_model does not work at all")
    check(not _works(c, "load_model", "nobody"), "it does not")


def _works(c: Client, method: str, *words: Any) -> bool:
    try:
        c.call(method, *words)
    except InferenceServerException:
        return False
    return True


# ---- statistics


def _count(c: Client, *model: str) -> int:
    found = c.told("get_inference_statistics", *model)["model_stats"]
    return sum(int(each.get("inference_count", 0)) for each in found if each["name"] == "affine")


@case("get_inference_statistics of a model")
def _(c: Client) -> None:
    before = _count(c, "affine")
    for _ in range(AGAIN):
        c.infer(rows())
    settles(lambda: _count(c, "affine") == before + AGAIN, "the count does not grow by the calls")


@case("get_inference_statistics of all models")
def _(c: Client) -> None:
    before = _count(c)
    for _ in range(AGAIN):
        c.infer(rows())
    settles(lambda: _count(c) == before + AGAIN, "the count does not grow by the calls")


# ---- settings


@case("get_trace_settings")
def _(c: Client) -> None:
    found = c.told("get_trace_settings")
    check("trace_level" in (found if c.json else found["settings"]), found)


@case("update_trace_settings")
def _(c: Client) -> None:
    c.call("update_trace_settings", settings={"trace_rate": "500"})
    for _ in range(AGAIN):
        found = c.told("get_trace_settings")
        rate = found["trace_rate"] if c.json else found["settings"]["trace_rate"]["value"][0]
        check(str(rate) == "500", f"trace_rate is {rate}")
    c.call("update_trace_settings", settings={"trace_rate": None})


@case("update_trace_settings of a model")
def _(c: Client) -> None:
    c.call("update_trace_settings", "affine", settings={"trace_rate": "400"})
    for _ in range(AGAIN):
        found = c.told("get_trace_settings", "affine")
        rate = found["trace_rate"] if c.json else found["settings"]["trace_rate"]["value"][0]
        check(str(rate) == "400", f"trace_rate is {rate}")
    c.call("update_trace_settings", "affine", settings={"trace_rate": None})


@case("get_log_settings")
def _(c: Client) -> None:
    found = c.told("get_log_settings")
    check("log_verbose_level" in (found if c.json else found["settings"]), found)


@case("update_log_settings")
def _(c: Client) -> None:
    def level() -> int:
        found = c.told("get_log_settings")
        one = found["log_verbose_level"] if c.json else found["settings"]["log_verbose_level"]
        return int(one if c.json else one.get("uint32_param", 0))

    before = level()
    try:
        c.call("update_log_settings", {"log_verbose_level": 1})
        found = [level() for _ in range(AGAIN)]
        check(found == [1] * AGAIN, f"log_verbose_level is {found}")
    finally:
        c.call("update_log_settings", {"log_verbose_level": before})


# ---- shared memory


@contextlib.contextmanager
def _region(c: Client, name: str, values: np.ndarray) -> Iterator[Any]:
    """A registered region that has the values, and room for as many behind them."""
    key = f"/tidegate-clients-{next(_numbers)}-{time.monotonic_ns()}"
    region = shm.create_shared_memory_region(name, key, 2 * values.nbytes)
    try:
        shm.set_shared_memory_region(region, [values])
        c.call("register_system_shared_memory", name, key, 2 * values.nbytes)
        try:
            yield region
        finally:
            c.call("unregister_system_shared_memory", name)
    finally:
        shm.destroy_shared_memory_region(region)


def _regions(c: Client) -> set[str]:
    found = c.told("get_system_shared_memory_status")
    return {each["name"] for each in found} if c.json else set(found.get("regions", ()))


@case("get_system_shared_memory_status")
def _(c: Client) -> None:
    check(_regions(c) == set(), "regions are registered already")


@case("register, unregister_system_shared_memory")
def _(c: Client) -> None:
    with _region(c, "one", rows()):
        for _ in range(AGAIN):
            check(_regions(c) == {"one"}, f"registered are {_regions(c)}")
    for _ in range(AGAIN):
        check(_regions(c) == set(), f"registered are {_regions(c)}")


@case("infer with inputs in system shared memory")
def _(c: Client) -> None:
    values = rows()
    with _region(c, "two", values):
        for _ in range(AGAIN):
            tensor = c.module.InferInput("x", [1, 4], "FP32")
            tensor.set_shared_memory("two", values.nbytes)
            c.infer(values, inputs=[tensor])


@case("infer with outputs in system shared memory")
def _(c: Client) -> None:
    values = rows()
    with _region(c, "three", values) as region:
        for _ in range(AGAIN):
            values = values + 1
            output = c.output()
            output.set_shared_memory("three", values.nbytes, values.nbytes)
            c.call("infer", "affine", [c.tensor(values)], outputs=[output])
            got = shm.get_contents_as_numpy(region, np.float32, [2, 4])[1:]
            check(np.allclose(got, values * 2 + 1), got.tolist())


@case("get_cuda_shared_memory_status")
def _(c: Client) -> None:
    found = c.told("get_cuda_shared_memory_status")
    check(not (found if c.json else found.get("regions")), found)


@case("register, unregister_cuda_shared_memory")
def _(c: Client) -> None:
    import tritonclient.utils.cuda_shared_memory as cuda

    try:
        region = cuda.create_shared_memory_region("cuda", 64, 0)
    except cuda.CudaSharedMemoryException:  # without a GPU the server says what it makes of a handle
        c.call("register_cuda_shared_memory", "cuda", base64.b64encode(bytes(64)), 0, 64)
        return
    try:
        c.call("register_cuda_shared_memory", "cuda", cuda.get_raw_handle(region), 0, 64)
        c.call("unregister_cuda_shared_memory", "cuda")
    finally:
        cuda.destroy_shared_memory_region(region)


# ---- inference


@case("infer")
def _(c: Client) -> None:
    for count in (1, 3, 1):
        c.infer(rows(count), request_id="an id")


@case("infer returns the request's id")
def _(c: Client) -> None:
    found = c.infer(rows(), request_id="an id").get_response()
    check((found["id"] if c.json else found.id) == "an id", found)


@case("infer of a version")
def _(c: Client) -> None:
    c.infer(rows(), model_version="1")


@case("infer with a named output")
def _(c: Client) -> None:
    c.infer(rows(), outputs=[c.output()])


@case("infer with JSON data", HTTP)
def _(c: Client) -> None:
    values = rows(2)
    c.infer(values, inputs=[c.tensor(values, binary_data=False)], outputs=[c.output(binary_data=False)])


@case("infer with binary inputs, JSON outputs", HTTP)
def _(c: Client) -> None:
    c.infer(rows(2), outputs=[c.output(binary_data=False)])


@case("infer with JSON inputs, binary outputs", HTTP)
def _(c: Client) -> None:
    values = rows(2)
    c.infer(values, inputs=[c.tensor(values, binary_data=False)], outputs=[c.output(binary_data=True)])


@case("infer with BYTES")
def _(c: Client) -> None:
    words = np.array(["a", "", "é€"], dtype=object)
    got = c.call("infer", "words", [c.tensor(words, "text_input", "BYTES")]).as_numpy("text_output")
    decoded = [each.decode() if isinstance(each, bytes) else each for each in got.reshape(-1)]
    check(decoded == words.tolist(), decoded)


@case("infer with 1 MB")
def _(c: Client) -> None:
    words = np.array(["x" * 1_000_000], dtype=object)
    got = c.call("infer", "words", [c.tensor(words, "text_input", "BYTES")]).as_numpy("text_output")
    check(len(got.reshape(-1)[0]) == 1_000_000, len(got.reshape(-1)[0]))


def _compressed(algorithm: str) -> Case:
    def run(c: Client) -> None:
        names = (
            ("request_compression_algorithm", "response_compression_algorithm")
            if c.json
            else ("compression_algorithm",)
        )
        c.infer(rows(60), **dict.fromkeys(names, algorithm))

    return run


case("infer with gzip")(_compressed("gzip"))
case("infer with deflate")(_compressed("deflate"))


@case("infer with classification")
def _(c: Client) -> None:
    got = c.call("infer", "affine", [c.tensor(rows())], outputs=[c.output(class_count=2)]).as_numpy("y")
    found = [each.decode().split(":")[1] for each in got.reshape(-1)]
    check(found == ["3", "2"], found)


@case("infer with priority and timeout")
def _(c: Client) -> None:
    c.infer(rows(), priority=1, timeout=5_000_000)


@case("infer with parameters and headers")
def _(c: Client) -> None:
    c.infer(rows(), parameters={"word": "a", "number": 3, "yes": True}, headers={"x-word": "a"})


@case("infer with query_params", HTTP)
def _(c: Client) -> None:
    c.infer(rows(), query_params={"a": "b"})


@case("infer with client_timeout", GRPC)
def _(c: Client) -> None:
    c.infer(rows(), client_timeout=10.0)


@case("infer of an unknown model fails")
def _(c: Client) -> None:
    try:
        c.infer(rows(), "nobody")
    except InferenceServerException as error:
        check(error.message() and "exception while decoding" not in str(error), error)
    else:
        raise AssertionError("it does not")


@case("async_infer")
def _(c: Client) -> None:
    every = [rows() for _ in range(2 * AGAIN)]
    if c.kind == "http":
        waiting = [c.client.async_infer("affine", [c.tensor(values)]) for values in every]
        results = [each.get_result() for each in waiting]
    elif c.kind == "grpc":
        done: queue.Queue[Any] = queue.Queue()
        for number, values in enumerate(every):
            c.client.async_infer(
                "affine", [c.tensor(values)], lambda result, error, n=number: done.put((n, error or result))
            )
        found = dict(done.get(timeout=LIMIT) for _ in every)
        results = [found[number] for number in range(len(every))]
    else:

        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*(c.client.infer("affine", [c.tensor(values)]) for values in every))

        results = c.run(all_of_them())
    for values, result in zip(every, results, strict=True):
        if isinstance(result, Exception):
            raise result
        right(result, values)


# ---- streams


def _stream(c: Client, requests: list[dict[str, Any]], answers: int) -> list[Any]:
    """The answers of one stream, errors among them."""
    if c.kind == "grpc":
        done: queue.Queue[Any] = queue.Queue()
        c.client.start_stream(lambda result, error: done.put(error or result))
        try:
            for each in requests:
                c.client.async_stream_infer(**each)
            return [done.get(timeout=LIMIT / 2) for _ in range(answers)]
        finally:
            c.client.stop_stream(cancel_requests=True)

    async def all_of_them() -> list[Any]:
        async def sent() -> Any:
            for each in requests:
                yield each

        found = []
        async for result, error in c.client.stream_infer(sent()):
            found.append(error or result)
            if len(found) == answers:
                break
        return found

    return c.run(asyncio.wait_for(all_of_them(), LIMIT / 2))


@case("start_stream, async_stream_infer, stop_stream", GRPC)
def _(c: Client) -> None:
    every = [rows() for _ in range(2 * AGAIN)]
    asked = [
        {"model_name": "affine", "inputs": [c.tensor(values)], "request_id": str(number)}
        for number, values in enumerate(every)
    ]
    for result in (found := _stream(c, asked, len(asked))):
        if isinstance(result, Exception):
            raise result
    for result in found:
        right(result, every[int(result.get_response().id)])


@case("a stream with an error goes on", GRPC)
def _(c: Client) -> None:
    values = rows()
    asked = [
        {"model_name": "nobody", "inputs": [c.tensor(rows())]},
        {"model_name": "affine", "inputs": [c.tensor(values)]},
    ]
    found = _stream(c, asked, 2)
    results = [each for each in found if not isinstance(each, Exception)]
    check(len(found) == 2 and len(results) == 1, found)
    right(results[0], values)


@case("a stream with enable_empty_final_response", GRPC)
def _(c: Client) -> None:
    asked = [{"model_name": "affine", "inputs": [c.tensor(rows())], "enable_empty_final_response": True}]
    (found,) = _stream(c, asked, 1)
    if isinstance(found, Exception):
        raise found
    check(found.get_response().parameters["triton_final_response"].bool_param, found.get_response())


@case("a stream of decoupled answers", GRPC)
def _(c: Client) -> None:
    inputs = [
        c.tensor(np.array(["word"], dtype=object), "text_input", "BYTES"),
        c.tensor(np.array([3], np.int32), "times", "INT32"),
    ]
    for result in _stream(c, [{"model_name": "repeat", "inputs": inputs}], 3):
        if isinstance(result, Exception):
            raise result
        check(result.as_numpy("text_output").reshape(-1)[0] == b"word", result.get_response())


# ---- sequences


def _sums(c: Client, sequence: int | str) -> None:
    total = 0.0
    for number in range(1, 6):
        total += number
        result = c.call(
            "infer",
            "sum",
            [c.tensor(np.full((1, 1), number, np.float32))],
            sequence_id=sequence,
            sequence_start=number == 1,
            sequence_end=number == 5,
        )
        check(float(result.as_numpy("y")[0, 0]) == total, f"{result.as_numpy('y').tolist()} is not {total}")


@case("infer of a sequence")
def _(c: Client) -> None:
    for _ in range(AGAIN):
        _sums(c, next(_numbers) + time.monotonic_ns() % 10**9 * 1000)


@case("infer of a sequence with a string as its id")
def _(c: Client) -> None:
    for _ in range(AGAIN):
        _sums(c, f"sequence-{next(_numbers)}-{time.monotonic_ns()}")


@case("sequences on a stream", GRPC)
def _(c: Client) -> None:
    base = time.monotonic_ns() % 10**9 * 1000
    asked = [
        {
            "model_name": "sum",
            "inputs": [c.tensor(np.full((1, 1), number, np.float32))],
            "sequence_id": base + sequence,
            "sequence_start": number == 1,
            "sequence_end": number == 3,
            "request_id": f"{sequence} {number}",
        }
        for number in range(1, 4)
        for sequence in range(1, 5)
    ]
    for result in _stream(c, asked, len(asked)):
        if isinstance(result, Exception):
            raise result
        _, number = result.get_response().id.split()
        check(float(result.as_numpy("y")[0, 0]) == (1, 3, 6)[int(number) - 1], result.get_response())


# ---- HTTP without a client


def _asked(c: Client, path: str, body: bytes, **headers: str) -> tuple[str, bytes]:
    request = urllib.request.Request(
        f"http://{c.http}{path}", body, {k.replace("_", "-"): v for k, v in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.headers.get("Content-Type", ""), answer.read()
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{error.code} {error.read()[:200].decode(errors='replace')}") from None


@case("generate", ("plain",))
def _(c: Client) -> None:
    _, answer = _asked(c, "/v2/models/words/generate", b'{"text_input": "a word"}')
    check(json.loads(answer)["text_output"] == "a word", answer)


@case("generate_stream", ("plain",))
def _(c: Client) -> None:
    kind, answer = _asked(c, "/v2/models/words/generate_stream", b'{"text_input": "a word"}')
    events = [json.loads(each.removeprefix("data: ")) for each in answer.decode().split("\n\n") if each.strip()]
    check(kind.startswith("text/event-stream"), kind)
    check([each["text_output"] for each in events] == ["a word"], events)


@case("generate_stream of decoupled answers", ("plain",))
def _(c: Client) -> None:
    _, answer = _asked(c, "/v2/models/repeat/generate_stream", b'{"text_input": "a", "times": 3}')
    events = [json.loads(each.removeprefix("data: ")) for each in answer.decode().split("\n\n") if each.strip()]
    check([each.get("text_output") for each in events] == ["a"] * 3, events)


@case("raw binary request", ("plain",))
def _(c: Client) -> None:
    values = rows()
    _, answer = _asked(c, "/v2/models/affine/infer", values.tobytes(), Inference_Header_Content_Length="0")
    check(np.allclose(np.frombuffer(answer[-16:], "<f4"), values * 2 + 1), answer)


def run(c: Client, function: Case) -> str:
    def late(_number: int, _frame: object) -> None:
        raise TimeoutError(f"no answer in {LIMIT:g} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        function(c)
    except queue.Empty:
        traceback.print_exc()
        return "no answer"
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}".removeprefix("InferenceServerException: ")
        return " ".join(text.removeprefix("AssertionError: ").split())[:400]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


def main(kind: str, address: str, http: str) -> None:
    found = {}
    for title, (kinds, function) in CASES.items():
        if kind in kinds:
            found[title] = run(Client(kind, address, http), function)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
