/* SPDX-License-Identifier: Apache-2.0 */
/* A plan as a page for a browser: one file that needs no other, light or dark as the browser is. */
#ifndef COORDINATOR_PLAN_HTML_H
#define COORDINATOR_PLAN_HTML_H

#include <stdio.h>

#include "coordinator/plan/view.h"

/* The page's parts: its beginning, a plan, of which there may be several, and its end. */
void coord_plan_print_html_head(const struct coord_plan_view *view, FILE *out);
void coord_plan_print_html_plan(const struct coord_plan_view *view, FILE *out);
void coord_plan_print_html_end(FILE *out);

/* Writes the page to path; a file that could not be written whole is removed. */
enum proto_status coord_plan_write_html(const struct coord_plan_view *view, const char *path,
                                        struct proto_error *error);

#endif
