/* SPDX-License-Identifier: Apache-2.0 */
/* `caravan template`: the prompt that a chat template makes of messages. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "coordinator/commands.h"
#include "coordinator/files.h"
#include "coordinator/options.h"
#include "coordinator/text/template.h"
#include "shard/gguf.h"

struct request {
    const char *model, *file, *messages, *date;
};

static enum proto_status from_model(struct text_template **tmpl, const char *path,
                                    struct proto_error *error)
{
    struct shard_gguf *gguf;
    struct shard_gguf_string source;
    enum proto_status status = shard_gguf_open(&gguf, path, error);
    if (status != PROTO_OK)
        return status;
    status = shard_gguf_str(gguf, "tokenizer.chat_template", &source, error);
    if (status == PROTO_NOTFOUND)
        status = proto_fail(error, status,
                            "%.300s has no tokenizer.chat_template; give one with --template FILE",
                            path);
    if (status == PROTO_OK)
        status = text_template_create(tmpl, source.data, source.len, error);
    shard_gguf_close(gguf);
    return status;
}

static enum proto_status from_file(struct text_template **tmpl, const char *path,
                                   struct proto_error *error)
{
    char *source;
    size_t len;
    enum proto_status status = coord_read_file(path, &source, &len, error);
    if (status != PROTO_OK)
        return status;
    status = text_template_create(tmpl, source, len, error);
    free(source);
    return status;
}

static enum proto_status read_variables(const char *path, json_t **variables,
                                        struct proto_error *error)
{
    char *text;
    size_t len;
    json_error_t why;
    enum proto_status status = coord_read_file(path, &text, &len, error);
    if (status != PROTO_OK)
        return status;
    *variables = json_loadb(text, len, JSON_ALLOW_NUL, &why);
    free(text);
    if (!*variables)
        return proto_fail(error, PROTO_FORMAT, "%.200s line %d is no JSON: %s", path, why.line,
                          why.text);
    if (json_is_object(*variables))
        return PROTO_OK;
    json_decref(*variables);
    *variables = NULL;
    return proto_fail(error, PROTO_FORMAT,
                      "%.200s: expected a JSON object with messages, tools, ...", path);
}

static enum proto_status read_date(const char *date, long long *unix_time,
                                   struct proto_error *error)
{
    struct tm day = {0};
    *unix_time = time(NULL);
    if (!date)
        return PROTO_OK;
    const char *end = strptime(date, "%Y-%m-%d", &day);
    if (!end || *end)
        return proto_fail(error, PROTO_INVALID, "--date %.100s: expected YYYY-MM-DD", date);
    *unix_time = timegm(&day);
    return PROTO_OK;
}

static enum proto_status print(const struct text_template *tmpl, const struct request *request,
                               struct proto_error *error)
{
    json_t *variables = NULL;
    long long unix_time;
    struct text_rendered rendered = {0};
    enum proto_status status = read_date(request->date, &unix_time, error);
    if (status == PROTO_OK)
        status = read_variables(request->messages, &variables, error);
    if (status == PROTO_OK)
        status = text_template_render(tmpl, variables, unix_time, &rendered, error);
    json_decref(variables);
    if (status == PROTO_OK &&
        (fwrite(rendered.text, 1, rendered.len, stdout) < rendered.len || fflush(stdout) != 0))
        status = proto_fail_errno(error, errno, "write", "standard output");
    text_rendered_finish(&rendered);
    return status;
}

static enum proto_status render(const struct request *request, struct proto_error *error)
{
    struct text_template *tmpl = NULL;
    if (!request->messages)
        return proto_fail(error, PROTO_INVALID, "no messages: name a file with --messages FILE");
    if (!request->model == !request->file)
        return proto_fail(error, PROTO_INVALID,
                          "give either a model (-m MODEL) or a template (--template FILE)");
    enum proto_status status = request->model ? from_model(&tmpl, request->model, error)
                                              : from_file(&tmpl, request->file, error);
    if (status == PROTO_OK)
        status = print(tmpl, request, error);
    text_template_destroy(tmpl);
    return status;
}

int command_template(int argc, char **argv)
{
    struct request request = {0};
    const struct coord_option options[] = {
        {'m', "model", "MODEL", "take the GGUF file's tokenizer.chat_template", COORD_OPTION_TEXT,
         &request.model, 0, 0, NULL},
        {0, "template", "FILE", "take the template in this file", COORD_OPTION_TEXT, &request.file,
         0, 0, NULL},
        {0, "messages", "FILE",
         "a JSON object with messages, tools, add_generation_prompt ...; - is standard input",
         COORD_OPTION_TEXT, &request.messages, 0, 0, NULL},
        {0, "date", "YYYY-MM-DD", "the day that the template sees instead of today",
         COORD_OPTION_TEXT, &request.date, 0, 0, NULL},
    };
    const struct coord_command command = {
        .name = "template",
        .positional = "",
        .summary = "Prints the prompt that a chat template makes of messages.",
        .options = options,
        .n_options = sizeof options / sizeof *options};
    struct coord_cli cli;
    struct proto_error error;
    coord_cli_default(&cli);
    int stop = coord_cli_parse(&cli, &command, argc, argv);
    if (stop >= 0)
        return stop;
    return render(&request, &error) == PROTO_OK ? 0 : coord_cli_fail(&command, &error);
}
