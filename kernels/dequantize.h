/* SPDX-License-Identifier: Apache-2.0 */
/* How one block of a file becomes floats, of the types of kernels/dequantize.c. Private to this
 * folder. */
#ifndef KERNELS_DEQUANTIZE_H
#define KERNELS_DEQUANTIZE_H

#include <stdint.h>

void kern__dequantize_q4_1(const uint8_t *block, float *out);
void kern__dequantize_q5_0(const uint8_t *block, float *out);
void kern__dequantize_q5_1(const uint8_t *block, float *out);
void kern__dequantize_q2_k(const uint8_t *block, float *out);
void kern__dequantize_q3_k(const uint8_t *block, float *out);
void kern__dequantize_q5_k(const uint8_t *block, float *out);
void kern__dequantize_iq4_nl(const uint8_t *block, float *out);
void kern__dequantize_iq4_xs(const uint8_t *block, float *out);
void kern__dequantize_mxfp4(const uint8_t *block, float *out);

#endif
