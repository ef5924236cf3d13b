/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/shard/planned.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/shard/edited.h"

#define ROOM 256u /* of a placement, of each kind */

void make_cluster(struct made_cluster *made, uint32_t n, double memory_gb, double read_gb_s)
{
    memset(made, 0, sizeof *made);
    made->cluster = (struct plan_cluster){.n_machines = n,
                                          .machines = made->machines,
                                          .any = {.rtt_s = 0.3e-3, .bytes_s = 125e6},
                                          .local = {.rtt_s = 1e-6, .bytes_s = 10e9}};
    for (uint32_t i = 0; i < n; i++) {
        struct plan_machine *m = &made->machines[i];
        snprintf(m->name, sizeof m->name, "m%u", i);
        m->device[PLAN_CPU] = (struct plan_device){.memory_bytes = (uint64_t)(memory_gb * 1e9),
                                                   .read_bytes_s = read_gb_s * 1e9,
                                                   .ops_row_s = 1e12,
                                                   .ops_rows_s = 2e12,
                                                   .ops_float_s = 0.5e12};
        m->disk_bytes_s = 1e9;
        m->overhead_s = m->request_s = 1e-6;
        m->threads = 8;
    }
}

void make_gpu(struct made_cluster *made, uint32_t machine, double memory_gb, double read_gb_s)
{
    made->machines[machine].device[PLAN_GPU] =
        (struct plan_device){.memory_bytes = (uint64_t)(memory_gb * 1e9),
                             .read_bytes_s = read_gb_s * 1e9,
                             .ops_row_s = 10e12,
                             .ops_rows_s = 40e12,
                             .ops_float_s = 10e12};
}

struct plan_shape *preset_shape(const char *preset, const char *type,
                                const struct plan_shape_options *options)
{
    struct proto_error error;
    struct shard_model *model;
    struct plan_shape *shape;
    struct shard_gguf *gguf = preset_open(preset, type, true);
    if (shard_model_create(&model, gguf, &error) != PROTO_OK ||
        plan_shape_create(&shape, model, options, &error) != PROTO_OK) {
        fprintf(stderr, "%s\n", error.text);
        exit(1);
    }
    return shape;
}

struct plan_shape *made_shape(uint32_t n_layers, uint64_t weight_bytes, uint32_t n_experts,
                              uint32_t n_used, uint64_t expert_bytes)
{
    struct plan_shape *shape = calloc(1, sizeof *shape);
    shape->n_layers = n_layers;
    shape->layers = calloc(n_layers, sizeof *shape->layers);
    shape->options =
        (struct plan_shape_options){.kv = KERN_KV_F16, .ctx = 2048, .max_seqs = 1, .max_rows = 512};
    shape->weight_bits = 8;
    shape->head_bytes = weight_bytes;
    shape->head_ops = 2.0 * (double)weight_bytes;
    shape->embed_bytes = weight_bytes;
    for (uint32_t il = 0; il < n_layers; il++)
        shape->layers[il] = (struct plan_layer){.weight_bytes = weight_bytes,
                                                .ops = 2.0 * (double)weight_bytes,
                                                .n_experts = n_experts,
                                                .n_used = n_used,
                                                .n_segments = 4,
                                                .expert_bytes = expert_bytes,
                                                .expert_ops = 2.0 * (double)expert_bytes,
                                                .request_bytes = 4096,
                                                .answer_bytes = 16384,
                                                .kv_layer = il,
                                                .kv_bytes = weight_bytes / 64,
                                                .row_bytes = 16384};
    return shape;
}

void destroy_shape(struct plan_shape *shape)
{
    struct shard_model *model = (struct shard_model *)shape->model;
    const struct shard_gguf *gguf = model ? model->gguf : NULL;
    shard_model_destroy(model);
    shard_gguf_close((struct shard_gguf *)gguf);
    plan_shape_destroy(shape);
}

struct plan_placement *new_placement(void)
{
    struct plan_placement *p;
    struct proto_error error;
    if (plan_placement_create(&p, ROOM, ROOM, ROOM, &error) != PROTO_OK)
        exit(1);
    return p;
}

void add_stage(struct plan_placement *p, const struct plan_shape *shape, uint32_t machine,
               enum plan_device_kind device, uint32_t end)
{
    uint32_t first = p->n_stages ? p->stages[p->n_stages - 1].layer_end : 0;
    p->stages[p->n_stages++] =
        (struct plan_stage){.worker = plan_placement_worker(p, machine, device),
                            .layer_first = first,
                            .layer_end = end,
                            .embed = first == 0,
                            .head = end == shape->n_layers};
}

void add_part(struct plan_placement *p, uint32_t machine, uint32_t layer_first, uint32_t layer_end,
              uint32_t expert_first, uint32_t expert_end, uint32_t slice, uint32_t n_slices)
{
    p->parts[p->n_parts++] =
        (struct shard_expert_part){.worker = plan_placement_worker(p, machine, PLAN_CPU),
                                   .layer_first = layer_first,
                                   .layer_end = layer_end,
                                   .expert_first = expert_first,
                                   .expert_end = expert_end,
                                   .slice = slice,
                                   .n_slices = n_slices};
}
