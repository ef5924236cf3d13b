/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/text/internal.h"

/* Length of the character that a byte begins; 0: none. */
static int lead_len(unsigned char c)
{
    if (c < 0x80)
        return 1;
    if (c < 0xc2 || c > 0xf4)
        return 0;
    return c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

/* The second byte's range is narrower after some first bytes: no overlong forms, no surrogates,
 * nothing above U+10FFFF. */
static bool second_fits(unsigned char lead, unsigned char c)
{
    unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return c >= low && c <= high;
}

int text__utf8(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    int len = lead_len(u[0]);
    if (len == 0)
        return -1;
    for (int i = 1; i < len; i++) {
        if ((size_t)i == n)
            return 0;
        if (i == 1 ? !second_fits(u[0], u[1]) : (u[i] & 0xc0) != 0x80)
            return -i;
    }
    return len;
}
