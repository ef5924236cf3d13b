/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/api/sampling.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum kind { NUMBER, INTEGER, COUNT };

/* Fields that are one number. Of two names for one, the first is written. */
static const struct {
    const char *name;
    enum kind kind;
    size_t at;
    double min, max;
} fields[] = {
#define AT(field) offsetof(struct text_sampling, field)
    {"temperature", NUMBER, AT(temperature), 0, 100},
    {"dynatemp_range", NUMBER, AT(dynatemp_range), 0, 100},
    {"dynatemp_exponent", NUMBER, AT(dynatemp_exponent), 1e-6, 100},
    {"top_k", INTEGER, AT(top_k), -1, INT32_MAX},
    {"top_p", NUMBER, AT(top_p), 1e-6, 1},
    {"min_p", NUMBER, AT(min_p), 0, 1},
    {"typical", NUMBER, AT(typical), 1e-6, 1},
    {"typical_p", NUMBER, AT(typical), 1e-6, 1},
    {"top_n_sigma", NUMBER, AT(top_n_sigma), -1, 100},
    {"xtc_probability", NUMBER, AT(xtc_probability), 0, 1},
    {"xtc_threshold", NUMBER, AT(xtc_threshold), 0, 1},
    {"repetition_penalty", NUMBER, AT(repeat_penalty), 0.01, 100},
    {"repeat_penalty", NUMBER, AT(repeat_penalty), 0.01, 100},
    {"repeat_last_n", COUNT, AT(repeat_last_n), 0, 1 << 20},
    {"frequency_penalty", NUMBER, AT(frequency_penalty), -2, 2},
    {"presence_penalty", NUMBER, AT(presence_penalty), -2, 2},
    {"dry_multiplier", NUMBER, AT(dry_multiplier), 0, 100},
    {"dry_base", NUMBER, AT(dry_base), 1, 100},
    {"dry_allowed_length", COUNT, AT(dry_allowed_length), 1, 1 << 20},
    {"dry_penalty_last_n", INTEGER, AT(dry_last_n), -1, 1 << 20},
    {"mirostat", COUNT, AT(mirostat), 0, 2},
    {"mirostat_tau", NUMBER, AT(mirostat_tau), 1e-6, 100},
    {"mirostat_eta", NUMBER, AT(mirostat_eta), 1e-6, 1},
#undef AT
};

static bool read_number(const json_t *body, size_t i, struct text_sampling *s,
                        struct api__fault *fault)
{
    void *target = (char *)s + fields[i].at;
    if (fields[i].kind == NUMBER) {
        double value = (double)*(float *)target;
        if (!api__json_number(body, fields[i].name, fields[i].min, fields[i].max, &value, fault))
            return false;
        if (api__json_field(body, fields[i].name))
            *(float *)target = (float)value;
        return true;
    }
    json_int_t value = 0;
    if (!api__json_field(body, fields[i].name))
        return true;
    if (!api__json_integer(body, fields[i].name, (json_int_t)fields[i].min,
                           (json_int_t)fields[i].max, &value, fault))
        return false;
    if (fields[i].kind == COUNT)
        *(uint32_t *)target = (uint32_t)value;
    else
        *(int32_t *)target = (int32_t)value;
    return true;
}

/* Two names for one number must not say two things. */
static bool check_aliases(const json_t *body, struct api__fault *fault)
{
    for (size_t i = 1; i < sizeof fields / sizeof *fields; i++) {
        const char *one = fields[i - 1].name, *other = fields[i].name;
        const json_t *a = api__json_field(body, one), *b = api__json_field(body, other);
        if (fields[i].at == fields[i - 1].at && a && b &&
            json_number_value(a) != json_number_value(b))
            return api__fault_set(fault, 400, other, NULL,
                                  "%s is %g and %s is %g: they are the same, give one", one,
                                  json_number_value(a), other, json_number_value(b));
    }
    return true;
}

