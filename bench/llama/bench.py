#!/usr/bin/env python3
"""bench.py [NAME[:NUMBER]]...: what a prompt cache on SSD is worth to llama.cpp. Prints JSON lines.

  ttft-8k ttft-64k ttft-real   time to first token, cold, from RAM, from SSD; NUMBER: tokens of the prefix
  recompute-8k -64k -real      without a store
  decode-8k decode-64k         generation with the library attached, against without; NUMBER: threads
  clients                      so many clients at once after a restart of llama-server
  share                        disk bytes of 20 conversations with one system prompt, against slot files

Without NUMBER: all of them, which takes long. ROUNDS: of ttft, 5.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

from server import INTEGRATION, ROOT, Server, fetch

BUILD = os.environ.get("KVSTOW_BUILD", f"{ROOT}/build")
BENCH = f"{BUILD}/bench/llama/bench_llama"
ATTACHED = f"{BUILD}/bench/llama/bench_attached"
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


def bench(*command, program=BENCH, env=None):
    out = subprocess.run([program, *map(str, command)], stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
    if out.returncode != 0:
        sys.exit(f"{program}: {out.returncode}")
    return json.loads(out.stdout)


def ttft(path, length):
    with Scratch() as d:
        return bench("ttft", path, d, length, os.environ.get("ROUNDS", "5"))


def recompute(path, length):
    return bench("recompute", path, length)


def decode(path, tokens, threads):
    with Scratch() as d:
        env = {"KVSTOW_LLAMA_DIR": f"{d}/store", "KVSTOW_LLAMA_RAM": "256MiB", "KVSTOW_LLAMA_SSD": "1GiB",
               "KVSTOW_LLAMA_LOG": f"{d}/log"}
        os.mkdir(f"{d}/store")
        return bench(path, threads, tokens, program=ATTACHED, env=env)


def clients(n):
    licence = open("/usr/share/common-licenses/GPL-3").read()
    prompts = [[{"role": "user", "content": f"{i} " + licence[i * 3000:i * 3000 + 2600]}] for i in range(n)]
    args = ("-c", "16384", "-t", str(os.cpu_count()))
    row = {"clients": n}
    with Scratch() as d:
        for run in ("cold", "restarted"):
            server = Server(model("8k"), *args, store=d, build=BUILD)
            answers = [server.finish(p) for p in [server.start(m, max_tokens=1) for m in prompts]]
            row[f"{run}_ms"] = max(a.wall_ms for a in answers)
            row["restored_tokens"] = server.metric("prompt_restored_tokens_total")
            server.stop()
    row["prompt_tokens"] = sum(a.prompt for a in answers)
    return row


def share():
    with Scratch() as d:
        return bench("share", model("8k"), d)


LENGTHS = (512, 1024, 2048, 4096, 8192)
BENCHES = {
    "ttft-8k": (lambda n: ttft(model("8k"), n), LENGTHS),
    "ttft-64k": (lambda n: ttft(model("64k"), n), LENGTHS),
    "ttft-real": (lambda n: ttft(fetch("model"), n), LENGTHS),
    "recompute-8k": (lambda n: recompute(model("8k"), n), LENGTHS),
    "recompute-64k": (lambda n: recompute(model("64k"), n), LENGTHS),
    "recompute-real": (lambda n: recompute(fetch("model"), n), LENGTHS),
    "decode-8k": (lambda n: decode(model("8k"), 1024, n), (1, 2)),
    "decode-64k": (lambda n: decode(model("64k"), 512, n), (2,)),
    "clients": (clients, (1, 2, 3, 4)),
    "share": (lambda _: share(), (0,)),
}

for argument in sys.argv[1:] or BENCHES:
    name, _, number = argument.partition(":")
    if name not in BENCHES or not (number or "0").isdigit():
        sys.exit(__doc__)
    run, numbers = BENCHES[name]
    for n in (int(number),) if number else numbers:
        print(json.dumps({"bench": name, **run(n)}), flush=True)
