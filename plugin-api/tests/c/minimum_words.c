/*
 * A filter in C: drops instructions of fewer words than its configuration asks for. Build it with
 *
 *     cc -std=c11 -shared -fPIC -I plugin-api/include minimum_words.c -o minimum_words.so
 */
#include "pacos_plugin.h"

#include <ctype.h>
#include <stdio.h>

struct filter {
    unsigned long words;
    bool configured;
};

static void *create(void)
{
    return calloc(1, sizeof(struct filter));
}

static void destroy(void *instance)
{
    free(instance);
}

static int32_t describe(pacos_buffer *output)
{
    pacos_writer w = {0};
    pacos_description description = {0};
    description.name = pacos_str("minimum-words");
    description.version = pacos_str("0.1.0");
    description.config_schema =
        pacos_str("{\"type\":\"object\",\"properties\":{\"words\":{\"type\":\"integer\"}}}");
    pacos_write_description(&w, &description);
    return pacos_give(&w, output, PACOS_STATUS_OK);
}

/* Reads `{}` or `{"words":N}`: a plugin with more keys would bring a JSON library. */
static int32_t configure(struct filter *filter, pacos_reader *r, pacos_buffer *output)
{
    pacos_writer w = {0};
    pacos_diagnostic diagnostic = {0};
    pacos_list_diagnostic diagnostics = {&diagnostic, 0};
    pacos_string config;
    char text[64] = {0};
    int end = 0;

    pacos_read_string(r, &config);
    if (!pacos_read_all(r))
        return pacos_give_malformed(output, "arguments: expected one string");
    if (config.len < sizeof text)
        memcpy(text, config.ptr, config.len);
    filter->words = 3;
    if (strcmp(text, "{}") != 0 &&
        (sscanf(text, "{\"words\":%lu}%n", &filter->words, &end) != 1 || text[end] != 0 || end == 0)) {
        diagnostic.severity = PACOS_SEVERITY_ERROR;
        diagnostic.path = pacos_str("words");
        diagnostic.message = pacos_str("expected a number of words and no other key");
        diagnostic.help.present = true;
        diagnostic.help.value = pacos_str("words = 3");
        diagnostics.len = 1;
    }
    filter->configured = diagnostics.len == 0;
    pacos_write_list_diagnostic(&w, &diagnostics);
    return pacos_give(&w, output, PACOS_STATUS_OK);
}

static unsigned long count_words(pacos_string text)
{
    unsigned long words = 0;
    bool inside = false;
    size_t i;
    for (i = 0; i < text.len; i++) {
        bool space = isspace((unsigned char)text.ptr[i]) != 0;
        words += !space && !inside;
        inside = !space;
    }
    return words;
}

static int32_t judge(const struct filter *filter, const pacos_host_table *host, pacos_reader *r,
                     pacos_buffer *output)
{
    pacos_writer w = {0}, told = {0};
    pacos_buffer unheard;
    pacos_list_candidate batch;
    size_t i;

    pacos_read_list_candidate(r, &batch);
    if (!pacos_read_all(r))
        return pacos_give_malformed(output, "arguments: expected a list of candidates");

    pacos_write_u32(&told, PACOS_LEVEL_DEBUG);
    pacos_write_string(&told, pacos_str("counting words"));
    pacos_ask(host, PACOS_HOST_LOG, &told, &unheard);
    if (unheard.release != NULL)
        unheard.release(&unheard);

    pacos_write_u64(&w, batch.len);
    for (i = 0; i < batch.len; i++) {
        const pacos_payload *payload = &batch.items[i].payload;
        pacos_verdict verdict = {0};
        pacos_score score;
        char message[64];

        if (payload->tag != PACOS_PAYLOAD_TASK) {
            pacos_discard(&w);
            return pacos_give_error(output, "no-chats", "this filter reads tasks only");
        }
        score.name = pacos_str("words");
        score.value = (double)count_words(payload->as.task.instruction);
        verdict.scores.items = &score;
        verdict.scores.len = 1;
        verdict.decision.tag = PACOS_DECISION_KEEP;
        verdict.code = pacos_str("kept");
        if (score.value < (double)filter->words) {
            snprintf(message, sizeof message, "%.0f words, %lu wanted", score.value, filter->words);
            verdict.decision.tag = PACOS_DECISION_DROP;
            verdict.code = pacos_str("too-short");
            verdict.message = pacos_str(message);
        }
        pacos_write_verdict(&w, &verdict);
    }
    return pacos_give(&w, output, PACOS_STATUS_OK);
}

static int32_t call(void *instance, const pacos_host_table *host, uint32_t function,
                    pacos_bytes arguments, pacos_buffer *output)
{
    struct filter *filter = instance;
    pacos_arena arena = {0};
    pacos_reader r = pacos_reader_of(arguments, &arena);
    pacos_writer nothing = {0};
    int32_t status;

    if (function == PACOS_FUNCTION_DESCRIBE)
        status = describe(output);
    else if (function == PACOS_FUNCTION_CONFIGURE)
        status = configure(filter, &r, output);
    else if (!filter->configured)
        status = pacos_give_error(output, "not-configured", "`configure` has not succeeded");
    else if (function == PACOS_FUNCTION_JUDGE)
        status = judge(filter, host, &r, output);
    else if (function == PACOS_FUNCTION_START || function == PACOS_FUNCTION_RESTORE)
        status = pacos_give(&nothing, output, PACOS_STATUS_OK);
    else
        status = pacos_give_malformed(output, "no such function");
    pacos_free_all(&arena);
    return status;
}

const pacos_plugin_table *pacos_plugin(void)
{
    static const char contract[] = PACOS_CONTRACT_FILTER;
    static pacos_plugin_table table = {
        PACOS_MAGIC, PACOS_ABI_MAJOR, PACOS_ABI_MINOR, sizeof table,
        {(const uint8_t *)contract, sizeof contract - 1}, create, call, destroy,
    };
    return &table;
}
