"""What browsers refuse of a pool's cookie is an error of the file."""

from pathlib import Path

import pytest

from lb.config.load import load
from lb.errors import ConfigError

FILE = """\
listeners:
  web: {{bind: 127.0.0.1:8080, protocol: http, routes: [{{pool: app}}]}}
pools:
  app: {{protocol: http, endpoints: ["127.0.0.1:8000"], affinity: {{cookie: {{{cookie}}}}}}}
"""


def loaded(tmp_path: Path, cookie: str) -> str:
    """What is wrong with the cookie, each problem from its last name on."""
    path = tmp_path / "tidegate.yaml"
    path.write_text(FILE.format(cookie=cookie))
    try:
        load(path)
    except ConfigError as error:
        return "\n".join(line.partition("affinity.cookie.")[2] for line in str(error).splitlines())
    return ""


@pytest.mark.parametrize(
    ("cookie", "said"),
    [
        ("name: __Host-lb", "secure: browsers refuse __Host-lb without secure: true"),
        ("name: __HOST-lb, secure: true, path: /a", "path: browsers refuse __HOST-lb with a path other than /"),
        ("name: __Host-lb, secure: true, domain: a.org", "domain: browsers refuse __Host-lb with a domain"),
        ("name: __Secure-lb", "secure: browsers refuse __Secure-lb without secure: true"),
        ("name: lb, same_site: none", "same_site: browsers refuse none without secure: true"),
        ("name: __Host-lb, secure: true", ""),
        ("name: __Secure-lb, secure: true, path: /a, domain: a.org", ""),
        ("name: __host, path: /a", ""),
    ],
)
def test_what_browsers_refuse(tmp_path: Path, cookie: str, said: str) -> None:
    assert loaded(tmp_path, cookie) == said
