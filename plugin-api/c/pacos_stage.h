/*
 * A plugin in C, written once for both carriers: the plugin defines the functions of its stage that
 * are declared here, `native.c` makes a dynamic library of them, `component.c` a WASM component.
 *
 * What a function is handed, and what it takes from its call, lives until the call is over and the
 * host has read the result; what a plugin keeps for later, it copies. No exception, signal or
 * longjmp may leave a function.
 */
#ifndef PACOS_STAGE_H
#define PACOS_STAGE_H

#include <stdarg.h>
#include <stdio.h>

#include "pacos_plugin.h"

/* A call of the host, for its length. */
typedef struct pacos_call {
    /* What is taken from here is freed when the call is over. */
    pacos_arena *arena;
    /* Why the function returns false. */
    pacos_error error;
    /* Null in a component. */
    const pacos_host_table *host;
} pacos_call;

/* ---- what a plugin defines --------------------------------------------------------------- */

/* The plugin's own; it need not be safe to call from two threads at once. */
typedef struct plugin plugin;

/* An instance, not yet configured. Null where there is no memory. */
plugin *plugin_create(void);
void plugin_destroy(plugin *self);

/* `description` begins as zeros. */
void plugin_describe(pacos_call *call, pacos_description *description);

/* Reads the plugin's table of the manifest, given as JSON, and says what is wrong with it by
 * pacos_diagnose. An instance whose configuration is wrong is not asked for anything. */
void plugin_configure(plugin *self, pacos_call *call, pacos_string config,
                      pacos_list_diagnostic *diagnostics);

/* The functions below return true, or false by pacos_refuse or by a function of the host that
 * returned false. Results begin as zeros. */

/* Generators and filters: the seed tasks, once, before anything else. */
bool plugin_start(plugin *self, pacos_call *call, const pacos_list_task *seeds);
/* Generators. */
bool plugin_generate(plugin *self, pacos_call *call, const pacos_unit *unit,
                     pacos_proposals *proposals);
/* Filters: the state after these verdicts. */
bool plugin_restore(plugin *self, pacos_call *call, const pacos_list_judged *history);
/* Filters: one verdict for each candidate, in order. */
bool plugin_judge(plugin *self, pacos_call *call, const pacos_list_candidate *batch,
                  pacos_list_verdict *verdicts);
/* Evaluators. */
bool plugin_judge_item(plugin *self, pacos_call *call, const pacos_item *item,
                       pacos_list_judgement *judgements);
bool plugin_summarise(plugin *self, pacos_call *call, const pacos_list_judgement *judgements,
                      pacos_list_metric *metrics);

/* ---- what the host does for it ----------------------------------------------------------- */

/* A role is known by its name, and needs the capability `models:ROLE`, declared by
 * plugin_describe and granted in the recipe. Functions that return a bool return false when the
 * host refuses; its reason is then the call's. */
bool pacos_describe_model(pacos_call *call, pacos_string role, pacos_model_description *model);
/* Replies come in the order of the requests; one that failed does not hide the others. */
bool pacos_complete_many(pacos_call *call, pacos_string role, const pacos_list_request *requests,
                         pacos_list_result_reply_error *replies);
bool pacos_count_tokens(pacos_call *call, pacos_string role, pacos_string text, uint32_t *tokens);
bool pacos_log_likelihood(pacos_call *call, pacos_string role, const pacos_prompt *prompt,
                          pacos_string answer, pacos_likelihood *likelihood);
/* Servers, by the names that the recipe grants; each needs the capability `http:HOST`. Responses
 * come in the order of the requests, of whatever status; one that failed does not hide the others.
 * A body is bytes, in `items` and `len`. */
bool pacos_fetch_many(pacos_call *call, const pacos_list_http_request *requests,
                      pacos_list_result_http_response_error *responses);
/* Generators: accepted examples `start`, `start + 1`, ... as far as the unit may see them. */
void pacos_accepted(pacos_call *call, uint64_t start, uint32_t count, pacos_list_example *examples);
void pacos_log(pacos_call *call, pacos_level level, pacos_string message);
void pacos_progress(pacos_call *call, uint64_t done, uint64_t total);

/* ---- short ways -------------------------------------------------------------------------- */

/* Ends a call with an error of the plugin's own. `code` is kebab-case, for programs. */
static inline bool pacos_refuse(pacos_call *call, const char *code, pacos_string message)
{
    call->error.code = pacos_str(code);
    call->error.message = message;
    call->error.retryable = false;
    return false;
}