static bool read_seed(const json_t *body, uint64_t *seed, struct api__fault *fault)
{
    if (!api__json_field(body, "seed")) {
        if (getrandom(seed, sizeof *seed, 0) != (ssize_t)sizeof *seed)
            return api__fault_set(fault, 500, NULL, NULL, "no random seed: give one as seed");
        return true;
    }
    json_int_t value = 0;
    if (!api__json_integer(body, "seed", INT64_MIN, INT64_MAX, &value, fault))
        return false;
    *seed = (uint64_t)value;
    return true;
}

/* One text with all names, or an array of names. */
static bool read_order(const json_t *body, struct text_sampling *s, struct api__fault *fault)
{
    const json_t *order = api__json_field(body, "samplers");
    char text[512] = "";
    size_t used = 0;
    if (!order)
        return true;
    for (size_t i = 0; json_is_array(order) && i < json_array_size(order); i++) {
        const char *name = json_string_value(json_array_get(order, i));
        if (!name || used + strlen(name) + 2 > sizeof text)
            return api__fault_set(fault, 400, "samplers", NULL,
                                  "samplers: element %zu is %s, expected the name of a sampler", i,
                                  name ? "too much" : api__json_kind(json_array_get(order, i)));
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", i ? ";" : "", name);
    }
    if (!json_is_array(order) && !json_is_string(order))
        return api__fault_set(fault, 400, "samplers", NULL,
                              "samplers is %s, expected an array of names or a string",
                              api__json_kind(order));
    struct proto_error error;
    const char *names = json_is_string(order) ? json_string_value(order) : text;
    return !text_steps_parse(s, names, &error) ||
           api__fault_set(fault, 400, "samplers", NULL, "%s", error.text);
}

/* {"ID": number, ...} */
static bool read_biases(const json_t *body, uint32_t n_vocab, struct text_sampling *s,
                        struct api__fault *fault)
{
    json_t *object = api__json_field(body, "logit_bias"), *value;
    const char *key;
    if (!object)
        return true;
    if (!json_is_object(object) || json_object_size(object) > TEXT_MAX_BIASES)
        return api__fault_set(fault, 400, "logit_bias", NULL,
                              "logit_bias is %s, expected an object of at most %u token ids with "
                              "a number each",
                              json_is_object(object) ? "larger" : api__json_kind(object),
                              TEXT_MAX_BIASES);
    struct text_bias *biases = calloc(json_object_size(object) + 1, sizeof *biases);
    if (!biases)
        return api__fault_set(fault, 500, NULL, NULL, "out of memory for logit_bias");
    s->biases = biases;
    s->n_biases = 0;
    json_object_foreach(object, key, value)
    {
        char *end;
        errno = 0;
        long id = strtol(key, &end, 10);
        bool number = key[0] >= '0' && key[0] <= '9' && !(key[0] == '0' && key[1]);
        if (!number || *end || errno || id >= (long)n_vocab)
            return api__fault_set(fault, 400, "logit_bias", NULL,
                                  "logit_bias names token '%.40s', expected an id from 0 to %u",
                                  key, n_vocab - 1);
        double bias = json_number_value(value);
        if (!json_is_number(value) || !(bias >= -100 && bias <= 100))
            return api__fault_set(fault, 400, "logit_bias", NULL,
                                  "logit_bias of token %ld is %s, expected a number from -100 to "
                                  "100",
                                  id,
                                  json_is_number(value) ? "out of range" : api__json_kind(value));
        biases[s->n_biases++] = (struct text_bias){(int32_t)id, (float)bias};
    }
    return true;
}

