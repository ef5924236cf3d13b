/* SPDX-License-Identifier: Apache-2.0 */
/* Clusters, shapes and placements for tests of the planner. */
#ifndef TESTS_SHARD_PLANNED_H
#define TESTS_SHARD_PLANNED_H

#include "shard/plan/placement.h"

#define MAX_MACHINES 64

struct made_cluster {
    struct plan_cluster cluster;
    struct plan_machine machines[MAX_MACHINES];
};

/* n machines m0, m1, ... with CPUs of that memory and bandwidth and hardly any limit otherwise;
 * links of 0.3 ms and 1 Gbit/s. The structure may not move afterwards. */
void make_cluster(struct made_cluster *made, uint32_t n, double memory_gb, double read_gb_s);

/* A GPU for a machine. */
void make_gpu(struct made_cluster *made, uint32_t machine, double memory_gb, double read_gb_s);

/* The shape of a preset; exits the program on failure. destroy_shape frees what is behind it. */
struct plan_shape *preset_shape(const char *preset, const char *type,
                                const struct plan_shape_options *options);
void destroy_shape(struct plan_shape *shape);

/* n_layers alike of weight_bytes and a KV byte count, each with n_experts of expert_bytes of which
 * n_used are used (0: none); a head; two operations a byte. */
struct plan_shape *made_shape(uint32_t n_layers, uint64_t weight_bytes, uint32_t n_experts,
                              uint32_t n_used, uint64_t expert_bytes);

/* A placement with a stage of layers first..end-1 on that processor behind the last; parts. */
struct plan_placement *new_placement(void);
void add_stage(struct plan_placement *p, const struct plan_shape *shape, uint32_t machine,
               enum plan_device_kind device, uint32_t end);
void add_part(struct plan_placement *p, uint32_t machine, uint32_t layer_first, uint32_t layer_end,
              uint32_t expert_first, uint32_t expert_end, uint32_t slice, uint32_t n_slices);

#endif
