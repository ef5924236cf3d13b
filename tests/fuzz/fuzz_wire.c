/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a message: decoded or refused with a text. What decodes encodes again, and those
 * bytes decode to the same kind. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "proto/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct proto_msg msg, again;
    struct proto_error error = {.status = PROTO_OK};
    enum proto_status status = proto_msg_decode(data, len, &msg, &error);
    if (status != PROTO_OK) {
        FUZZ_CHECK(status == error.status);
        FUZZ_CHECK(error.text[0] && !strchr(error.text, '\n'));
        return 0;
    }
    uint8_t *bytes;
    size_t bytes_len;
    FUZZ_CHECK(proto_msg_encode(&msg, &bytes, &bytes_len, &error) == PROTO_OK);
    FUZZ_CHECK(proto_msg_decode(bytes, bytes_len, &again, &error) == PROTO_OK);
    FUZZ_CHECK(again.kind == msg.kind);
    if (msg.kind == PROTO_MSG_RESULT)
        proto_result_check(&msg.result, len, &error);
    proto_msg_finish(&again);
    proto_msg_finish(&msg);
    free(bytes);
    return 0;
}