static bool read_breakers(const json_t *body, struct text_sampling *s, struct api__fault *fault)
{
    const json_t *list = api__json_field(body, "dry_sequence_breakers");
    if (!list)
        return true;
    if (!json_is_array(list) || json_array_size(list) > TEXT_MAX_BREAKERS)
        return api__fault_set(
            fault, 400, "dry_sequence_breakers", NULL,
            "dry_sequence_breakers is %s, expected an array of at most %u strings",
            json_is_array(list) ? "longer" : api__json_kind(list), TEXT_MAX_BREAKERS);
    const char **texts = calloc(json_array_size(list) + 1, sizeof *texts);
    if (!texts)
        return api__fault_set(fault, 500, NULL, NULL, "out of memory for dry_sequence_breakers");
    s->dry_breakers = texts;
    s->n_dry_breakers = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *text = json_array_get(list, i);
        if (!json_is_string(text))
            return api__fault_set(fault, 400, "dry_sequence_breakers", NULL,
                                  "dry_sequence_breakers: element %zu is %s, expected a string", i,
                                  api__json_kind(text));
        texts[s->n_dry_breakers++] = json_string_value(text);
    }
    return true;
}

/* What does not fit together. The text begins with the field's name. */
static bool check_whole(const struct text_sampling *s, struct api__fault *fault)
{
    struct proto_error error;
    char name[sizeof fault->param];
    if (!text_sampling_check(s, &error))
        return true;
    snprintf(name, sizeof name, "%.*s", (int)strcspn(error.text, " :"), error.text);
    return api__fault_set(fault, 400, name, NULL, "%s", error.text);
}

bool api__sampling_read(const json_t *body, uint32_t n_vocab, struct text_sampling *s,
                        struct api__fault *fault)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (!read_number(body, i, s, fault))
            return false;
    return check_aliases(body, fault) && read_seed(body, &s->seed, fault) &&
           read_order(body, s, fault) && read_biases(body, n_vocab, s, fault) &&
           read_breakers(body, s, fault) && check_whole(s, fault);
}

void api__sampling_finish(struct text_sampling *s)
{
    free((void *)s->biases);
    free((void *)s->dry_breakers);
    s->biases = NULL;
    s->dry_breakers = NULL;
    s->n_biases = s->n_dry_breakers = 0;
}

static double within(double value, double min, double max)
{
    return value < min ? min : value > max ? max : value;
}

/* A parameter that is off may be outside of what the field takes. */
static json_t *number_json(const struct text_sampling *s, size_t i)
{
    const void *from = (const char *)s + fields[i].at;
    double value = fields[i].kind == NUMBER    ? (double)*(const float *)from
                   : fields[i].kind == INTEGER ? (double)*(const int32_t *)from
                                               : (double)*(const uint32_t *)from;
    value = within(value, fields[i].min, fields[i].max);
    return fields[i].kind == NUMBER ? json_real(value) : json_integer((json_int_t)value);
}

static bool write_lists(json_t *body, const struct text_sampling *s)
{
    json_t *order = json_array(), *biases = json_object(), *breakers = json_array();
    bool good = order && biases && breakers;
    for (unsigned i = 0; i < s->n_steps && good; i++)
        good = !json_array_append_new(order, json_string(text_step_name(s->steps[i])));
    for (size_t i = 0; i < s->n_biases && good; i++) {
        char id[16];
        double bias = within((double)s->biases[i].bias, -100, 100);
        snprintf(id, sizeof id, "%d", s->biases[i].id);
        good = !json_object_set_new(biases, id, json_real(bias));
    }
    for (size_t i = 0; i < s->n_dry_breakers && good; i++)
        good = !json_array_append_new(breakers, json_string(s->dry_breakers[i]));
    good = good && !json_object_set(body, "samplers", order) &&
           !json_object_set(body, "logit_bias", biases) &&
           (!s->dry_breakers || !json_object_set(body, "dry_sequence_breakers", breakers));
    json_decref(order);
    json_decref(biases);
    json_decref(breakers);
    return good;
}

bool api__sampling_write(json_t *body, const struct text_sampling *s)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        bool second = i > 0 && fields[i].at == fields[i - 1].at;
        if (!second && json_object_set_new(body, fields[i].name, number_json(s, i)))
            return false;
    }
    return !json_object_set_new(body, "seed", json_integer((json_int_t)s->seed)) &&
           write_lists(body, s);
}
