/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/commands.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/api/client.h"
#include "coordinator/options.h"
#include "coordinator/plan/cluster_file.h"
#include "coordinator/plan/fits.h"
#include "coordinator/plan/html.h"
#include "coordinator/plan/json.h"
#include "coordinator/plan/list.h"
#include "coordinator/plan/simulated.h"
#include "coordinator/plan/text.h"

/* Options that a cluster which runs leaves no choice in. */
enum decided {
    CTX,
    PARALLEL,
    BATCH,
    KV,
    PROMPT,
    ANSWER,
    SPLIT,
    SLICES,
    REPLICAS,
    STAGES,
    CPU_ONLY,
    N_DECIDED
};

static const char *const decided_names[N_DECIDED] = {
    "ctx",   "parallel",      "batch",    "kv",     "prompt",  "answer",
    "split", "expert-slices", "replicas", "stages", "cpu-only"};

/* What the command line says. */
struct arguments {
    const char *model, *cluster, *aim, *split, *html;
    const char *server, *api_key;
    bool list, simulate, json, apply;
    bool given[N_DECIDED];
    struct coord_plan_request request;
    struct plan_simulation simulation;
    float rate, zipf;
};

static const char *const aims[] = {"latency", "throughput", "balanced"};
static const char *const splits[] = {"auto", "layers", "experts"};

/* Index of a word among three, or -1. */
static int find_word(const char *const words[3], const char *word)
{
    for (int i = 0; i < 3; i++)
        if (!strcmp(words[i], word))
            return i;
    return -1;
}

static enum proto_status read_words(struct arguments *a, struct proto_error *error)
{
    int aim = find_word(aims, a->aim), split = find_word(splits, a->split);
    if (aim < 0)
        return proto_fail(error, PROTO_INVALID,
                          "--for %.64s: expected latency, throughput or balanced", a->aim);
    if (split < 0)
        return proto_fail(error, PROTO_INVALID, "--split %.64s: expected auto, layers or experts",
                          a->split);
    a->request.search.aim = (enum plan_aim)aim;
    a->request.search.split = (enum plan_split)split;
    return PROTO_OK;
}

static enum proto_status show_text(const struct arguments *a, const struct coord_plan_view *view,
                                   struct proto_error *error)
{
    char line[COORD_PLAN_TEXT * 2];
    coord_plan_print_question(view, stdout);
    enum proto_status status = coord_plan_print_answer(view, stdout, error);
    if (!status && a->simulate)
        status = coord_plan_print_simulated(view, &a->simulation, stdout, error);
    if (!status)
        printf("\n%s\n", coord_plan_last_line(view, line));
    return status;
}

static enum proto_status show(const struct arguments *a, const struct coord_plan_view *view,
                              struct proto_error *error)
{
    enum proto_status status = PROTO_OK;
    if (a->html)
        status = coord_plan_write_html(view, a->html, error);
    if (status)
        return status;
    return a->json ? coord_plan_print_json(view, stdout, error) : show_text(a, view, error);
}

static void show_misfit(const struct arguments *a, const struct coord_plan_view *view)
{
    if (a->json || !view->shape)
        return;
    coord_plan_print_question(view, stdout);
    coord_plan_print_changes(view, stdout);
    fflush(stdout); /* before the error that follows */
}

static enum proto_status plan_model(const struct arguments *a, const struct plan_cluster *cluster,
                                    struct proto_error *error)
{
    struct coord_source source;
    struct coord_plan_view view;
    enum proto_status status = coord_source_open(&source, a->model, error);
    if (status)
        return status;
    status = coord_plan_view_init(&view, &source, cluster, &a->request, error);
    if (!status)
        status = show(a, &view, error);
    else if (status == PROTO_CAPACITY)
        show_misfit(a, &view);
    coord_plan_view_finish(&view);
    coord_source_close(&source);
    return status;
}

/* ---- a running cluster ---- */

static enum proto_status write_page(const char *path, const char *page, struct proto_error *error)
{
    FILE *out = fopen(path, "w");
    if (!out)
        return proto_fail_errno(error, errno, "cannot create", path);
    bool failed = fputs(page, out) == EOF;
    failed |= fclose(out) != 0;
    return failed ? proto_fail_errno(error, errno, "cannot write", path) : PROTO_OK;
}

