/* SPDX-License-Identifier: Apache-2.0 */
/* Decodes any bytes. What decodes must encode again, and those bytes must decode too. */
#include <stdint.h>
#include <stdlib.h>

#include "proto/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct proto_msg msg, again;
    struct proto_error error;
    if (proto_msg_decode(data, size, &msg, &error) != PROTO_OK)
        return 0;
    uint8_t *bytes;
    size_t len;
    if (proto_msg_encode(&msg, &bytes, &len, &error) != PROTO_OK ||
        proto_msg_decode(bytes, len, &again, &error) != PROTO_OK || again.kind != msg.kind)
        abort();
    if (msg.kind == PROTO_MSG_RESULT)
        proto_result_check(&msg.result, size, &error);
    proto_msg_finish(&again);
    proto_msg_finish(&msg);
    free(bytes);
    return 0;
}
