/* SPDX-License-Identifier: Apache-2.0 */
/* The types of 256 values but those of kernels/iq.h. */
#include "kernels/arm/blocks.h"

KERN__ARM_TYPE(Q2_K, q2_k, 256, KERN__Q2_K_BYTES)
KERN__ARM_TYPE(Q3_K, q3_k, 256, KERN__Q3_K_BYTES)
KERN__ARM_TYPE(Q4_K, q4_k, 256, KERN__Q4_K_BYTES)
KERN__ARM_TYPE(Q5_K, q5_k, 256, KERN__Q5_K_BYTES)
KERN__ARM_TYPE(Q6_K, q6_k, 256, KERN__Q6_K_BYTES)
KERN__ARM_TYPE(IQ4_XS, iq4_xs, 256, KERN__IQ4_XS_BYTES)
