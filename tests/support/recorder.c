/* tests/support/recorder.c - a policy that evicts in order of insertion and writes down what it is told.
 *
 * The engine loads it as it would a user's; the test finds the same object with dlopen() and reads
 * `recorder`. Instances are numbered in the order they were made: RAM's is 0, the SSD's is 1.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "recorder.h"

#include <stdlib.h>

struct node {
  uint32_t older, newer;
};
struct queue {
  const kvstow_nodes *nodes;
  uint32_t oldest, newest;
  int number;
};

KVSTOW_API struct recorder recorder;
struct recorder recorder;

static struct node *at(struct queue *q, uint32_t id) {
  return kvstow_node(q->nodes, id);
}

static void note(const struct queue *q, int what, uint32_t id, const kvstow_access *access) {
  if (recorder.count == RECORDER_MAX) return;
  struct recorded *r = &recorder.log[recorder.count++];
  r->tier = q->number;
  r->what = what;
  r->id = id;
  r->access = *access;
}

static int create(const kvstow_policy_config *config, void **policy) {
  struct queue *q = malloc(sizeof *q);
  if (q == NULL) return KVSTOW_ENOMEM;
  q->nodes = config->nodes;
  q->oldest = q->newest = KVSTOW_NO_ID;
  q->number = recorder.instances++ % 2;
  recorder.capacity[q->number] = config->capacity;
  *policy = q;
  return 0;
}

static void insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct queue *q = policy;
  note(q, RECORDED_INSERT, id, access);
  *at(q, id) = (struct node){.older = q->newest, .newer = KVSTOW_NO_ID};
  if (q->newest != KVSTOW_NO_ID)
    at(q, q->newest)->newer = id;
  else
    q->oldest = id;
  q->newest = id;
}

static void touch(void *policy, uint32_t id, const kvstow_access *access) {
  note(policy, RECORDED_TOUCH, id, access);
}

static void leave(void *policy, uint32_t id) {
  struct queue *q = policy;
  const struct node node = *at(q, id);
  if (node.older != KVSTOW_NO_ID)
    at(q, node.older)->newer = node.newer;
  else
    q->oldest = node.newer;
  if (node.newer != KVSTOW_NO_ID)
    at(q, node.newer)->older = node.older;
  else
    q->newest = node.older;
}

static uint32_t victim(void *policy, const kvstow_access *incoming) {
  struct queue *q = policy;
  const uint32_t id = q->oldest;
  (void)incoming;
  if (id != KVSTOW_NO_ID) leave(policy, id);
  return id;
}

static int admit(void *policy, uint32_t id, uint64_t below) {
  (void)policy, (void)id, (void)below;
  return !recorder.refuses;
}

static int resize(void *policy, uint64_t capacity) {
  const struct queue *q = policy;
  recorder.capacity[q->number] = capacity;
  return 0;
}

KVSTOW_API extern const kvstow_policy_ops kvstow_policy;
const kvstow_policy_ops kvstow_policy = {.abi = KVSTOW_POLICY_ABI,
                                         .node_bytes = sizeof(struct node),
                                         .name = "recorder",
                                         .summary = "evicts in order, and writes down (tests)",
                                         .create = create,
                                         .destroy = free,
                                         .insert = insert,
                                         .touch = touch,
                                         .victim = victim,
                                         .admit = admit,
                                         .remove = leave,
                                         .resize = resize};
