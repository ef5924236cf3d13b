/* SPDX-License-Identifier: Apache-2.0 */
/* The types of 32 values. */
#include "kernels/arm/blocks.h"

KERN__ARM_TYPE(Q4_0, q4_0, 32, KERN__Q4_0_BYTES)
KERN__ARM_TYPE(Q4_1, q4_1, 32, KERN__Q4_1_BYTES)
KERN__ARM_TYPE(Q5_0, q5_0, 32, KERN__Q5_0_BYTES)
KERN__ARM_TYPE(Q5_1, q5_1, 32, KERN__Q5_1_BYTES)
KERN__ARM_TYPE(Q8_0, q8_0, 32, KERN__Q8_0_BYTES)
KERN__ARM_TYPE(IQ4_NL, iq4_nl, 32, KERN__IQ4_NL_BYTES)
KERN__ARM_TYPE(MXFP4, mxfp4, 32, KERN__MXFP4_BYTES)
