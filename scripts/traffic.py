#!/usr/bin/env python3
"""Made-up traffic of other shapes than gen:conversations, as Mooncake JSON lines for `kvstow replay`.

    scripts/traffic.py SHAPE SEED REQUESTS > trace.jsonl

The workloads that eviction policies were checked on (docs/eviction.md). Contexts are made of grains of 64
tokens, each either new or part of something shared; eight grains are a block.
"""
import heapq
import json
import math
import random
import sys

GRAIN = 64
GRAINS_A_BLOCK = 8
CONTEXT_GRAINS_MAX = 2000


class Traffic:
    """Events in time, contexts, and the requests they make."""

    def __init__(self, seed, limit):
        self.random = random.Random(seed)
        self.limit = limit
        self.events = []
        self.event_count = 0
        self.grains = 0
        self.ids = {}
        self.requests = []

    def at(self, time, event):
        self.event_count += 1
        heapq.heappush(self.events, (time, self.event_count, event))

    def text(self, tokens):
        """New grains."""
        count = max(0, int(tokens)) // GRAIN
        self.grains += count
        return list(range(self.grains - count + 1, self.grains + 1))

    def around(self, median, sigma):
        """Log-normal."""
        return median * math.exp(self.random.gauss(0, sigma))

    def ask(self, time, context, output):
        blocks, before = [], -1
        for i in range(0, len(context), GRAINS_A_BLOCK):
            key = (before, tuple(context[i : i + GRAINS_A_BLOCK]))
            before = self.ids.setdefault(key, len(self.ids))
            blocks.append(before)
        self.requests.append((time, len(context) * GRAIN, output, blocks))

    def arrivals(self, rate, begin):
        def arrive(time):
            begin(time)
            self.at(time + self.random.expovariate(rate), arrive)

        self.at(self.random.expovariate(rate), arrive)

    def zipf(self, count, exponent):
        weights = [1 / (i + 1) ** exponent for i in range(count)]
        return lambda: self.random.choices(range(count), weights)[0]

    def run(self):
        while self.events and len(self.requests) < self.limit:
            time, _, event = heapq.heappop(self.events)
            event(time)


def chat(t, rate, systems=16, system=1500, turns=3.5, gap=60, gap_sigma=1.2, message=600):
    """People: pauses of heavy tails; seven of ten soon leave, the others stay."""
    prompts = [t.text(t.around(system, 0.5)) for _ in range(systems)]
    pick = t.zipf(systems, 1)

    def begin(time):
        context = list(prompts[pick()])
        mean = turns * (0.4 if t.random.random() < 0.7 else 2.4)
        again = 1 - 1 / (mean + 1e-9) if mean > 1 else 0.3

        def turn(time):
            context.extend(t.text(t.around(message, 1) + GRAIN))
            output = int(t.around(250, 0.8)) + 1
            t.ask(time, context, output)
            context.extend(t.text(output))
            if t.random.random() < again and len(context) < CONTEXT_GRAINS_MAX:
                t.at(time + output * 0.02 + t.around(gap, gap_sigma), turn)

        turn(time)

    t.arrivals(rate, begin)


def agents(t, rate, kinds=6, system=9000, steps=25, tool=8, human=240, tasks=3):
    """Loops of tool calls, people between tasks, helpers of another kind, compaction of what grew too long."""
    prompts = [t.text(t.around(system, 0.3)) for _ in range(kinds)]
    pick = t.zipf(kinds, 0.8)

    def begin(time, helper_of=None):
        kind = pick()
        state = {
            "context": list(prompts[kind] if helper_of is None else helper_of),
            "tasks": t.random.randint(1, 2 * tasks - 1) if helper_of is None else 1,
        }
        state["context"] += t.text(t.around(800, 0.8))
        state["steps"] = 1 + int(t.random.expovariate(1 / steps))

        def step(time):
            output = int(t.around(180, 0.9)) + 1
            t.ask(time, state["context"], output)
            state["context"] += t.text(output + t.around(900, 1.1))
            state["steps"] -= 1
            if len(state["context"]) * GRAIN > 120000:
                state["context"] = list(prompts[kind]) + t.text(4000)
            if helper_of is None and t.random.random() < 0.04:
                for _ in range(t.random.randint(1, 3)):
                    other = list(prompts[(kind + 1) % kinds])
                    t.at(time + 1, lambda time, other=other: begin(time, other))
            if state["steps"] > 0:
                t.at(time + output * 0.02 + t.around(tool, 0.9), step)
                return
            state["tasks"] -= 1
            if state["tasks"] > 0:
                state["steps"] = 1 + int(t.random.expovariate(1 / steps))
                state["context"] += t.text(t.around(400, 0.8))
                t.at(time + t.around(human, 1), step)

        step(time)

    t.arrivals(rate, begin)


