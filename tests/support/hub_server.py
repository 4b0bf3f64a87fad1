"""A stand-in of the hub's HTTP interface: repositories in memory, on this machine."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

SHA = "a" * 40


class Hub(ThreadingHTTPServer):
    """Repositories by name: {path: bytes}; all files are regular ones, none LFS."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.tokens: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def started() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _send(self, value, status=200, **headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self):
        self._send({"error": "not found"}, 404, X_Error_Code="RepoNotFound")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.append(self.headers.get("Authorization"))
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            about = json.loads(body)
            name = f"{about.get('organization') or 'lab'}/{about['name']}"
            self.server.repos.setdefault(name, {})
            self._send({"url": f"{self.server.address}/{name}", "id": name})
        elif path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif found := re.fullmatch("/api/models/(.+)/preupload/main", path):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._send({"files": files})
        elif found := re.fullmatch("/api/models/(.+)/commit/main", path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    file = line["value"]
                    content = base64.b64decode(file["content"])
                    self.server.repos[found[1]][file["path"]] = content
            url = f"{self.server.address}/{found[1]}/commit/{SHA}"
            self._send({"commitUrl": url, "commitOid": SHA, "hookOutput": ""})
        else:
            self._missing()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/.+", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        found = info or tree or file
        repo = self.server.repos.get(found[1]) if found else None
        if repo is None or (file and file[2] not in repo):
            self._missing()
        elif info:
            names = [{"rfilename": name} for name in repo]
            self._send({"id": info[1], "sha": SHA, "siblings": names})
        elif tree:
            self._send(
                [
                    {"type": "file", "path": n, "size": len(b), "oid": _oid(b)}
                    for n, b in repo.items()
                ]
            )
        else:
            content = repo[file[2]]
            etag = f'"{_oid(content)}"'
            self._send(content, ETag=etag, X_Repo_Commit=SHA, Accept_Ranges="bytes")

    do_HEAD = do_GET


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
