"""Error pages: what clients get in place of an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from lb.config.plan.routes import ErrorPagePlan
from lb.config.schema.base import Boolean, FieldName, FilePath, Integer, Model, problem, text
from lb.config.schema.routes.bodies import FRAMING, content_type
from lb.config.schema.routes.texts import FieldValue, checked_text
from lb.config.units import KIB
from lb.config.values import IN_ERRORS, has_values, parse, values_in

_HTML = "text/html; charset=utf-8"
# What the error itself says (RFC 9110 sections 10.2.1, 10.2.3 and 11.6.1).
_TOLD = ("allow", "date", "www-authenticate")


def _number(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


ErrorStatus = Annotated[
    str,
    BeforeValidator(_number, json_schema_input_type=int | str),
    *text(r"[45](?:[0-9][0-9]|xx)", "is not the status of an error, such as 503, or a class: 4xx or 5xx"),
]


class ErrorPageConfig(Model):
    """One error page: for which errors, and what the client gets."""

    on: Annotated[list[ErrorStatus], Field(min_length=1, max_length=64)]
    """Statuses (`503`), and classes (`4xx`, `5xx`)."""
    body: Annotated[str, Field(max_length=64 * KIB), AfterValidator(checked_text)] = ""
    """Text of the page. It may have values of the error and of the request, as in
    `<p>${error.status} ${error.message}, request ${request.id}</p>`, which are escaped as its `Content-Type` needs."""
    file: FilePath | None = None
    """File that has the page, in place of `body`: at most 1 MiB, the same for every request. It is read at the start,
    and again when it changes; what cannot be read leaves the content in force."""
    headers: Annotated[dict[FieldName, FieldValue], Field(max_length=16)] = Field(default_factory=dict)
    """Headers of the page, in place of those of the same name. They may have values as `body`. Default of
    `Content-Type`: by the suffix of `file`, and `text/html; charset=utf-8` of a `body`."""
    status: Annotated[Integer, Field(ge=200, le=599)] | None = None
    """Status that the client is told instead. Logs and metrics keep that of the error. Default: that of the error."""
    intercept: Boolean = False
    """Whether errors of the endpoints get the page, too, as with NGINX's `proxy_intercept_errors`. Their headers stay,
    but for those that describe the body. Default: only Tidegate's own errors."""

    @model_validator(mode="after")
    def _page(self) -> ErrorPageConfig:
        for name in self.headers:
            if name.lower() in FRAMING or name.lower() in _TOLD:
                raise problem("fields", f"{name} is set by Tidegate itself")
        if self.body and self.file is not None:
            raise problem("respond", "body and file are each the page's body: one of them is enough")
        if self.status in (204, 205, 304):
            raise problem("respond", f"an answer with status {self.status} has no body")
        for where, one in self.texts():
            for value in values_in(parse(one)) if has_values(one) else ():
                if value.name not in IN_ERRORS:
                    known = ", ".join(sorted(IN_ERRORS))
                    raise problem("value", f"{where}: {value.spelling} is not known of errors; there are {known}")
        return self

    def texts(self) -> Iterator[tuple[str, str]]:
        """Each text that may have values, with its key."""
        yield "body", self.body
        for name, value in self.headers.items():
            yield f"headers.{name}", value


ErrorPages = Annotated[list[ErrorPageConfig], Field(max_length=64)]


def error_page_plans(pages: Sequence[ErrorPageConfig], files: Mapping[Path, bytes]) -> tuple[ErrorPagePlan, ...]:
    """What `pages` compile to; `files` has what their files hold. KeyError where it was read for another
    configuration."""
    return tuple(_plan(page, files) for page in pages)


def _plan(page: ErrorPageConfig, files: Mapping[Path, bytes]) -> ErrorPagePlan:
    fields = tuple(page.headers.items())
    if not any(name.lower() == "content-type" for name in page.headers):
        fields = (*fields, ("Content-Type", content_type(page.file) if page.file is not None else _HTML))
    valued = has_values(page.body)
    return ErrorPagePlan(
        statuses=tuple(statuses_of(page.on)),
        fields=fields,
        body=files[page.file] if page.file is not None else b"" if valued else page.body.encode(),
        text=page.body if valued else "",
        status=page.status or 0,
        intercept=page.intercept,
    )


def statuses_of(statuses: Sequence[str]) -> Iterator[int]:
    """The statuses that `on` names, classes one by one."""
    for status in statuses:
        if status.endswith("xx"):
            yield from range(int(status[0]) * 100, int(status[0]) * 100 + 100)
        else:
            yield int(status)
