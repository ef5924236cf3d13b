/* SPDX-License-Identifier: Apache-2.0 */
/* The types of kernels/iq.h. */
#include "kernels/arm/blocks.h"

KERN__ARM_TYPE(IQ1_S, iq1_s, 256, KERN_PANEL * 50)
KERN__ARM_TYPE(IQ1_M, iq1_m, 256, KERN_PANEL * 56)
KERN__ARM_TYPE(IQ2_XXS, iq2_xxs, 256, KERN_PANEL * 66)
KERN__ARM_TYPE(IQ2_XS, iq2_xs, 256, KERN_PANEL * 74)
KERN__ARM_TYPE(IQ2_S, iq2_s, 256, KERN_PANEL * 82)
KERN__ARM_TYPE(IQ3_XXS, iq3_xxs, 256, KERN_PANEL * 98)
KERN__ARM_TYPE(IQ3_S, iq3_s, 256, KERN_PANEL * 110)
