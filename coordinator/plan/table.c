/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void coord_table_init(struct coord_table *table, const char *const *titles, unsigned n_columns)
{
    *table = (struct coord_table){.titles = titles, .n_columns = n_columns};
}

static bool reserve(struct coord_table *table)
{
    if (table->n_cells < table->cap)
        return true;
    size_t cap = table->cap ? 2 * table->cap : 64;
    char **cells = realloc(table->cells, cap * sizeof *cells);
    if (!cells)
        return false;
    table->cells = cells;
    table->cap = cap;
    return true;
}

void coord_table_cell(struct coord_table *table, const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    bool made = vasprintf(&text, format, args) >= 0;
    va_end(args);
    if (!made || table->failed || !reserve(table)) {
        table->failed = true;
        free(made ? text : NULL);
        return;
    }
    table->cells[table->n_cells++] = text;
}

/* Characters of UTF-8, each of which is taken to be one column wide. */
static int width_of(const char *text)
{
    int width = 0;
    for (; *text; text++)
        width += (*text & 0xc0) != 0x80;
    return width;
}

static bool is_words(const struct coord_table *table, unsigned column)
{
    return table->titles[column][0] == '<';
}

static const char *title_of(const struct coord_table *table, unsigned column)
{
    return table->titles[column] + is_words(table, column);
}

static void print_cell(const struct coord_table *table, unsigned column, int width,
                       const char *text, FILE *out)
{
    int fill = width - width_of(text);
    bool words = is_words(table, column), last = column + 1 == table->n_columns;
    if (last && !*text)
        return;
    fprintf(out, "%s%*s%s%*s", column ? "  " : "", words ? 0 : fill, "", text,
            words && !last ? fill : 0, "");
}

bool coord_table_print(const struct coord_table *table, unsigned indent, FILE *out)
{
    int width[COORD_TABLE_COLUMNS];
    for (unsigned i = 0; i < table->n_columns; i++)
        width[i] = width_of(title_of(table, i));
    for (size_t i = 0; i < table->n_cells; i++)
        if (width_of(table->cells[i]) > width[i % table->n_columns])
            width[i % table->n_columns] = width_of(table->cells[i]);
    for (unsigned i = 0; i < table->n_columns; i++) {
        fprintf(out, "%*s", i ? 0 : (int)indent, "");
        print_cell(table, i, width[i], title_of(table, i), out);
    }
    for (size_t i = 0; i < table->n_cells; i++) {
        unsigned column = (unsigned)(i % table->n_columns);
        if (column == 0)
            fprintf(out, "\n%*s", (int)indent, "");
        print_cell(table, column, width[column], table->cells[i], out);
    }
    fputc('\n', out);
    return !table->failed;
}

size_t coord_table_rows(const struct coord_table *table)
{
    return table->n_cells / table->n_columns;
}

void coord_table_finish(struct coord_table *table)
{
    for (size_t i = 0; i < table->n_cells; i++)
        free(table->cells[i]);
    free(table->cells);
    *table = (struct coord_table){0};
}
