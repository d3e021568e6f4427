"""A hub-shaped server on loopback: repositories in a folder, served as huggingface.co serves them to its Python clients."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

REPOSITORY = re.compile(
    r"/(?:api/)?(?P<kind>datasets|models)/(?P<repo>[^/]+(?:/[^/]+)?)"
    r"(?:/(?P<what>revision|tree|paths-info|resolve)/(?P<revision>[^/]+)(?:/(?P<path>.*))?)?"
)


class Hub:
    """Serves `folder/datasets/OWNER/NAME/` and `folder/models/OWNER/NAME/`.

    Attributes:
        gated: repositories that ask for a permission.
        moved: legacy names, and what they are called now.
        breaks: for a file's name, how many of its downloads break off in the middle.
        seen: the requests so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gated: set[str] = set()
        self.moved: dict[str, str] = {}
        self.breaks: dict[str, int] = {}
        self.seen: list[str] = []
        handler = type("Handler", (Answers,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()

    def commit(self, root: Path) -> str:
        """A commit that follows from the files."""
        digest = hashlib.sha1()
        for path in files_of(root):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
        return digest.hexdigest()


def files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


class Answers(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        where = unquote(urlsplit(self.path).path)
        self.hub.seen.append(f"{self.command} {where}")
        # A model's files have no /models/ in front.
        found = REPOSITORY.fullmatch(where) or REPOSITORY.fullmatch(f"/models{where}")
        if found is None:
            return self.send(404, {}, {"error": "Not found"})
        kind, repo, what, revision = found["kind"], found["repo"], found["what"], found["revision"]
        if repo in self.hub.moved:
            now = self.path.replace(f"/{repo}", f"/{self.hub.moved[repo]}", 1)
            return self.send(307, {"Location": now}, {})
        root = self.hub.folder / kind / repo
        if not root.is_dir():
            return self.send(401, {"X-Error-Code": "RepoNotFound"}, {"error": "Repository not found"})
        commit = self.hub.commit(root)
        headers = {"X-Repo-Commit": commit}
        if repo in self.hub.gated and "Authorization" not in self.headers and what is not None:
            return self.send(401, headers | {"X-Error-Code": "GatedRepo"}, {"error": "Access to it is restricted."})
        if revision not in (None, "main", commit):
            return self.send(404, {"X-Error-Code": "RevisionNotFound"}, {"error": f"Invalid rev id: {revision}"})
        if what == "tree":
            below = root / (found["path"] or "")
            if not below.is_dir():
                return self.send(404, headers | {"X-Error-Code": "EntryNotFound"}, {"error": "Entry not found"})
            recursive = "recursive=true" in self.path.lower()
            inside = sorted(below.rglob("*") if recursive else below.iterdir())
            return self.send(200, headers, [entry(path, root) for path in inside])
        if what == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith(b"{") else []
            return self.send(200, headers, [entry(root / path, root) for path in asked if (root / path).exists()])
        if what == "resolve":
            return self.send_file(root / (found["path"] or ""), headers)
        files = [{"rfilename": path.relative_to(root).as_posix()} for path in files_of(root)]
        gated = "manual" if repo in self.hub.gated else False
        facts = {"id": repo, "sha": commit, "siblings": files, "tags": [], "private": False, "gated": gated}
        return self.send(200, headers, facts)

    def send_file(self, path: Path, headers: dict[str, str]) -> None:
        if not path.is_file():
            self.send(404, headers | {"X-Error-Code": "EntryNotFound"}, {"error": "Entry not found"})
            return
        content = path.read_bytes()
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if begin else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.breaks.get(path.name, 0):
            self.hub.breaks[path.name] -= 1
            self.wfile.write(content[begin : begin + (len(content) - begin) // 2])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
            return
        self.wfile.write(content[begin:])

    def send(self, status: int, headers: dict[str, str], value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, content in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, content)
        if status >= 400:
            self.send_header("X-Error-Message", value["error"])
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def entry(path: Path, root: Path) -> dict[str, Any]:
    """A file or folder as `tree` and `paths-info` show it."""
    name = path.relative_to(root).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}
    content = path.read_bytes()
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
