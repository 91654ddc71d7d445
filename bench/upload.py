"""
Memory of the gateway while a large file is uploaded: it must stay flat, whatever the size of the file.

Run: ``python bench/upload.py [--mib 200] [--limit 16]``.  curl begins a resumable upload through a gateway and sends a
sparse file in one piece; the upstream answers as Google does and throws the bytes away, at once or slowly.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness import account, gateway, rss_kib

#: Bytes that the upstream reads at once, and how long it rests after each, in seconds.
READERS = {"at once": (1 << 20, 0.0), "slowly": (1 << 20, 0.02)}


class Uploads(BaseHTTPRequestHandler):
    """Google's resumable protocol, without a memory."""

    protocol_version = "HTTP/1.1"
    size, pause = READERS["at once"]
    taken = 0

    def do_POST(self) -> None:
        """Begin an upload, or take its bytes."""
        left = int(self.headers["Content-Length"])
        total = left
        while left:
            data = self.rfile.read(min(self.size, left))
            if not data:
                return
            left -= len(data)
            time.sleep(self.pause)
        begins = self.headers["X-Goog-Upload-Command"] == "start"
        host, port = self.connection.getsockname()
        body = b"{}" if begins else b'{"file": {"name": "files/bench", "sizeBytes": "%d"}}' % total
        self.send_response(200)
        if begins:
            self.send_header("X-Goog-Upload-URL", f"http://{host}:{port}/bytes?upload_id=1")
        else:
            type(self).taken = total
        self.send_header("X-Goog-Upload-Status", "active" if begins else "final")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def upstream() -> Iterator[str]:
    """The address of an upstream that takes uploads."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Uploads)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def curl(*arguments: str) -> Sequence[str]:
    """A call of curl that fails on any error."""
    return ["curl", "-sS", "--fail", "-H", "Expect:", *arguments]


def upload(url: str, file: Path, pid: int) -> tuple[int, float]:
    """Upload a file with curl; the largest resident memory of the gateway meanwhile, in KiB, and the seconds taken."""
    begin = ["-H", "X-Goog-Upload-Protocol: resumable", "-H", "X-Goog-Upload-Command: start", "-d", "{}"]
    answer = subprocess.run(
        curl("-D", "-", *begin, f"{url}/upload/v1beta/files"), check=True, capture_output=True, text=True
    )
    found = re.search(r"(?im)^x-goog-upload-url: (\S+)", answer.stdout)
    assert found is not None, answer.stdout
    send = ["-H", "X-Goog-Upload-Command: upload, finalize", "-H", "X-Goog-Upload-Offset: 0", "-X", "POST"]
    most, began = 0, time.monotonic()
    with subprocess.Popen(curl(*send, "-T", str(file), found[1]), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, rss_kib(pid))
            time.sleep(0.01)
    assert process.returncode == 0, "the upload failed"
    return most, time.monotonic() - began


def main() -> int:
    """Upload at both paces, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=200, help="size of the file")
    parser.add_argument("--limit", type=float, default=16.0, help="MiB that memory may grow by")
    options = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder, upstream() as url, gateway(account(url)) as twistd:
        pid = twistd.process.pid
        small, large = Path(folder) / "small", Path(folder) / "large"
        small.write_bytes(b"x" * 1000)
        with large.open("wb") as file:
            file.truncate(options.mib * 1024**2)
        upload(twistd.url(), small, pid)  # what the first upload brings into memory stays there
        base = rss_kib(pid)
        print(f"{'upstream reads':15} {'file, MiB':>10} {'grew, MiB':>10} {'MiB/s':>8}")
        for reader, (size, pause) in READERS.items():
            Uploads.size, Uploads.pause = size, pause
            most, seconds = upload(twistd.url(), large, pid)
            assert Uploads.taken == options.mib * 1024**2, "the upstream got another file"
            grew = (most - base) / 1024
            worst = max(worst, grew)
            print(f"{reader:15} {options.mib:10d} {grew:10.1f} {options.mib / seconds:8.0f}", flush=True)
    print(f"at most {worst:.1f} MiB; the limit is {options.limit:g} MiB")
    return worst > options.limit


if __name__ == "__main__":
    sys.exit(main())
