"""Who may ask: a token, names under which the server may be called, and the pages that may call it."""

from __future__ import annotations

import hmac
import ipaddress
import os
import socket
import ssl
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import Scope

from clouds_deploy.config.serve import TOKEN, ServeOptions
from clouds_deploy.errors import CloudsError
from clouds_deploy.serving.limits import Refusal

_SHORTEST, _LONGEST = 16, 4096
ANY = "*"
"""Stands for every host name."""


@dataclass(frozen=True)
class Access:
    """What a request must show.

    A page from elsewhere that a browser in this network has open can send requests too. Such a request names
    its page in `Origin`, which must be this server's own; or the browser was made to think that the page's
    name is this server's address, and then `Host` is that name. Names are therefore checked, on loopback for
    browsers alone (other programs there say what they like).

    Attributes:
        token: What `Authorization: Bearer` must carry; None asks for nothing.
        hosts: Names under which the server is called, beside addresses; `*` allows all.
        loopback: Whether only programs of this machine reach the server.
    """

    token: str | None = None
    hosts: Collection[str] = ()
    loopback: bool = True

    def refusal(self, scope: Scope, public: Collection[str] = ()) -> Refusal | None:
        """Why a request is not served, or None.

        Args:
            scope: Of the request.
            public: Paths that need no token.
        """
        headers = Headers(scope=scope)
        if ANY not in self.hosts and (fault := self._strange(headers)):
            return fault
        if self.token is None or scope["path"] in public:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token.encode()):
            return None
        return Refusal(401, "this server asks for a token", "send it as `Authorization: Bearer TOKEN`")

    def _strange(self, headers: Headers) -> Refusal | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        browser = origin is not None or "sec-fetch-site" in headers
        if (browser or not self.loopback) and not self._known(_name(host)):
            return Refusal(
                421,
                f"this server is not called `{host[:100]}`",
                "ask it by its address, or start it with --allow-host NAME",
            )
        if origin is None or origin.partition("://")[2].lower() == host.lower():
            return None
        name = _name(origin.partition("://")[2])
        if name in self.hosts:
            return None
        return Refusal(
            403,
            f"a page of `{origin[:100]}` may not ask this server",
            "open this server's own page, or start it with --allow-host NAME",
        )

    def _known(self, name: str) -> bool:
        return name in self.hosts or name == "localhost" or name.endswith(".localhost") or _address(name)


def access(options: ServeOptions, address: str) -> Access:
    """The rules of a server.

    Args:
        options: How it is started.
        address: Where it listens.

    Raises:
        CloudsError: The token cannot be read, or is none.
    """
    hosts = {name.strip().lower().rstrip(".") for name in options.allow_hosts}
    hosts |= {name.lower() for name in (options.host, socket.gethostname()) if name}
    return Access(_token(options.token_file), frozenset(hosts), ipaddress.ip_address(address).is_loopback)


def tls_files(options: ServeOptions) -> dict[str, str]:
    """The certificate and its key as uvicorn's settings; empty without.

    Raises:
        CloudsError: One is missing, cannot be read, or they do not fit.
    """
    if options.tls_cert is None and options.tls_key is None:
        return {}
    if options.tls_cert is None or options.tls_key is None:
        raise CloudsError("TLS needs a certificate and its key", "pass both, --tls-cert and --tls-key")
    for path in (options.tls_cert, options.tls_key):
        if not Path(path).is_file():
            raise CloudsError(f"there is no file {path}", "check the path")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            options.tls_cert, options.tls_key, password=lambda: ""
        )
    except (OSError, ValueError) as error:
        raise CloudsError(
            f"{options.tls_cert} and {options.tls_key} are no certificate with its key: {error}",
            "pass PEM files, the key without a password",
        ) from error
    return {"ssl_certfile": str(options.tls_cert), "ssl_keyfile": str(options.tls_key)}


def _token(file: str | Path | None) -> str | None:
    """The token of a file or of the environment, without white space around it."""
    if file is None:
        text, where = os.environ.get(TOKEN), f"the environment variable {TOKEN}"
        if text is None:
            return None
    else:
        where = str(file)
        try:
            with open(file, encoding="utf-8") as opened:
                text = opened.read(_LONGEST + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise CloudsError(f"the token {file} cannot be read: {error}", "check --token-file") from error
    token = text.strip()
    plain = token.isascii() and token.isprintable() and " " not in token
    if not plain or not _SHORTEST <= len(token) <= _LONGEST:
        raise CloudsError(
            f"{where} holds no token: {_SHORTEST} to {_LONGEST} ASCII characters without spaces",
            "make one: python -c 'import secrets; print(secrets.token_urlsafe())'",
        )
    return token


def _name(host: str) -> str:
    """The host of `host:port`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def _address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
