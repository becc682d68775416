"""Eight model servers whose time goes by the batch, and requests of 1 to 32 items: does the proxy see what is large?

Each takes 2 ms an item, one request at a time. Seven of ten requests are of one item, three of ten of 16 or 32: 8.7
items on average, of which the servers do 4000 a second. The peers count requests.
"""

from dataclasses import replace

from bench.emulated import Emulated
from bench.emulator.spec import Lognormal, Serial, Service
from bench.load.request import Request
from bench.open_loop import Open
from bench.peers import Task
from bench.scenarios.base import Scenario
from bench.scenarios.inference import PATH
from bench.scenarios.latency import FAILED, NOTE, P50, P99, P999, fixed_rate

ITEM_MS = 2.0
BATCHES = (1, 32, 1, 1, 16, 1, 1, 32, 1, 1)
SERVERS = Emulated((Service(Serial(Lognormal(ITEM_MS, 0.2), per_item=True)),) * 8)


def request(batch: int) -> Request:
    data = ",".join(["0.5"] * batch)
    body = f'{{"inputs":[{{"name":"INPUT0","shape":[{batch},1],"datatype":"FP32","data":[{data}]}}]}}'
    return Request(PATH, "POST", {"Content-Type": "application/json"}, body.encode())


PACE = Open(tuple(map(request, BATCHES)), 300, arrivals="poisson", connections=512)

SCENARIO = Scenario(
    name="mixed-batches",
    title="eight model servers, batches of 1, 16 and 32 in turn, 300 requests/s by Poisson arrivals",
    task=Task("oip", balance="least_request", cost="batch"),
    peer_task=Task("http", balance="least_request"),
    servers={"http": SERVERS, "grpc": SERVERS},
    measure=fixed_rate(PACE, 10, sweep=(150, 250, 400)),
    metrics=(P99, P50, P999, FAILED),
    generators=(PACE,),
    note=NOTE,
    max_rounds=5,
)
COUNTED = replace(
    SCENARIO,
    name="mixed-batches-counted",
    title="the same, and Tidegate counts requests, too",
    task=replace(SCENARIO.task, cost=""),
)
