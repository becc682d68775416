"""gRPC over HTTP/2 on the server's side: connections, calls, and the calls that Python answers."""
