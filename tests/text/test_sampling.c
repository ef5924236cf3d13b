/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters of sampling: the order of steps, what is refused, how many candidates are needed. */
#include <CUnit/Basic.h>
#include <math.h>
#include <string.h>

#include "coordinator/text/sampler.h"

static struct proto_error error;

static void test_orders(void)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    CU_ASSERT_EQUAL(text_steps_parse(&s, "temperature;top_k,xtc", &error), PROTO_OK);
    CU_ASSERT(s.n_steps == 3 && s.steps[0] == TEXT_STEP_TEMPERATURE &&
              s.steps[1] == TEXT_STEP_TOP_K && s.steps[2] == TEXT_STEP_XTC);
    CU_ASSERT_EQUAL(text_steps_parse(&s, "", &error), PROTO_OK);
    CU_ASSERT_EQUAL(s.n_steps, 0);
    CU_ASSERT_EQUAL(text_steps_parse(&s, "top_k;top_k", &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "top_k twice"));
    CU_ASSERT_EQUAL(text_steps_parse(&s, "top_q", &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, "\"top_q\""));
    CU_ASSERT_EQUAL(text_steps_parse(&s, "top_k;;min_p", &error), PROTO_INVALID);
}

static void check_refused(struct text_sampling s, const char *word)
{
    CU_ASSERT_EQUAL(text_sampling_check(&s, &error), PROTO_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(error.text, word));
}

#define CHECK_REFUSED(field, value, word)                                                          \
    do {                                                                                           \
        struct text_sampling s_ = usual;                                                           \
        s_.field = value;                                                                          \
        check_refused(s_, word);                                                                   \
    } while (0)

static void test_refused(void)
{
    struct text_sampling usual = TEXT_SAMPLING_DEFAULT;
    CHECK_REFUSED(typical, 0, "typical is 0;");
    CHECK_REFUSED(xtc_probability, 1.5f, "xtc_probability is 1.5");
    CHECK_REFUSED(xtc_threshold, -1, "xtc_threshold is -1");
    CHECK_REFUSED(dry_base, 0.5f, "dry_base is 0.5");
    CHECK_REFUSED(dry_multiplier, -1, "dry_multiplier");
    CHECK_REFUSED(dry_allowed_length, 0, "dry_allowed_length is 0");
    CHECK_REFUSED(dry_last_n, -2, "dry_penalty_last_n is -2");
    CHECK_REFUSED(frequency_penalty, NAN, "frequency_penalty");
    CHECK_REFUSED(presence_penalty, INFINITY, "presence_penalty is inf");
    CHECK_REFUSED(top_n_sigma, NAN, "top_n_sigma");
    CHECK_REFUSED(dynatemp_range, -1, "dynatemp_range is -1");
    CHECK_REFUSED(dynatemp_exponent, 0, "dynatemp_exponent is 0");
    CHECK_REFUSED(mirostat, 1, "mirostat is 1");
    CHECK_REFUSED(mirostat_tau, 0, "mirostat_tau is 0");
    CHECK_REFUSED(mirostat_eta, 2, "mirostat_eta is 2");
    CHECK_REFUSED(n_biases, TEXT_MAX_BIASES + 1, "logit_bias has 1025");
    CHECK_REFUSED(n_steps, TEXT_N_STEPS + 1, "samplers has 10");
    const struct text_bias wrong[] = {{3, NAN}, {-1, 0}};
    usual.biases = wrong;
    CHECK_REFUSED(n_biases, 1, "token 3");
    usual.biases = wrong + 1;
    CHECK_REFUSED(n_biases, 1, "token -1");
}

static void test_contradictions(void)
{
    struct text_sampling usual = TEXT_SAMPLING_DEFAULT;
    usual.temperature = 0;
    CHECK_REFUSED(dynatemp_range, 1, "dynatemp_range is 1 at a temperature of 0");
    CHECK_REFUSED(n_steps, 3, "temperature is 0, but samplers");
    usual = TEXT_SAMPLING_DEFAULT;
    usual.mirostat = 2;
    CU_ASSERT_EQUAL(text_sampling_check(&usual, &error), PROTO_OK);
    CHECK_REFUSED(temperature, 0, "temperature is 0");
    CHECK_REFUSED(top_k, 7, "top_k is 7, but mirostat");
    CHECK_REFUSED(top_p, 0.5f, "top_p is 0.5, but mirostat");
    CHECK_REFUSED(min_p, 0.5f, "min_p");
    CHECK_REFUSED(typical, 0.5f, "typical");
    CHECK_REFUSED(top_n_sigma, 1, "top_n_sigma");
    CHECK_REFUSED(xtc_probability, 0.5f, "xtc_probability");
    CHECK_REFUSED(repeat_penalty, 1.5f, "repeat_penalty");
    CHECK_REFUSED(frequency_penalty, 1, "frequency_penalty");
    CHECK_REFUSED(presence_penalty, 1, "presence_penalty");
    CHECK_REFUSED(dry_multiplier, 1, "dry_multiplier");
    CHECK_REFUSED(n_steps, 2, "samplers is given, but mirostat");
}

static void test_needs(void)
{
    struct text_sampling s = TEXT_SAMPLING_DEFAULT;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 3), 43);
    const struct text_bias down[] = {{1, -1}, {2, -INFINITY}}, up[] = {{1, 0.5f}};
    s.biases = down;
    s.n_biases = 2;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 42);
    s.biases = up;
    s.n_biases = 1;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 0);
    s = TEXT_SAMPLING_DEFAULT;
    s.presence_penalty = 1;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 104);
    s.dry_multiplier = 1; /* looks back on everything */
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 0);
    s.dry_last_n = 100;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 140);
    s.presence_penalty = -1;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 0);
    s = TEXT_SAMPLING_DEFAULT;
    s.top_n_sigma = 1;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 0);
    s.temperature = 0;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 1);
    s.xtc_probability = 0.5f;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 0);
    s = TEXT_SAMPLING_DEFAULT;
    CU_ASSERT_EQUAL(text_steps_parse(&s, "min_p;temperature;top_k;top_p", &error), PROTO_OK);
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 40);
    s.dynatemp_range = 0.5f;
    CU_ASSERT_EQUAL(text_sampling_needs(&s, 0), 0);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("sampling", NULL, NULL);
    CU_add_test(suite, "orders", test_orders);
    CU_add_test(suite, "refused", test_refused);
    CU_add_test(suite, "contradictions", test_contradictions);
    CU_add_test(suite, "needs", test_needs);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
