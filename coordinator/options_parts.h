/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the options: the table of one command, and what is done with it. */
#ifndef COORDINATOR_OPTIONS_PARTS_H
#define COORDINATOR_OPTIONS_PARTS_H

#include "coordinator/options.h"

#define OPTIONS__MOST 96

/* All options of one command: its own first. */
struct options__table {
    const struct coord_command *command;
    struct coord_option options[OPTIONS__MOST];
    size_t n, n_own;
};

/* options.c: says what is wrong; the exit status. */
int options__usage(const struct options__table *t, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* options_table.c: *t is zeroed. */
void options__make_table(struct options__table *t, struct coord_cli *cli,
                         const struct coord_command *command);

/* options_value.c: stores a value; -1, or the exit status. `shown` is the option as it was
 * written. */
int options__store(const struct options__table *t, const struct coord_option *o, const char *shown,
                   const char *value);

#endif
