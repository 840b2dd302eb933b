#!/usr/bin/env python3
"""A real llama-server under kvstow-run is killed while four clients keep it busy. Started again, it says what one
without the library says, and has used what the killed one stored. What its own cache in RAM holds, it takes from
there.

What it says: the log-probabilities of the first token, to 0.02. Sums in another order change them by less, and so
the choice between two tokens that are closer - of the unassisted server as well, once clients ask at the same time.

test_server.py BUILD MODELS LLAMA_ROOT
Exits with 77 where there is no llama-server (./dev llama builds one).
"""
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest

BUILD, MODELS, ROOT = sys.argv[1:4]
HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, f"{HERE}/../../bench/llama")
from server import Server  # noqa: E402

SERVERS = [p for p in (f"{ROOT}/bin/llama-server", f"{ROOT}/lib/llama-server") if os.access(p, os.X_OK)]
if not SERVERS or shutil.which("curl") is None:
    print(f"NO LLAMA-SERVER in {ROOT} (or no curl): SKIPPED; ./dev llama builds one")
    sys.exit(77)
os.environ["LLAMA_SERVER"] = SERVERS[0]

SEED = int(os.environ.get("KVSTOW_SEED", "1"))
# Micro-batches of 64, so that short prompts have many blocks; sums in F32, so that their order matters little.
ARGS = ("-c", "8192", "-np", "4", "-b", "256", "-ub", "64", "-t", "1", "-fa", "off", "-ctk", "f32", "-ctv", "f32")


def prompt(n):
    """About 600 tokens (bytes), half of them shared by all."""
    shared, own = random.Random(0), random.Random(n + 1)
    words = [shared.choice(("a", "of", "the", "cache")) for _ in range(80)]
    words += [own.choice(("what", "is", "kept", "lost", "found")) for _ in range(70)]
    return [{"role": "user", "content": " ".join(words)}]


class Case(unittest.TestCase):
    def same(self, expected, got, message):
        for token, value in list(expected.first.items())[:3]:
            self.assertAlmostEqual(got.first.get(token, value - 1), value, delta=0.02, msg=message)


def ask(server, n):
    return server.ask(prompt(n), max_tokens=8, top_logprobs=5)


class Load:
    """Clients that ask without pause, until the server is gone."""

    def __init__(self, server, rng):
        self.answers = 0
        self.threads = [threading.Thread(target=self.run, args=(server, rng.randrange(1 << 30))) for _ in range(4)]
        for t in self.threads:
            t.start()

    def run(self, server, seed):
        rng = random.Random(seed)
        while True:
            try:
                server.ask(prompt(rng.randrange(12)), max_tokens=8)
            except (ValueError, RuntimeError):  # no reply
                return
            self.answers += 1

    def join(self):
        for t in self.threads:
            t.join()


class OwnCache(Case):
    """Another prompt takes the only slot, and the first comes again: llama-server has kept it, as without us."""

    def test_is_not_in_the_way(self):
        path, store = f"{MODELS}/llama.gguf", tempfile.mkdtemp(prefix="kvstow-own-", dir="/var/tmp")
        args = (*ARGS, "-np", "1")
        order = (0, 1, 0, 1)
        try:
            alone = Server(path, *args)
            expected = [ask(alone, n) for n in order]
            alone.stop()
            server = Server(path, *args, store=store, build=BUILD, ram="64MiB", ssd="256MiB")
            got = [ask(server, n) for n in order]
            server.stop()
            for e, g in zip(expected, got):
                self.same(e, g, "")
                self.assertEqual(e.kept, g.kept)
            self.assertGreater(got[2].kept, 500)
            self.assertEqual([g.restored for g in got], [0] * 4)
        finally:
            shutil.rmtree(store, ignore_errors=True)


class Killed(Case):
    def check(self, model):
        rng = random.Random(SEED)
        path, store = f"{MODELS}/{model}.gguf", tempfile.mkdtemp(prefix="kvstow-killed-", dir="/var/tmp")
        try:
            alone = Server(path, *ARGS)
            expected = [ask(alone, n) for n in range(12)]
            alone.stop()
            answers = restored = 0
            for _ in range(3):
                server = Server(path, *ARGS, store=store, build=BUILD, ram="64MiB", ssd="256MiB")
                load = Load(server, rng)
                time.sleep(rng.uniform(0.5, 2.5))
                server.process.kill()
                load.join()
                server.kill()
                answers += load.answers
                server = Server(path, *ARGS, store=store, build=BUILD, ram="64MiB", ssd="256MiB")
                got = [ask(server, n) for n in range(12)]
                self.assertEqual(server.metric("failed_restores_total"), 0)
                server.stop()
                restored += sum(a.restored for a in got)
                for n, (e, g) in enumerate(zip(expected, got)):
                    self.same(e, g, f"seed {SEED}, prompt {n}: {e.text!r}, got {g.text!r}")
                verify = subprocess.run([f"{BUILD}/kvstow", "verify", store], capture_output=True, text=True)
                self.assertEqual(verify.returncode, 0, verify.stdout + verify.stderr)
            self.assertGreater(restored, 12 * 256)
            print(f"{model}: {answers} answers under load, {restored} tokens restored after kills")
        finally:
            shutil.rmtree(store, ignore_errors=True)

    def test_plain(self):
        self.check("llama")

    def test_sliding_window(self):
        self.check("swa")

    def test_hybrid(self):
        self.check("hybrid")


unittest.main(argv=[sys.argv[0], "-v", *sys.argv[4:]])
