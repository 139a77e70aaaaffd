"""Who we are to an OCI registry: Basic, or a Bearer token of the server that its challenge names.

https://distribution.github.io/distribution/spec/auth/token/
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import parse_http_list, parse_keqv_list

import httpx

from crosscast.pipeline.errors import RegistryError

CREDENTIALS = "log in with `docker login`, or set DOCKER_CONFIG or DOCKER_AUTH_CONFIG"
HELPER_TIMEOUT = 30.0
IDENTITY = "<token>"
"""The name that stands for an identity token in place of a password."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Credentials:
    """Name and password; or an identity token, whose name is IDENTITY."""

    name: str
    password: str


class Auth(httpx.Auth):
    """Answers the registry's challenges, and no other host's."""

    def __init__(self, host: str, credentials: Credentials | None) -> None:
        self._host = host
        self._credentials = credentials
        self._authorization = ""

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """See httpx: a request, and another one where the answer is a challenge."""
        if request.url.netloc.decode() != self._host:
            yield request
            return
        if self._authorization:
            request.headers["Authorization"] = self._authorization
        response = yield request
        if response.status_code != 401:
            return
        scheme, values = _challenge(response.headers.get("WWW-Authenticate", ""))
        self._authorization = ""
        if scheme == "basic" and self._credentials:
            self._authorization = _basic(self._credentials)
        elif scheme == "bearer" and _is_safe(values.get("realm", ""), request.url):
            answer = yield self._token_request(values)
            answer.read()
            if answer.status_code == 200:
                self._authorization = f"Bearer {_token(answer)}"
        if self._authorization:
            request.headers["Authorization"] = self._authorization
            yield request

    def _token_request(self, values: Mapping[str, str]) -> httpx.Request:
        asked = {key: values[key] for key in ("service", "scope") if key in values}
        known = self._credentials
        if known and known.name == IDENTITY:
            form = {"grant_type": "refresh_token", "client_id": "crosscast"}
            data = {**asked, **form, "refresh_token": known.password}
            return httpx.Request("POST", values["realm"], data=data)
        headers = {"Authorization": _basic(known)} if known else {}
        return httpx.Request("GET", values["realm"], params=asked, headers=headers)


def credentials(host: str) -> Credentials | None:
    """What `docker login` has kept for a host; None where it has nothing.

    Raises RegistryError where the file cannot be read, or the helper that it names fails.
    """
    config = _config()
    helper = config.get("credHelpers", {}).get(host) or config.get("credsStore")
    if helper:
        return _helped(helper, host)
    entry = config.get("auths", {}).get(host) or config.get("auths", {}).get(f"https://{host}")
    if not entry:
        return None
    if entry.get("identitytoken"):
        return Credentials(name=IDENTITY, password=entry["identitytoken"])
    if "auth" in entry:
        try:
            text = base64.b64decode(entry["auth"], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise _unreadable(f"the entry of {host} is damaged") from None
        name, _, password = text.partition(":")
        return Credentials(name=name, password=password)
    if "username" in entry:
        return Credentials(name=entry["username"], password=entry.get("password", ""))
    return None


def _config() -> dict[str, Any]:
    """Docker's configuration; empty where there is none."""
    folder = Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser()
    try:
        text = os.environ.get("DOCKER_AUTH_CONFIG") or (folder / "config.json").read_text("utf-8")
        config = json.loads(text)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _unreadable(type(error).__name__) from None
    if not isinstance(config, dict):
        raise _unreadable("it is no mapping")
    return config


def _helped(helper: str, host: str) -> Credentials | None:
    """What a credential helper knows of a host.

    https://docs.docker.com/reference/cli/docker/login/#credential-helpers
    """
    words = [f"docker-credential-{helper}", "get"]
    try:
        done = subprocess.run(
            words, input=host, capture_output=True, text=True, timeout=HELPER_TIMEOUT, check=False
        )
        if done.returncode != 0:
            return None  # it has nothing; the registry says if that is not enough
        told = json.loads(done.stdout)
        return Credentials(name=told["Username"], password=told["Secret"])
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        raise RegistryError(
            f"{words[0]}, which docker's config.json names for {host}, does not work: "
            f"{type(error).__name__}",
            fix="install or mend it, or log in without it",
        ) from None


def _challenge(header: str) -> tuple[str, dict[str, str]]:
    """The scheme, in lower case, and its parameters."""
    scheme, _, rest = header.partition(" ")
    try:
        return scheme.lower(), parse_keqv_list(parse_http_list(rest))
    except ValueError:
        return scheme.lower(), {}


def _is_safe(realm: str, registry: httpx.URL) -> bool:
    """Whether the realm may be told a password: as safe a connection as the registry's."""
    try:
        return httpx.URL(realm).scheme in ("https", registry.scheme)
    except httpx.InvalidURL:
        return False


def _token(answer: httpx.Response) -> str:
    try:
        told = answer.json()
        return str(told.get("token") or told["access_token"])
    except (ValueError, KeyError, AttributeError):
        return ""


def _basic(known: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{known.name}:{known.password}".encode()).decode()


def _unreadable(why: str) -> RegistryError:
    return RegistryError(
        f"docker's config.json, which has the credentials of registries, cannot be read: {why}",
        fix="mend it, or log in again with `docker login`",
    )
