/* SPDX-License-Identifier: Apache-2.0 */
/* Packed weights as they were in the file. Any thread. */
#ifndef KERNELS_UNPACK_H
#define KERNELS_UNPACK_H

#include "kernels/type.h"

/* Row `row` of a packed matrix (kern_pack) of k values a row as it is in the file,
 * kern_type_bytes(info, k) bytes: packing loses nothing. */
void kern_unpack_bytes(const struct kern_type_info *info, const void *packed, size_t row, size_t k,
                       void *out);

#endif
