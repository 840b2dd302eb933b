#!/usr/bin/env python3
"""bench.py [NAME]...: what a prompt cache on SSD is worth to llama.cpp. Prints JSON lines.

  ttft-8k ttft-64k ttft-real   time to first token against prefix length: recomputed, from RAM, from SSD
  decode                       generation with the library preloaded and nothing to do, against without
  clients                      1 to 4 clients at once after a restart of llama-server
  share                        disk bytes of 20 conversations with one system prompt, against slot files
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

from server import INTEGRATION, ROOT, Server, fetch

BUILD = os.environ.get("KVSTOW_BUILD", f"{ROOT}/build")
BENCH = f"{BUILD}/bench/llama/bench_llama"
SHAPES = {
    "8k": "--layers 8 --embd 512 --heads 8 --kv-heads 4 --head-dim 64 --ffn 1536 --type q8_0",
    "64k": "--layers 16 --embd 2048 --heads 16 --kv-heads 8 --head-dim 128 --ffn 8192 --type q4_0",
}


def model(shape):
    """Generated once, kept beside the build."""
    path = f"{BUILD}/bench/llama/{shape}.gguf"
    if not os.path.exists(path):
        subprocess.run([f"{INTEGRATION}/make-model", path, *SHAPES[shape].split()], check=True)
    return path


class Scratch:
    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="kvstow-bench-llama-", dir="/var/tmp")
        return self.dir

    def __exit__(self, *_):
        shutil.rmtree(self.dir)


def bench(*command, prefix=()):
    out = subprocess.run([*prefix, BENCH, *command], check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return json.loads(out.stdout)


def ttft(path, lengths):
    with Scratch() as d:
        return bench("ttft", path, d, lengths)


def decode():
    rounds = []
    with Scratch() as d:
        under = [f"{INTEGRATION}/kvstow-run", "--lib", f"{BUILD}/integrations/llama.cpp/libkvstow-llama.so", "--dir", d,
                 "--ram", "64MiB", "--ssd", "64MiB", "--log", f"{d}.log", "--"]
        for i in range(5):
            pair = [bench("decode", model("8k"), "200", prefix=p)["tok_s"] for p in ((), under)[::1 if i % 2 else -1]]
            alone, cached = pair if i % 2 else pair[::-1]
            rounds.append((alone, cached))
        os.unlink(f"{d}.log")
    return {"alone_tok_s": statistics.median(a for a, _ in rounds), "preloaded_tok_s": statistics.median(c for _, c in rounds),
            "slowdown": 1 - statistics.median(c / a for a, c in rounds), "rounds": rounds}


def clients():
    rows = []
    prompts = [[{"role": "user", "content": f"{i} " + open("/usr/share/common-licenses/GPL-3").read()[i * 3000:i * 3000 + 2600]}]
               for i in range(4)]
    args = ("-c", "16384", "-t", str(os.cpu_count()))
    for n in range(1, 5):
        with Scratch() as d:
            times, restored, recomputed = {}, 0, 0
            for run in ("cold", "restarted"):
                server = Server(model("8k"), *args, store=d, build=BUILD)
                answers = [server.finish(p) for p in [server.start(m, max_tokens=1) for m in prompts[:n]]]
                times[run] = max(a.wall_ms for a in answers)
                restored = server.metric("prompt_restored_tokens_total")
                server.stop()
            tokens = sum(a.prompt for a in answers)
        rows.append({"clients": n, "prompt_tokens": tokens, "restored_tokens": restored, "cold_ms": times["cold"],
                     "restarted_ms": times["restarted"]})
    return {"rows": rows}


def share():
    with Scratch() as d:
        return bench("share", model("8k"), d)


BENCHES = {
    "ttft-8k": lambda: ttft(model("8k"), "512,1024,2048,4096,8192"),
    "ttft-64k": lambda: ttft(model("64k"), os.environ.get("LENGTHS", "512,1024,2048,4096")),
    "ttft-real": lambda: ttft(fetch("model"), "512,1024,2048,4096,8192"),
    "decode": decode,
    "clients": clients,
    "share": share,
}

for name in sys.argv[1:] or BENCHES:
    if name not in BENCHES:
        sys.exit(__doc__)
    print(json.dumps({"bench": name, **BENCHES[name]()}), flush=True)
