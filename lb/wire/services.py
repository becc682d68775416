"""gRPC services by their descriptors: stubs and handlers without generated code, which asks for its own grpcio.

The model server, the benchmarks and the tests need this module, and grpcio with it; the daemon does not.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from lb.wire import grpc_service_pb2, orca_service_pb2

INFERENCE: ServiceDescriptor = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
LOAD_REPORTS: ServiceDescriptor = orca_service_pb2.DESCRIPTOR.services_by_name["OpenRcaService"]


class Stub:
    """A client of `service` over a channel: a method of the service is an attribute of its name, a grpcio callable."""

    def __init__(self, channel: Any, service: ServiceDescriptor) -> None:
        for method in service.methods:
            call = getattr(channel, _kind(method))(
                f"/{service.full_name}/{method.name}",
                request_serializer=GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no method {name}")


def serve(server: Any, service: ServiceDescriptor, servicer: object) -> None:
    """Has `server` answer calls of `service` by the servicer's methods of the same names."""
    handlers = {
        method.name: getattr(grpc, f"{_kind(method)}_rpc_method_handler")(
            getattr(servicer, method.name),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
        for method in service.methods
        if hasattr(servicer, method.name)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


def _kind(method: MethodDescriptor) -> str:
    request = "stream" if method.client_streaming else "unary"
    return f"{request}_{'stream' if method.server_streaming else 'unary'}"
