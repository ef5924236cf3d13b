/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as the body of a completion and of a chat: read or refused with a status and a text.
 * What is read keeps its promises. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/api/params.h"
#include "fuzz.h"
#include "tests/api/fake_vocab.h"

#define MODEL "fake"

static struct text_vocab *vocab;
static struct text_chat *chat;

static void check_read(const struct api__params *p)
{
    FUZZ_CHECK(p->n >= 1 && p->n_prompts >= 1 && p->n * p->n_prompts <= API__MAX_CHOICES);
    FUZZ_CHECK(p->max_tokens >= 1 && p->max_tokens <= PROTO_MAX_CONTEXT);
    FUZZ_CHECK(p->n_stops <= API__MAX_STOPS);
    FUZZ_CHECK(p->top_logprobs >= -1 && p->top_logprobs <= 20);
    for (size_t i = 0; i < p->n_stops; i++)
        FUZZ_CHECK(p->stops[i][0] != '\0');
    for (size_t i = 0; i < p->n_prompts; i++) {
        FUZZ_CHECK(p->prompts[i].n_ids >= 1);
        for (size_t k = 0; k < p->prompts[i].n_ids; k++)
            FUZZ_CHECK((uint32_t)p->prompts[i].ids[k] < text_vocab_size(vocab));
    }
    struct proto_error error;
    FUZZ_CHECK(!text_sampling_check(&p->sampling, &error));
}

static void check_fault(const struct api__fault *fault)
{
    FUZZ_CHECK(fault->status == 400 || fault->status == 404);
    FUZZ_CHECK(fault->message[0]);
    json_t *json = api__fault_json(fault);
    FUZZ_CHECK(json);
    json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct proto_error error;
    if (!vocab && fake_vocab_create(&vocab, &chat, NULL, &error))
        abort();
    struct api__fault fault = {0};
    json_t *body = api__json_load((const char *)data, len, &fault);
    if (!body) {
        check_fault(&fault);
        return 0;
    }
    for (int as_chat = 0; as_chat < 2; as_chat++) {
        struct api__params params;
        fault = (struct api__fault){0};
        bool ok = as_chat ? api__chat_params_read(&params, body, MODEL, vocab, chat, &fault)
                          : api__params_read(&params, body, MODEL, vocab, &fault);
        if (ok)
            check_read(&params);
        else
            check_fault(&fault);
        api__params_finish(&params);
    }
    json_decref(body);
    return 0;
}
