"""Tokens, names of the server, pages from elsewhere, TLS."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.serve_load import Server as Process
from clouds_deploy.config.serve import TOKEN, ServeOptions
from clouds_deploy.errors import CloudsError
from clouds_deploy.serving.access import Access, access
from tests.cli.conftest import run
from tests.serving.live import Live, live, png, refused
from tests.serving.test_limits import PHOTO

SECRET = "0123456789abcdef-_"


def asked(access: Access, path: str = "/v1/model", **headers: str) -> int:
    pairs = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]
    found = access.refusal({"type": "http", "path": path, "headers": pairs}, ("/",))
    return found.status if found else 200


@pytest.fixture(scope="module")
def guarded(small_bundle: Path) -> Iterator[Live]:
    with live(small_bundle, sam=False, access=Access(SECRET)) as running:
        yield running


def test_a_token(guarded: Live) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {SECRET}"}):
        for path in ("/v1/model", "/metrics", "/openapi.json", "/v2", "/nothing"):
            response = guarded.http.get(path, headers=headers)
            refused(response, 401, "asks for a token")
            assert response.headers["www-authenticate"] == "Bearer"
        response = guarded.http.post("/v1/segment", files={"image": png(PHOTO)}, headers=headers)
        refused(response, 401, "Authorization: Bearer TOKEN")
    right = {"Authorization": f"bearer {SECRET}"}
    assert guarded.http.get("/v1/model", headers=right).status_code == 200
    assert guarded.http.post("/v1/segment", files={"image": png(PHOTO)}, headers=right).status_code == 200
    for path in ("/", "/page.js", "/page.css", "/health", "/ready", "/v2/health/live", "/v2/health/ready"):
        assert guarded.http.get(path).status_code == 200  # the page asks its user; probes have no token
    assert guarded.http.post("/health").status_code == 401


@pytest.mark.parametrize(
    ("headers", "here", "elsewhere"),
    [
        ({"host": "x"}, 200, 421),
        ({"host": "evil.example:8000"}, 200, 421),
        ({}, 200, 421),
        ({"host": "10.0.0.7:8000"}, 200, 200),
        ({"host": "[fe80::1]:8000"}, 200, 200),
        ({"host": "localhost:8000"}, 200, 200),
        ({"host": "box"}, 200, 200),
        ({"host": "BOX.:80"}, 200, 200),
        ({"host": "box", "origin": "http://box"}, 200, 200),
        ({"host": "box:8000", "origin": "https://box:8000"}, 200, 200),
        ({"host": "box:8000", "origin": "http://box:9000"}, 200, 200),
        ({"host": "10.0.0.7:8000", "origin": "http://10.0.0.7:9000"}, 403, 403),
        ({"host": "box", "origin": "http://evil.example"}, 403, 403),
        ({"host": "box", "origin": "null"}, 403, 403),
        ({"host": "box", "origin": ""}, 403, 403),
        ({"host": "evil.example", "origin": "http://evil.example"}, 421, 421),  # DNS rebinding
        ({"host": "evil.example", "sec_fetch_site": "same-origin"}, 421, 421),
        ({"host": "127.0.0.1.evil.example", "origin": "http://127.0.0.1.evil.example"}, 421, 421),
    ],
)
def test_host_and_origin(headers: dict[str, str], here: int, elsewhere: int) -> None:
    assert asked(Access(hosts=("box",)), **headers) == here
    assert asked(Access(hosts=("box",), loopback=False), **headers) == elsewhere
    assert asked(Access(hosts=("*",), loopback=False), **headers) == 200


def test_pages_from_elsewhere(small_bundle: Path) -> None:
    with live(small_bundle, sam=False) as running:
        evil = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
        response = running.http.post("/v1/segment", files={"image": png(PHOTO)}, headers=evil)
        refused(response, 403, "evil.example")
        assert not any(name.startswith("access-control") for name in response.headers)
        own = {"Origin": running.address}
        assert running.http.post("/v1/segment", files={"image": png(PHOTO)}, headers=own).status_code == 200
        refused(running.http.get("/v1/model", headers={"Host": "evil.example", **evil}), 421, "--allow-host")
        assert running.http.get("/health", headers={"Host": "evil.example"}).status_code == 200


@pytest.mark.parametrize("text", ["", "short", "x" * 5000, "has space in it, has", "ümlautümlautümlaut"])
def test_what_is_no_token(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CloudsError, match="no token"):
        access(ServeOptions(token_file=file), "0.0.0.0")
    monkeypatch.setenv(TOKEN, text)
    with pytest.raises(CloudsError, match=TOKEN):
        access(ServeOptions(), "127.0.0.1")
    with pytest.raises(CloudsError, match="cannot be read"):
        access(ServeOptions(token_file=tmp_path), "0.0.0.0")


def test_the_tokens_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(f"  {SECRET}\n", encoding="utf-8")
    monkeypatch.setenv(TOKEN, "another-token-of-enough-letters")
    assert access(ServeOptions(token_file=file), "127.0.0.1").token == SECRET
    made = access(ServeOptions(allow_hosts=("Site.Example.",)), "0.0.0.0")
    assert (made.token, made.loopback) == ("another-token-of-enough-letters", False)
    assert "site.example" in made.hosts
    assert access(ServeOptions(), "::1").loopback


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-seconds", "nan"), "`seconds` is nan"),
        (("--max-seconds", "inf"), "`seconds` is inf"),
        (("--max-mib", "nan"), "--max-mib is nan"),
        (("--max-mib", "inf"), "--max-mib is inf"),
        (("--max-mib", "-1"), "--max-mib is -1"),
        (("--max-answer-mib", "nan"), "--max-answer-mib is nan"),
        (("--delay-ms", "nan"), "delay"),
        (("--delay-ms", "inf"), "delay"),
        (("--max-prompts", "0"), "`prompts` is 0"),
        (("--max-connections", "0"), "`connections` is 0"),
        (("--token-file", "nowhere"), "token nowhere cannot be read"),
        (("--tls-cert", "cert.pem"), "both, --tls-cert and --tls-key"),
        (("--tls-cert", "cert.pem", "--tls-key", "key.pem"), "no file cert.pem"),
    ],
)
def test_what_is_typed_wrong(small_bundle: Path, words: tuple[str, ...], said: str) -> None:
    done = run("serve", small_bundle, "--port", "0", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def certificate(folder: Path) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl here")
    return cert, key


def test_tls_a_token_and_the_network(small_bundle: Path, tmp_path: Path) -> None:
    """One process with all of it, as it would stand in a network."""
    cert, key = certificate(tmp_path)
    (tmp_path / "token").write_text(SECRET, encoding="utf-8")
    done = run("serve", small_bundle, "--tls-cert", key, "--tls-key", cert)
    assert done.returncode == 2
    assert "no certificate with its key" in done.stderr
    words: list[Any] = ["--sam", "none", "--host", "0.0.0.0", "--token-file", tmp_path / "token"]
    server = Process(small_bundle, *map(str, [*words, "--tls-cert", cert, "--tls-key", key]))
    assert server.address.startswith("https://0.0.0.0:")
    address = server.address.replace("0.0.0.0", "127.0.0.1")
    trust = ssl.create_default_context(cafile=cert)
    with httpx.Client(verify=trust, base_url=address, timeout=20) as http:
        assert http.get("/health").status_code == 200
        assert http.get("/v1/model").status_code == 401
        right = {"Authorization": f"Bearer {SECRET}"}
        assert http.get("/v1/model", headers=right).status_code == 200
        assert http.get("/v1/model", headers={**right, "Host": "evil.example"}).status_code == 421
        files = {"image": png(PHOTO)}
        assert http.post("/v1/segment", files=files, headers=right).status_code == 200
    with pytest.raises(httpx.TransportError):
        httpx.get(address.replace("https", "http") + "/health", timeout=5)
    server.signal()
    code, tally, said = server.wait()
    assert (code, tally["accepted"]) == (0, 1)
    assert "everybody" not in said
    assert SECRET not in said


def test_without_a_token_the_network_is_warned_of(small_bundle: Path) -> None:
    server = Process(small_bundle, "--sam", "none", "--host", "0.0.0.0")
    server.signal()
    server.wait()
    assert any("everybody who reaches 0.0.0.0" in line for line in server.said)