/* Zeros for `count` items, until the call is over. Null where there is no memory. */
static inline void *pacos_room(pacos_call *call, size_t count, size_t size)
{
    void *room = NULL;
    if (count <= (SIZE_MAX - 1) / (size == 0 ? 1 : size))
        room = pacos_alloc(call->arena, count * size + 1);
    if (room != NULL)
        memset(room, 0, count * size);
    return room;
}

static inline bool pacos_no_memory(pacos_call *call)
{
    return pacos_refuse(call, "no-memory", pacos_str("there is no memory left"));
}

/* Asks one thing. */
static inline bool pacos_complete(pacos_call *call, pacos_string role, pacos_request *request,
                                  pacos_reply *reply)
{
    pacos_list_request requests = {request, 1};
    pacos_list_result_reply_error replies = {NULL, 0};
    if (!pacos_complete_many(call, role, &requests, &replies))
        return false;
    if (replies.len != 1)
        return pacos_refuse(call, "host-broke-contract",
                            pacos_str("one request did not bring one reply"));
    if (replies.items[0].failed) {
        call->error = replies.items[0].as.error;
        return false;
    }
    *reply = replies.items[0].as.ok;
    return true;
}

/* Sends one request to a server. */
static inline bool pacos_fetch(pacos_call *call, pacos_http_request *request,
                               pacos_http_response *response)
{
    pacos_list_http_request requests = {request, 1};
    pacos_list_result_http_response_error responses = {NULL, 0};
    if (!pacos_fetch_many(call, &requests, &responses))
        return false;
    if (responses.len != 1)
        return pacos_refuse(call, "host-broke-contract",
                            pacos_str("one request did not bring one response"));
    if (responses.items[0].failed) {
        call->error = responses.items[0].as.error;
        return false;
    }
    *response = responses.items[0].as.ok;
    return true;
}

/* As printf has it; empty where there is no memory. */
#ifdef __GNUC__
__attribute__((format(printf, 2, 3)))
#endif
static inline pacos_string
pacos_print(pacos_call *call, const char *format, ...)
{
    pacos_string text = {"", 0};
    va_list arguments;
    char *room = NULL;
    int len;
    va_start(arguments, format);
    len = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (len > 0)
        room = (char *)pacos_room(call, (size_t)len + 1, 1);
    if (room == NULL)
        return text;
    va_start(arguments, format);
    vsnprintf(room, (size_t)len + 1, format, arguments);
    va_end(arguments);
    text.ptr = room;
    text.len = (size_t)len;
    return text;
}

/* A string in an expression for "%.*s". */
#define PACOS_TEXT(string) (int)((string).len), (string).ptr

/* Adds an error to what plugin_configure says. `help` is what to write instead, or null. */
static inline void pacos_diagnose(pacos_call *call, pacos_list_diagnostic *diagnostics,
                                  pacos_string path, pacos_string message, const char *help)
{
    size_t size = sizeof *diagnostics->items;
    pacos_diagnostic *items = (pacos_diagnostic *)pacos_room(call, diagnostics->len + 1, size);
    if (items == NULL)
        return;
    if (diagnostics->len > 0)
        memcpy(items, diagnostics->items, diagnostics->len * size);
    items[diagnostics->len].severity = PACOS_SEVERITY_ERROR;
    items[diagnostics->len].path = path;
    items[diagnostics->len].message = message;
    if (help != NULL) {
        items[diagnostics->len].help.present = true;
        items[diagnostics->len].help.value = pacos_str(help);
    }
    diagnostics->items = items;
    diagnostics->len += 1;
}

/* Whether a configuration can be one: it begins and ends as a JSON object does. The host writes
 * them whole. */
static inline bool pacos_is_table(pacos_string config)
{
    const char *first = config.ptr, *last = config.ptr + config.len;
    while (first < last && strchr(" \t\n\r", *first) != NULL)
        first++;
    while (last > first && strchr(" \t\n\r", last[-1]) != NULL)
        last--;
    return last - first >= 2 && *first == '{' && last[-1] == '}';
}

static inline bool pacos_same(pacos_string one, pacos_string other)
{
    return one.len == other.len && (one.len == 0 || memcmp(one.ptr, other.ptr, one.len) == 0);
}

static inline bool pacos_is(pacos_string text, const char *expected)
{
    return pacos_same(text, pacos_str(expected));
}

/* A copy that lives as long as an arena of the plugin's own; empty where there is no memory. */
static inline pacos_string pacos_keep(pacos_arena *arena, pacos_string text)
{
    pacos_string kept = {"", 0};
    char *room = text.len == 0 ? NULL : (char *)pacos_alloc(arena, text.len);
    if (room != NULL) {
        memcpy(room, text.ptr, text.len);
        kept.ptr = room;
        kept.len = text.len;
    }
    return kept;
}

#endif
