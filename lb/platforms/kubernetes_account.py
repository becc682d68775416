"""Where the API server of Kubernetes is, and who we are there: from inside a pod, or by a kubeconfig file.

Sources: Kubernetes documentation, "Accessing the Kubernetes API from a Pod" and "Organizing Cluster Access Using
kubeconfig Files"; the credential plug-ins of client.authentication.k8s.io.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import ssl
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from lb.config.schema.pools.platforms import KubernetesConfig
from lb.config.units import MINUTE, SECOND
from lb.platforms.error import PlatformError

POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_AGE = MINUTE  # a pod's token is replaced in place; client-go reads it once a minute, too
PLUGIN_TIMEOUT = 30  # s, of a credential plug-in
EARLY = 30 * SECOND  # so long before its end a plug-in's token is asked for anew


class Account:
    """`server` is the URL without a slash at its end, `namespace` the one that is meant where none is named, `tls` None
    without TLS. `authorization(now)` gives the value of the header, "" for none."""

    def __init__(self, server: str, namespace: str, tls: ssl.SSLContext | None, credential: Credential) -> None:
        self.server = server.rstrip("/")
        self.namespace = namespace
        self.tls = tls
        self._credential = credential

    async def authorization(self, now: int) -> str:
        """Raises PlatformError when there is no credential to be had."""
        token = await self._credential.token(now)
        return f"Bearer {token}" if token else ""

    def refused(self) -> None:
        """The server did not take the credential: the next one is a fresh one."""
        self._credential.refused()


class Credential:
    """A token that stays the same; "" where certificates, or nothing, say who we are."""

    def __init__(self, token: str = "") -> None:
        self._token = token

    async def token(self, now: int) -> str:
        return self._token

    def refused(self) -> None:
        return


class FileCredential(Credential):
    """A token in a file, which is read again as it grows old."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._read_at: int | None = None

    async def token(self, now: int) -> str:
        if self._read_at is None or now - self._read_at >= TOKEN_AGE:
            self._token = (await asyncio.to_thread(_read, self._path)).strip()
            self._read_at = now
        return self._token

    def refused(self) -> None:
        self._read_at = None