def retrieval(t, rate, documents=3000, exponent=0.9, found=4, document=1500, follow=0.35):
    """Documents in rank order behind one system prompt, and questions that follow."""
    prompt = t.text(1200)
    library = [t.text(t.around(document, 0.7)) for _ in range(documents)]
    pick = t.zipf(documents, exponent)

    def begin(time):
        context = list(prompt)
        for _ in range(found):
            context += library[pick()]

        def question(time):
            context.extend(t.text(t.around(120, 0.6) + GRAIN))
            t.ask(time, context, 200)
            context.extend(t.text(200))
            if t.random.random() < follow:
                t.at(time + t.around(45, 0.8), question)

        question(time)

    t.arrivals(rate, begin)


def long_documents(t, rate, length=30000, questions=4, gap=50, history=True, popular=0.15):
    """A long document, mostly somebody's own, and questions on it, with or without those before."""
    prompt = t.text(700)
    known = [t.text(t.around(length, 0.7)) for _ in range(20)]

    def begin(time):
        if t.random.random() < popular:
            document = t.random.choice(known)
        else:
            document = t.text(min(t.around(length, 0.7), 110000))
        state = {"context": prompt + document}

        def question(time, left):
            context = state["context"] + t.text(t.around(150, 0.7) + GRAIN)
            t.ask(time, context, 300)
            if history:
                state["context"] = context + t.text(300)
            if left > 1:
                t.at(time + t.around(gap, 1.1), lambda time: question(time, left - 1))

        question(time, 1 + int(t.random.expovariate(1 / questions)))

    t.arrivals(rate, begin)


def batches(t, rate, templates=40, template=3500, size=200, item=900, spacing=0.3, samples=1):
    """Jobs: one template, many items, each perhaps sampled several times."""
    prompts = [t.text(t.around(template, 0.8)) for _ in range(templates)]

    def begin(time):
        prompt = t.random.choice(prompts)

        def one(time, left):
            context = prompt + t.text(t.around(item, 0.8))
            for j in range(samples):
                t.at(time + j * t.random.uniform(0.5, 4), lambda time: t.ask(time, context, 150))
            if left > 1:
                t.at(time + t.random.expovariate(1 / spacing), lambda time: one(time, left - 1))

        one(time, 1 + int(t.random.expovariate(1 / size)))

    t.arrivals(rate, begin)


def mix(t):
    chat(t, 1.0)
    agents(t, 0.02)
    retrieval(t, 0.4)
    long_documents(t, 0.03)
    batches(t, 0.002)


def mix2(t):
    chat(t, 0.5, turns=6, gap=120)
    agents(t, 0.05, steps=15, tool=15)
    long_documents(t, 0.08, questions=6)
    batches(t, 0.004, spacing=0.8)


SHAPES = {
    "chat": lambda t: chat(t, 2.0),
    "chat2": lambda t: chat(t, 1.0, systems=4, system=4000, turns=7, gap=30, gap_sigma=1.6, message=900),
    "agents": lambda t: agents(t, 0.05),
    "agents2": lambda t: agents(t, 0.12, kinds=2, system=16000, steps=12, tool=25, human=600, tasks=2),
    "rag": lambda t: retrieval(t, 2),
    "rag2": lambda t: retrieval(t, 2, documents=400, exponent=0.6, found=2, document=4000, follow=0.6),
    "longdoc": lambda t: long_documents(t, 0.15),
    "longdoc2": lambda t: long_documents(t, 0.3, length=12000, questions=7, gap=120, history=False, popular=0.5),
    "batch": lambda t: batches(t, 0.01),
    "batch2": lambda t: batches(t, 0.02, templates=200, template=1500, size=60, item=2500, spacing=1.0, samples=4),
    "mix": mix,
    "mix2": mix2,
}


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES:
        sys.exit("usage: traffic.py SHAPE SEED REQUESTS; SHAPE is one of " + " ".join(SHAPES))
    traffic = Traffic(int(sys.argv[2]), int(sys.argv[3]))
    SHAPES[sys.argv[1]](traffic)
    traffic.run()
    for time, tokens, output, blocks in sorted(traffic.requests, key=lambda request: request[0]):
        line = {"timestamp": int(time * 1000), "input_length": tokens, "output_length": output, "hash_ids": blocks}
        print(json.dumps(line, separators=(",", ":")))


if __name__ == "__main__":
    main()
