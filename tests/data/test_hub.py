"""Tables on the Hub: a server on loopback that answers as Hugging Face's does, read by its own client."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pictures import make_folder, make_shards

from scalevit.data.dataset import open_dataset


class Hub(BaseHTTPRequestHandler):
    """One data set, me/set, whose files lie in `data`."""

    root = None

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool):
        files = sorted(self.root.glob("*.parquet"))
        wanted = next((file for file in files if self.path.endswith(f"/resolve/main/data/{file.name}")), None)
        code, data = 404, b"{}"
        if wanted:
            code, data = 200, wanted.read_bytes()
            if said := self.headers.get("Range"):
                first, last = said.removeprefix("bytes=").split("-")
                code, data = 206, data[int(first) : int(last or len(data)) + 1]
        elif self.path == "/api/datasets/me/set":
            code, data = 200, b'{"id": "me/set", "sha": "1", "siblings": [], "tags": []}'
        elif self.path.startswith("/api/datasets/me/set/tree/main"):
            below = [
                {"type": "file", "path": f"data/{file.name}", "size": file.stat().st_size, "oid": "7"}
                for file in files
            ]
            here = [{"type": "directory", "path": "data", "oid": "0"}]
            code, data = 200, json.dumps(below if "main/data" in self.path else here).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", "1")
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub(tmp_path):
    """(run a word of data as with that Hub, folder of the tables there)."""
    tables = make_shards(make_folder(tmp_path / "f"), tmp_path / "tables", "parquet")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Hub,), {"root": tables}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def run(*words):
        words = [sys.executable, "-m", "scalevit", "data", *words]
        cache = {"SCALEVIT_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf")}
        where = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}"}
        return subprocess.run(words, env=os.environ | cache | where, capture_output=True, text=True)

    yield run, tables
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
def test_tables_on_the_hub_are_read_and_indexed(hub, tmp_path):
    run, tables = hub
    source = "hf://datasets/me/set/data/*.parquet"
    done = run("index", source, "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == 30
    done = run("pack", source, "--order", "kept", "--out", str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    mine, again = open_dataset(str(tables)), open_dataset(str(tmp_path / "again"))
    assert [again.encoded(n) for n in range(30)] == [mine.encoded(n) for n in range(30)]
    done = run("stats", "hf://datasets/me/none/data/a.parquet")
    assert done.returncode == 2
    assert done.stderr == "scalevit: hf://datasets/me/none/data/a.parquet: there is no such file\n"
