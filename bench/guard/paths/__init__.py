"""The guarded paths by name. A new one is a module beside the others and a line here."""

from bench.guard.paths import access, cache_hit, grpc, http1, oip_binary, oip_json, routes, tcp
from bench.guard.paths.base import Path, Run

PATHS: dict[str, Path] = {
    path.name: path
    for path in (
        http1.PATH,
        http1.CLOSING,
        access.PATH,
        routes.PATH,
        grpc.PATH,
        grpc.BATCH,
        grpc.LOCAL,
        cache_hit.PATH,
        cache_hit.GRPC,
        cache_hit.MISS,
        oip_json.PATH,
        oip_binary.PATH,
        tcp.PATH,
    )
}

__all__ = ["PATHS", "Path", "Run"]
