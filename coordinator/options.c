/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/options_parts.h"

#include <stdarg.h>
#include <string.h>

static bool hidden_by_own(const struct options__table *t, size_t i)
{
    for (size_t k = 0; i >= t->n_own && k < t->n_own; k++)
        if (strcmp(t->options[k].name, t->options[i].name) == 0)
            return true;
    return false;
}

/* A shared option keeps its letter only where the command has no use of its own for it. */
static char letter_of(const struct options__table *t, size_t i)
{
    for (size_t k = 0; i >= t->n_own && k < t->n_own; k++)
        if (t->options[k].letter == t->options[i].letter)
            return 0;
    return t->options[i].letter;
}

static void print_help(const struct options__table *t)
{
    const struct coord_command *c = t->command;
    printf("usage: caravan %s [options]%s%s\n\n%s\n\noptions:\n", c->name,
           *c->positional ? " " : "", c->positional, c->summary);
    for (size_t i = 0; i < t->n; i++) {
        if (hidden_by_own(t, i))
            continue;
        const struct coord_option *o = &t->options[i];
        char letter = letter_of(t, i), left[64];
        snprintf(left, sizeof left, "%s%c%s--%s%s%s", letter ? "-" : " ", letter ? letter : ' ',
                 letter ? ", " : "  ", o->name, o->value ? " " : "", o->value ? o->value : "");
        printf("  %-30s %s\n", left, o->help);
    }
    printf("  %-30s %s\n", "-h, --help", "this text");
}

int options__usage(const struct options__table *t, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "caravan %s: %s\nsee: caravan %s --help\n", t->command->name, text,
            t->command->name);
    return 2;
}
/* The option that an argument names; *inline_value gets what follows in the same argument. */
static const struct coord_option *find(const struct options__table *t, const char *arg,
                                       char shown[64], const char **inline_value)
{
    bool is_long = arg[1] == '-';
    const char *name = arg + 1 + is_long;
    size_t len = is_long ? strcspn(name, "=") : 1;
    snprintf(shown, 64, "%.*s", (int)(len + 1 + is_long), arg);
    *inline_value = NULL;
    if (name[len])
        *inline_value = name + len + is_long;
    for (size_t i = 0; i < t->n; i++) {
        const struct coord_option *o = &t->options[i];
        if (is_long ? strlen(o->name) == len && strncmp(o->name, name, len) == 0
                    : o->letter && o->letter == *name)
            return o;
    }
    return NULL;
}

/* Reads the option at argv[*i]; -1, or the exit status. */
static int take_option(const struct options__table *t, int argc, char **argv, int *i)
{
    char shown[64];
    const char *value;
    const struct coord_option *o = find(t, argv[*i], shown, &value);
    if (!o)
        return options__usage(t, "unknown option %.100s", argv[*i]);
    if (!o->value && value)
        return options__usage(t, "%s takes no value, found '%.100s'", shown, value);
    if (o->value && !value) {
        if (*i + 1 >= argc)
            return options__usage(t, "%s needs a value: %s %s", shown, shown, o->value);
        value = argv[++*i];
    }
    return options__store(t, o, shown, value);
}

/* The lists, and whether all fits together. */
static enum proto_status set_sampling(struct coord_cli *cli, struct proto_error *error)
{
    cli->sampling.biases = cli->biases.values;
    cli->sampling.n_biases = cli->biases.n;
    cli->sampling.dry_breakers = cli->breakers.n > 0 ? cli->breakers.values : NULL;
    cli->sampling.n_dry_breakers = cli->breakers.n;
    return text_sampling_check(&cli->sampling, error);
}

int coord_cli_parse(struct coord_cli *cli, const struct coord_command *command, int argc,
                    char **argv)
{
    struct options__table t = {0};
    options__make_table(&t, cli, command);
    bool options_over = false;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (!options_over && strcmp(arg, "--") == 0) {
            options_over = true;
        } else if (!options_over && (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)) {
            print_help(&t);
            return 0;
        } else if (!options_over && arg[0] == '-' && arg[1]) {
            int rc = take_option(&t, argc, argv, &i);
            if (rc >= 0)
                return rc;
        } else if (cli->n_positional == command->max_positional ||
                   cli->n_positional == COORD_MAX_POSITIONAL) {
            return options__usage(&t, "unexpected argument '%.100s'", arg);
        } else {
            cli->positional[cli->n_positional++] = arg;
        }
    }
    if (cli->n_positional < command->min_positional)
        return options__usage(&t, "expected %s", command->positional);
    struct proto_error error;
    if (set_sampling(cli, &error) != PROTO_OK)
        return options__usage(&t, "%s", error.text);
    proto_log_set_level(cli->log_level);
    return -1;
}

int coord_cli_fail(const struct coord_command *command, const struct proto_error *error)
{
    fprintf(stderr, "caravan %s: %s\n", command->name, error->text);
    return 1;
}
