/* SPDX-License-Identifier: Apache-2.0 */
/* Tables of text whose columns line up: rows are collected first, so that widths are known. */
#ifndef COORDINATOR_PLAN_TABLE_H
#define COORDINATOR_PLAN_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define COORD_TABLE_COLUMNS 272 /* as many as there may be workers, and more */

struct coord_table {
    unsigned n_columns;
    const char *const *titles; /* borrowed; one that starts with '<' is of words, on the left */
    char **cells;              /* rows after each other, owned */
    size_t n_cells, cap;
    bool failed; /* for want of memory */
};

void coord_table_init(struct coord_table *table, const char *const *titles, unsigned n_columns);

/* The next cell, as by printf; rows are filled from left to right. */
void coord_table_cell(struct coord_table *table, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The title and all rows, each with `indent` spaces in front. False if memory ran out before. */
bool coord_table_print(const struct coord_table *table, unsigned indent, FILE *out);

size_t coord_table_rows(const struct coord_table *table);

void coord_table_finish(struct coord_table *table);

#endif
