"""Nothing leaves the machine: every way to use a model works where there is only loopback, and asks for nothing else.

All of them run in one network namespace of their own, so that what needs the network fails, under strace, so that what
only tries is seen: in Python, in llama.cpp and in every process that they start.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path

import pytest

import smidgen

_CALLS = "connect,sendto,sendmsg,sendmmsg"
_ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
# In the namespace: loopback is switched on, and then a person uses everything.
_LOOPBACK = """
import fcntl, socket, struct
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x41))
"""
_TRIES = (
    _LOOPBACK
    + """
with socket.socket() as outside, socket.socket(socket.AF_INET6) as outside6, socket.socket(type=2) as datagrams:
    for client, address in ((outside, "192.0.2.7"), (outside6, "2001:db8::7")):
        try:
            client.connect((address, 9))
        except OSError:
            pass
    try:
        datagrams.sendto(b"a", ("192.0.2.8", 9))
    except OSError:
        pass
"""
)
_USES = (
    _LOOPBACK
    + """
import json, subprocess, sys, urllib.request
MODEL, found = "smollm2-135m-instruct", {}
smidgen = [sys.executable, "-m", "smidgen"]

def told(*words, said=""):
    return subprocess.run([*smidgen, *words], input=said, capture_output=True, text=True, timeout=200)

def used(*words, path, body):
    with subprocess.Popen([*smidgen, *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().split()[-1]
            request = urllib.request.Request(address.removesuffix("/v1") + path, body)
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=200) as answer:
                return answer.read().decode()
        finally:
            process.terminate()

limits = ("--max-tokens", "4", "--threads", "1", "--temperature", "0")
for name, done in (("run", told("run", MODEL, "Hello", *limits)), ("chat", told("chat", MODEL, *limits, said="Hello"))):
    found[name] = [done.returncode, done.stdout, done.stderr]
question = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}).encode()
serve = ("serve", MODEL, "--port", "0", "--threads", "1", "--quiet")
found["serve"] = used(*serve, path="/v1/chat/completions", body=question)
if "ui" in sys.argv:
    found["ui"] = used("ui", MODEL, "--port", "0", "--threads", "1", "--quiet", path="/", body=None)
json.dump(found, open(sys.argv[1], "w"))
"""
)


def in_namespace(program: str, folder: Path, *words: str) -> set[str]:
    """Run a Python program where there is only loopback. The addresses that anything in it wanted to reach."""
    paths = [str(Path(smidgen.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        name: text for name, text in os.environ.items() if not name.startswith(("HF_", "GRADIO_", "DO_NOT_"))
    }
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "SMIDGEN_HOME": str(folder / "home")}
    trace = folder / "trace"
    traced = ["strace", "-f", "--seccomp-bpf", "-q", "-e", f"trace={_CALLS}", "-e", "signal=none", "-o", str(trace)]
    done = subprocess.run(
        ["unshare", "--map-root-user", "--net", *traced, sys.executable, "-c", program, *words],
        cwd=folder, env=environment, timeout=600, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {four or six for four, six in _ADDRESS.findall(trace.read_text(errors="replace"))}


@pytest.fixture(autouse=True)
def possible() -> None:
    """Both tools are there, and this system lets us use them."""
    for tool in ("unshare", "strace"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if subprocess.run(["unshare", "--map-root-user", "--net", "strace", "-q", "true"], capture_output=True).returncode:
        pytest.skip("this system allows no network namespace, or no tracing in it")


def test_the_trace_sees_who_wants_to_leave(tmp_path: Path) -> None:
    assert in_namespace(_TRIES, tmp_path) == {"192.0.2.7", "2001:db8::7", "192.0.2.8"}


def test_everything_works_without_a_network_and_wants_none(tmp_path: Path) -> None:
    words = ["ui"] if find_spec("gradio") else []
    reached = in_namespace(_USES, tmp_path, str(tmp_path / "found.json"), *words)
    found = json.loads((tmp_path / "found.json").read_text())
    for name in ("run", "chat"):
        code, stdout, stderr = found[name]
        assert code == 0 and stdout.strip(), stderr
    assert json.loads(found["serve"])["choices"][0]["message"]["content"]
    page = found.get("ui", "<title>Gradio</title>")
    assert "Gradio" in page and not re.findall(r'(?:src|href)="(?:https?:)?//[^"]+', page)
    assert reached and all(ip_address(address).is_loopback for address in reached), reached
