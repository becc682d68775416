"""`jobs`: where they may be kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lb.config.checks.file import check_files
from lb.config.schema.file import Config
from lb.config.schema.jobs import JobsConfig
from lb.control.jobs.supervisor import settings_of

URLS = ["tls://a:4222", "tls://b:4222"]


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        ({}, "exactly one of path, store is needed"),
        ({"path": "/j", "store": {"nats": {"urls": URLS}}}, "exactly one of path, store is needed"),
        ({"store": {"nats": {"urls": []}}}, "at least 1 item"),
        ({"store": {"nats": {"urls": ["http://a"]}}}, "is no URL such as nats://HOST:4222"),
        ({"store": {"nats": {"urls": ["nats://user:secret@a"]}}}, "is no URL such as nats://HOST:4222"),
        ({"store": {"nats": {"urls": ["tls://a", "nats://b"]}}}, "not together"),
        ({"store": {"nats": {"urls": ["nats://b"], "tls": {}}}}, "tls needs urls of the form tls://"),
        ({"store": {"nats": {"urls": URLS, "tls": {"cert": "/c"}}}}, "cert and key belong together"),
        ({"store": {"nats": {"urls": URLS, "username": "a"}}}, "belong together"),
        (
            {"store": {"nats": {"urls": URLS, "username": "a", "password_file": "/p", "credentials_file": "/c"}}},
            "two ways to log in",
        ),
        ({"store": {"nats": {"urls": URLS, "stream": "a.b"}}}, "is no name of letters"),
    ],
)
def test_places_that_cannot_be(jobs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        JobsConfig.model_validate(jobs)


def test_a_store_in_nats_is_what_the_process_is_told(tmp_path: Path) -> None:
    nats = {"urls": URLS, "replicas": 3, "tls": {"ca_file": "/ca"}, "credentials_file": "/c"}
    config = Config.model_validate(
        {
            "listeners": {"web": {"bind": "127.0.0.1:0", "protocol": "http", "routes": [{"pool": "a", "jobs": True}]}},
            "pools": {"a": {"protocol": "oip", "endpoints": ["127.0.0.1:1"]}},
            "jobs": {"store": {"nats": nats}},
        }
    )
    settings = settings_of(config, tmp_path)
    assert settings is not None
    assert settings.place == "NATS at tls://a:4222, tls://b:4222"
    told = settings.nats
    assert told is not None
    assert (told.urls, told.replicas, told.tls, told.ca_file, told.cert) == (tuple(URLS), 3, True, "/ca", "")
    assert ("jobs.store.nats.credentials_file", "/c: No such file or directory") in check_files(config)
