#!/usr/bin/env python3
"""libkvstow-llama.so under programs that decode as servers do: what they compute with it must be what they
compute without it, and the store must have been used.

Logits are compared to 0.01: a prompt computed in other pieces, or beside other sequences, sums in another
order; wrong or misplaced KV differs by 1.

test_preload.py BUILD MODELS
Without libkvstow-llama.so in BUILD (under sanitizers), the driver has it linked in.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

BUILD, MODELS = sys.argv[1:3]
LIB = f"{BUILD}/integrations/llama.cpp/libkvstow-llama.so"
RUN = os.path.join(os.path.dirname(__file__), "../../integrations/llama.cpp/kvstow-run")
LINKED = not os.path.exists(LIB)
DRIVER = {name: f"{BUILD}/tests/llama/{name}" for name in ("driver", "driver_by_name", "addon_host")}
BLOCK = 64


def environment():
    return {k: v for k, v in os.environ.items() if not k.startswith("KVSTOW_LLAMA") and k != "LD_PRELOAD"}


class Preload(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="kvstow-preload-", dir="/var/tmp")
        self.metrics, self.log = f"{self.dir}/metrics", f"{self.dir}/log"

    def tearDown(self):
        shutil.rmtree(self.dir)

    def command(self, program, model, scenario, *more, ram="64MiB", ssd="256MiB"):
        store = f"{self.dir}/store"
        program = [DRIVER[program], f"{MODELS}/{model}.gguf", scenario, *more]
        if LINKED:
            os.makedirs(store, exist_ok=True)
            variables = {"DIR": store, "RAM": ram, "SSD": ssd, "LOG": self.log, "METRICS": self.metrics}
            return ["env", *(f"KVSTOW_LLAMA_{k}={v}" for k, v in variables.items()), *program]
        return [RUN, "--lib", LIB, "--dir", store, "--ram", ram, "--ssd", ssd, "--log", self.log,
                "--metrics", self.metrics, "--", *program]

    def alone(self, model, scenario, *more):
        command = [DRIVER["driver"], f"{MODELS}/{model}.gguf", scenario, *more]
        env = {**environment(), "KVSTOW_LLAMA_LOG": f"{self.dir}/none"}
        return self.finish(subprocess.run(command, env=env, capture_output=True, text=True, timeout=300))

    def cached(self, model, scenario, *more, program="driver", env=(), **budgets):
        done = subprocess.run(self.command(program, model, scenario, *more, **budgets),
                              env={**environment(), **dict(env)}, capture_output=True, text=True, timeout=300)
        return self.finish(done)

    def finish(self, done):
        self.assertEqual(done.returncode, 0, done.stdout[-2000:] + done.stderr[-2000:])
        self.assertEqual(done.stderr, "")
        return done.stdout

    def metric(self, name):
        with open(self.metrics) as f:
            return int(re.search(rf"^kvstow_llama_{name}_total (\d+)", f.read(), re.M).group(1))

    def log_text(self):
        with open(self.log) as f:
            return f.read()

    def same(self, expected, got):
        """The same lines up to their order: sequences may finish in another batch."""
        expected, got = (sorted(x.splitlines(), key=lambda l: l.split(":")[0]) for x in (expected, got))
        self.assertEqual(len(expected), len(got))
        for e, g in zip(expected, got):
            (e_head, e_values), (g_head, g_values) = (x.split(": token ") for x in (e, g))
            e_token, *e_logits = e_values.split()
            g_token, *g_logits = g_values.split()
            self.assertEqual((e_head, e_token), (g_head, g_token))
            for a, b in zip(e_logits, g_logits):
                self.assertLess(abs(float(a) - float(b)), 0.01, f"{e}\n{g}")

    def test_four_at_once_hit_as_often_as_one(self):
        for model in ("llama", "swa", "hybrid", "mamba"):
            with self.subTest(model):
                for scenario, sequences in (("together", 4), ("pieces", 4), ("pieces", 1)):
                    expected = self.alone(model, scenario, str(sequences))
                    self.same(expected, self.cached(model, scenario, str(sequences)))
                    self.assertEqual(self.metric("refused_blocks"), 0)
                    self.same(expected, self.cached(model, scenario, str(sequences)))
                    wanted = sum((200 + 300 + 17 * i - 1) // BLOCK * BLOCK for i in range(sequences))
                    self.assertEqual(self.metric("prompt_restored_tokens"), wanted)
                    self.assertEqual(self.metric("failed_restores"), 0)

    def test_nobody_notices_tokens_that_wait(self):
        os.environ["LORA"] = f"{MODELS}/lora.gguf"
        for model in ("llama", "swa", "hybrid", "mamba"):
            for scenario in ("interruptions", *(("plain_interruptions",) if model == "llama" else ())):
                with self.subTest(f"{model} {scenario}"):
                    expected = self.alone(model, scenario)
                    self.same(expected, self.cached(model, scenario))
                    self.same(expected, self.cached(model, scenario))
                    shutil.rmtree(f"{self.dir}/store")

    def test_turns_and_reuse_in_one_process(self):
        for model in ("llama", "swa", "hybrid", "mamba"):
            with self.subTest(model):
                expected = self.alone(model, "turns")
                self.same(expected, self.cached(model, "turns"))
                self.assertGreaterEqual(self.metric("prompt_restored_tokens"), 4 * 448)
                self.same(expected, self.cached(model, "turns"))

    def test_drafts_and_saved_states(self):
        for model in ("llama", "swa"):
            with self.subTest(model):
                expected = self.alone(model, "drafts")
                self.same(expected, self.cached(model, "drafts"))
                self.same(expected, self.cached(model, "drafts"))
                self.assertGreaterEqual(self.metric("prompt_restored_tokens"), 448)

    def test_a_decode_that_fails_is_tried_again(self):
        expected = self.alone("llama", "crowded")
        self.same(expected, self.cached("llama", "crowded"))
        self.assertGreaterEqual(self.metric("failed_restores"), 1)
        self.assertGreaterEqual(self.metric("prompt_restored_tokens"), 512)
        self.same(expected, self.cached("llama", "crowded"))

    def test_adapters_have_blocks_of_their_own(self):
        os.environ.update(LORA=f"{MODELS}/lora.gguf", LORA2=f"{MODELS}/lora2.gguf")

        def parts(text):
            lines = text.splitlines()
            n = len(lines) // 4
            return ["\n".join(lines[i * n:(i + 1) * n]) for i in range(4)]

        expected = parts(self.alone("llama", "adapters"))
        self.assertEqual(len(set(expected)), 3)
        for _ in range(2):
            for e, g in zip(expected, parts(self.cached("llama", "adapters"))):
                self.same(e, g)

    def test_odd_batches_pass_through(self):
        for model, scenarios in (("llama", ("vectors", "shared", "copies", "copied_over", "gaps")),
                                 ("swa", ("vectors", "shared", "gaps")), ("hybrid", ("vectors", "gaps"))):
            for scenario in scenarios:
                with self.subTest(f"{model} {scenario}"):
                    expected = self.alone(model, scenario)
                    self.same(expected, self.cached(model, scenario))
                    self.same(expected, self.cached(model, scenario))

    @unittest.skipIf(LINKED, "the library is linked in")
    def test_programs_that_load_libllama_themselves(self):
        expected = self.alone("llama", "together")
        for program in ("driver_by_name", "addon_host"):
            with self.subTest(program):
                self.same(expected, self.cached("llama", "together", program=program))
                self.same(expected, self.cached("llama", "together", program=program))
                self.assertGreaterEqual(self.metric("prompt_restored_tokens"), 4 * 448)
                shutil.rmtree(f"{self.dir}/store")

    def test_killed_while_storing(self):
        expected = self.alone("llama", "together")
        for delay in (0.4, 0.8, 1.3):
            p = subprocess.Popen(self.command("driver", "llama", "endless"), env=environment(),
                                 stdout=subprocess.DEVNULL)
            time.sleep(delay)
            p.send_signal(signal.SIGKILL)
            p.wait()
            self.same(expected, self.cached("llama", "together"))
        self.assertGreater(self.metric("prompt_restored_tokens"), 0)

    def test_budgets_are_held(self):
        p = subprocess.Popen(self.command("driver", "llama", "endless", ram="16MiB", ssd="16MiB"), env=environment(),
                             stdout=subprocess.DEVNULL)
        for _ in range(15):
            time.sleep(0.2)
            store = f"{self.dir}/store"
            files = os.scandir(store) if os.path.isdir(store) else ()
            self.assertLessEqual(sum(f.stat().st_blocks * 512 for f in files), 16 << 20)
        p.terminate()
        p.wait()

    def test_without_a_store_everything_passes_through(self):
        expected = self.alone("llama", "together")
        for ram, message in (("much", "no size"), ("1", "not caching")):
            self.same(expected, self.cached("llama", "together", ram=ram))
            self.assertIn(message, self.log_text())
            self.assertEqual(len(self.log_text().splitlines()), 1)
            os.unlink(self.log)

    @unittest.skipIf(LINKED, "the library is linked in")
    def test_a_strange_libllama_is_left_alone(self):
        expected = self.alone("llama", "together")
        for strange, message in (("layout", "not of the kind"), ("state", "self-test")):
            env = {"STRANGE": strange, "LD_PRELOAD": f"{BUILD}/tests/llama/libstrange.so"}
            self.same(expected, self.cached("llama", "together", env=env))
            self.assertIn(message, self.log_text())
            self.assertNotIn("caching ", self.log_text().replace("not caching", ""))
            os.unlink(self.log)

    @unittest.skipIf(LINKED, "the library is linked in")
    def test_programs_without_llama_are_left_alone(self):
        done = subprocess.run([RUN, "--lib", LIB, "--dir", f"{self.dir}/store", "sh", "-c", "echo ok"],
                              capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "ok\n", ""))


unittest.main(argv=[sys.argv[0], "-v", *sys.argv[3:]])