static enum proto_status check_decided(const struct arguments *a, struct proto_error *error)
{
    for (int i = 0; i < N_DECIDED; i++)
        if (a->given[i])
            return proto_fail(error, PROTO_INVALID,
                              "--%s is for the plan of a model; a cluster that runs is compared "
                              "as it was started: leave it out, or name a model and a --cluster",
                              decided_names[i]);
    return PROTO_OK;
}

static enum proto_status compare(const struct arguments *a, struct proto_error *error)
{
    struct api_client *client = NULL;
    struct api_client_plan plan = {
        .aim = a->aim, .apply = a->apply, .html = a->html != NULL, .as_json = a->json};
    enum proto_status status = check_decided(a, error);
    if (!status)
        status = api_client_create(&client, a->server, a->api_key, error);
    if (!status)
        status = api_client_plan(client, &plan, error);
    api_client_destroy(client);
    if (!status && a->html)
        status = write_page(a->html, plan.page, error);
    if (!status)
        printf("%s%s", plan.text, a->json ? "\n" : "");
    if (!status && a->apply)
        fputs(plan.applied ? "the best plan is being put in force\n"
                           : "nothing is changed: no better plan was found\n",
              stderr);
    free(plan.text);
    free(plan.page);
    return status;
}

static enum proto_status run(struct arguments *a, struct proto_error *error)
{
    struct plan_cluster *cluster;
    enum proto_status status = read_words(a, error);
    if (status)
        return status;
    if (a->list)
        return coord_plan_list(stdout, error);
    if (!a->model && !a->cluster && !a->simulate)
        return compare(a, error);
    if (a->server || a->apply)
        return proto_fail(error, PROTO_INVALID,
                          "--server and --apply are for a cluster that runs: leave out %s",
                          a->model     ? a->model
                          : a->cluster ? "--cluster"
                                       : "--simulate");
    if (!a->model && (a->html || a->json || a->simulate))
        return proto_fail(error, PROTO_INVALID,
                          "--html, --json and --simulate are of the plan of a model: name it, as "
                          "in caravan plan maverick:Q4_K_M");
    if (a->json && a->simulate)
        return proto_fail(error, PROTO_INVALID,
                          "--json has no simulation: leave out one of --json and --simulate");
    if (!a->cluster)
        return proto_fail(error, PROTO_INVALID,
                          "no cluster is given: describe the machines in a file and name it with "
                          "--cluster FILE");
    status = coord_cluster_read(&cluster, a->cluster, error);
    if (!status)
        status = plan_cluster_complete(cluster, error);
    if (!status)
        status = a->model ? plan_model(a, cluster, error)
                          : coord_plan_fits(cluster, &a->request, stdout, error);
    plan_cluster_destroy(cluster);
    return status;
}

