"""A Hugging Face Hub on this machine: the routes by which its own client makes, fills and downloads a repository."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

SHA = "0123456789abcdef0123456789abcdef01234567"  # of every commit


@dataclass
class Hub:
    """What was uploaded, and with which tokens."""

    endpoint: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serves on a free port until the block ends."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return cast(Any, self.server).hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.split("?")[0]
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.hub.repositories.setdefault(name, {})
            self.hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
            return self._json({"url": f"{self.hub.endpoint}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        _, _, _, user, name, action, *_ = path.split("/")
        if action == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            return self._json({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        assert action == "commit"
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.hub.repositories[f"{user}/{name}"][line["value"]["path"]] = content
        return self._json({"commitUrl": f"{self.hub.endpoint}/{user}/{name}/commit/{SHA}", "commitOid": SHA})

    def do_GET(self) -> None:
        words = self.path.split("?")[0].strip("/").split("/")
        name = "/".join(words[2:4] if words[0] == "api" else words[:2])
        files = self.hub.repositories.get(name)
        if files is None:
            return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if words[0] != "api":
            content = files["/".join(words[4:])]
            marks = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": SHA}
            return self._answer(200, content, marks)
        if words[4] == "tree":
            listed = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in files.items()
            ]
            return self._json(listed, {"X-Repo-Commit": SHA})
        return self._json({"id": name, "sha": SHA, "siblings": [{"rfilename": file} for file in files]})

    do_HEAD = do_GET

    def _json(self, content: Any, headers: dict[str, str] | None = None) -> None:
        self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""
