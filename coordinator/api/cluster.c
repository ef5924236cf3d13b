/* SPDX-License-Identifier: Apache-2.0 */
/* What people ask of the cluster's shape. */
#include "coordinator/api/json.h"

enum MHD_Result api__drain(struct api__request *r)
{
    static const char *const fields[] = {"worker"};
    struct api__fault fault = {0};
    struct proto_error error;
    json_t *body = api__json_load(r->body, r->len, &fault);
    const json_t *name = body ? api__json_field(body, "worker") : NULL;
    const char *worker = json_string_value(name);
    if (body && api__json_only(body, fields, 1, &fault) && !worker)
        api__fault_set(&fault, 400, "worker", NULL,
                       "worker is %s, expected a string: the name of the one that is to leave, as "
                       "the status shows it",
                       name ? api__json_kind(name) : "missing");
    enum proto_status status =
        fault.status ? PROTO_OK : coord_engine_drain(r->server->engine, worker, &error);
    if (status == PROTO_NOTFOUND)
        api__fault_set(&fault, 404, "worker", "worker_not_found", "%s", error.text);
    else if (status == PROTO_CAPACITY || status == PROTO_INVALID || status == PROTO_LOST)
        api__fault_set(&fault, 409, "worker", "worker_needed", "%s", error.text);
    else if (status != PROTO_OK)
        api__fault_from(&fault, &error);
    json_t *answer =
        fault.status ? NULL : json_pack("{s:s, s:s}", "worker", worker, "state", "draining");
    json_decref(body);
    return fault.status ? api__reply_fault(r, &fault) : api__reply_json(r, 200, answer);
}
