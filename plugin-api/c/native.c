/*
 * The functions of pacos_stage.h as a dynamic library. Compile with -DPACOS_GENERATOR,
 * -DPACOS_FILTER or -DPACOS_EVALUATOR.
 */
#include "pacos_stage.h"

#if defined(PACOS_GENERATOR)
#define CONTRACT PACOS_CONTRACT_GENERATOR
#elif defined(PACOS_FILTER)
#define CONTRACT PACOS_CONTRACT_FILTER
#elif defined(PACOS_EVALUATOR)
#define CONTRACT PACOS_CONTRACT_EVALUATOR
#else
#error "expected one of PACOS_GENERATOR, PACOS_FILTER and PACOS_EVALUATOR"
#endif

typedef struct instance {
    plugin *self;
    bool configured;
} instance;

/* ---- the host's functions ---------------------------------------------------------------- */

/* Asks the host; `reader` is then at the result, whose bytes live as long as the call. */
static bool ask(pacos_call *call, uint32_t function, pacos_writer *arguments, pacos_reader *reader)
{
    pacos_buffer result;
    pacos_bytes bytes = {NULL, 0};
    int32_t status = pacos_ask(call->host, function, arguments, &result);
    uint8_t *kept = (uint8_t *)pacos_room(call, result.len, 1);
    if (kept != NULL && result.len > 0)
        memcpy(kept, result.ptr, result.len);
    bytes.ptr = kept;
    bytes.len = kept == NULL ? 0 : result.len;
    if (result.release != NULL)
        result.release(&result);
    if (kept == NULL)
        return pacos_no_memory(call);
    *reader = pacos_reader_of(bytes, call->arena);
    if (status == PACOS_STATUS_OK)
        return true;
    if (status == PACOS_STATUS_ERROR) {
        pacos_read_error(reader, &call->error);
        if (pacos_read_all(reader))
            return false;
    }
    return pacos_refuse(call, "host-broke-contract",
                        pacos_print(call, "the host answered with status %d", (int)status));
}

static bool whole(pacos_call *call, const pacos_reader *reader)
{
    return pacos_read_all(reader) ||
           pacos_refuse(call, "host-broke-contract", pacos_str("the host's answer cannot be read"));
}

bool pacos_describe_model(pacos_call *call, pacos_string role, pacos_model_description *model)
{
    pacos_writer arguments = {0};
    pacos_reader reader;
    pacos_write_string(&arguments, role);
    if (!ask(call, PACOS_HOST_DESCRIBE_MODEL, &arguments, &reader))
        return false;
    pacos_read_model_description(&reader, model);
    return whole(call, &reader);
}

bool pacos_complete_many(pacos_call *call, pacos_string role, const pacos_list_request *requests,
                         pacos_list_result_reply_error *replies)
{
    pacos_writer arguments = {0};
    pacos_reader reader;
    pacos_write_string(&arguments, role);
    pacos_write_list_request(&arguments, requests);
    if (!ask(call, PACOS_HOST_COMPLETE_MANY, &arguments, &reader))
        return false;
    pacos_read_list_result_reply_error(&reader, replies);
    return whole(call, &reader);
}

bool pacos_count_tokens(pacos_call *call, pacos_string role, pacos_string text, uint32_t *tokens)
{
    pacos_writer arguments = {0};
    pacos_reader reader;
    pacos_write_string(&arguments, role);
    pacos_write_string(&arguments, text);
    if (!ask(call, PACOS_HOST_COUNT_TOKENS, &arguments, &reader))
        return false;
    pacos_read_u32(&reader, tokens);
    return whole(call, &reader);
}

bool pacos_log_likelihood(pacos_call *call, pacos_string role, const pacos_prompt *prompt,
                          pacos_string answer, pacos_likelihood *likelihood)
{
    pacos_writer arguments = {0};
    pacos_reader reader;
    pacos_write_string(&arguments, role);
    pacos_write_prompt(&arguments, prompt);
    pacos_write_string(&arguments, answer);
    if (!ask(call, PACOS_HOST_LOG_LIKELIHOOD, &arguments, &reader))
        return false;
    pacos_read_likelihood(&reader, likelihood);
    return whole(call, &reader);
}

bool pacos_fetch_many(pacos_call *call, const pacos_list_http_request *requests,
                      pacos_list_result_http_response_error *responses)
{
    pacos_writer arguments = {0};
    pacos_reader reader;
    pacos_write_list_http_request(&arguments, requests);
    if (!ask(call, PACOS_HOST_FETCH_MANY, &arguments, &reader))
        return false;
    pacos_read_list_result_http_response_error(&reader, responses);
    return whole(call, &reader);
}

void pacos_accepted(pacos_call *call, uint64_t start, uint32_t count, pacos_list_example *examples)
{
    pacos_writer arguments = {0};
    pacos_reader reader;
    memset(examples, 0, sizeof *examples);
    pacos_write_u64(&arguments, start);
    pacos_write_u32(&arguments, count);
    if (ask(call, PACOS_HOST_ACCEPTED, &arguments, &reader))
        pacos_read_list_example(&reader, examples);
}

/* Nothing can be done in a plugin about a log that the host would not take. */
void pacos_log(pacos_call *call, pacos_level level, pacos_string message)
{
    pacos_writer arguments = {0};
    pacos_reader reader;
    pacos_write_level(&arguments, level);
    pacos_write_string(&arguments, message);
    (void)ask(call, PACOS_HOST_LOG, &arguments, &reader);
}

