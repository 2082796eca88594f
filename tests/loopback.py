"""A web server on 127.0.0.1 that cuts connections, announces false lengths and sends redirects."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Server:
    """What the server serves, and which faults it has.

    Args:
        url: Address of the server.
        files: Content of each path.
        cuts: For each of the next answers, the number of bytes after which it is cut off.
        announced: Content-Length sent for a path instead of the real length; ``None`` omits the header.
        redirects: Location to which each path redirects.
        refused: Statuses of the next answers for each path.
        ranges: Whether the server supports Range requests.
        etag: ETag of all files, changed by a test that changes a file; ``None`` omits the header.
        asked: Path and Range header of every request so far.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    announced: dict[str, int | None] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    refused: dict[str, list[int]] = field(default_factory=dict)
    ranges: bool = True
    etag: str | None = '"1"'
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server for the duration of the block."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.close_connection = True
            wanted = self.headers.get("Range")
            server.asked.append((self.path, wanted))
            if server.refused.get(self.path):
                return self.plain(server.refused[self.path].pop(0))
            if self.path in server.redirects:
                return self.plain(302, Location=server.redirects[self.path])
            if self.path not in server.files:
                return self.plain(404)
            content = server.files[self.path]
            start = 0
            same = self.headers.get("If-Range") in (None, server.etag)
            if wanted is not None and server.ranges and same:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    return self.plain(416, Content_Range=f"bytes */{len(content)}")
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            length = server.announced.get(self.path, len(content) - start)
            if length is not None:
                self.send_header("Content-Length", str(length))
            if server.etag is not None:
                self.send_header("ETag", server.etag)
            self.end_headers()
            self.wfile.write(content[start:][: server.cuts.pop(0) if server.cuts else None])
            return None

        def plain(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
