"""The files of a configuration that workers get the content of (TLS, keys of cookies, who may ask or connect, maps,
bodies of answers): read together, checked by what workers load them with.

`TlsFiles.check` is a hook for lb.config.load, so that a file which cannot be used is reported with its line; `material`
then holds what compile_plan needs, and `facts` what people want to know.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from lb.config.checks.values import PoolNames, pool_names
from lb.config.network import Network, parse_network
from lb.config.regular_file import read_regular, without_bom
from lb.config.schema.access import provider_plan
from lb.config.schema.base import did_you_mean
from lb.config.schema.file import Config
from lb.config.schema.listeners.tls import NOTHING, Material, TlsFile, tls_files
from lb.config.schema.maps import MapConfig, entries_of, line_of
from lb.config.sources import Ranges, networks_in, refused_ranges
from lb.control.key_sets import KEY_SETS
from lb.errors import TidegateError
from lb.net.tls import certificate
from lb.net.tls.context import check_ciphers
from lb.net.tls.revocation import revocations_until, staple_until
from lb.proxy.access.checks import make_check
from lb.proxy.routing.values.lookup import EntryError, build

log = logging.getLogger("tidegate.tls")

# Far beyond the longest chain and the largest bundle of authorities in use.
MAX_FILE = 8 << 20
MAX_MAPS = 24 << 20  # of all maps as workers get them, within a frame (lb.control.workers.channel)
MAX_SOURCES = 8 << 20  # of all lists of networks, likewise
LARGEST_BODY = 1 << 20  # bytes of an answer: each worker has it in memory
SECRET_LEAST = 32  # bytes: those of the key that is made from it
DAY = 24 * 3600
EXPIRING = 14 * DAY


class CertificateFacts(Struct, frozen=True):
    """A certificate in use. Times are Unix seconds."""

    owner: str  # as "listeners.web"
    file: str
    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: int
    not_after: int
    fingerprint: str  # SHA-256 of its DER form
    staple_until: int = 0  # its OCSP response is given to clients until then; 0 = it has none

    def state(self, now: float) -> str:
        """valid, expiring (in the next 14 days, or the last third of a short life), expired or future, at the Unix time
        `now`."""
        if now < self.not_before:
            return "future"
        if now >= self.not_after:
            return "expired"
        soon = min(EXPIRING, (self.not_after - self.not_before) // 3)
        return "expiring" if now >= self.not_after - soon else "valid"

    def staple_state(self, now: float) -> str:
        """Of its OCSP response, at the Unix time `now`: none, good or expired."""
        if not self.staple_until:
            return "none"
        return "expired" if now >= self.staple_until else "good"

    def to_dict(self, now: float) -> dict[str, Any]:
        return {
            **asdict(self),
            "state": self.state(now),
            "staple": self.staple_state(now),
            "expires_in_s": int(self.not_after - now),
        }


class TlsFiles:
    """One reading of the TLS files. Blocks on the file system."""

    def __init__(self) -> None:
        self.material: Material = NOTHING
        self.facts: tuple[CertificateFacts, ...] = ()

    def check(self, config: Config) -> list[tuple[str, str]]:
        """Reads every file once; problems as (path, message), which never show anything of a key."""
        problems: list[tuple[str, str]] = []
        files: dict[Path, bytes] = {}
        names: dict[Path, tuple[str, ...]] = {}
        facts: list[CertificateFacts] = []
        staples: dict[Path, int] = {}
        for file in tls_files(config):
            try:
                content = files[file.path] if file.path in files else _read(file)
                files[file.path] = content
                if file.kind == "certificate":
                    fact = _certificate(file, content)
                    names[file.path] = fact.names
                    facts.append(fact)
                elif file.kind == "key":
                    _key(file, content, files)
                elif file.kind == "staple":
                    if file.key_of is not None and file.key_of in names:  # else its certificate has been reported
                        staples[file.path] = staple_until(content, files[file.key_of])
                        facts[-1] = replace(facts[-1], staple_until=staples[file.path])
                elif file.kind == "revocations":
                    if revocations_until(content) <= time.time():
                        log.error("%s: %s is past its next update: all are refused", file.where, file.path)
                elif file.kind == "secret":
                    if len(content.strip()) < SECRET_LEAST:
                        raise ValueError(f"is shorter than {SECRET_LEAST} bytes")
                elif file.provider is not None:
                    _access(file, content)
                elif file.kind in ("map", "networks"):
                    continue  # made below, with those that have no file
                elif file.kind == "body":
                    if len(content) > LARGEST_BODY:
                        raise ValueError(f"is larger than {LARGEST_BODY} bytes")
                elif file.kind == "password":
                    if not content.strip():
                        raise ValueError("is empty")
                else:
                    certificate.count_authorities(content)
            except OSError as error:
                problems.append((file.where, f"{file.path}: {error.strerror}"))
            except ValueError as error:
                problems.append((file.where, f"{file.path}: {error}"))
        for name, listener in config.listeners.items():
            if listener.tls is not None and listener.tls.ciphers:
                try:
                    check_ciphers(listener.tls.ciphers)
                except ValueError as error:
                    problems.append((f"listeners.{name}.tls.ciphers", str(error)))
        maps = {}
        pools = pool_names(config)
        for name, one in config.maps.items():
            if one.file is None or one.file in files:  # else it has been reported
                try:
                    content = files[one.file] if one.file is not None else b""
                    maps[name] = _map(one, content, pools.get(name, ()))
                except ValueError as error:
                    where = f"maps.{name}.{'entries' if one.file is None else 'file'}"
                    problems.append((where, f"{one.file}: {error}" if one.file is not None else str(error)))
        sources = _sources(config, files, problems)
        made = {file.path for file in tls_files(config) if file.kind in ("map", "networks")}
        files = {path: content for path, content in files.items() if path not in made}
        if sum(map(len, maps.values())) > MAX_MAPS:
            problems.append(("maps", f"all maps together take more than {MAX_MAPS >> 20} MiB"))
        if sum(map(size_of, sources.values())) > MAX_SOURCES:
            problems.append(("listeners", f"all lists of networks together take more than {MAX_SOURCES >> 20} MiB"))
        self.material = Material(files, names, staples, KEY_SETS.refresh(config), maps, sources)
        self.facts = tuple(facts)
        return problems


def size_of(ranges: Ranges) -> int:
    """Bytes of a list of networks, as workers have it."""
    return sum(map(len, ranges))


def _map(config: MapConfig, content: bytes, named: Sequence[PoolNames]) -> bytes:
    """The block of a map, of whose values `named` says which pools they name. Raises ValueError, with the line where it
    has a file."""
    entries = entries_of(config, content)
    try:
        for each in named:
            _refuse_unknown(entries, each)
        return build(entries, config.match, config.folds)
    except EntryError as error:
        if config.file is None:
            raise
        raise ValueError(f"line {line_of(config, content, error.key)}: {error}") from None


def _refuse_unknown(entries: Mapping[bytes, bytes], named: PoolNames) -> None:
    """Raises EntryError for a value that names no pool."""
    unknown = {value for value in set(entries.values()) if named.refused(value.decode("utf-8", "replace"))}
    for key, value in entries.items() if unknown else ():
        if value in unknown:
            text = value.decode("utf-8", "replace")
            said = f"{text[:64]!r} names none of the pools of {named.path}{did_you_mean(text, named.pools)}"
            raise EntryError(key, said)


def _sources(config: Config, files: Mapping[Path, bytes], problems: list[tuple[str, str]]) -> dict[str, Ranges]:
    """Who may not connect to each listener that says so, unless its lists have a mistake; appends to `problems`."""
    made = {}
    for name, listener in config.listeners.items():
        if not listener.lists_sources:
            continue
        lists: dict[str, list[Network]] = {}
        whole = True
        for key in ("allow", "deny"):
            file: Path | None = getattr(listener, f"{key}_file")
            lists[key] = [parse_network(text) for text in getattr(listener, key)]
            if file is None:
                continue
            if file not in files:  # it has been reported
                whole = False
                continue
            try:
                lists[key] += networks_in(files[file])
            except ValueError as error:
                problems.append((f"listeners.{name}.{key}_file", f"{file}: {error}"))
                whole = False
        if not whole:
            continue
        try:
            made[name] = refused_ranges(lists["allow"] if listener.lists_allowed else None, lists["deny"])
        except ValueError as error:
            problems.append((f"listeners.{name}.deny{'' if listener.deny else '_file'}", str(error)))
    return made


def _read(file: TlsFile) -> bytes:
    content = read_regular(file.path, MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise ValueError(f"is larger than {MAX_FILE >> 20} MiB")
    # The body of an error page goes out as it is.
    return content if file.kind == "body" else without_bom(content)


def _certificate(file: TlsFile, content: bytes) -> CertificateFacts:
    info = certificate.inspect(content)
    if file.served and not file.default and not file.named and not info.dns:
        raise ValueError("the certificate has no DNS name; say with `names` whom it is for")
    return CertificateFacts(
        owner=file.where.rpartition(".tls.")[0],
        file=str(file.path),
        subject=info.subject,
        issuer=info.issuer,
        names=tuple(name.lower() for name in info.dns),
        not_before=info.not_before,
        not_after=info.not_after,
        fingerprint=info.fingerprint,
    )


def _access(file: TlsFile, content: bytes) -> None:
    """A provider's file. Raises ValueError."""
    assert file.provider is not None
    plan = provider_plan(file.where.split(".")[1], file.provider, Material({file.path: content}))
    if not content:
        raise ValueError("is empty")  # which stands for a set of keys that was not fetched yet
    if plan.type == "api_key" and not plan.keys:
        raise ValueError("has no keys")
    try:
        make_check(plan)
    except TidegateError as error:
        raise ValueError(str(error)) from None


