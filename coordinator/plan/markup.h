/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the page of a plan (html.h): text in markup, and the two pictures. */
#ifndef COORDINATOR_PLAN_MARKUP_H
#define COORDINATOR_PLAN_MARKUP_H

#include <stdio.h>

#include "coordinator/plan/view.h"

/* Writes text with what markup gives a meaning to escaped; bytes that are no UTF-8 become '?'. */
void coord__markup_text(FILE *out, const char *text);

/* An SVG element of text at (x, y), of that class, cut to `most` characters (0: whole). */
void coord__svg_text(FILE *out, double x, double y, const char *class, size_t most,
                     const char *format, ...) __attribute__((format(printf, 6, 7)));

void coord__svg_rect(FILE *out, double x, double y, double width, double height, const char *class);

/* Machines, what they hold, and what goes between them. */
void coord__svg_machines(FILE *out, const struct coord_plan_view *view);

/* Where the time of a token goes, a bar a machine. */
void coord__svg_budget(FILE *out, const struct coord_plan_view *view);

#endif
