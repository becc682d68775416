"""TLS by OpenSSL: contexts, sessions between a stream and its socket, certificates, revocation, the ClientHello.

The files that contexts are made from are read by lb.control.certificates.
"""
