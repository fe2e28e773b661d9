"""A web server of one folder, which can fail, for tests of remote data."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(root, *, fail_first: int = 0, fail_from: int = 2**31, status: int = 0, ranges: bool = True):
    """An object store's reading half on loopback; `fail_first` requests, and those from the number
    `fail_from` on, are answered 503."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.reply(body=False)

        def do_GET(self):
            self.reply(body=True)

        def reply(self, body: bool):
            seen.append(self.path)
            file = root / self.path.lstrip("/")
            away = len(seen) <= fail_first or len(seen) >= fail_from
            code = 503 if away else status or (200 if file.is_file() else 404)
            data = file.read_bytes() if code == 200 else b""
            size, wanted = len(data), self.headers.get("Range")
            if code == 200 and wanted and ranges:
                first, last = wanted.removeprefix("bytes=").split("-")
                data, code = data[int(first) : int(last) + 1], 206 if int(first) < size else 416
            self.send_response(code)
            self.send_header("ETag", f'"{size}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
