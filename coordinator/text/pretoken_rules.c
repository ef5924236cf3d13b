/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pre-tokenisers: a row a name, a few patterns a row. The patterns are those of the models' own
 * tokeniser files. They are written so that no run of one kind of character is walked more than a
 * few times over, whatever its length.
 */
#include <stdio.h>
#include <string.h>

#include "coordinator/text/internal.h"

/* White space as Unicode defines it. PCRE2's own \s also takes U+180E, which left that set with
 * Unicode 6.3. Parts of a bracketed class. */
#define SPACE     "\\t-\\r\\x{85}\\p{Z}"
#define S         "[" SPACE "]"
#define NOT_SPACE "[^" SPACE "]"

#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UPPER       "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER       "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define BEFORE_WORD "[^\\r\\n\\p{L}\\p{N}]?"
#define SYMBOLS     " ?[^" SPACE "\\p{L}\\p{N}]+"
#define SPACES      S "*[\\r\\n]+|" S "+(?!" NOT_SPACE ")|" S "+"

/* Words of one case, or of a capital and small letters; what may follow a word. */
#define CASED_WORDS(upper, lower, after)                                                           \
    BEFORE_WORD upper "*" lower "+" after "|" BEFORE_WORD upper "+" lower "*" after

static const char *const llama_bpe[] = {
    CONTRACTION "|" BEFORE_WORD "\\p{L}+|\\p{N}{1,3}|" SYMBOLS "[\\r\\n]*|" SPACES, NULL};

static const char *const qwen2[] = {
    CONTRACTION "|" BEFORE_WORD "\\p{L}+|\\p{N}|" SYMBOLS "[\\r\\n]*|" SPACES, NULL};

static const char *const qwen35[] = {CONTRACTION "|" BEFORE_WORD "[\\p{L}\\p{M}]+|\\p{N}| ?[^" SPACE
                                                 "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES,
                                     NULL};

static const char *const o200k[] = {
    CASED_WORDS(UPPER, LOWER, CONTRACTION "?") "|\\p{N}{1,3}|" SYMBOLS "[\\r\\n/]*|" SPACES, NULL};

static const char *const tekken[] = {
    CASED_WORDS(UPPER, LOWER, "") "|\\p{N}|" SYMBOLS "[\\r\\n/]*|" SPACES, NULL};

/* As o200k, with runs of Han characters for themselves (tokenization_kimi.py of Kimi K2). The
 * classes of letters are without them; that is the complement of everything else, since PCRE2's
 * classes have no difference. Han is what has that script alone: \p{Han} would also take what
 * several scripts share, such as the ideographic full stop. */
#define HAN           "\\p{sc:Han}"
#define NOT_HAN_UPPER "[^\\p{Ll}\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}" HAN "]"
#define NOT_HAN_LOWER "[^\\p{Lu}\\p{Lt}\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}" HAN "]"
static const char *const kimi_k2[] = {
    HAN "+|" CASED_WORDS(NOT_HAN_UPPER, NOT_HAN_LOWER, CONTRACTION "?") "|\\p{N}{1,3}|" SYMBOLS
                                                                        "[\\r\\n]*|" SPACES,
    NULL};

static const char *const deepseek_v3[] = {
    "\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+",
    "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES,
    NULL};

/* The letters that DeepSeek LLM joins to words: those of alphabets with two cases. */
#define CASED_LETTERS                                                                              \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{"    \
    "293}"                                                                                         \
    "\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}"          \
    "\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}"                 \
    "\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}"                     \
    "\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}"                 \
    "\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}"                 \
    "\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}"         \
    "\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}"        \
    "\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}"                 \
    "\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}"         \
    "\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}"         \
    "\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}"                   \
    "\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}"                  \
    "\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}"                 \
    "\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}"                 \
    "\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}"             \
    "\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}"         \
    "\\x{1E900}-\\x{1E943}"

/* The fourth is \s+$; looking back keeps a search from starting anew at each space of a run. */
static const char *const deepseek_llm[] = {
    "[\\r\\n]",
    S "?[" CASED_LETTERS "]+",
    S "?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+",
    "(?<!" S ")" S "++\\z",
    "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+",
    "\\p{N}+",
    NULL};

static const char *const plain_bpe[] = {"[\\p{P}$+<=>^~|]+",
                                        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" SYMBOLS "|" S
                                        "+(?!" NOT_SPACE ")",
                                        "\\p{N}+", "[0-9][0-9][0-9]", NULL};

/* A piece that is a token is taken whole by what came from tiktoken. */
static const struct text__pretoken_rule rules[] = {
    {"llama-bpe", llama_bpe, true, true},
    {"llama3", llama_bpe, true, true},
    {"llama-v3", llama_bpe, true, true},
    {"pixtral", llama_bpe, true, true},
    {"falcon3", llama_bpe, true, true},
    {"llama4", o200k, true, false},
    {"gpt-4o", o200k, true, false},
    {"tekken", tekken, true, true},
    {"kimi-k2", kimi_k2, true, false},
    {"qwen2", qwen2, false, false},
    {"deepseek-r1-qwen", qwen2, false, false},
    {"qwen35", qwen35, false, false},
    {"deepseek-v3", deepseek_v3, false, false},
    {"deepseek-llm", deepseek_llm, false, false},
    {"glm4", llama_bpe, false, false},
    {"chatglm-bpe", llama_bpe, false, false},
    {"default", plain_bpe, false, false},
};

const struct text__pretoken_rule *text__pretoken_rule_find(struct shard_gguf_string name)
{
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (strlen(rules[i].name) == name.len && memcmp(rules[i].name, name.data, name.len) == 0)
            return &rules[i];
    }
    return NULL;
}

void text__pretoken_rule_names(char *out, size_t cap)
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < sizeof rules / sizeof *rules && used < cap; i++)
        used += (size_t)snprintf(out + used, cap - used, "%s%s", i ? ", " : "", rules[i].name);
}
