/* cli/trace/shape_agents.c - gen:agents: loops of tool calls.
 *
 * An agent works on a task step by step, each step the context so far and what a tool answered; then
 * a person gives it the next task, or none. Some steps call helpers, agents of another kind with one
 * task each. A context that has grown beyond 120,000 tokens is compacted: the prompt and 4,000 tokens.
 *
 *   key            default  what
 *   rate           0.05     agents a second (in a mixture 0.02)
 *   kinds          6        system prompts, of Zipf popularity with exponent 0.8
 *   system_tokens  9000     median tokens of one with its tools, lognormal with sigma 0.3
 *   steps          25       mean steps of a task, exponential
 *   tool           8        median seconds of a tool, lognormal with sigma 0.9
 *   human          240      median seconds of a person between tasks, lognormal with sigma 1
 *   tasks          3        mean tasks, uniform from 1
 *   result         900      median tokens of a tool's answer, lognormal with sigma 1.1
 *   helpers        0.04     steps that call one to three
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/traffic.h"

enum { COMPACT_ABOVE_TOKENS = 120000 };

struct agents {
  struct shape shape;
  double kinds, system_tokens, steps, tool, human, tasks, result, helpers;
};

struct agent {
  struct client client;
  const struct agents *agents;
  struct context context;
  uint32_t kind;
  uint32_t tasks, steps; /* left, those under way included */
  bool helper;
};

static const struct client_ops agent_ops;

static uint32_t steps_of_task(struct traffic *traffic, const struct agents *agents) {
  return 1 + (uint32_t)random_exponential(&traffic->random, agents->steps);
}

static void begin(struct traffic *traffic, const struct agents *agents, uint32_t kind, bool helper,
                  double pause_ms) {
  struct agent *agent = client_begin(traffic, &agent_ops, sizeof *agent, pause_ms);
  if (agent == NULL) return;
  agent->agents = agents;
  agent->kind = kind;
  agent->helper = helper;
  agent->tasks = helper ? 1 : 1 + random_below(&traffic->random, 2 * (uint32_t)agents->tasks - 1);
  agent->steps = steps_of_task(traffic, agents);
  context_add(traffic, &agent->context, agents->shape.library.texts[kind]);
  context_add(traffic, &agent->context,
              text_new(traffic, random_lognormal(&traffic->random, 800, 0.8)));
}

static void call_helpers(struct traffic *traffic, const struct agent *agent) {
  const struct agents *agents = agent->agents;
  if (agent->helper || random_uniform(&traffic->random) >= agents->helpers) return;
  for (uint32_t left = 1 + random_below(&traffic->random, 3); left > 0; left--)
    begin(traffic, agents, (agent->kind + 1) % agents->shape.library.count, true, 1000);
}

static double agent_step(struct traffic *traffic, struct client *client) {
  struct agent *agent = (struct agent *)client;
  const struct agents *agents = agent->agents;
  struct random *random = &traffic->random;
  const double answer = 1 + random_lognormal(random, 180, 0.9);
  client_ask(traffic, client, &agent->context, answer);
  const double result = random_lognormal(random, agents->result, 1.1);
  context_add(traffic, &agent->context, text_new(traffic, answer + result));
  if (context_tokens(&agent->context) > COMPACT_ABOVE_TOKENS) {
    context_clear(&agent->context);
    context_add(traffic, &agent->context, agents->shape.library.texts[agent->kind]);
    context_add(traffic, &agent->context, text_new(traffic, 4000));
  }
  call_helpers(traffic, agent);
  if (--agent->steps > 0)
    return answer * DECODE_MS_PER_TOKEN + random_lognormal(random, agents->tool * 1000, 0.9);
  if (--agent->tasks == 0) return -1;
  agent->steps = steps_of_task(traffic, agents);
  context_add(traffic, &agent->context, text_new(traffic, random_lognormal(random, 400, 0.8)));
  return random_lognormal(random, agents->human * 1000, 1);
}

static void agent_finish(struct client *client) {
  context_clear(&((struct agent *)client)->context);
}

static const struct client_ops agent_ops = {agent_step, agent_finish};

static void agents_prepare(struct traffic *traffic, struct shape *shape) {
  struct agents *agents = (struct agents *)shape;
  library_fill(traffic, &agents->shape.library, agents->kinds, agents->system_tokens, 0.3, 0.8);
}

static void agents_begin(struct traffic *traffic, const struct shape *shape) {
  const struct agents *agents = (const struct agents *)shape;
  begin(traffic, agents, library_pick(traffic, &agents->shape.library), false, 0);
}

const struct shape_ops shape_agents = {
    .name = "agents",
    .rate = 0.05,
    .rate_in_mix = 0.02,
    .bytes = sizeof(struct agents),
    .settings = {{"kinds", offsetof(struct agents, kinds), 6, 1, 65536, true},
                 {"system_tokens", offsetof(struct agents, system_tokens), 9000, 64, 1e5, false},
                 {"steps", offsetof(struct agents, steps), 25, 0, 1e4, false},
                 {"tool", offsetof(struct agents, tool), 8, 0, 1e6, false},
                 {"human", offsetof(struct agents, human), 240, 0, 1e6, false},
                 {"tasks", offsetof(struct agents, tasks), 3, 1, 1000, true},
                 {"result", offsetof(struct agents, result), 900, 0, 1e5, false},
                 {"helpers", offsetof(struct agents, helpers), 0.04, 0, 0.5, false}},
    .prepare = agents_prepare,
    .begin = agents_begin,
};
