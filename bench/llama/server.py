"""A real llama-server, alone or under kvstow-run, asked through its OpenAI endpoint with curl."""
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
INTEGRATION = f"{ROOT}/integrations/llama.cpp"


def fetch(what):
    return subprocess.run([f"{INTEGRATION}/fetch", what], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Answer:
    def __init__(self, reply, wall_ms, restored):
        t = reply["timings"]
        self.tokens = [x["id"] for x in reply["choices"][0]["logprobs"]["content"]]
        self.first = {x["id"]: x["logprob"] for x in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
        self.text = reply["choices"][0]["message"]["content"]
        self.prompt_ms = t["prompt_ms"]
        self.wall_ms = wall_ms
        self.prompt = t["cache_n"] + t["prompt_n"]  # tokens
        self.kept = t["cache_n"]                    # in the slot, by the server itself
        self.restored = restored
        self.recomputed = t["prompt_n"] - restored
        self.decode_tok_s = t["predicted_per_second"]


class Server:
    """store: a directory to run under kvstow-run with, or None."""

    def __init__(self, model, *args, store=None, build=f"{ROOT}/build", ram="1GiB", ssd="8GiB", options=()):
        self.port, self.store = free_port(), store
        self.scratch = tempfile.mkdtemp(prefix="kvstow-llama-", dir="/var/tmp")
        self.metrics, self.log = f"{self.scratch}/metrics", f"{self.scratch}/log"
        command = [fetch("server"), "-m", model, "--host", "127.0.0.1", "--port", str(self.port), *args]
        if store is not None:
            command = [f"{INTEGRATION}/kvstow-run", "--lib", f"{build}/integrations/llama.cpp/libkvstow-llama.so",
                       "--dir", store, "--ram", ram, "--ssd", ssd, "--log", self.log, "--metrics", self.metrics,
                       *options, "--", *command]
        self.output = open(f"{self.scratch}/output", "w")
        self.process = subprocess.Popen(command, stdout=self.output, stderr=self.output,
                                        preexec_fn=die_with_parent)
        for _ in range(600):
            if self.process.poll() is not None:
                break
            if subprocess.run(["curl", "-sf", self.url("/health")], stdout=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.05)
        with open(f"{self.scratch}/output") as f:
            raise RuntimeError("llama-server did not start:\n" + f.read()[-3000:])

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def metric(self, name, prefix="kvstow_llama_"):
        try:
            with open(self.metrics) as f:
                found = re.search(rf"^{prefix}{name} ([0-9.e+]+)", f.read(), re.M)
                return int(float(found.group(1))) if found else 0
        except FileNotFoundError:
            return 0

    def start(self, messages, max_tokens=24, **more):
        """A request on its way: pass it to finish()."""
        body = {"messages": messages, "temperature": 0, "max_tokens": max_tokens, "logprobs": True, "top_logprobs": 1,
                **more}
        self.before = self.metric("prompt_restored_tokens_total")
        p = subprocess.Popen(["curl", "-s", self.url("/v1/chat/completions"), "-H", "Content-Type: application/json",
                              "-d", "@-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        p.stdin.write(json.dumps(body).encode())
        p.stdin.close()
        p.started = time.monotonic()
        return p

    def finish(self, p):
        with p.stdout:
            reply = p.stdout.read()
        wall_ms = (time.monotonic() - p.started) * 1000
        p.wait()
        reply = json.loads(reply)
        if "choices" not in reply:
            raise RuntimeError(str(reply))
        restored = 0
        if self.store is not None:
            restored = self.metric("prompt_restored_tokens_total") - self.before
        return Answer(reply, wall_ms, restored)

    def ask(self, messages, **more):
        return self.finish(self.start(messages, **more))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.close()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self):
        self.output.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
