"""Variables of NGINX, HAProxy, Envoy and Caddy, which are plain text here: what to write in place of one.

Where a text may have values of the request (lb.config.values), the advice names the value.
"""

from __future__ import annotations

import re

# Known forms only: a value may have a $ or a % of its own.
_FORMS = re.compile(
    r"(?<![A-Za-z0-9_$\\])\$[a-z][a-z0-9_]*"  # a secret may hold a$b
    r"|%\[[^\]]+\]"
    r"|%(?:[A-Z][A-Z0-9_]{4,}|REQ|RESP)(?:\([^)]*\))?(?::[0-9]+)?%"
    r"|#\{(?:protocol|host|port|path|query)\}"  # ALB's
    r"|(?<!\$)\{\{?[a-z][a-z0-9_.]*\}\}?",
    re.ASCII,
)
_HAPROXY = re.compile(r"%(?:ci|cp|si|sp|fi|fp|bi|bp|ID|rt|pid|hr|hs)\b(?!%)", re.ASCII)
# In a path or a text that may have names of its own, only what is no name but NGINX's or Caddy's.
_WELL_KNOWN = re.compile(
    r"\$(?:(?:request_|document_)?uri|args|is_args|arg_[a-z0-9_]+|query_string|request|host|http_[a-z0-9_]+|hostname"
    r"|scheme|server_[a-z]+|(?:binary_)?remote_[a-z]+|request_[a-z]+|upstream_[a-z_]+|cookie_[a-z0-9_]+|ssl_[a-z_]+"
    r"|proxy_add_x_forwarded_for)\b"
    r"|%\[[^\]]+\]"
    r"|%(?:REQ|RESP|PATH|DOWNSTREAM_[A-Z_]+|UPSTREAM_[A-Z_]+|PROTOCOL|START_TIME|HOSTNAME)(?:\([^)]*\))?(?::[0-9]+)?%"
    r"|#\{(?:protocol|host|port|path|query)\}"
    r"|\{(?:http|env|vars|system|time)\.[a-z0-9_.]+\}",
    re.ASCII,
)

# Words of a variable, the value of the request that it is, and who else says it.
_INSTEAD = (
    (
        "cert fingerprint peer ssl_client ssl_c_",
        "${tls.client.subject}",
        "client_auth of a listener's tls has X-Forwarded-Client-Cert sent",
    ),
    ("proto scheme https ssl_fc", "${request.scheme}", "X-Forwarded-Proto is set by forwarded of the listener"),
    (
        "remote client src xff x_forwarded_for x-forwarded-for realip %ci",
        "${client.address}",
        "the client's address is in X-Forwarded-For, which forwarded of the listener sets",
    ),
    (
        "request_id req.id uuid unique-id unique_id x-request-id %id",
        "${request.id}",
        "request_id of the listener sets X-Request-Id",
    ),
    ("traceparent trace_id", "", "tracing sets traceparent"),
    ("server_port dst_port %fp #{port", "", "X-Forwarded-Port is set by forwarded of the listener"),
    ("hostname %pid", "", "via of the listener names this hop"),
    (
        "hdr(host) authority $host http_host {host .host}",
        "${request.host}",
        "X-Forwarded-Host is set by forwarded of the listener",
    ),
    (
        "%req %resp $http_ hdr( req.header .header. sent_http",
        "${header.NAME}",
        "headers pass as they are; only texts can be set",
    ),
    ("$cookie_", "${cookie.NAME}", ""),
    ("$arg_ url_param urlp", "${query.NAME}", ""),
    (
        "uri args query path",
        "${request.uri}, or its parts ${request.path} and ${request.query}",
        "path and query stay as they were but for what prefix, path or regex replaces",
    ),
    ("upstream %bi %bp %si %sp", "", "expose_endpoint: true of a route sends X-Tidegate-Endpoint"),
)


def valued_advice(value: str) -> str:
    """What is wrong with a text that may have values of the request, and what to write; "" where it has no variable of
    others."""
    return _told(_FORMS.search(value) or _WELL_KNOWN.search(value) or _HAPROXY.search(value), values=True)


def variable_advice(value: str) -> str:
    """What is wrong with a header's value, and what to write; "" where it has no variable."""
    return _told(_FORMS.search(value) or _WELL_KNOWN.search(value) or _HAPROXY.search(value))


def known_variable_advice(value: str) -> str:
    """The same of a text that may have `$name` and `{name}` of its own, and values of the request."""
    return _told(_WELL_KNOWN.search(value), values=True)


def path_variable_advice(value: str) -> str:
    """The same of a path, in which groups of an expression may be meant, too."""
    return _told(_WELL_KNOWN.search(value) or re.search(r"\$[0-9]", value), values=True)


def substitution_advice(value: str) -> str:
    """The same of a substitution: groups are written otherwise elsewhere."""
    found = re.search(r"\$\{?[0-9]\}?", value)
    if found is None:
        return known_variable_advice(value)
    meant = re.sub(r"\$\{?([0-9])\}?", r"\\\1", value)
    return rf"has {found[0]}; groups are written \1 to \9: write substitution: '{meant}'"


def value_of_variable(name: str) -> str:
    """The value of the request that `name` is as a variable of others; "" where it is none, as no environment variable
    in capital letters is."""
    if name in ("src", "client_ip", "path", "method"):
        return {"src": "${client.address}", "client_ip": "${client.address}"}.get(name, f"${{request.{name}}}")
    if _WELL_KNOWN.fullmatch(f"${name}") is None:
        return ""
    return next((value for words, value, _ in _INSTEAD if any(word in f"${name}" for word in words.split())), "")


def _told(found: re.Match[str] | None, values: bool = False) -> str:
    if found is None:
        return ""
    name = found[0].lower()
    if name[1:].isdigit():
        return rf"has {found[0]}; groups are written \1 to \9, and stand in regex.substitution"
    value, instead = next(
        ((value, text) for words, value, text in _INSTEAD if any(word in name for word in words.split())), ("", "")
    )
    if values and value:
        return f"has the variable {found[0]}, which is plain text here; write {value}" + (instead and f" ({instead})")
    if not instead and name.startswith("$"):
        return f"has {found[0]}, which is a plain text here; an environment variable is written ${{{found[0][1:]}}}"
    if values:
        return f"has the variable {found[0]}, which is plain text here" + (instead and f"; {instead}")
    return f"has the variable {found[0]}, and there are none here" + (f"; {instead}" if instead else "; write a text")
