"""An S3 store for tests: moto's server, or the real one at RAYDD_TEST_S3_ENDPOINT, with the usual AWS_ variables."""

from __future__ import annotations

import http.client
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import botocore.session


@contextmanager
def s3_endpoint() -> Iterator[dict[str, str]]:
    """Run a store; its address and keys are in `os.environ` meanwhile, and yielded."""
    real = os.environ.get("RAYDD_TEST_S3_ENDPOINT")
    common = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    if real:
        with _environment({**common, "AWS_ENDPOINT_URL": real}) as env:
            yield env
        return
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    try:
        with _environment({**common, **keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}) as env:
            yield env
    finally:
        server.stop()


def fresh_bucket() -> str:
    """Make an empty bucket in the store of `os.environ` and return its URL."""
    name = f"raydd-{secrets.token_hex(6)}"
    client = botocore.session.get_session().create_client("s3")
    try:
        client.create_bucket(Bucket=name)
    finally:
        client.close()
    return f"s3://{name}"


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[dict[str, str]]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield values
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


# What the proxy does with a request: None passes it on, (status, code) answers so, `drop` closes the connection at
# once, `drop-answer` after passing it on, `cut-answer` after half of the answer's body.
Fault = tuple[int, str] | str | None


class Proxy:
    """Stands between client and store and lets chosen requests fail.

    Attributes:
        url: Its address, for AWS_ENDPOINT_URL.
        fault: Decides by method and path with query.
        seen: Every request, as `METHOD path?query`.
        sent: Path and bytes of every object, or part of one, that was answered with.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.fault: Callable[[str, str], Fault] = lambda method, path: None
        self.seen: list[str] = []
        self.sent: list[tuple[str, int]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: object) -> None:
            return None

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            proxy.seen.append(f"{self.command} {self.path}")
            fault = proxy.fault(self.command, self.path)
            if isinstance(fault, tuple):
                status, code = fault
                text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>made to fail</Message></Error>"
                self.answer(status, [("Content-Type", "application/xml")], text.encode())
            elif fault == "drop":
                self.close_connection = True
            else:
                self.forward(body, fault)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

        def forward(self, body: bytes, fault: Fault) -> None:
            connection = http.client.HTTPConnection(urlsplit(proxy.upstream).netloc, timeout=30)
            headers = {key: value for key, value in self.headers.items() if key.lower() not in ("expect", "connection")}
            try:
                connection.request(self.command, self.path, body=body, headers=headers)
                answer = connection.getresponse()
                data = answer.read()
            finally:
                connection.close()
            if fault == "drop-answer":
                self.close_connection = True
                return
            dropped = ("connection", "transfer-encoding", "date", "server")
            if self.command == "GET" and answer.status in (200, 206) and "list-type=" not in self.path:
                proxy.sent.append((self.path, len(data)))
            kept = [(key, value) for key, value in answer.getheaders() if key.lower() not in dropped]
            self.answer(answer.status, kept, data, cut=fault == "cut-answer")

        def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False) -> None:
            self.send_response(status)
            names = {key.lower() for key, _ in headers}
            for key, value in headers:
                self.send_header(key, value)
            if "content-length" not in names:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = self.close_connection or cut

    return Handler
