/*
 * The functions of pacos_stage.h as a WASM component. Compile with -DPACOS_GENERATOR,
 * -DPACOS_FILTER or -DPACOS_EVALUATOR, and without strict aliasing.
 *
 * The types of pacos_plugin.h lie in memory as the component model's canonical ABI has it, and so
 * as those of the bindings do: field by field, tags in a byte. So nothing is converted, only
 * called by another name.
 */
#include "pacos_stage.h"

#if defined(PACOS_GENERATOR)
#include "bindings/generator_plugin.h"
#define WORLD(name) generator_plugin_##name
#define STAGE(name) exports_pacos_plugin_generator_##name
#elif defined(PACOS_FILTER)
#include "bindings/filter_plugin.h"
#define WORLD(name) filter_plugin_##name
#define STAGE(name) exports_pacos_plugin_filter_##name
#elif defined(PACOS_EVALUATOR)
#include "bindings/evaluator_plugin.h"
#define WORLD(name) evaluator_plugin_##name
#define STAGE(name) exports_pacos_plugin_evaluator_##name
#else
#error "expected one of PACOS_GENERATOR, PACOS_FILTER and PACOS_EVALUATOR"
#endif

#define SAME(ours, theirs)                                                                         \
    _Static_assert(sizeof(ours) == sizeof(theirs) && _Alignof(ours) == _Alignof(theirs),           \
                   #ours " is not " #theirs)

SAME(pacos_string, WORLD(string_t));
SAME(pacos_description, STAGE(description_t));
SAME(pacos_diagnostic, STAGE(diagnostic_t));
SAME(pacos_error, STAGE(error_t));
SAME(pacos_request, pacos_plugin_models_request_t);
SAME(pacos_reply, pacos_plugin_models_reply_t);
SAME(pacos_result_reply_error, pacos_plugin_models_result_reply_error_t);
SAME(pacos_model_description, pacos_plugin_models_model_description_t);
SAME(pacos_prompt, pacos_plugin_models_prompt_t);
SAME(pacos_likelihood, pacos_plugin_models_likelihood_t);
SAME(pacos_http_request, pacos_plugin_http_http_request_t);
SAME(pacos_http_response, pacos_plugin_http_http_response_t);
SAME(pacos_result_http_response_error, pacos_plugin_http_result_http_response_error_t);

/* ---- memory ------------------------------------------------------------------------------ */

/* Everything of one call: what the host writes into the component, and what the plugin takes. The
 * host reads a result after its function has returned, so the next call frees it. */
static pacos_arena memory;
static bool over;

static pacos_arena *arena(void)
{
    if (over) {
        pacos_free_all(&memory);
        over = false;
    }
    return &memory;
}

void *cabi_realloc(void *given, size_t old_size, size_t alignment, size_t new_size);

/* Takes the place of the one in the bindings. */
__attribute__((__export_name__("cabi_realloc")))
void *cabi_realloc(void *given, size_t old_size, size_t alignment, size_t new_size)
{
    void *room;
    if (new_size == 0)
        return (void *)alignment;
    room = pacos_alloc(arena(), new_size);
    if (room == NULL)
        __builtin_trap();
    if (old_size > 0)
        memcpy(room, given, old_size < new_size ? old_size : new_size);
    return room;
}

static pacos_call begun(void)
{
    pacos_call call = {arena(), {{"", 0}, {"", 0}, false}, NULL};
    return call;
}

/* Ends a call: what it returns is `done`, and of its error if it is not. */
static bool ended(const pacos_call *call, bool done, STAGE(error_t) *error)
{
    if (!done)
        memcpy(error, &call->error, sizeof *error);
    over = true;
    return done;
}

/* ---- the host's functions ---------------------------------------------------------------- */

#define THEIRS(type, pointer) ((type *)(void *)(pointer))

static bool told(pacos_call *call, bool done, const pacos_plugin_models_error_t *error)
{
    if (!done)
        memcpy(&call->error, error, sizeof call->error);
    return done;
}

bool pacos_describe_model(pacos_call *call, pacos_string role, pacos_model_description *model)
{
    pacos_plugin_models_error_t error;
    bool done = pacos_plugin_models_describe(
        THEIRS(WORLD(string_t), &role), THEIRS(pacos_plugin_models_model_description_t, model), &error);
    return told(call, done, &error);
}

bool pacos_complete_many(pacos_call *call, pacos_string role, const pacos_list_request *requests,
                         pacos_list_result_reply_error *replies)
{
    pacos_plugin_models_error_t error;
    pacos_list_request asked = *requests;
    bool done = pacos_plugin_models_complete_many(
        THEIRS(WORLD(string_t), &role), THEIRS(pacos_plugin_models_list_request_t, &asked),
        THEIRS(pacos_plugin_models_list_result_reply_error_t, replies), &error);
    return told(call, done, &error);
}

bool pacos_count_tokens(pacos_call *call, pacos_string role, pacos_string text, uint32_t *tokens)
{
    pacos_plugin_models_error_t error;
    bool done = pacos_plugin_models_count_tokens(THEIRS(WORLD(string_t), &role),
                                                 THEIRS(WORLD(string_t), &text), tokens, &error);
    return told(call, done, &error);
}

bool pacos_log_likelihood(pacos_call *call, pacos_string role, const pacos_prompt *prompt,
                          pacos_string answer, pacos_likelihood *likelihood)
{
    pacos_plugin_models_error_t error;
    pacos_prompt asked = *prompt;
    bool done = pacos_plugin_models_log_likelihood(
        THEIRS(WORLD(string_t), &role), THEIRS(pacos_plugin_models_prompt_t, &asked),
        THEIRS(WORLD(string_t), &answer), THEIRS(pacos_plugin_models_likelihood_t, likelihood), &error);
    return told(call, done, &error);
}

bool pacos_fetch_many(pacos_call *call, const pacos_list_http_request *requests,
                      pacos_list_result_http_response_error *responses)
{
    pacos_plugin_http_error_t error;
    pacos_list_http_request asked = *requests;
    bool done = pacos_plugin_http_fetch_many(
        THEIRS(pacos_plugin_http_list_http_request_t, &asked),
        THEIRS(pacos_plugin_http_list_result_http_response_error_t, responses), &error);
    return told(call, done, &error);
}

void pacos_accepted(pacos_call *call, uint64_t start, uint32_t count, pacos_list_example *examples)
{
    (void)call;
#if defined(PACOS_GENERATOR)
    pacos_plugin_accepted_read(start, count, THEIRS(pacos_plugin_accepted_list_example_t, examples));
#else
    (void)start;
    (void)count;
    memset(examples, 0, sizeof *examples);
#endif
}

void pacos_log(pacos_call *call, pacos_level level, pacos_string message)
{
    (void)call;
    pacos_plugin_log_write(level, THEIRS(WORLD(string_t), &message));
}

void pacos_progress(pacos_call *call, uint64_t done, uint64_t total)
{
    (void)call;
    pacos_plugin_log_progress(done, total);
}

/* ---- the plugin's functions -------------------------------------------------------------- */

static plugin *self;
static bool configured;

void STAGE(describe)(STAGE(description_t) *result)
{
    pacos_call call = begun();
    memset(result, 0, sizeof *result);
    plugin_describe(&call, THEIRS(pacos_description, result));
    over = true;
}

void STAGE(configure)(WORLD(string_t) *config, STAGE(list_diagnostic_t) *result)
{
    pacos_call call = begun();
    pacos_list_diagnostic *diagnostics = THEIRS(pacos_list_diagnostic, result);
    size_t i;
    memset(diagnostics, 0, sizeof *diagnostics);
    if (self == NULL)
        self = plugin_create();
    if (self == NULL)
        __builtin_trap();
    if (pacos_is_table(*THEIRS(pacos_string, config)))
        plugin_configure(self, &call, *THEIRS(pacos_string, config), diagnostics);
    else
        pacos_diagnose(&call, diagnostics, pacos_str(""), pacos_str("expected a table"), NULL);
    configured = true;
    for (i = 0; i < diagnostics->len; i++)
        if (diagnostics->items[i].severity == PACOS_SEVERITY_ERROR)
            configured = false;
    over = true;
}

static bool ready(pacos_call *call)
{
    return configured ||
           pacos_refuse(call, "not-configured", pacos_str("`configure` has not succeeded"));
}

/* A function of the contract, by its name here, its argument, and its result if it has one. */
#define SERVE(name, function, argument_type, ours, result_type, our_result)                        \
    bool STAGE(name)(STAGE(argument_type) * argument, STAGE(result_type) * result,                 \
                     STAGE(error_t) * error)                                                       \
    {                                                                                              \
        pacos_call call = begun();                                                                 \
        memset(result, 0, sizeof *result);                                                         \
        return ended(&call,                                                                        \
                     ready(&call) && function(self, &call, THEIRS(ours, argument),                 \
                                              THEIRS(our_result, result)),                         \
                     error);                                                                       \
    }

#define SERVE_WITHOUT_RESULT(name, function, argument_type, ours)                                  \
    bool STAGE(name)(STAGE(argument_type) * argument, STAGE(error_t) * error)                      \
    {                                                                                              \
        pacos_call call = begun();                                                                 \
        return ended(&call, ready(&call) && function(self, &call, THEIRS(ours, argument)), error); \
    }

#if defined(PACOS_GENERATOR)
SAME(pacos_unit, STAGE(unit_t));
SAME(pacos_task, STAGE(task_t));
SAME(pacos_proposal, STAGE(proposal_t));
SAME(pacos_reject, STAGE(reject_t));
SAME(pacos_example, pacos_plugin_accepted_example_t);
SERVE_WITHOUT_RESULT(start, plugin_start, list_task_t, pacos_list_task)
SERVE(generate, plugin_generate, unit_t, pacos_unit, proposals_t, pacos_proposals)
#elif defined(PACOS_FILTER)
SAME(pacos_task, STAGE(task_t));
SAME(pacos_candidate, STAGE(candidate_t));
SAME(pacos_verdict, STAGE(verdict_t));
SAME(pacos_judged, STAGE(judged_t));
SERVE_WITHOUT_RESULT(start, plugin_start, list_task_t, pacos_list_task)
SERVE_WITHOUT_RESULT(restore, plugin_restore, list_judged_t, pacos_list_judged)
SERVE(judge, plugin_judge, list_candidate_t, pacos_list_candidate, list_verdict_t,
      pacos_list_verdict)
#else
SAME(pacos_item, STAGE(item_t));
SAME(pacos_judgement, STAGE(judgement_t));
SAME(pacos_metric, STAGE(metric_t));
SERVE(judge, plugin_judge_item, item_t, pacos_item, list_judgement_t, pacos_list_judgement)
SERVE(summarise, plugin_summarise, list_judgement_t, pacos_list_judgement, list_metric_t,
      pacos_list_metric)
#endif
