"""A web server on this machine that answers ranges, as GDAL asks for them; what it serves can be taken away.

A process of its own: rasterio holds the interpreter while it opens a file, so a thread could not answer.
"""

from __future__ import annotations

import contextlib
import http.server
import subprocess
import sys
from pathlib import Path

DOWN = "down"


class RangeHandler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.root``; 503 for everything while a file ``down`` lies there."""

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def log_message(self, *_):
        """Say nothing."""

    def _answer(self, *, body):
        path = self.server.root / self.path.lstrip("/")
        down = (self.server.root / DOWN).exists()
        if down or not path.is_file():
            self.send_error(503 if down else 404)
            return
        data = path.read_bytes()
        first, last = 0, len(data) - 1
        if wanted := self.headers.get("Range"):
            start, end = wanted.removeprefix("bytes=").split("-")
            first, last = int(start), min(int(end or last), last)
        if first > last:
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last + 1 - first))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        if body:
            self.wfile.write(data[first : last + 1])


@contextlib.contextmanager
def serve(root):
    """Serve a folder; yields the address, which ends in a slash."""
    command = [sys.executable, __file__, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        finally:
            process.kill()


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RangeHandler)
    server.root = Path(sys.argv[1])
    print(server.server_address[1], flush=True)
    server.serve_forever()
