/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/plan/markup.h"

#include <stdarg.h>
#include <string.h>

/* Bytes of the UTF-8 character at text, 0 where there is none that may be shown. */
static size_t utf8_bytes(const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t n = s[0] < 0x80                   ? 1
               : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
               : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
               : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                             : 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    bool surrogate = s[0] == 0xed && s[1] >= 0xa0;
    bool long_form = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    bool too_large = s[0] == 0xf4 && s[1] >= 0x90;
    bool nothing = s[0] == 0xef && s[1] == 0xbf && s[2] >= 0xbe; /* U+FFFE, U+FFFF */
    return surrogate || long_form || too_large || nothing || s[0] < 0x20 || s[0] == 0x7f ? 0 : n;
}

static void put_character(FILE *out, const char *text, size_t len)
{
    switch (text[0]) {
    case '&':
        fputs("&amp;", out);
        break;
    case '<':
        fputs("&lt;", out);
        break;
    case '>':
        fputs("&gt;", out);
        break;
    case '"':
        fputs("&quot;", out);
        break;
    default:
        fwrite(text, 1, len, out);
    }
}

/* At most `most` characters, the last of which are dots where there would be more. */
static void put_text(FILE *out, const char *text, size_t most)
{
    for (size_t n = 1; *text; n++) {
        size_t len = utf8_bytes(text);
        if (n == most && text[len ? len : 1]) {
            fputs("…", out);
            return;
        }
        put_character(out, len ? text : "?", len ? len : 1);
        text += len ? len : 1;
    }
}

void coord__markup_text(FILE *out, const char *text)
{
    put_text(out, text, 0);
}

void coord__svg_text(FILE *out, double x, double y, const char *class, size_t most,
                     const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, class);
    put_text(out, text, most);
    fputs("</text>\n", out);
}

void coord__svg_rect(FILE *out, double x, double y, double width, double height, const char *class)
{
    fprintf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\" class=\"%s\"/>\n", x,
            y, width < 0 ? 0 : width, height, class);
}