void pacos_progress(pacos_call *call, uint64_t done, uint64_t total)
{
    pacos_writer arguments = {0};
    pacos_reader reader;
    pacos_write_u64(&arguments, done);
    pacos_write_u64(&arguments, total);
    (void)ask(call, PACOS_HOST_PROGRESS, &arguments, &reader);
}

/* ---- the plugin's functions -------------------------------------------------------------- */

static void *create(void)
{
    return calloc(1, sizeof(instance));
}

static void destroy(void *given)
{
    instance *it = (instance *)given;
    if (it->self != NULL)
        plugin_destroy(it->self);
    free(it);
}

static void configure(instance *it, pacos_call *call, pacos_string config, pacos_writer *w)
{
    pacos_list_diagnostic diagnostics = {NULL, 0};
    size_t i;
    if (it->self == NULL)
        it->self = plugin_create();
    if (it->self == NULL)
        pacos_diagnose(call, &diagnostics, pacos_str(""), pacos_str("there is no memory left"), NULL);
    else if (!pacos_is_table(config))
        pacos_diagnose(call, &diagnostics, pacos_str(""), pacos_str("expected a table"), NULL);
    else
        plugin_configure(it->self, call, config, &diagnostics);
    it->configured = it->self != NULL;
    for (i = 0; i < diagnostics.len; i++)
        if (diagnostics.items[i].severity == PACOS_SEVERITY_ERROR)
            it->configured = false;
    pacos_write_list_diagnostic(w, &diagnostics);
}

/* Calls a function that reads its arguments as `read`, and writes what it gives as `write`. */
#define SERVE(function, argument_type, read, result_type, write)                                   \
    do {                                                                                           \
        argument_type argument;                                                                    \
        result_type result;                                                                        \
        memset(&result, 0, sizeof result);                                                         \
        read(&r, &argument);                                                                       \
        understood = pacos_read_all(&r);                                                           \
        done = understood && function(it->self, &call, &argument, &result);                        \
        if (done)                                                                                  \
            write(&w, &result);                                                                    \
    } while (0)

#define SERVE_WITHOUT_RESULT(function, argument_type, read)                                        \
    do {                                                                                           \
        argument_type argument;                                                                    \
        read(&r, &argument);                                                                       \
        understood = pacos_read_all(&r);                                                           \
        done = understood && function(it->self, &call, &argument);                                 \
    } while (0)

static int32_t serve(void *given, const pacos_host_table *host, uint32_t function,
                     pacos_bytes arguments, pacos_buffer *output)
{
    instance *it = (instance *)given;
    pacos_arena arena = {NULL};
    pacos_call call = {&arena, {{"", 0}, {"", 0}, false}, host};
    pacos_reader r = pacos_reader_of(arguments, &arena);
    pacos_writer w = {0};
    bool understood = true, done = true;
    int32_t status;

    if (function == PACOS_FUNCTION_DESCRIBE) {
        pacos_description description;
        memset(&description, 0, sizeof description);
        plugin_describe(&call, &description);
        pacos_write_description(&w, &description);
    } else if (function == PACOS_FUNCTION_CONFIGURE) {
        pacos_string config;
        pacos_read_string(&r, &config);
        understood = pacos_read_all(&r);
        if (understood)
            configure(it, &call, config, &w);
    } else if (!it->configured) {
        done = pacos_refuse(&call, "not-configured", pacos_str("`configure` has not succeeded"));
    } else {
        switch (function) {
#if defined(PACOS_GENERATOR) || defined(PACOS_FILTER)
        case PACOS_FUNCTION_START:
            SERVE_WITHOUT_RESULT(plugin_start, pacos_list_task, pacos_read_list_task);
            break;
#endif
#if defined(PACOS_GENERATOR)
        case PACOS_FUNCTION_GENERATE:
            SERVE(plugin_generate, pacos_unit, pacos_read_unit, pacos_proposals,
                  pacos_write_proposals);
            break;
#elif defined(PACOS_FILTER)
        case PACOS_FUNCTION_RESTORE:
            SERVE_WITHOUT_RESULT(plugin_restore, pacos_list_judged, pacos_read_list_judged);
            break;
        case PACOS_FUNCTION_JUDGE:
            SERVE(plugin_judge, pacos_list_candidate, pacos_read_list_candidate,
                  pacos_list_verdict, pacos_write_list_verdict);
            break;
#else
        case PACOS_FUNCTION_JUDGE_ITEM:
            SERVE(plugin_judge_item, pacos_item, pacos_read_item, pacos_list_judgement,
                  pacos_write_list_judgement);
            break;
        case PACOS_FUNCTION_SUMMARISE:
            SERVE(plugin_summarise, pacos_list_judgement, pacos_read_list_judgement,
                  pacos_list_metric, pacos_write_list_metric);
            break;
#endif
        default:
            understood = false;
        }
    }
    if (!understood) {
        pacos_discard(&w);
        status = pacos_give_malformed(output, "no such function, or not its arguments");
    } else if (!done) {
        pacos_discard(&w);
        pacos_write_error(&w, &call.error);
        status = pacos_give(&w, output, PACOS_STATUS_ERROR);
    } else {
        status = pacos_give(&w, output, PACOS_STATUS_OK);
    }
    pacos_free_all(&arena);
    return status;
}

#ifdef _WIN32
__declspec(dllexport)
#endif
const pacos_plugin_table *pacos_plugin(void);

const pacos_plugin_table *pacos_plugin(void)
{
    static const char contract[] = CONTRACT;
    static const pacos_plugin_table table = {
        PACOS_MAGIC, PACOS_ABI_MAJOR, PACOS_ABI_MINOR, sizeof table,
        {(const uint8_t *)contract, sizeof contract - 1}, create, serve, destroy,
    };
    return &table;
}
