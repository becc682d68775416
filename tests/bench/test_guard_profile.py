"""Reading what callgrind wrote, and the names of compiled functions."""

from __future__ import annotations

import pytest

from bench.errors import BenchError
from bench.guard.names import readable
from bench.guard.profile import parse, per_request

# Two objects; names given where they are called first; inclusive costs of calls; costs with trailing zeros left out.
PROFILE = """# callgrind format
version: 1
creator: callgrind-3.24.0
part: 2

desc: Trigger: --dump-before=tg_guard_mark

positions: line
event: sysTime : sysTime (elapsed ms)
events: Ir sysCount sysTime
summary: 1100 30 2

ob=(1) /x/lb/net/poller.cpython-311-x86_64-linux-gnu.so
fl=(1) /x/lb/net/poller.c
fn=(1) __pyx_f_2lb_3net_6poller_6Poller_dispatch
10 400
+2 100
fi=(2) object.h
cob=(2) /usr/lib/libc.so.6
cfi=(3) ???
cfn=(2) epoll_wait
calls=20 0
12 900 20 2
cob=(2)
cfn=(3) clock_gettime@@GLIBC_2.17
calls=10 0
12 0 10
fe=(1)
* 100
cfn=(1)
calls=5 10
* 7000

ob=(2)
fl=(3)
fn=(2)
0 300 20 2
cfn=(3)
calls=10 0
0 200 10

fn=(3)
0 150 10
-1 50

ob=(3) /usr/lib/libpython3.11.so.1.0
fn=(4) select_poll_poll
cob=(2)
cfn=(5) poll
calls=50 0
0 0 50

totals: 1100 30 2
"""


def test_self_costs_are_added_up() -> None:
    profile = parse(PROFILE.splitlines())
    assert profile.trigger == "--dump-before=tg_guard_mark"
    assert profile.total == 1100
    poller, libc = "/x/lb/net/poller.cpython-311-x86_64-linux-gnu.so", "/usr/lib/libc.so.6"
    assert profile.functions == {
        (poller, "__pyx_f_2lb_3net_6poller_6Poller_dispatch"): 600,
        (libc, "epoll_wait"): 300,
        (libc, "clock_gettime@@GLIBC_2.17"): 200,
    }


def test_neither_calls_that_the_kernel_does_not_see_count_nor_those_of_the_driver() -> None:
    count = per_request(parse(PROFILE.splitlines()), 10)
    assert (count.instructions, count.system_calls) == (110.0, 2.0)
    assert list(count.functions.items()) == [
        ("lb.net.poller.Poller.dispatch", 60.0),
        ("libc:epoll_wait", 30.0),
        ("libc:clock_gettime", 20.0),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("+2 100", "+2 101", "adds up to 1101 instructions and says 1100"),
        ("events: Ir", "events: Dr", "no profile"),
        ("fn=(3)\n", "fn=(9)\n", "before it says what it is"),
    ],
)
def test_a_profile_that_is_not_understood_is_refused(old: str, new: str, message: str) -> None:
    assert old in PROFILE
    with pytest.raises(BenchError, match=message):
        parse(PROFILE.replace(old, new, 1).splitlines())


BEGIN = "__pyx_f_2lb_5proxy_6client_10connection_14HttpConnection_begin"
CONNECTION = "/x/lb/proxy/client/connection.cpython-311-x86_64-linux-gnu.so"


@pytest.mark.parametrize(
    ("obj", "function", "name"),
    [
        (CONNECTION, BEGIN, "lb.proxy.client.connection.HttpConnection.begin"),
        (CONNECTION, f"{BEGIN}.isra.0", "lb.proxy.client.connection.HttpConnection.begin"),
        (CONNECTION, f"{BEGIN}'2", "lb.proxy.client.connection.HttpConnection.begin"),
        ("/x/poller.so", "__pyx_pw_2lb_3net_6poller_6Poller_11_run", "lb.net.poller.Poller._run"),
        (CONNECTION, "__Pyx_ListComp_Append", "lb.proxy.client.connection:__Pyx_ListComp_Append"),
        (CONNECTION, "__pyx_tp_new_2lb_5proxy_6client", "lb.proxy.client.connection:__pyx_tp_new_2lb_5proxy_6client"),
        ("/lib/libnghttp2.so.14.28.3", "0x0000000000012ab0", "libnghttp2:?"),
        ("/lib/libc.so.6", "clock_gettime@@GLIBC_2.17", "libc:clock_gettime"),
        ("/lib/libc.so.6", "__memcpy_avx_unaligned", "libc:__memcpy_avx_unaligned"),
        ("/lib/libpython3.11.so.1.0", "PyList_Append", "libpython3.11:PyList_Append"),
        ("/x/orjson/orjson.cpython-311-x86_64-linux-gnu.so", "0x9f0", "orjson:?"),
        ("/usr/bin/python3.11", "PyList_Append", "python3.11:PyList_Append"),
        ("", "???", "?:?"),
    ],
)  # fmt: skip
def test_names(obj: str, function: str, name: str) -> None:
    assert readable(obj, function) == name