def _key(file: TlsFile, content: bytes, files: dict[Path, bytes]) -> None:
    if file.key_of is not None and file.key_of in files:  # else its certificate has been reported
        certificate.inspect(files[file.key_of], content)


def warn(config: Config, facts: Sequence[CertificateFacts], now: float) -> None:
    """Logs what is in force and should not be, at the Unix time `now`: for every start and reload."""
    for fact in facts:
        say_state(fact, fact.state(now))
        say_staple(fact, fact.staple_state(now))
    for file in tls_files(config):
        if file.kind in ("key", "secret", "password") and _readable_by_everyone(file.path):
            what = "password" if file.kind == "password" else "key"
            log.warning("%s: the %s %s can be read by everyone on this machine", file.where, what, file.path)
    for name, pool in config.pools.items():
        if pool.tls is not None and pool.tls.insecure_skip_verify:
            log.warning("pools.%s.tls: insecure_skip_verify is on: anybody can pose as its endpoints", name)
    tier = config.cache.tier if config.cache is not None else None
    if tier is not None and tier.tls is not None and tier.tls.insecure_skip_verify:
        log.warning("cache.tier.tls: insecure_skip_verify is on: anybody can pose as its servers")


def say_state(fact: CertificateFacts, state: str) -> None:
    """Logs a certificate that is in a state other than valid."""
    if state == "expired":
        log.error("%s: the certificate %s has expired (%s)", fact.owner, fact.file, fact.subject)
    elif state == "expiring":
        day = time.strftime("%Y-%m-%d", time.gmtime(fact.not_after))
        log.warning("%s: the certificate %s expires on %s (%s)", fact.owner, fact.file, day, fact.subject)
    elif state == "future":
        log.error("%s: the certificate %s is not valid yet (%s)", fact.owner, fact.file, fact.subject)


def say_staple(fact: CertificateFacts, state: str) -> None:
    """Logs an OCSP response that is not good any more."""
    if state == "expired":
        log.error("%s: the OCSP response for %s is too old and is not given to clients", fact.owner, fact.file)


def _readable_by_everyone(path: Path) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False
