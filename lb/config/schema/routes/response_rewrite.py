"""What answers say of the endpoint's side is made to fit the client's: redirects and cookies behind a rewrite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lb.config.plan.routes import CookieFlagsPlan, ResponseRewritePlan
from lb.config.schema.base import Boolean, Model, problem, text
from lb.config.values import has_values

if TYPE_CHECKING:
    from lb.config.schema.routes.route import RouteConfig

_LocationPrefix = Annotated[
    str, *text(r"(?:https?:|/)[!-~]{0,4094}", "is not the beginning of a URL such as http://inside.example.org/app/")
]
_NewLocation = Annotated[
    str, *text(r"(?:https?:|/)[!-~]{0,4094}", "is not the beginning of a URL such as / or https://example.org/")
]
_CookiePath = Annotated[str, *text(r"/[!-:<-~]{0,1023}", "is not a cookie's path, which begins with /")]
_Domain = r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"
_CookieDomain = Annotated[str, *text(_Domain, "is not a cookie's domain such as inside.example.org")]
_NewDomain = Annotated[str, *text(rf"(?:\.?{_Domain})?", "is not a domain such as example.org, or empty for none")]


_CookieName = Annotated[str, *text(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}", "is not a cookie's name, or * for all others")]


class CookieFlagsConfig(Model):
    """Flags of cookies that endpoints set. A flag that is left out stays as the endpoint has it."""

    secure: Boolean | None = None
    """`true` sets `Secure`, so that browsers send the cookie over TLS alone; `false` takes it out."""
    http_only: Boolean | None = None
    """`true` sets `HttpOnly`, which hides the cookie from scripts; `false` takes it out."""
    same_site: Literal["strict", "lax", "none", "off"] | None = None
    """Sets `SameSite`: which requests that other sites cause have the cookie. `none` needs `secure: true`, without
    which browsers refuse the cookie. `off` takes it out."""

    @model_validator(mode="after")
    def _fits(self) -> CookieFlagsConfig:
        if self.same_site == "none" and not self.secure:
            raise problem("cookie_flags", "same_site: none needs secure: true; browsers refuse the cookie without it")
        if self.secure is None and self.http_only is None and self.same_site is None:
            raise problem("cookie_flags", "says nothing: give secure, http_only or same_site")
        return self

    def plan(self, name: str) -> CookieFlagsPlan:
        """What it compiles to, for cookies of `name`."""
        flags = {"Secure": self.secure, "HttpOnly": self.http_only}
        said = [flag for flag, value in flags.items() if value is not None]
        added = [flag for flag in said if flags[flag]]
        if self.same_site is not None:
            said.append("SameSite")
            if self.same_site != "off":
                added.append(f"SameSite={self.same_site.capitalize()}")
        return CookieFlagsPlan(name, tuple(flag.lower() for flag in said), "".join(f"; {flag}" for flag in added))


def _kept_secure(flags: dict[str, CookieFlagsConfig]) -> dict[str, CookieFlagsConfig]:
    for name, one in flags.items():
        if one.secure is False and name.lower().startswith(("__host-", "__secure-")):
            raise problem("cookie_flags", f"browsers refuse {name} without Secure: leave secure out")
    return flags


class ResponseRewriteConfig(Model):
    """What becomes of redirects and cookies of the endpoints, which name paths and hosts as the endpoints see them."""

    location: Literal["default", "off"] = "default"
    """`default`: the fields `Location`, `Content-Location` and `Refresh` lead where the client can follow. The
    route's `rewrite.prefix` is undone in paths, and in URLs of the host that the client asked for; URLs of
    `rewrite.host`, or of the endpoint's address, become paths. As NGINX's `proxy_redirect default`, but paths alone
    are rewritten, too. `off`: they stay as they are, but for `locations`."""
    locations: Annotated[dict[_LocationPrefix, _NewLocation], Field(max_length=32)] = Field(default_factory=dict)
    """Beginnings of these fields' URLs, and what replaces them; the first that fits goes before `location`. As pairs
    of NGINX's `proxy_redirect`: `{"http://": "https://"}`."""
    cookie_path: Annotated[dict[_CookiePath, _CookiePath], Field(max_length=32)] = Field(default_factory=dict)
    """Beginnings of `Path` in `Set-Cookie`, and what replaces them; the first that fits. As NGINX's
    `proxy_cookie_path`, but for cookies whose name begins with `__Host-`: browsers keep them with `Path=/` alone.
    Default: cookies stay as they are."""
    cookie_domain: Annotated[dict[_CookieDomain, _NewDomain], Field(max_length=32)] = Field(default_factory=dict)
    """Values of `Domain` in `Set-Cookie`, in any case and with or without a dot in front, and what replaces them; an
    empty one takes the attribute out, so that the cookie is for the host alone that the client asked. As NGINX's
    `proxy_cookie_domain`."""
    cookie_flags: Annotated[
        dict[_CookieName, CookieFlagsConfig], Field(max_length=32), AfterValidator(_kept_secure)
    ] = Field(default_factory=dict)
    """Flags of cookies, by the cookie's name; `*` is for all that have none of their own here. As NGINX's
    `proxy_cookie_flags`."""


def response_rewrite_plan(route: RouteConfig) -> ResponseRewritePlan | None:
    """What the route's `response_rewrite` and `rewrite` compile to; None: answers stay as they are. A prefix with
    values of the request has no inverse, nor has a new path or a substitution."""
    config, rewrite = route.response_rewrite, route.rewrite
    if config is None and rewrite is None:
        return None
    inside, outside = "", ""
    if rewrite is not None and rewrite.prefix is not None and not has_values(rewrite.prefix):
        assert route.match.path is not None
        inside, outside = rewrite.prefix, route.match.path.prefix or ""
    host = rewrite.host or "" if rewrite is not None else ""
    if config is None:
        return ResponseRewritePlan(True, inside, outside, host) if inside or host else None
    plan = ResponseRewritePlan(
        undo=config.location == "default",
        inside=inside,
        outside=outside,
        host=host,
        locations=tuple(config.locations.items()),
        cookie_paths=tuple(config.cookie_path.items()),
        cookie_domains=tuple((old.lower(), new) for old, new in config.cookie_domain.items()),
        cookie_flags=tuple(flags.plan(name) for name, flags in config.cookie_flags.items()),
    )
    changes = plan.locations or plan.cookie_paths or plan.cookie_domains or plan.cookie_flags
    return plan if plan.undo or changes else None