class PluginCredential(Credential):
    """A token from a command, such as `aws eks get-token` or `gke-gcloud-auth-plugin`."""

    def __init__(self, plugin: Mapping[str, Any]) -> None:
        super().__init__()
        self._plugin = plugin
        self._until: int | None = None  # monotonic ns

    async def token(self, now: int) -> str:
        if self._token and (self._until is None or now < self._until):
            return self._token
        said = await self._run()
        try:
            status = json.loads(said)["status"]
            self._token = status["token"]
            until = status.get("expirationTimestamp")
            left = None if until is None else datetime.fromisoformat(until).timestamp() - time.time()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PlatformError(f"{self._plugin.get('command')}: its answer has no token") from None
        self._until = None if left is None else now + int(left * SECOND) - EARLY
        return self._token

    def refused(self) -> None:
        self._token = ""

    async def _run(self) -> bytes:
        command = [str(self._plugin.get("command")), *map(str, self._plugin.get("args") or ())]
        version = self._plugin.get("apiVersion", "client.authentication.k8s.io/v1")
        asked = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
        more = {str(item["name"]): str(item["value"]) for item in self._plugin.get("env") or ()}
        environment = {**os.environ, "KUBERNETES_EXEC_INFO": json.dumps(asked), **more}
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
            )
        except OSError as error:
            raise PlatformError(f"{command[0]}: {error.strerror}") from None
        try:
            async with asyncio.timeout(PLUGIN_TIMEOUT):
                said, complaint = await process.communicate()
        except TimeoutError:
            raise PlatformError(f"{command[0]}: no answer within {PLUGIN_TIMEOUT} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
            raise PlatformError(f"{command[0]}: exit status {process.returncode}: {last}")
        return said


def find_account(where: KubernetesConfig, environment: Mapping[str, str] = os.environ, pod: Path = POD) -> Account:
    """Raises PlatformError when no cluster is known, or a file is missing or not what it should be. Reads files."""
    if where.api is not None:
        return Account(where.api, where.namespace or "default", None, Credential())
    if where.kubeconfig is None and environment.get("KUBERNETES_SERVICE_HOST") and (pod / "token").exists():
        return _of_pod(where, environment, pod)
    given = environment.get("KUBECONFIG", "").partition(os.pathsep)[0]
    path = where.kubeconfig or (Path(given) if given else Path.home() / ".kube" / "config")
    if where.kubeconfig is None and not given and not path.exists():
        raise PlatformError("this is no pod of Kubernetes, and there is no ~/.kube/config; name a kubeconfig")
    try:
        return _of_kubeconfig(where, path)
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
        raise PlatformError(f"{path}: is not a kubeconfig file: {error!r}") from None


def _of_pod(where: KubernetesConfig, environment: Mapping[str, str], pod: Path) -> Account:
    host, port = environment["KUBERNETES_SERVICE_HOST"], environment.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    namespace = where.namespace or _read(pod / "namespace").strip() or "default"
    tls = _context(_read(pod / "ca.crt"), False)
    return Account(f"https://{host}:{port}", namespace, tls, FileCredential(pod / "token"))


def _of_kubeconfig(where: KubernetesConfig, path: Path) -> Account:
    import yaml

    try:
        document = yaml.safe_load(_read(path))
    except yaml.YAMLError:
        raise PlatformError(f"{path}: is no YAML") from None
    name = where.context or document["current-context"]
    context = _named(document, "contexts", name, path)["context"]
    cluster = _named(document, "clusters", context["cluster"], path)["cluster"]
    user = _named(document, "users", context["user"], path).get("user") or {} if context.get("user") else {}
    tls = None
    if str(cluster["server"]).startswith("https:"):
        authority = _material(cluster, "certificate-authority", path)
        tls = _context(authority, bool(cluster.get("insecure-skip-tls-verify")))
        certificate, key = _material(user, "client-certificate", path), _material(user, "client-key", path)
        if certificate is not None and key is not None:
            _load_pair(tls, certificate, key, path)
    namespace = where.namespace or context.get("namespace") or "default"
    return Account(cluster["server"], namespace, tls, _credential(user, path))


def _credential(user: Mapping[str, Any], path: Path) -> Credential:
    if user.get("exec"):
        return PluginCredential(user["exec"])
    if user.get("tokenFile"):
        return FileCredential(path.parent / user["tokenFile"])
    return Credential(user.get("token") or "")


def _named(document: Mapping[str, Any], kind: str, name: str, path: Path) -> Mapping[str, Any]:
    for item in document.get(kind) or ():
        if item["name"] == name:
            found: Mapping[str, Any] = item
            return found
    raise PlatformError(f"{path}: {kind} has no {name!r}")


def _material(section: Mapping[str, Any], key: str, path: Path) -> str | None:
    """PEM text that stands in the file, or in another one that it names."""
    if section.get(f"{key}-data"):
        return base64.b64decode(section[f"{key}-data"], validate=True).decode()
    return _read(path.parent / section[key]) if section.get(key) else None


def _context(authority: str | None, blind: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=authority)
    except ssl.SSLError as error:
        raise PlatformError(f"the cluster's certificate authority cannot be used: {error.reason}") from None
    if blind:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_pair(context: ssl.SSLContext, certificate: str, key: str, path: Path) -> None:
    """OpenSSL's interface in Python takes files only; these two can be read by nobody else and are gone at once."""
    with tempfile.TemporaryDirectory(prefix="tidegate-kube-") as folder:
        files = Path(folder) / "certificate", Path(folder) / "key"
        for file, text in zip(files, (certificate, key), strict=True):
            file.touch(0o600)
            file.write_text(text)
        try:
            context.load_cert_chain(*files)
        except ssl.SSLError as error:
            raise PlatformError(f"{path}: the client's certificate cannot be used: {error.reason}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise PlatformError(f"{path}: {error.strerror}") from None
