#!/usr/bin/env python3
"""real.py: an unmodified llama-server with a real model, alone and under kvstow-run.

A licence text and a chat about it go through the OpenAI endpoint: cold, again after another conversation took the
slot, from SSD after a restart, from kvstow's RAM, and after a kill -9 in the middle of work. Prints what it took,
and fails unless every generated token equals the one of the unassisted server.

The first server has its own cache in RAM, as it has by default; later ones don't, so that the rows say where the
prompt came from.
"""
import argparse
import json
import os
import shutil
import sys
import tempfile
import time

from server import ROOT, Server, fetch

LICENCES = "/usr/share/common-licenses"


def text(path, characters):
    with open(path) as f:
        return f.read()[:characters]


def about(document, *turns):
    messages = [{"role": "system", "content": "You answer questions about a document, briefly.\n\n" + document}]
    for i, turn in enumerate(turns):
        messages.append({"role": "user" if i % 2 == 0 else "assistant", "content": turn})
    return messages


class Table:
    def __init__(self):
        self.rows, self.equal, self.unequal = [], 0, []

    def add(self, name, alone, cached, moved=0):
        same = alone.tokens == cached.tokens
        self.equal += same
        if not same:
            self.unequal.append((name, alone.text, cached.text))
        self.rows.append({"request": name, "prompt_tokens": cached.prompt, "alone_ms": alone.prompt_ms,
                          "alone_recomputed": alone.recomputed, "cached_ms": cached.prompt_ms,
                          "recomputed": cached.recomputed, "restored": cached.restored, "kept": cached.kept,
                          "restored_bytes": moved, "tokens_equal": same})

    def print(self, out):
        print(f"{'':34}{'prompt':>8}{'alone':>10}{'kvstow':>10}{'':>8}{'kept in':>9}{'restored':>10}{'recom-':>8}"
              f"{'moved':>10}{'same':>7}", file=out)
        print(f"{'request':34}{'tokens':>8}{'ms':>10}{'ms':>10}{'faster':>8}{'slot':>9}{'tokens':>10}{'puted':>8}"
              f"{'MiB':>10}{'tokens':>7}", file=out)
        for r in self.rows:
            print(f"{r['request']:34}{r['prompt_tokens']:8}{r['alone_ms']:10.0f}{r['cached_ms']:10.0f}"
                  f"{r['alone_ms'] / r['cached_ms']:7.1f}x{r['kept']:9}{r['restored']:10}{r['recomputed']:8}"
                  f"{r['restored_bytes'] / 2**20:10.1f}{'yes' if r['tokens_equal'] else 'NO':>7}", file=out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default=None, help="a GGUF file (default: SmolLM2-135M-Instruct)")
    p.add_argument("--characters", type=int, default=9000, help="of the document")
    p.add_argument("--max-tokens", type=int, default=24)
    p.add_argument("--build", default=f"{ROOT}/build")
    p.add_argument("--align", help="kvstow-run's --align and --block")
    p.add_argument("--json", action="store_true")
    p.add_argument("server_args", nargs="*", help="after --: more arguments for llama-server")
    o = p.parse_args()
    model = o.model or fetch("model")
    store = tempfile.mkdtemp(prefix="kvstow-llama-store-", dir="/var/tmp")
    document, other = text(f"{LICENCES}/GPL-3", o.characters), text(f"{LICENCES}/Apache-2.0", o.characters)
    question = "What is this document?"
    args = ("-c", "8192", "-np", "1", "-t", str(os.cpu_count()), *o.server_args)
    no_cache = ("--cache-ram", "0")
    options = ("--align", o.align, "--block", o.align) if o.align else ()
    table, say = Table(), sys.stderr if o.json else sys.stdout

    def ask(server, *messages, **more):
        before = server.metric("restored_bytes_total")
        print(".", end="", file=sys.stderr, flush=True)
        answer = server.ask(about(*messages), max_tokens=o.max_tokens, **more)
        return answer, server.metric("restored_bytes_total") - before

    try:
        # What the unassisted server says, each prompt computed as it would be after a fresh start.
        alone = Server(model, *args)
        first, _ = ask(alone, document, question)
        turn2, _ = ask(alone, document, question, first.text, "Who may use it?")
        alone_other, _ = ask(alone, other, question)
        again, _ = ask(alone, document, "Name one obligation.")
        alone.stop()
        alone = Server(model, *args, *no_cache)
        new, _ = ask(alone, document, "Who wrote it, and when?")
        new_other, _ = ask(alone, other, question)
        new_again, _ = ask(alone, document, "Name one obligation.")
        alone.stop()

        server = Server(model, *args, store=store, build=o.build, options=options)
        a, moved = ask(server, document, question)
        table.add("cold", first, a, moved)
        a, moved = ask(server, document, question, first.text, "Who may use it?")
        table.add("next turn, slot still holds it", turn2, a, moved)
        a, moved = ask(server, other, question)
        table.add("another document takes the slot", alone_other, a, moved)
        a, moved = ask(server, document, "Name one obligation.")
        table.add("the first again", again, a, moved)
        stored = server.metric("committed_bytes_total")
        server.stop()

        server = Server(model, *args, *no_cache, store=store, build=o.build, options=options)
        a, moved = ask(server, document, "Who wrote it, and when?")
        table.add("after a restart: from SSD", new, a, moved)
        a, moved = ask(server, other, question)
        table.add("another document: from SSD", new_other, a, moved)
        a, moved = ask(server, document, "Name one obligation.")
        table.add("the first again: from RAM", new_again, a, moved)
        server.stop()

        # Killed in the middle of a prompt nobody has seen.
        server = Server(model, *args, *no_cache, store=store, build=o.build, options=options)
        busy = server.start(about(text(f"{LICENCES}/LGPL-2.1", o.characters), question))
        time.sleep(1.5)
        server.kill()
        busy.kill()
        busy.wait()
        server = Server(model, *args, *no_cache, store=store, build=o.build, options=options)
        a, moved = ask(server, document, "Who wrote it, and when?")
        table.add("after kill -9 at work", new, a, moved)
        with open(server.log) as f:
            log = f.read().strip()
        server.stop()
        disk = sum(f.stat().st_blocks * 512 for f in os.scandir(store))
    finally:
        shutil.rmtree(store, ignore_errors=True)

    prompts = sum(r["prompt_tokens"] for r in table.rows)
    result = {"model": os.path.basename(model), "rows": table.rows, "stored_bytes": stored, "disk_bytes": disk,
              "restored_share": sum(r["restored"] for r in table.rows) / prompts,
              "kept_share": sum(r["kept"] for r in table.rows) / prompts,
              "answers_equal": table.equal, "answers": len(table.rows)}
    print(f"{log}\n", file=say)
    table.print(say)
    print(f"\nof all {prompts} prompt tokens {100 * result['restored_share']:.1f} % were restored, "
          f"{100 * result['kept_share']:.1f} % the server had kept itself\n"
          f"stored {stored / 2**20:.1f} MiB of blocks; the directory takes {disk / 2**20:.1f} MiB\n"
          f"{table.equal} of {len(table.rows)} answers equal the unassisted server's, token for token", file=say)
    for name, expected, got in table.unequal:
        print(f"\n{name}: alone:  {expected!r}\n{'':{len(name)}}  kvstow: {got!r}", file=say)
    if o.json:
        json.dump(result, sys.stdout, indent=1)
        print()
    return 0 if table.equal == len(table.rows) else 1


sys.exit(main())