int command_plan(int argc, char **argv)
{
    struct arguments a = {
        .aim = "latency",
        .split = "auto",
        .request = {.shape = {.kv = KERN_KV_F32, .max_seqs = 4, .max_rows = 512}},
        .simulation = {.requests = 1000, .seed = 1},
    };
    struct plan_shape_options *shape = &a.request.shape;
    struct plan_options *search = &a.request.search;
    struct plan_simulation *simulation = &a.simulation;
    uint32_t ctx = 0;
    const struct coord_option options[] = {
        {0, "cluster", "FILE", "the machines and their links, in YAML (- for standard input)",
         COORD_OPTION_TEXT, &a.cluster, 0, 0, NULL},
        {0, "for", "AIM", "latency, throughput or balanced (latency)", COORD_OPTION_TEXT, &a.aim, 0,
         0, NULL},
        {'c', "ctx", "N", "positions of a sequence (the model's, at most 8192)", COORD_OPTION_U32,
         &ctx, 1, PROTO_MAX_CONTEXT, &a.given[CTX]},
        {0, "parallel", "N", "sequences computed at once (4)", COORD_OPTION_U32, &shape->max_seqs,
         1, PROTO_MAX_SEQUENCES, &a.given[PARALLEL]},
        {0, "batch", "N", "rows of a batch at most (512)", COORD_OPTION_U32, &shape->max_rows, 1,
         PROTO_MAX_BATCH_ROWS, &a.given[BATCH]},
        {0, "kv", "TYPE", "how KV is kept: f32, f16, q8_0 or q4_0 (f32)", COORD_OPTION_KV,
         &shape->kv, 0, 0, &a.given[KV]},
        {0, "prompt", "N", "tokens of a prompt (512)", COORD_OPTION_U32, &search->load.prompt, 1,
         PROTO_MAX_CONTEXT, &a.given[PROMPT]},
        {0, "answer", "N", "tokens of its answer (256)", COORD_OPTION_U32, &search->load.answer, 1,
         PROTO_MAX_CONTEXT, &a.given[ANSWER]},
        {0, "split", "HOW", "auto, layers or experts (auto)", COORD_OPTION_TEXT, &a.split, 0, 0,
         &a.given[SPLIT]},
        {0, "expert-slices", "N", "cut each expert elsewhere in N (as is best)", COORD_OPTION_U32,
         &search->slices, 1, SHARD_EXPERT_SEGMENTS, &a.given[SLICES]},
        {0, "replicas", "N", "machines that hold each expert elsewhere (1)", COORD_OPTION_U32,
         &search->replicas, 1, PROTO_MAX_WORKERS, &a.given[REPLICAS]},
        {0, "stages", "N", "parts that the layers are cut into (as is best)", COORD_OPTION_U32,
         &search->stages, 1, PROTO_MAX_LAYERS, &a.given[STAGES]},
        {0, "cpu-only", NULL, "leave out GPUs, which nothing runs on yet", COORD_OPTION_FLAG,
         &search->cpu_only, 0, 0, &a.given[CPU_ONLY]},
        {0, "html", "FILE", "write the plan as a picture, for a browser", COORD_OPTION_TEXT,
         &a.html, 0, 0, NULL},
        {0, "simulate", NULL, "simulate many requests, and say where the plan saturates",
         COORD_OPTION_FLAG, &a.simulate, 0, 0, NULL},
        {0, "requests", "N", "simulated requests in all (1000)", COORD_OPTION_U32,
         &simulation->requests, 1, 10000000, NULL},
        {0, "rate", "R", "that arrive in a second (0: as many are always under way)",
         COORD_OPTION_FLOAT, &a.rate, 0, 1e6, NULL},
        {0, "clients", "N", "requests that are always under way (as --parallel)", COORD_OPTION_U32,
         &simulation->clients, 1, 1000000, NULL},
        {0, "zipf", "Z", "how unevenly experts are used (0: evenly)", COORD_OPTION_FLOAT, &a.zipf,
         0, 10, NULL},
        {0, "spread", NULL, "lengths are exponential about --prompt and --answer",
         COORD_OPTION_FLAG, &simulation->spread, 0, 0, NULL},
        {0, "seed", "S", "start of the random numbers (1)", COORD_OPTION_U64, &simulation->seed, 0,
         0, NULL},
        {0, "json", NULL, "print the plan as JSON", COORD_OPTION_FLAG, &a.json, 0, 0, NULL},
        {0, "apply", NULL, "put the best plan in force in the running cluster", COORD_OPTION_FLAG,
         &a.apply, 0, 0, NULL},
        {0, "list", NULL, "name the models that are known without a file", COORD_OPTION_FLAG,
         &a.list, 0, 0, NULL},
    };
    const struct coord_command command = {
        .name = "plan",
        .positional = "[MODEL]",
        .summary =
            "Shows how machines would share a model, how fast it would be and why. MODEL is\n"
            "a file, a known model and a quantisation such as maverick:Q4_K_M (--list), or\n"
            "a config.json and one: FOLDER/config.json:Q4_K_M. Without MODEL: which known\n"
            "models the machines can run. Without --cluster too: the plan of a running\n"
            "coordinator beside the best one; only --for, --json, --html and --apply count.",
        .groups = COORD_OPTIONS_SERVER,
        .options = options,
        .n_options = sizeof options / sizeof options[0],
        .max_positional = 1,
    };
    struct coord_cli cli;
    struct proto_error error;
    coord_cli_default(&cli);
    int rc = coord_cli_parse(&cli, &command, argc, argv);
    if (rc >= 0)
        return rc;
    a.model = cli.positional[0];
    a.server = cli.server;
    a.api_key = cli.api_key;
    shape->ctx = ctx;
    simulation->arrivals_s = (double)a.rate;
    simulation->zipf = (double)a.zipf;
    return run(&a, &error) ? coord_cli_fail(&command, &error) : 0;
}
