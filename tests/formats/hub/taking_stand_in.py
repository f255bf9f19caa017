"""The stand-in for the hub, with the requests that an upload makes: a repository is made, files are taken, committed.

The form of the requests and answers is the real hub's, as huggingface_hub makes and reads them; large files come by
Git LFS (https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md).
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from tests.formats.hub.hub_stand_in import COMMIT, LARGE, Hub, _Handler

READS, WRITES = "hf_reads", "hf_writes"
_NO_TOKEN = "Invalid credentials in Authorization header"


@dataclass
class TakingHub(Hub):
    """`there`: whether org/name exists.  stored: large files by hash, committed or not.

    breaks: numbers of bytes after which the next transfers of large files end.  answers: path's end → status, of the
    next request there.  moved: somebody else has committed in the meantime.  commits: the header of each, with what it
    deleted and the branch.
    """

    there: bool = True
    private: bool = False
    moved: bool = False
    stored: dict[str, bytes] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    commits: list[dict[str, Any]] = field(default_factory=list)

    def listing(self) -> dict[str, Any]:
        return {**super().listing(), "private": self.private}

    def sent(self) -> list[str]:
        """The large files that came, as often as they began to come, without their hashes."""
        return [path for method, path, _ in self.log if method == "PUT"]


class _TakingHandler(_Handler):
    hub: TakingHub  # pyright: ignore[reportIncompatibleVariableOverride]

    def model_info(self, rest: str) -> None:
        if self.headers.get("authorization") not in (None, f"Bearer {READS}", f"Bearer {WRITES}"):
            return self.say({"error": _NO_TOKEN}, 401, {"X-Error-Message": _NO_TOKEN})
        if not self.hub.there:
            return self.answer(404, {"X-Error-Code": "RepoNotFound"})
        return super().model_info(rest)

    def do_POST(self) -> None:  # noqa: N802
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.log.append((self.command, path, headers))
        body = self.rfile.read(int(headers.get("content-length", 0)))
        for end in [end for end in self.hub.answers if path.endswith(end)]:
            return self.say({"error": "as the test wants it"}, self.hub.answers.pop(end))
        if path != "/lfs/verify" and headers.get("authorization") != f"Bearer {WRITES}":
            known = headers.get("authorization") == f"Bearer {READS}"
            return self.say({"error": "not allowed"}, 403) if known else self.say({"error": _NO_TOKEN}, 401)
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if path.startswith("/api/models/org/name/preupload/"):
            return self.preupload(json.loads(body)["files"])
        if path == "/org/name.git/info/lfs/objects/batch":
            return self.batch(json.loads(body)["objects"])
        if path.startswith("/api/models/org/name/commit/"):
            return self.commit(path.rpartition("/")[2], [json.loads(line) for line in body.splitlines()])
        return self.say({}, 200 if path == "/lfs/verify" else 404)

    def do_PUT(self) -> None:  # noqa: N802
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.log.append((self.command, self.path, headers))
        if self.hub.breaks:
            self.rfile.read(self.hub.breaks.pop(0))
            self.close_connection = True
            return self.connection.close()
        content = self.rfile.read(int(headers["content-length"]))
        digest = hashlib.sha256(content).hexdigest()
        assert self.path == f"/lfs/{digest}"
        self.hub.stored[digest] = content
        return self.answer(200, {"ETag": digest})

    def create(self, asked: dict[str, Any]) -> None:
        if self.hub.there:
            return self.say({"error": "You already created this model repo"}, 409)
        assert (asked["organization"], asked["name"]) == ("org", "name")
        self.hub.there, self.hub.private = True, asked.get("visibility") == "private"
        self.hub.files = {".gitattributes": b"*.gguf filter=lfs"}
        return self.say({"url": f"{self.hub.address}/org/name"})

    def validate(self, card: str) -> None:
        front = yaml.safe_load(card.split("---")[1])
        missing = [{"message": '"license" is required'}] if "license" not in front else []
        return self.say({"errors": missing, "warnings": []}, 400 if missing else 200)

    def preupload(self, files: list[dict[str, Any]]) -> None:
        def mode(size: int) -> str:
            return "lfs" if size >= LARGE else "regular"

        listed = [{"path": file["path"], "uploadMode": mode(file["size"]), "shouldIgnore": False} for file in files]
        return self.say({"files": listed})

    def batch(self, objects: list[dict[str, Any]]) -> None:
        answers = []
        for one in objects:
            actions = {
                "upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"},
                "verify": {"href": f"{self.hub.address}/lfs/verify"},
            }
            answers.append(one if one["oid"] in self.hub.stored else one | {"actions": actions})
        return self.say({"transfer": "basic", "objects": answers})

    def commit(self, branch: str, lines: list[dict[str, Any]]) -> None:
        header = {**lines[0]["value"], "branch": branch, "deleted": [], "asked": urlsplit(self.path).query}
        if self.hub.moved or header.get("parentCommit", COMMIT) != COMMIT:
            return self.say({"error": "A commit has happened since"}, 412)
        files = dict(self.hub.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            else:
                del files[value["path"]]
                header["deleted"].append(value["path"])
        self.hub.commits.append(header)
        proposed = "create_pr=1" in header["asked"]
        if not proposed:
            self.hub.files = files
        address = {"pullRequestUrl": f"{self.hub.address}/org/name/discussions/1"} if proposed else {}
        return self.say({"commitUrl": f"{self.hub.address}/org/name/commit/{COMMIT}", "commitOid": COMMIT, **address})

    def say(self, answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.answer(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(answer).encode())


TakingHub.handler = _TakingHandler
