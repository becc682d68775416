"""What processes said to the network and wrote to the file system, from a trace of their system calls by strace.

`TRACE` written before a command has it and all that it starts traced, in files beside each other, one per thread. The
command keeps its own process id, as it is not strace that becomes its parent.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

_NETWORK = "connect,sendto,sendmsg,sendmmsg"
_FILES = (
    "open,openat,openat2,creat,truncate,mkdir,mkdirat,mknod,mknodat,link,linkat,symlink,symlinkat,rename,renameat,"
    "renameat2,unlink,unlinkat,rmdir"
)
_CALL = re.compile(r"^(\w+)\((.*)$", re.DOTALL)
_IPV4 = re.compile(r'sin_port=htons\((\d+)\), sin_addr=inet_addr\("([^"]+)"\)')
_IPV6 = re.compile(r'sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, "([^"]+)"')
_UNIX = re.compile(r'sa_family=AF_UNIX, sun_path=(@?)"([^"]+)"')
_PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
_OPENS = frozenset({"open", "openat", "openat2"})
_DNS = 53


def traced(prefix: Path) -> list[str]:
    """What to write before a command."""
    calls = f"trace={_NETWORK},{_FILES}"
    return ["strace", "-D", "-ff", "-qq", "-y", "-s", "4096", "-e", calls, "-e", "signal=none", "-o", str(prefix)]


@dataclass
class Trace:
    """`peers`: whom the processes spoke to, beyond Unix sockets and the ports of this machine; a question to a name
    server counts wherever it is. `sockets`: the paths of Unix sockets that they spoke to. `written`: the paths that
    they made, changed or removed, tries that failed included. `calls`: how many system calls the trace has."""

    peers: set[str] = field(default_factory=set)
    sockets: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    calls: int = 0

    def beyond(self, *folders: Path) -> set[str]:
        """Of `written`, the paths that are in none of `folders` and no device, pipe or process file of the kernel."""
        own = tuple(f"{folder}/" for folder in ("/dev", "/proc", *folders))
        return {path for path in self.written if not f"{path}/".startswith(own)}


def read(prefix: Path) -> Trace:
    """The trace of a command that was started with `traced(prefix)`."""
    trace = Trace()
    for file in sorted(prefix.parent.glob(f"{prefix.name}.*")):
        for line in file.read_text(errors="replace").splitlines():
            call = _CALL.match(line)
            if call is not None:
                trace.calls += 1
                _take(trace, call[1], call[2])
    return trace


def _take(trace: Trace, name: str, arguments: str) -> None:
    if name in _NETWORK.split(","):
        for port, host in _IPV4.findall(arguments) + _IPV6.findall(arguments):
            address = ipaddress.ip_address(host)
            address = getattr(address, "ipv4_mapped", None) or address
            if int(port) == _DNS or not address.is_loopback:
                trace.peers.add(f"{host} port {port}")
        trace.sockets.update(path for abstract, path in _UNIX.findall(arguments) if not abstract)
    elif name not in _OPENS or re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND", arguments):
        trace.written.update(str(Path(folder or "/") / path) for folder, path in _PATH.findall(arguments))
