"""Downloads, from a hub of our own on this machine that speaks the real one's protocol."""

import hashlib
import json
import shutil
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from click.testing import CliRunner

from wmtoolkit.cli.main import main
from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import LLaDA2MoeForCausalLM
from wmtoolkit.llada2.hub import download

COMMIT = "c" * 40
REPO = "someone/tiny-llada2"


class Hub(ThreadingHTTPServer):
    """Serves one folder as the repository ``someone/tiny-llada2``; counts the bytes of weights it sends."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.sent, self.revisions = folder, 0, []
        self.cuts = 0
        """How many more answers with weights break off in the middle."""
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.reply(True)

    def do_HEAD(self):
        self.reply(False)

    def reply(self, body):
        path = self.path.split("?")[0]
        if path.startswith(f"/api/models/{REPO}"):
            revision = path.split("/revision/")[1] if "/revision/" in path else "main"
            self.server.revisions.append(revision)
            if revision not in ("main", "v1", COMMIT):
                return self.send(404, b"{}", body, {"X-Error-Code": "RevisionNotFound"})
            files = [file for file in sorted(self.server.folder.iterdir()) if file.is_file()]
            siblings = [{"rfilename": file.name, "size": file.stat().st_size, "blobId": "0"} for file in files]
            info = {"id": REPO, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False, "downloads": 0}
            tree = [{"type": "file", "path": s["rfilename"], "size": s["size"], "oid": "0"} for s in siblings]
            return self.send(200, json.dumps(tree if "/tree/" in path else info).encode(), body)
        prefix = f"/{REPO}/resolve/{COMMIT}/"
        file = self.server.folder / path.removeprefix(prefix)
        if not path.startswith(prefix) or not file.is_file():
            code = "EntryNotFound" if path.startswith(prefix) else "RepoNotFound"
            return self.send(404, b"{}", body, {"X-Error-Code": code})
        data = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        status, whole = 200, len(data)
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            status, data = 206, data[start:]
            headers["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
        length = len(data)
        if body and file.suffix == ".safetensors":
            if self.server.cuts:
                self.server.cuts -= 1
                self.close_connection = True
                data = data[: length // 2]
            self.server.sent += len(data)
        return self.send(status, data, body, headers, length)

    def send(self, status, data, body, headers=(), length=None):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub(model, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # nothing leaves this machine all the same
    model.save_pretrained(tmp_path / "hub", layout="merged", max_shard_size="30KB")
    (tmp_path / "hub" / "pytorch_model.bin").write_bytes(b"a pickle")
    server = Hub(tmp_path / "hub")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_checkpoint_comes_whole_and_loads(hub, model, ids, tmp_path):
    result = download(REPO, tmp_path / "here", revision="v1", endpoint=hub.address)
    assert result["revision"] == COMMIT
    assert result["layout"] == "merged"
    assert "v1" in hub.revisions
    assert not (tmp_path / "here" / "pytorch_model.bin").exists()
    assert torch.equal(LLaDA2MoeForCausalLM.from_pretrained(tmp_path / "here")(ids).logits, model(ids).logits)


def test_what_is_there_is_not_fetched_again(hub, tmp_path):
    download(REPO, tmp_path / "here", endpoint=hub.address)
    sent = hub.sent
    lost = sorted((tmp_path / "here").glob("model-*.safetensors"))[1]
    size = lost.stat().st_size
    lost.unlink()
    download(REPO, tmp_path / "here", endpoint=hub.address)
    assert hub.sent - sent == size


def test_a_download_that_breaks_off_goes_on_where_it_stopped(hub, model, ids, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # what is kept is whole chunks
    hub.cuts = 1
    with suppress(UserError):  # the client may try again by itself
        download(REPO, tmp_path / "here", endpoint=hub.address)
    download(REPO, tmp_path / "here", endpoint=hub.address)
    assert hub.cuts == 0
    size = sum(file.stat().st_size for file in hub.folder.glob("*.safetensors"))
    assert size <= hub.sent < size + 1000
    assert torch.equal(LLaDA2MoeForCausalLM.from_pretrained(tmp_path / "here")(ids).logits, model(ids).logits)


def test_the_disk_is_asked_before_anything_is_fetched(hub, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="1,000 left"):
        download(REPO, tmp_path / "here", endpoint=hub.address)
    assert hub.sent == 0
    assert not (tmp_path / "here").exists()


def test_what_came_is_checked(hub, tmp_path):
    (hub.folder / "model-00002-of-00002.safetensors").unlink(missing_ok=True)
    shard = sorted(hub.folder.glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(UserError, match=f"{shard.name} is damaged"):
        download(REPO, tmp_path / "here", endpoint=hub.address)


@pytest.mark.parametrize(
    ("repo", "revision", "words"),
    [
        (REPO, "v9", "no revision v9"),
        ("someone/nothing", None, "not on the hub"),
        ("no/such/name", None, "neither a folder nor the name"),
    ],
)
def test_what_the_hub_does_not_have(hub, tmp_path, repo, revision, words):
    with pytest.raises(UserError, match=words) as failure:
        download(repo, tmp_path / "here", revision=revision, endpoint=hub.address)
    assert "\n" not in str(failure.value)


def test_a_repository_of_pickles_is_refused(hub, tmp_path):
    for file in hub.folder.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(UserError, match="no safetensors"):
        download(REPO, tmp_path / "here", endpoint=hub.address)


def test_no_connection(hub, tmp_path, monkeypatch):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(UserError, match="hub cannot be reached") as failure:
        download(REPO, tmp_path / "here", endpoint=hub.address)
    assert "\n" not in str(failure.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    run = CliRunner().invoke(main, ["download", "--local-dir", str(tmp_path / "here")])
    assert run.exit_code == 1
    assert "hub cannot be reached" in run.stderr
