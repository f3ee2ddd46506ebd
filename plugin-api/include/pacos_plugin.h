/*
 * The native ABI of Pacos plugins: the contract pacos:plugin@0.1.1 in a dynamic library.
 *
 * Generated from the WIT package and the crate `pacos-plugin`. C11 or C++11.
 *
 * A library exports one function,
 *
 *     const pacos_plugin_table *pacos_plugin(void);
 *
 * that returns a table which lives as long as the process; the host never unloads a library.
 * Arguments and results travel in postcard (https://postcard.jamesmunns.com/wire-format): the
 * records of the contract, field by field. Below the tables is a type for each record, with a
 * function that reads it and one that writes it.
 *
 * Bytes that come in are borrowed until the call returns. A buffer that goes out carries its own
 * `release`. No exception, signal or longjmp may cross the boundary: return PACOS_STATUS_PANIC.
 */
#ifndef PACOS_PLUGIN_H
#define PACOS_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- tables ------------------------------------------------------------------------------ */

#define PACOS_MAGIC {'p', 'a', 'c', 'o', 's', 'p', 'l', 'g'}
#define PACOS_ABI_MAJOR 1
#define PACOS_ABI_MINOR 1

#define PACOS_CONTRACT_GENERATOR "pacos:plugin/generator@0.1.1"
#define PACOS_CONTRACT_FILTER "pacos:plugin/filter@0.1.1"
#define PACOS_CONTRACT_EVALUATOR "pacos:plugin/evaluator@0.1.1"

/* What a call came to. */
/* The buffer holds the result. */
#define PACOS_STATUS_OK 0
/* The buffer holds an `Error`. */
#define PACOS_STATUS_ERROR 1
/* The buffer holds the message of a panic, UTF-8; the instance must not be used again. */
#define PACOS_STATUS_PANIC 2
/* The function is unknown, or its arguments could not be read; the buffer says which, UTF-8. */
#define PACOS_STATUS_MALFORMED 3

/* Functions of a plugin: arguments to result. */
/* `()` to `Description`. */
#define PACOS_FUNCTION_DESCRIBE 0
/* `(config: string)` to `list<diagnostic>`. */
#define PACOS_FUNCTION_CONFIGURE 1
/* `(seeds: list<task>)` to `()`. */
#define PACOS_FUNCTION_START 2
/* `(unit)` to `proposals`; generators. */
#define PACOS_FUNCTION_GENERATE 16
/* `(history: list<judged>)` to `()`; filters. */
#define PACOS_FUNCTION_RESTORE 32
/* `(batch: list<candidate>)` to `list<verdict>`; filters. */
#define PACOS_FUNCTION_JUDGE 33
/* `(item)` to `list<judgement>`; evaluators. */
#define PACOS_FUNCTION_JUDGE_ITEM 48
/* `(judgements: list<judgement>)` to `list<metric>`; evaluators. */
#define PACOS_FUNCTION_SUMMARISE 49

/* Functions of the host: arguments to result. */
/* `(role)` to `model-description`. */
#define PACOS_HOST_DESCRIBE_MODEL 0
/* `(role, list<request>)` to `list<result<reply, error>>`. */
#define PACOS_HOST_COMPLETE_MANY 1
/* `(role, text)` to `u32`. */
#define PACOS_HOST_COUNT_TOKENS 2
/* `(role, prompt, answer)` to `likelihood`. */
#define PACOS_HOST_LOG_LIKELIHOOD 3
/* `(start, count)` to `list<example>`. */
#define PACOS_HOST_ACCEPTED 4
/* `(level, message)` to `()`. */
#define PACOS_HOST_LOG 5
/* `(done, total)` to `()`. */
#define PACOS_HOST_PROGRESS 6
/* `(list<http-request>)` to `list<result<http-response, error>>`; since 1.1. */
#define PACOS_HOST_FETCH_MANY 7

/* Borrowed bytes. `ptr` may be anything where `len` is 0. */
typedef struct pacos_bytes {
    const uint8_t *ptr;
    size_t len;
} pacos_bytes;

/* Owned bytes. Whoever receives them calls `release` once, unless it is null. */
typedef struct pacos_buffer {
    uint8_t *ptr;
    size_t len;
    size_t capacity;
    void (*release)(struct pacos_buffer *);
} pacos_buffer;

/* What the host lends a plugin for the length of one call, on the calling thread. */
typedef struct pacos_host_table {
    size_t size;
    const void *context;
    /* (context, PACOS_HOST_..., arguments, result) to PACOS_STATUS_... */
    int32_t (*call)(const void *, uint32_t, pacos_bytes, pacos_buffer *);
} pacos_host_table;

/* What a library exports. */
typedef struct pacos_plugin_table {
    uint8_t magic[8];
    uint32_t abi_major;
    uint32_t abi_minor;
    size_t size;
    /* PACOS_CONTRACT_..., without the zero at its end. */
    pacos_bytes contract;
    /* Makes an instance, not yet configured. Never null. */
    void *(*create)(void);
    /* (instance, host, PACOS_FUNCTION_..., arguments, result) to PACOS_STATUS_...; one call at a
     * time an instance, from whichever thread. */
    int32_t (*call)(void *, const pacos_host_table *, uint32_t, pacos_bytes, pacos_buffer *);
    void (*destroy)(void *);
} pacos_plugin_table;

#ifdef __cplusplus
#define PACOS_ASSERT static_assert
#else
#define PACOS_ASSERT _Static_assert
#endif
#if UINTPTR_MAX == UINT64_MAX
PACOS_ASSERT(sizeof(pacos_bytes) == 16, "sizeof(pacos_bytes)");
PACOS_ASSERT(offsetof(pacos_bytes, ptr) == 0, "offsetof(pacos_bytes, ptr)");
PACOS_ASSERT(offsetof(pacos_bytes, len) == 8, "offsetof(pacos_bytes, len)");
PACOS_ASSERT(sizeof(pacos_buffer) == 32, "sizeof(pacos_buffer)");
PACOS_ASSERT(offsetof(pacos_buffer, ptr) == 0, "offsetof(pacos_buffer, ptr)");
PACOS_ASSERT(offsetof(pacos_buffer, len) == 8, "offsetof(pacos_buffer, len)");
PACOS_ASSERT(offsetof(pacos_buffer, capacity) == 16, "offsetof(pacos_buffer, capacity)");
PACOS_ASSERT(offsetof(pacos_buffer, release) == 24, "offsetof(pacos_buffer, release)");
PACOS_ASSERT(sizeof(pacos_host_table) == 24, "sizeof(pacos_host_table)");
PACOS_ASSERT(offsetof(pacos_host_table, size) == 0, "offsetof(pacos_host_table, size)");
PACOS_ASSERT(offsetof(pacos_host_table, context) == 8, "offsetof(pacos_host_table, context)");
PACOS_ASSERT(offsetof(pacos_host_table, call) == 16, "offsetof(pacos_host_table, call)");
PACOS_ASSERT(sizeof(pacos_plugin_table) == 64, "sizeof(pacos_plugin_table)");
PACOS_ASSERT(offsetof(pacos_plugin_table, magic) == 0, "offsetof(pacos_plugin_table, magic)");
PACOS_ASSERT(offsetof(pacos_plugin_table, abi_major) == 8, "offsetof(pacos_plugin_table, abi_major)");
PACOS_ASSERT(offsetof(pacos_plugin_table, abi_minor) == 12, "offsetof(pacos_plugin_table, abi_minor)");
PACOS_ASSERT(offsetof(pacos_plugin_table, size) == 16, "offsetof(pacos_plugin_table, size)");
PACOS_ASSERT(offsetof(pacos_plugin_table, contract) == 24, "offsetof(pacos_plugin_table, contract)");
PACOS_ASSERT(offsetof(pacos_plugin_table, create) == 40, "offsetof(pacos_plugin_table, create)");
PACOS_ASSERT(offsetof(pacos_plugin_table, call) == 48, "offsetof(pacos_plugin_table, call)");
PACOS_ASSERT(offsetof(pacos_plugin_table, destroy) == 56, "offsetof(pacos_plugin_table, destroy)");
#endif

/* ---- memory ------------------------------------------------------------------------------ */

/* Everything read in one call, freed at once. Begin with {0}. */
typedef struct pacos_arena {
    union pacos_block *blocks;
} pacos_arena;

union pacos_block {
    union pacos_block *next;
    long double alignment;
};

/* Null where there is no memory. */
static inline void *pacos_alloc(pacos_arena *arena, size_t size)
{
    union pacos_block *block = NULL;
    if (size <= SIZE_MAX - sizeof(union pacos_block))
        block = (union pacos_block *)malloc(sizeof(union pacos_block) + size);
    if (block == NULL)
        return NULL;
    block->next = arena->blocks;
    arena->blocks = block;
    return block + 1;
}

static inline void pacos_free_all(pacos_arena *arena)
{
    while (arena->blocks != NULL) {
        union pacos_block *next = arena->blocks->next;
        free(arena->blocks);
        arena->blocks = next;
    }
}

/* ---- reading ----------------------------------------------------------------------------- */

/* UTF-8, without a zero at its end. */
typedef struct pacos_string {
    const char *ptr;
    size_t len;
} pacos_string;

static inline pacos_string pacos_str(const char *text)
{
    pacos_string string;
    string.ptr = text;
    string.len = strlen(text);
    return string;
}

/* Strings that are read point into the input, lists into the arena. Look at `failed` once, at
 * the end: after a failure everything reads as zero. */
typedef struct pacos_reader {
    const uint8_t *at;
    const uint8_t *end;
    pacos_arena *arena;
    bool failed;
} pacos_reader;

static inline pacos_reader pacos_reader_of(pacos_bytes bytes, pacos_arena *arena)
{
    pacos_reader reader;
    reader.at = bytes.ptr;
    reader.end = bytes.len == 0 ? bytes.ptr : bytes.ptr + bytes.len;
    reader.arena = arena;
    reader.failed = false;
    return reader;
}

static inline size_t pacos_left(const pacos_reader *r)
{
    return r->at == r->end ? 0 : (size_t)(r->end - r->at);
}

static inline void pacos_fail(pacos_reader *r)
{
    r->failed = true;
    r->at = r->end;
}

static inline void pacos_read_u8(pacos_reader *r, uint8_t *value)
{
    *value = 0;
    if (pacos_left(r) == 0)
        pacos_fail(r);
    else
        *value = *r->at++;
}

static inline void pacos_read_bool(pacos_reader *r, bool *value)
{
    uint8_t byte;
    pacos_read_u8(r, &byte);
    if (byte > 1)
        pacos_fail(r);
    *value = byte == 1;
}

static inline uint64_t pacos_read_varint(pacos_reader *r, uint64_t most)
{
    uint64_t value = 0;
    unsigned shift = 0;
    uint8_t byte;
    do {
        pacos_read_u8(r, &byte);
        if (shift > 63 || (shift == 63 && byte > 1)) {
            pacos_fail(r);
            return 0;
        }
        value |= (uint64_t)(byte & 0x7f) << shift;
        shift += 7;
    } while (byte & 0x80);
    if (value > most)
        pacos_fail(r);
    return r->failed ? 0 : value;
}

static inline void pacos_read_u32(pacos_reader *r, uint32_t *value)
{
    *value = (uint32_t)pacos_read_varint(r, UINT32_MAX);
}

static inline void pacos_read_u16(pacos_reader *r, uint16_t *value)
{
    *value = (uint16_t)pacos_read_varint(r, UINT16_MAX);
}

/* Which case of a variant or an enumeration. A byte, as in a WASM component's memory. */
static inline void pacos_read_tag(pacos_reader *r, uint8_t *value)
{
    *value = (uint8_t)pacos_read_varint(r, UINT8_MAX);
}

static inline void pacos_read_u64(pacos_reader *r, uint64_t *value)
{
    *value = pacos_read_varint(r, UINT64_MAX);
}

static inline void pacos_read_f64(pacos_reader *r, double *value)
{
    uint64_t bits = 0;
    int i;
    for (i = 0; i < 8; i++) {
        uint8_t byte;
        pacos_read_u8(r, &byte);
        bits |= (uint64_t)byte << (8 * i);
    }
    if (r->failed)
        bits = 0;
    memcpy(value, &bits, sizeof bits);
}

static inline void pacos_read_string(pacos_reader *r, pacos_string *value)
{
    uint64_t len = pacos_read_varint(r, SIZE_MAX);
    value->ptr = "";
    value->len = 0;
    if (len > pacos_left(r)) {
        pacos_fail(r);
    } else if (len > 0) {
        value->ptr = (const char *)r->at;
        value->len = (size_t)len;
        r->at += len;
    }
}

/* Reads the length of a list and makes room for its items, each of which has at least a byte. */
static inline void *pacos_read_items(pacos_reader *r, size_t size, size_t *len)
{
    uint64_t count = pacos_read_varint(r, SIZE_MAX);
    void *items = NULL;
    *len = 0;
    if (count == 0)
        return NULL;
    if (count <= pacos_left(r) && count <= SIZE_MAX / size)
        items = pacos_alloc(r->arena, (size_t)count * size);
    if (items == NULL) {
        pacos_fail(r);
        return NULL;
    }
    *len = (size_t)count;
    return items;
}

/* Whether all was read, and no more was there. */
static inline bool pacos_read_all(const pacos_reader *r)
{
    return !r->failed && pacos_left(r) == 0;
}

/* ---- writing ----------------------------------------------------------------------------- */

/* Bytes that grow. Begin with {0}; end with pacos_give or pacos_discard. */
typedef struct pacos_writer {
    uint8_t *ptr;
    size_t len;
    size_t capacity;
    bool failed;
} pacos_writer;

static inline void pacos_discard(pacos_writer *w)
{
    free(w->ptr);
    memset(w, 0, sizeof *w);
}

static inline void pacos_write_bytes(pacos_writer *w, const void *bytes, size_t len)
{
    if (w->failed || len == 0)
        return;
    if (len > w->capacity - w->len) {
        size_t capacity = w->capacity < 128 ? 256 : 2 * w->capacity;
        uint8_t *grown;
        if (len > SIZE_MAX / 4 || w->len > SIZE_MAX / 4) {
            w->failed = true;
            return;
        }
        if (capacity < w->len + len)
            capacity = w->len + len;
        grown = (uint8_t *)realloc(w->ptr, capacity);
        if (grown == NULL) {
            w->failed = true;
            return;
        }
        w->ptr = grown;
        w->capacity = capacity;
    }
    memcpy(w->ptr + w->len, bytes, len);
    w->len += len;
}

static inline void pacos_write_u8(pacos_writer *w, uint8_t value)
{
    pacos_write_bytes(w, &value, 1);
}

static inline void pacos_write_bool(pacos_writer *w, bool value)
{
    pacos_write_u8(w, value ? 1 : 0);
}

static inline void pacos_write_u64(pacos_writer *w, uint64_t value)
{
    while (value >= 0x80) {
        pacos_write_u8(w, (uint8_t)(value | 0x80));
        value >>= 7;
    }
    pacos_write_u8(w, (uint8_t)value);
}

static inline void pacos_write_u32(pacos_writer *w, uint32_t value)
{
    pacos_write_u64(w, value);
}

static inline void pacos_write_u16(pacos_writer *w, uint16_t value)
{
    pacos_write_u32(w, value);
}

static inline void pacos_write_f64(pacos_writer *w, double value)
{
    uint64_t bits;
    int i;
    memcpy(&bits, &value, sizeof bits);
    for (i = 0; i < 8; i++)
        pacos_write_u8(w, (uint8_t)(bits >> (8 * i)));
}

static inline void pacos_write_string(pacos_writer *w, pacos_string value)
{
    pacos_write_u64(w, value.len);
    pacos_write_bytes(w, value.ptr, value.len);
}

static inline void pacos_release(pacos_buffer *buffer)
{
    free(buffer->ptr);
    buffer->ptr = NULL;
    buffer->len = 0;
}

/* Hands over what was written, and returns `status`; PACOS_STATUS_MALFORMED, with nothing, if
 * there was no memory for it. */
static inline int32_t pacos_give(pacos_writer *w, pacos_buffer *output, int32_t status)
{
    if (w->failed) {
        pacos_discard(w);
        memset(output, 0, sizeof *output);
        return PACOS_STATUS_MALFORMED;
    }
    output->ptr = w->ptr;
    output->len = w->len;
    output->capacity = w->capacity;
    output->release = pacos_release;
    memset(w, 0, sizeof *w);
    return status;
}

/* ---- the records of the contract --------------------------------------------------------- */

/* How much a message matters. */
/* For the plugin's author. */
#define PACOS_LEVEL_DEBUG 0u
/* For whoever wants to follow. */
#define PACOS_LEVEL_INFO 1u
/* Something is not as it should be. */
#define PACOS_LEVEL_WARN 2u
/* Something went wrong. */
#define PACOS_LEVEL_ERROR 3u
typedef uint8_t pacos_level;

static inline void pacos_read_level(pacos_reader *r, pacos_level *value)
{
    pacos_read_tag(r, value);
    if (*value >= 4u)
        pacos_fail(r);
}

static inline void pacos_write_level(pacos_writer *w, pacos_level value)
{
    pacos_write_u32(w, value);
}

/* A failure, told so that a person can act on it. */
typedef struct pacos_error {
    /* Stable, kebab-case, for programs: `bad-config`, `request-refused`. */
    pacos_string code;
    /* One sentence for a person: the thing, what was expected, what was found. */
    pacos_string message;
    /* Whether the same call can succeed later with nothing changed. */
    bool retryable;
} pacos_error;

static inline void pacos_read_error(pacos_reader *r, pacos_error *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_string(r, &value->code);
    pacos_read_string(r, &value->message);
    pacos_read_bool(r, &value->retryable);
}

static inline void pacos_write_error(pacos_writer *w, const pacos_error *value)
{
    pacos_write_string(w, value->code);
    pacos_write_string(w, value->message);
    pacos_write_bool(w, value->retryable);
}

/* How grave a diagnostic is. */
/* The run does not begin. */
#define PACOS_SEVERITY_ERROR 0u
/* The run begins, and the person is told. */
#define PACOS_SEVERITY_WARNING 1u
typedef uint8_t pacos_severity;

static inline void pacos_read_severity(pacos_reader *r, pacos_severity *value)
{
    pacos_read_tag(r, value);
    if (*value >= 2u)
        pacos_fail(r);
}

static inline void pacos_write_severity(pacos_writer *w, pacos_severity value)
{
    pacos_write_u32(w, value);
}

typedef struct pacos_option_string {
    bool present;
    pacos_string value;
} pacos_option_string;

static inline void pacos_read_option_string(pacos_reader *r, pacos_option_string *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_bool(r, &value->present);
    if (value->present)
        pacos_read_string(r, &value->value);
}

static inline void pacos_write_option_string(pacos_writer *w, const pacos_option_string *value)
{
    pacos_write_bool(w, value->present);
    if (value->present)
        pacos_write_string(w, value->value);
}

/* What `configure` has to say of one key of the configuration. */
typedef struct pacos_diagnostic {
    /* Whether it stops the run. */
    pacos_severity severity;
    /* Dotted path of the key inside the plugin's own table, such as
     * `thresholds.rouge`; empty for the table itself. */
    pacos_string path;
    /* One sentence for a person: what was expected, what was found. */
    pacos_string message;
    /* What to write instead. */
    pacos_option_string help;
} pacos_diagnostic;

static inline void pacos_read_diagnostic(pacos_reader *r, pacos_diagnostic *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_severity(r, &value->severity);
    pacos_read_string(r, &value->path);
    pacos_read_string(r, &value->message);
    pacos_read_option_string(r, &value->help);
}

static inline void pacos_write_diagnostic(pacos_writer *w, const pacos_diagnostic *value)
{
    pacos_write_severity(w, value->severity);
    pacos_write_string(w, value->path);
    pacos_write_string(w, value->message);
    pacos_write_option_string(w, &value->help);
}

typedef struct pacos_list_string {
    pacos_string *items;
    size_t len;
} pacos_list_string;

static inline void pacos_read_list_string(pacos_reader *r, pacos_list_string *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_string *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_string(r, &value->items[i]);
}

static inline void pacos_write_list_string(pacos_writer *w, const pacos_list_string *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_string(w, value->items[i]);
}

/* What a plugin says of itself. The host asks before it configures. */
typedef struct pacos_description {
    /* Kebab-case, the same from version to version; verdicts are recorded under it. */
    pacos_string name;
    /* Semantic version of the plugin, not of the contract. */
    pacos_string version;
    /* Capabilities it will use, such as `models:teacher` or `http:api.example.com`.
     * Asking is not getting: the recipe must grant each one. */
    pacos_list_string capabilities;
    /* JSON Schema of the configuration table. */
    pacos_string config_schema;
    /* Whether a verdict depends on earlier verdicts of the same instance. */
    bool stateful;
    /* The most records one call may carry; 0 leaves it to the host. */
    uint32_t batch_limit;
} pacos_description;

static inline void pacos_read_description(pacos_reader *r, pacos_description *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_string(r, &value->name);
    pacos_read_string(r, &value->version);
    pacos_read_list_string(r, &value->capabilities);
    pacos_read_string(r, &value->config_schema);
    pacos_read_bool(r, &value->stateful);
    pacos_read_u32(r, &value->batch_limit);
}

static inline void pacos_write_description(pacos_writer *w, const pacos_description *value)
{
    pacos_write_string(w, value->name);
    pacos_write_string(w, value->version);
    pacos_write_list_string(w, &value->capabilities);
    pacos_write_string(w, value->config_schema);
    pacos_write_bool(w, value->stateful);
    pacos_write_u32(w, value->batch_limit);
}

/* One instruction-following task, in Alpaca's three fields. An empty
 * `input` means that the instruction stands alone. */
typedef struct pacos_task {
    /* What is to be done. */
    pacos_string instruction;
    /* What it is to be done to; may be empty. */
    pacos_string input;
    /* The answer. */
    pacos_string output;
} pacos_task;

static inline void pacos_read_task(pacos_reader *r, pacos_task *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_string(r, &value->instruction);
    pacos_read_string(r, &value->input);
    pacos_read_string(r, &value->output);
}

static inline void pacos_write_task(pacos_writer *w, const pacos_task *value)
{
    pacos_write_string(w, value->instruction);
    pacos_write_string(w, value->input);
    pacos_write_string(w, value->output);
}

/* One turn of a conversation. */
typedef struct pacos_message {
    /* `system`, `user` or `assistant`. */
    pacos_string role;
    /* What is said. */
    pacos_string content;
} pacos_message;

static inline void pacos_read_message(pacos_reader *r, pacos_message *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_string(r, &value->role);
    pacos_read_string(r, &value->content);
}

static inline void pacos_write_message(pacos_writer *w, const pacos_message *value)
{
    pacos_write_string(w, value->role);
    pacos_write_string(w, value->content);
}

typedef struct pacos_list_message {
    pacos_message *items;
    size_t len;
} pacos_list_message;

static inline void pacos_read_list_message(pacos_reader *r, pacos_list_message *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_message *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_message(r, &value->items[i]);
}

static inline void pacos_write_list_message(pacos_writer *w, const pacos_list_message *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_message(w, &value->items[i]);
}

/* A task with its answer. */
#define PACOS_PAYLOAD_TASK 0u
/* A conversation, in the order of its turns. */
#define PACOS_PAYLOAD_CHAT 1u
/* What a candidate, and an example of the dataset, consists of. */
typedef struct pacos_payload {
    uint8_t tag;
    union {
        pacos_task task;
        pacos_list_message chat;
    } as;
} pacos_payload;

static inline void pacos_read_payload(pacos_reader *r, pacos_payload *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_tag(r, &value->tag);
    switch (value->tag) {
    case PACOS_PAYLOAD_TASK:
        pacos_read_task(r, &value->as.task);
        break;
    case PACOS_PAYLOAD_CHAT:
        pacos_read_list_message(r, &value->as.chat);
        break;
    default:
        pacos_fail(r);
    }
}

static inline void pacos_write_payload(pacos_writer *w, const pacos_payload *value)
{
    pacos_write_u32(w, value->tag);
    switch (value->tag) {
    case PACOS_PAYLOAD_TASK:
        pacos_write_task(w, &value->as.task);
        break;
    case PACOS_PAYLOAD_CHAT:
        pacos_write_list_message(w, &value->as.chat);
        break;
    default:
        break;
    }
}

/* A candidate is known by the unit that made it and its place in that unit. */
typedef struct pacos_candidate_id {
    /* The unit, counted from 0. */
    uint64_t unit;
    /* The place among the unit's candidates, counted from 0. */
    uint32_t n;
} pacos_candidate_id;

static inline void pacos_read_candidate_id(pacos_reader *r, pacos_candidate_id *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_u64(r, &value->unit);
    pacos_read_u32(r, &value->n);
}

static inline void pacos_write_candidate_id(pacos_writer *w, const pacos_candidate_id *value)
{
    pacos_write_u64(w, value->unit);
    pacos_write_u32(w, value->n);
}

/* Zero-based line of the seed file, blank lines not counted. */
#define PACOS_ORIGIN_SEED 0u
/* An earlier candidate. */
#define PACOS_ORIGIN_CANDIDATE 1u
/* Something a candidate came from, or came too close to. */
typedef struct pacos_origin {
    uint8_t tag;
    union {
        uint32_t seed;
        pacos_candidate_id candidate;
    } as;
} pacos_origin;

static inline void pacos_read_origin(pacos_reader *r, pacos_origin *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_tag(r, &value->tag);
    switch (value->tag) {
    case PACOS_ORIGIN_SEED:
        pacos_read_u32(r, &value->as.seed);
        break;
    case PACOS_ORIGIN_CANDIDATE:
        pacos_read_candidate_id(r, &value->as.candidate);
        break;
    default:
        pacos_fail(r);
    }
}

static inline void pacos_write_origin(pacos_writer *w, const pacos_origin *value)
{
    pacos_write_u32(w, value->tag);
    switch (value->tag) {
    case PACOS_ORIGIN_SEED:
        pacos_write_u32(w, value->as.seed);
        break;
    case PACOS_ORIGIN_CANDIDATE:
        pacos_write_candidate_id(w, &value->as.candidate);
        break;
    default:
        break;
    }
}

/* A named figure that explains a verdict or a judgement. */
typedef struct pacos_score {
    /* Kebab-case, such as `rouge-l`. */
    pacos_string name;
    /* A finite number. */
    double value;
} pacos_score;

static inline void pacos_read_score(pacos_reader *r, pacos_score *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_string(r, &value->name);
    pacos_read_f64(r, &value->value);
}

static inline void pacos_write_score(pacos_writer *w, const pacos_score *value)
{
    pacos_write_string(w, value->name);
    pacos_write_f64(w, value->value);
}

/* A named text that goes with a record, for people and for later stages. */
typedef struct pacos_attribute {
    /* Kebab-case, such as `topic`. */
    pacos_string name;
    /* Any text. */
    pacos_string value;
} pacos_attribute;

static inline void pacos_read_attribute(pacos_reader *r, pacos_attribute *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_string(r, &value->name);
    pacos_read_string(r, &value->value);
}

static inline void pacos_write_attribute(pacos_writer *w, const pacos_attribute *value)
{
    pacos_write_string(w, value->name);
    pacos_write_string(w, value->value);
}

/* Bytes `start..end` of the text of the unit's reply number `ordinal`
 * (requests of one unit, to models and to servers, are counted from 0 in
 * the order they were made). */
typedef struct pacos_place {
    /* Which of the unit's replies. */
    uint32_t ordinal;
    /* The first byte. */
    uint32_t start;
    /* One beyond the last byte. */
    uint32_t end;
} pacos_place;

static inline void pacos_read_place(pacos_reader *r, pacos_place *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_u32(r, &value->ordinal);
    pacos_read_u32(r, &value->start);
    pacos_read_u32(r, &value->end);
}

static inline void pacos_write_place(pacos_writer *w, const pacos_place *value)
{
    pacos_write_u32(w, value->ordinal);
    pacos_write_u32(w, value->start);
    pacos_write_u32(w, value->end);
}

/* Raw text to be continued. */
#define PACOS_PROMPT_COMPLETION 0u
/* A conversation, put through the model's own chat template. */
#define PACOS_PROMPT_CHAT 1u
/* What a model is asked. */
typedef struct pacos_prompt {
    uint8_t tag;
    union {
        pacos_string completion;
        pacos_list_message chat;
    } as;
} pacos_prompt;

static inline void pacos_read_prompt(pacos_reader *r, pacos_prompt *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_tag(r, &value->tag);
    switch (value->tag) {
    case PACOS_PROMPT_COMPLETION:
        pacos_read_string(r, &value->as.completion);
        break;
    case PACOS_PROMPT_CHAT:
        pacos_read_list_message(r, &value->as.chat);
        break;
    default:
        pacos_fail(r);
    }
}

static inline void pacos_write_prompt(pacos_writer *w, const pacos_prompt *value)
{
    pacos_write_u32(w, value->tag);
    switch (value->tag) {
    case PACOS_PROMPT_COMPLETION:
        pacos_write_string(w, value->as.completion);
        break;
    case PACOS_PROMPT_CHAT:
        pacos_write_list_message(w, &value->as.chat);
        break;
    default:
        break;
    }
}

/* A JSON Schema, as text. */
#define PACOS_FORMAT_JSON_SCHEMA 0u
/* A Lark grammar. */
#define PACOS_FORMAT_GRAMMAR 1u
/* A limit on the shape of the reply. The host refuses it, naming the model,
 * where the model cannot keep it. */
typedef struct pacos_format {
    uint8_t tag;
    union {
        pacos_string json_schema;
        pacos_string grammar;
    } as;
} pacos_format;

static inline void pacos_read_format(pacos_reader *r, pacos_format *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_tag(r, &value->tag);
    switch (value->tag) {
    case PACOS_FORMAT_JSON_SCHEMA:
        pacos_read_string(r, &value->as.json_schema);
        break;
    case PACOS_FORMAT_GRAMMAR:
        pacos_read_string(r, &value->as.grammar);
        break;
    default:
        pacos_fail(r);
    }
}

static inline void pacos_write_format(pacos_writer *w, const pacos_format *value)
{
    pacos_write_u32(w, value->tag);
    switch (value->tag) {
    case PACOS_FORMAT_JSON_SCHEMA:
        pacos_write_string(w, value->as.json_schema);
        break;
    case PACOS_FORMAT_GRAMMAR:
        pacos_write_string(w, value->as.grammar);
        break;
    default:
        break;
    }
}

/* Makes one token more or less likely. */
typedef struct pacos_token_bias {
    /* The token's number in the model's own vocabulary. */
    uint32_t token;
    /* Added to its logit: -100 forbids it, 100 makes it the only choice. */
    double bias;
} pacos_token_bias;

static inline void pacos_read_token_bias(pacos_reader *r, pacos_token_bias *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_u32(r, &value->token);
    pacos_read_f64(r, &value->bias);
}

static inline void pacos_write_token_bias(pacos_writer *w, const pacos_token_bias *value)
{
    pacos_write_u32(w, value->token);
    pacos_write_f64(w, value->bias);
}

typedef struct pacos_option_f64 {
    bool present;
    double value;
} pacos_option_f64;

static inline void pacos_read_option_f64(pacos_reader *r, pacos_option_f64 *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_bool(r, &value->present);
    if (value->present)
        pacos_read_f64(r, &value->value);
}

static inline void pacos_write_option_f64(pacos_writer *w, const pacos_option_f64 *value)
{
    pacos_write_bool(w, value->present);
    if (value->present)
        pacos_write_f64(w, value->value);
}

typedef struct pacos_option_u32 {
    bool present;
    uint32_t value;
} pacos_option_u32;

static inline void pacos_read_option_u32(pacos_reader *r, pacos_option_u32 *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_bool(r, &value->present);
    if (value->present)
        pacos_read_u32(r, &value->value);
}

static inline void pacos_write_option_u32(pacos_writer *w, const pacos_option_u32 *value)
{
    pacos_write_bool(w, value->present);
    if (value->present)
        pacos_write_u32(w, value->value);
}

typedef struct pacos_list_token_bias {
    pacos_token_bias *items;
    size_t len;
} pacos_list_token_bias;

static inline void pacos_read_list_token_bias(pacos_reader *r, pacos_list_token_bias *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_token_bias *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_token_bias(r, &value->items[i]);
}

static inline void pacos_write_list_token_bias(pacos_writer *w, const pacos_list_token_bias *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_token_bias(w, &value->items[i]);
}

typedef struct pacos_option_u64 {
    bool present;
    uint64_t value;
} pacos_option_u64;

static inline void pacos_read_option_u64(pacos_reader *r, pacos_option_u64 *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_bool(r, &value->present);
    if (value->present)
        pacos_read_u64(r, &value->value);
}

static inline void pacos_write_option_u64(pacos_writer *w, const pacos_option_u64 *value)
{
    pacos_write_bool(w, value->present);
    if (value->present)
        pacos_write_u64(w, value->value);
}

typedef struct pacos_option_format {
    bool present;
    pacos_format value;
} pacos_option_format;

static inline void pacos_read_option_format(pacos_reader *r, pacos_option_format *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_bool(r, &value->present);
    if (value->present)
        pacos_read_format(r, &value->value);
}

static inline void pacos_write_option_format(pacos_writer *w, const pacos_option_format *value)
{
    pacos_write_bool(w, value->present);
    if (value->present)
        pacos_write_format(w, &value->value);
}

/* Names and meanings are those of the OpenAI API. What is absent is left
 * to the model's own default. */
typedef struct pacos_request {
    /* What the model is asked. */
    pacos_prompt prompt;
    /* Divides the logits before sampling; 0 takes the likeliest token. */
    pacos_option_f64 temperature;
    /* Samples from the likeliest tokens that together have this probability. */
    pacos_option_f64 top_p;
    /* The reply is cut after so many tokens. */
    pacos_option_u32 max_tokens;
    /* The reply ends before the first of these texts. */
    pacos_list_string stop;
    /* Tokens made more or less likely. */
    pacos_list_token_bias logit_bias;
    /* Seed of the sampler, where the model has one. */
    pacos_option_u64 seed;
    /* How many alternatives to report for each token. */
    pacos_option_u32 logprobs;
    /* The shape that the reply must have. */
    pacos_option_format format;
} pacos_request;

static inline void pacos_read_request(pacos_reader *r, pacos_request *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_prompt(r, &value->prompt);
    pacos_read_option_f64(r, &value->temperature);
    pacos_read_option_f64(r, &value->top_p);
    pacos_read_option_u32(r, &value->max_tokens);
    pacos_read_list_string(r, &value->stop);
    pacos_read_list_token_bias(r, &value->logit_bias);
    pacos_read_option_u64(r, &value->seed);
    pacos_read_option_u32(r, &value->logprobs);
    pacos_read_option_format(r, &value->format);
}

static inline void pacos_write_request(pacos_writer *w, const pacos_request *value)
{
    pacos_write_prompt(w, &value->prompt);
    pacos_write_option_f64(w, &value->temperature);
    pacos_write_option_f64(w, &value->top_p);
    pacos_write_option_u32(w, &value->max_tokens);
    pacos_write_list_string(w, &value->stop);
    pacos_write_list_token_bias(w, &value->logit_bias);
    pacos_write_option_u64(w, &value->seed);
    pacos_write_option_u32(w, &value->logprobs);
    pacos_write_option_format(w, &value->format);
}

/* Why a reply ended. */
/* By itself, or before a stop text. */
#define PACOS_FINISH_REASON_STOP 0u
/* Cut at its token limit, or at the end of the model's context. */
#define PACOS_FINISH_REASON_LENGTH 1u
/* Held back by the server. */
#define PACOS_FINISH_REASON_CONTENT_FILTER 2u
/* For a reason that only the server knows. */
#define PACOS_FINISH_REASON_OTHER 3u
typedef uint8_t pacos_finish_reason;

static inline void pacos_read_finish_reason(pacos_reader *r, pacos_finish_reason *value)
{
    pacos_read_tag(r, value);
    if (*value >= 4u)
        pacos_fail(r);
}

static inline void pacos_write_finish_reason(pacos_writer *w, pacos_finish_reason value)
{
    pacos_write_u32(w, value);
}

/* What a reply cost, in tokens, as the model counts them. */
typedef struct pacos_usage {
    /* Tokens of the prompt. */
    uint64_t prompt_tokens;
    /* Tokens of the reply. */
    uint64_t completion_tokens;
} pacos_usage;

static inline void pacos_read_usage(pacos_reader *r, pacos_usage *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_u64(r, &value->prompt_tokens);
    pacos_read_u64(r, &value->completion_tokens);
}

static inline void pacos_write_usage(pacos_writer *w, const pacos_usage *value)
{
    pacos_write_u64(w, value->prompt_tokens);
    pacos_write_u64(w, value->completion_tokens);
}

/* A token that could have stood in the place of another. */
typedef struct pacos_alternative {
    /* Its text. */
    pacos_string token;
    /* Natural logarithm. */
    double logprob;
} pacos_alternative;

static inline void pacos_read_alternative(pacos_reader *r, pacos_alternative *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_string(r, &value->token);
    pacos_read_f64(r, &value->logprob);
}

static inline void pacos_write_alternative(pacos_writer *w, const pacos_alternative *value)
{
    pacos_write_string(w, value->token);
    pacos_write_f64(w, value->logprob);
}

typedef struct pacos_list_alternative {
    pacos_alternative *items;
    size_t len;
} pacos_list_alternative;

static inline void pacos_read_list_alternative(pacos_reader *r, pacos_list_alternative *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_alternative *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_alternative(r, &value->items[i]);
}

static inline void pacos_write_list_alternative(pacos_writer *w, const pacos_list_alternative *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_alternative(w, &value->items[i]);
}

/* A token of a reply with its probability. */
typedef struct pacos_token_logprob {
    /* Its text. */
    pacos_string token;
    /* Natural logarithm. */
    double logprob;
    /* The likeliest tokens in its place, as many as were asked for. */
    pacos_list_alternative top;
} pacos_token_logprob;

static inline void pacos_read_token_logprob(pacos_reader *r, pacos_token_logprob *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_string(r, &value->token);
    pacos_read_f64(r, &value->logprob);
    pacos_read_list_alternative(r, &value->top);
}

static inline void pacos_write_token_logprob(pacos_writer *w, const pacos_token_logprob *value)
{
    pacos_write_string(w, value->token);
    pacos_write_f64(w, value->logprob);
    pacos_write_list_alternative(w, &value->top);
}

typedef struct pacos_option_usage {
    bool present;
    pacos_usage value;
} pacos_option_usage;

static inline void pacos_read_option_usage(pacos_reader *r, pacos_option_usage *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_bool(r, &value->present);
    if (value->present)
        pacos_read_usage(r, &value->value);
}

static inline void pacos_write_option_usage(pacos_writer *w, const pacos_option_usage *value)
{
    pacos_write_bool(w, value->present);
    if (value->present)
        pacos_write_usage(w, &value->value);
}

typedef struct pacos_list_token_logprob {
    pacos_token_logprob *items;
    size_t len;
} pacos_list_token_logprob;

static inline void pacos_read_list_token_logprob(pacos_reader *r, pacos_list_token_logprob *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_token_logprob *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_token_logprob(r, &value->items[i]);
}

static inline void pacos_write_list_token_logprob(pacos_writer *w, const pacos_list_token_logprob *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_token_logprob(w, &value->items[i]);
}

/* What a model said. */
typedef struct pacos_reply {
    /* The words. */
    pacos_string text;
    /* Why there are no more of them. */
    pacos_finish_reason finish_reason;
    /* Tokens, where the model tells. */
    pacos_option_usage usage;
    /* One for each token, where they were asked for. */
    pacos_list_token_logprob logprobs;
} pacos_reply;

static inline void pacos_read_reply(pacos_reader *r, pacos_reply *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_string(r, &value->text);
    pacos_read_finish_reason(r, &value->finish_reason);
    pacos_read_option_usage(r, &value->usage);
    pacos_read_list_token_logprob(r, &value->logprobs);
}

static inline void pacos_write_reply(pacos_writer *w, const pacos_reply *value)
{
    pacos_write_string(w, value->text);
    pacos_write_finish_reason(w, value->finish_reason);
    pacos_write_option_usage(w, &value->usage);
    pacos_write_list_token_logprob(w, &value->logprobs);
}

/* What can be asked of the model behind a role. */
typedef struct pacos_model_description {
    /* The model's own name, for reports. */
    pacos_string model;
    /* In tokens, prompt and reply together. */
    pacos_option_u32 context_length;
    /* Whether it continues raw text. */
    bool completion;
    /* Whether it takes conversations. */
    bool chat;
    /* Whether it keeps a JSON Schema. */
    bool json_schema;
    /* Whether it keeps a grammar. */
    bool grammar;
    /* Whether it tells the probabilities of its tokens. */
    bool logprobs;
    /* Whether single tokens can be made more or less likely. */
    bool logit_bias;
    /* Whether `count-tokens` works. */
    bool count_tokens;
    /* Whether `log-likelihood` works. */
    bool log_likelihood;
} pacos_model_description;

static inline void pacos_read_model_description(pacos_reader *r, pacos_model_description *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_string(r, &value->model);
    pacos_read_option_u32(r, &value->context_length);
    pacos_read_bool(r, &value->completion);
    pacos_read_bool(r, &value->chat);
    pacos_read_bool(r, &value->json_schema);
    pacos_read_bool(r, &value->grammar);
    pacos_read_bool(r, &value->logprobs);
    pacos_read_bool(r, &value->logit_bias);
    pacos_read_bool(r, &value->count_tokens);
    pacos_read_bool(r, &value->log_likelihood);
}

static inline void pacos_write_model_description(pacos_writer *w, const pacos_model_description *value)
{
    pacos_write_string(w, value->model);
    pacos_write_option_u32(w, &value->context_length);
    pacos_write_bool(w, value->completion);
    pacos_write_bool(w, value->chat);
    pacos_write_bool(w, value->json_schema);
    pacos_write_bool(w, value->grammar);
    pacos_write_bool(w, value->logprobs);
    pacos_write_bool(w, value->logit_bias);
    pacos_write_bool(w, value->count_tokens);
    pacos_write_bool(w, value->log_likelihood);
}

/* How likely a model finds an answer. */
typedef struct pacos_likelihood {
    /* Sum over the answer's tokens, natural logarithm. */
    double sum;
    /* How many tokens the answer has. */
    uint32_t tokens;
} pacos_likelihood;

static inline void pacos_read_likelihood(pacos_reader *r, pacos_likelihood *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_f64(r, &value->sum);
    pacos_read_u32(r, &value->tokens);
}

static inline void pacos_write_likelihood(pacos_writer *w, const pacos_likelihood *value)
{
    pacos_write_f64(w, value->sum);
    pacos_write_u32(w, value->tokens);
}

typedef struct pacos_list_request {
    pacos_request *items;
    size_t len;
} pacos_list_request;

static inline void pacos_read_list_request(pacos_reader *r, pacos_list_request *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_request *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_request(r, &value->items[i]);
}

static inline void pacos_write_list_request(pacos_writer *w, const pacos_list_request *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_request(w, &value->items[i]);
}

typedef struct pacos_result_reply_error {
    bool failed;
    union {
        pacos_reply ok;
        pacos_error error;
    } as;
} pacos_result_reply_error;

static inline void pacos_read_result_reply_error(pacos_reader *r, pacos_result_reply_error *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_bool(r, &value->failed);
    if (value->failed)
        pacos_read_error(r, &value->as.error);
    else
        pacos_read_reply(r, &value->as.ok);
}

static inline void pacos_write_result_reply_error(pacos_writer *w, const pacos_result_reply_error *value)
{
    pacos_write_bool(w, value->failed);
    if (value->failed)
        pacos_write_error(w, &value->as.error);
    else
        pacos_write_reply(w, &value->as.ok);
}

typedef struct pacos_list_result_reply_error {
    pacos_result_reply_error *items;
    size_t len;
} pacos_list_result_reply_error;

static inline void pacos_read_list_result_reply_error(pacos_reader *r, pacos_list_result_reply_error *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_result_reply_error *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_result_reply_error(r, &value->items[i]);
}

static inline void pacos_write_list_result_reply_error(pacos_writer *w, const pacos_list_result_reply_error *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_result_reply_error(w, &value->items[i]);
}

/* What is asked of a server (RFC 9110, section 9). */
/* Read. */
#define PACOS_HTTP_METHOD_GET 0u
/* Read the headers alone. */
#define PACOS_HTTP_METHOD_HEAD 1u
/* Have the body processed. After a lost connection it may be sent again. */
#define PACOS_HTTP_METHOD_POST 2u
/* Put the body in the place of what is there. */
#define PACOS_HTTP_METHOD_PUT 3u
/* Change what is there. */
#define PACOS_HTTP_METHOD_PATCH 4u
/* Remove what is there. */
#define PACOS_HTTP_METHOD_DELETE 5u
typedef uint8_t pacos_http_method;

static inline void pacos_read_http_method(pacos_reader *r, pacos_http_method *value)
{
    pacos_read_tag(r, value);
    if (*value >= 6u)
        pacos_fail(r);
}

static inline void pacos_write_http_method(pacos_writer *w, pacos_http_method value)
{
    pacos_write_u32(w, value);
}

/* One line of a request's or a response's header. */
typedef struct pacos_http_header {
    /* Case does not matter; in responses it is lower. */
    pacos_string name;
    /* Visible ASCII in requests; in responses, what is no UTF-8 is replaced. */
    pacos_string value;
} pacos_http_header;

static inline void pacos_read_http_header(pacos_reader *r, pacos_http_header *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_string(r, &value->name);
    pacos_read_string(r, &value->value);
}

static inline void pacos_write_http_header(pacos_writer *w, const pacos_http_header *value)
{
    pacos_write_string(w, value->name);
    pacos_write_string(w, value->value);
}

typedef struct pacos_list_http_header {
    pacos_http_header *items;
    size_t len;
} pacos_list_http_header;

static inline void pacos_read_list_http_header(pacos_reader *r, pacos_list_http_header *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_http_header *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_http_header(r, &value->items[i]);
}

static inline void pacos_write_list_http_header(pacos_writer *w, const pacos_list_http_header *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_http_header(w, &value->items[i]);
}

typedef struct pacos_list_u8 {
    uint8_t *items;
    size_t len;
} pacos_list_u8;

static inline void pacos_read_list_u8(pacos_reader *r, pacos_list_u8 *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (uint8_t *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_u8(r, &value->items[i]);
}

static inline void pacos_write_list_u8(pacos_writer *w, const pacos_list_u8 *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_u8(w, value->items[i]);
}

/* A request. Keys never pass through a plugin: the recipe names the
 * variable that holds one, and the host sends it. So `authorization`,
 * `cookie` and the headers of the connection itself are refused here. */
typedef struct pacos_http_request {
    /* What is asked. */
    pacos_http_method method;
    /* `https://HOST/PATH?QUERY`; `http://` for this machine and for
     * servers that the recipe says are private. */
    pacos_string url;
    /* In this order. */
    pacos_list_http_header headers;
    /* May be empty. */
    pacos_list_u8 body;
} pacos_http_request;

static inline void pacos_read_http_request(pacos_reader *r, pacos_http_request *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_http_method(r, &value->method);
    pacos_read_string(r, &value->url);
    pacos_read_list_http_header(r, &value->headers);
    pacos_read_list_u8(r, &value->body);
}

static inline void pacos_write_http_request(pacos_writer *w, const pacos_http_request *value)
{
    pacos_write_http_method(w, value->method);
    pacos_write_string(w, value->url);
    pacos_write_list_http_header(w, &value->headers);
    pacos_write_list_u8(w, &value->body);
}

/* A response, of whatever status: that a server says no is an answer.
 * Redirects are not followed; they are responses like any other. */
typedef struct pacos_http_response {
    /* Such as 200 (RFC 9110, section 15). */
    uint16_t status;
    /* In the server's order, without cookies. */
    pacos_list_http_header headers;
    /* The whole body, at most 16 MiB. */
    pacos_list_u8 body;
} pacos_http_response;

static inline void pacos_read_http_response(pacos_reader *r, pacos_http_response *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_u16(r, &value->status);
    pacos_read_list_http_header(r, &value->headers);
    pacos_read_list_u8(r, &value->body);
}

static inline void pacos_write_http_response(pacos_writer *w, const pacos_http_response *value)
{
    pacos_write_u16(w, value->status);
    pacos_write_list_http_header(w, &value->headers);
    pacos_write_list_u8(w, &value->body);
}

typedef struct pacos_list_http_request {
    pacos_http_request *items;
    size_t len;
} pacos_list_http_request;

static inline void pacos_read_list_http_request(pacos_reader *r, pacos_list_http_request *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_http_request *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_http_request(r, &value->items[i]);
}

static inline void pacos_write_list_http_request(pacos_writer *w, const pacos_list_http_request *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_http_request(w, &value->items[i]);
}

typedef struct pacos_result_http_response_error {
    bool failed;
    union {
        pacos_http_response ok;
        pacos_error error;
    } as;
} pacos_result_http_response_error;

static inline void pacos_read_result_http_response_error(pacos_reader *r, pacos_result_http_response_error *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_bool(r, &value->failed);
    if (value->failed)
        pacos_read_error(r, &value->as.error);
    else
        pacos_read_http_response(r, &value->as.ok);
}

static inline void pacos_write_result_http_response_error(pacos_writer *w, const pacos_result_http_response_error *value)
{
    pacos_write_bool(w, value->failed);
    if (value->failed)
        pacos_write_error(w, &value->as.error);
    else
        pacos_write_http_response(w, &value->as.ok);
}

typedef struct pacos_list_result_http_response_error {
    pacos_result_http_response_error *items;
    size_t len;
} pacos_list_result_http_response_error;

static inline void pacos_read_list_result_http_response_error(pacos_reader *r, pacos_list_result_http_response_error *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_result_http_response_error *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_result_http_response_error(r, &value->items[i]);
}

static inline void pacos_write_list_result_http_response_error(pacos_writer *w, const pacos_list_result_http_response_error *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_result_http_response_error(w, &value->items[i]);
}

/* A candidate that every filter kept. */
typedef struct pacos_example {
    /* The candidate it was. */
    pacos_candidate_id id;
    /* Its content, as the last filter left it. */
    pacos_payload payload;
} pacos_example;

static inline void pacos_read_example(pacos_reader *r, pacos_example *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_candidate_id(r, &value->id);
    pacos_read_payload(r, &value->payload);
}

static inline void pacos_write_example(pacos_writer *w, const pacos_example *value)
{
    pacos_write_candidate_id(w, &value->id);
    pacos_write_payload(w, &value->payload);
}

typedef struct pacos_list_example {
    pacos_example *items;
    size_t len;
} pacos_list_example;

static inline void pacos_read_list_example(pacos_reader *r, pacos_list_example *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_example *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_example(r, &value->items[i]);
}

static inline void pacos_write_list_example(pacos_writer *w, const pacos_list_example *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_example(w, &value->items[i]);
}

/* One piece of work, the same whatever runs beside it. */
typedef struct pacos_unit {
    /* Counted from 0 over the whole run. */
    uint64_t index;
    /* The only randomness there is: derived from the recipe's seed and `index`. */
    uint64_t seed;
    /* How many accepted examples this unit may read. */
    uint64_t accepted;
} pacos_unit;

static inline void pacos_read_unit(pacos_reader *r, pacos_unit *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_u64(r, &value->index);
    pacos_read_u64(r, &value->seed);
    pacos_read_u64(r, &value->accepted);
}

static inline void pacos_write_unit(pacos_writer *w, const pacos_unit *value)
{
    pacos_write_u64(w, value->index);
    pacos_write_u64(w, value->seed);
    pacos_write_u64(w, value->accepted);
}

typedef struct pacos_list_attribute {
    pacos_attribute *items;
    size_t len;
} pacos_list_attribute;

static inline void pacos_read_list_attribute(pacos_reader *r, pacos_list_attribute *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_attribute *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_attribute(r, &value->items[i]);
}

static inline void pacos_write_list_attribute(pacos_writer *w, const pacos_list_attribute *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_attribute(w, &value->items[i]);
}

typedef struct pacos_list_origin {
    pacos_origin *items;
    size_t len;
} pacos_list_origin;

static inline void pacos_read_list_origin(pacos_reader *r, pacos_list_origin *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_origin *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_origin(r, &value->items[i]);
}

static inline void pacos_write_list_origin(pacos_writer *w, const pacos_list_origin *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_origin(w, &value->items[i]);
}

typedef struct pacos_option_place {
    bool present;
    pacos_place value;
} pacos_option_place;

static inline void pacos_read_option_place(pacos_reader *r, pacos_option_place *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_bool(r, &value->present);
    if (value->present)
        pacos_read_place(r, &value->value);
}

static inline void pacos_write_option_place(pacos_writer *w, const pacos_option_place *value)
{
    pacos_write_bool(w, value->present);
    if (value->present)
        pacos_write_place(w, &value->value);
}

/* A candidate before it has a number. */
typedef struct pacos_proposal {
    /* Its content. */
    pacos_payload payload;
    /* What else there is to say of it. */
    pacos_list_attribute attributes;
    /* What it was made from. */
    pacos_list_origin parents;
    /* Where in a reply it was read. */
    pacos_option_place place;
} pacos_proposal;

static inline void pacos_read_proposal(pacos_reader *r, pacos_proposal *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_payload(r, &value->payload);
    pacos_read_list_attribute(r, &value->attributes);
    pacos_read_list_origin(r, &value->parents);
    pacos_read_option_place(r, &value->place);
}

static inline void pacos_write_proposal(pacos_writer *w, const pacos_proposal *value)
{
    pacos_write_payload(w, &value->payload);
    pacos_write_list_attribute(w, &value->attributes);
    pacos_write_list_origin(w, &value->parents);
    pacos_write_option_place(w, &value->place);
}

/* Something in a reply that could not be used. */
typedef struct pacos_reject {
    /* Why, kebab-case, for programs. */
    pacos_string code;
    /* Why, for a person. */
    pacos_string message;
    /* Where in a reply it stands. */
    pacos_option_place place;
} pacos_reject;

static inline void pacos_read_reject(pacos_reader *r, pacos_reject *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_string(r, &value->code);
    pacos_read_string(r, &value->message);
    pacos_read_option_place(r, &value->place);
}

static inline void pacos_write_reject(pacos_writer *w, const pacos_reject *value)
{
    pacos_write_string(w, value->code);
    pacos_write_string(w, value->message);
    pacos_write_option_place(w, &value->place);
}

typedef struct pacos_list_proposal {
    pacos_proposal *items;
    size_t len;
} pacos_list_proposal;

static inline void pacos_read_list_proposal(pacos_reader *r, pacos_list_proposal *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_proposal *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_proposal(r, &value->items[i]);
}

static inline void pacos_write_list_proposal(pacos_writer *w, const pacos_list_proposal *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_proposal(w, &value->items[i]);
}

typedef struct pacos_list_reject {
    pacos_reject *items;
    size_t len;
} pacos_list_reject;

static inline void pacos_read_list_reject(pacos_reader *r, pacos_list_reject *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_reject *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_reject(r, &value->items[i]);
}

static inline void pacos_write_list_reject(pacos_writer *w, const pacos_list_reject *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_reject(w, &value->items[i]);
}

/* What one unit brought. */
typedef struct pacos_proposals {
    /* In the order of their numbers. */
    pacos_list_proposal candidates;
    /* In any order. */
    pacos_list_reject rejects;
} pacos_proposals;

static inline void pacos_read_proposals(pacos_reader *r, pacos_proposals *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_list_proposal(r, &value->candidates);
    pacos_read_list_reject(r, &value->rejects);
}

static inline void pacos_write_proposals(pacos_writer *w, const pacos_proposals *value)
{
    pacos_write_list_proposal(w, &value->candidates);
    pacos_write_list_reject(w, &value->rejects);
}

typedef struct pacos_list_diagnostic {
    pacos_diagnostic *items;
    size_t len;
} pacos_list_diagnostic;

static inline void pacos_read_list_diagnostic(pacos_reader *r, pacos_list_diagnostic *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_diagnostic *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_diagnostic(r, &value->items[i]);
}

static inline void pacos_write_list_diagnostic(pacos_writer *w, const pacos_list_diagnostic *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_diagnostic(w, &value->items[i]);
}

typedef struct pacos_list_task {
    pacos_task *items;
    size_t len;
} pacos_list_task;

static inline void pacos_read_list_task(pacos_reader *r, pacos_list_task *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_task *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_task(r, &value->items[i]);
}

static inline void pacos_write_list_task(pacos_writer *w, const pacos_list_task *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_task(w, &value->items[i]);
}

/* What a filter is asked about. */
typedef struct pacos_candidate {
    /* Its number. */
    pacos_candidate_id id;
    /* Its content, as earlier filters left it. */
    pacos_payload payload;
    /* What the generator said of it. */
    pacos_list_attribute attributes;
    /* What it was made from. */
    pacos_list_origin parents;
    /* For filters that need randomness: derived from the content. */
    uint64_t seed;
} pacos_candidate;

static inline void pacos_read_candidate(pacos_reader *r, pacos_candidate *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_candidate_id(r, &value->id);
    pacos_read_payload(r, &value->payload);
    pacos_read_list_attribute(r, &value->attributes);
    pacos_read_list_origin(r, &value->parents);
    pacos_read_u64(r, &value->seed);
}

static inline void pacos_write_candidate(pacos_writer *w, const pacos_candidate *value)
{
    pacos_write_candidate_id(w, &value->id);
    pacos_write_payload(w, &value->payload);
    pacos_write_list_attribute(w, &value->attributes);
    pacos_write_list_origin(w, &value->parents);
    pacos_write_u64(w, value->seed);
}

/* Goes on as it is. */
#define PACOS_DECISION_KEEP 0u
/* Goes no further. */
#define PACOS_DECISION_DROP 1u
/* Goes on in this form. */
#define PACOS_DECISION_EDIT 2u
/* What is to become of a candidate. */
typedef struct pacos_decision {
    uint8_t tag;
    union {
        pacos_payload edit;
    } as;
} pacos_decision;

static inline void pacos_read_decision(pacos_reader *r, pacos_decision *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_tag(r, &value->tag);
    switch (value->tag) {
    case PACOS_DECISION_KEEP:
        break;
    case PACOS_DECISION_DROP:
        break;
    case PACOS_DECISION_EDIT:
        pacos_read_payload(r, &value->as.edit);
        break;
    default:
        pacos_fail(r);
    }
}

static inline void pacos_write_decision(pacos_writer *w, const pacos_decision *value)
{
    pacos_write_u32(w, value->tag);
    switch (value->tag) {
    case PACOS_DECISION_EDIT:
        pacos_write_payload(w, &value->as.edit);
        break;
    default:
        break;
    }
}

/* What the candidate came nearest to. */
typedef struct pacos_neighbour {
    /* The seed or the earlier candidate. */
    pacos_origin origin;
    /* How near, in the filter's own measure. */
    double score;
} pacos_neighbour;

static inline void pacos_read_neighbour(pacos_reader *r, pacos_neighbour *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_origin(r, &value->origin);
    pacos_read_f64(r, &value->score);
}

static inline void pacos_write_neighbour(pacos_writer *w, const pacos_neighbour *value)
{
    pacos_write_origin(w, &value->origin);
    pacos_write_f64(w, value->score);
}

typedef struct pacos_list_score {
    pacos_score *items;
    size_t len;
} pacos_list_score;

static inline void pacos_read_list_score(pacos_reader *r, pacos_list_score *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_score *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_score(r, &value->items[i]);
}

static inline void pacos_write_list_score(pacos_writer *w, const pacos_list_score *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_score(w, &value->items[i]);
}

typedef struct pacos_option_neighbour {
    bool present;
    pacos_neighbour value;
} pacos_option_neighbour;

static inline void pacos_read_option_neighbour(pacos_reader *r, pacos_option_neighbour *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_bool(r, &value->present);
    if (value->present)
        pacos_read_neighbour(r, &value->value);
}

static inline void pacos_write_option_neighbour(pacos_writer *w, const pacos_option_neighbour *value)
{
    pacos_write_bool(w, value->present);
    if (value->present)
        pacos_write_neighbour(w, &value->value);
}

/* What a filter says of one candidate. */
typedef struct pacos_verdict {
    /* What is to become of it. */
    pacos_decision decision;
    /* Why, kebab-case, for programs; `kept` where there is nothing to say. */
    pacos_string code;
    /* Why, for a person; may be empty. */
    pacos_string message;
    /* Figures that explain it. */
    pacos_list_score scores;
    /* What the candidate came nearest to, where that played a part. */
    pacos_option_neighbour nearest;
} pacos_verdict;

static inline void pacos_read_verdict(pacos_reader *r, pacos_verdict *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_decision(r, &value->decision);
    pacos_read_string(r, &value->code);
    pacos_read_string(r, &value->message);
    pacos_read_list_score(r, &value->scores);
    pacos_read_option_neighbour(r, &value->nearest);
}

static inline void pacos_write_verdict(pacos_writer *w, const pacos_verdict *value)
{
    pacos_write_decision(w, &value->decision);
    pacos_write_string(w, value->code);
    pacos_write_string(w, value->message);
    pacos_write_list_score(w, &value->scores);
    pacos_write_option_neighbour(w, &value->nearest);
}

/* A candidate with what this filter said of it, in an earlier life. */
typedef struct pacos_judged {
    /* As it was when it was judged. */
    pacos_candidate candidate;
    /* What was said then. */
    pacos_verdict verdict;
} pacos_judged;

static inline void pacos_read_judged(pacos_reader *r, pacos_judged *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_candidate(r, &value->candidate);
    pacos_read_verdict(r, &value->verdict);
}

static inline void pacos_write_judged(pacos_writer *w, const pacos_judged *value)
{
    pacos_write_candidate(w, &value->candidate);
    pacos_write_verdict(w, &value->verdict);
}

typedef struct pacos_list_judged {
    pacos_judged *items;
    size_t len;
} pacos_list_judged;

static inline void pacos_read_list_judged(pacos_reader *r, pacos_list_judged *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_judged *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_judged(r, &value->items[i]);
}

static inline void pacos_write_list_judged(pacos_writer *w, const pacos_list_judged *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_judged(w, &value->items[i]);
}

typedef struct pacos_list_candidate {
    pacos_candidate *items;
    size_t len;
} pacos_list_candidate;

static inline void pacos_read_list_candidate(pacos_reader *r, pacos_list_candidate *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_candidate *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_candidate(r, &value->items[i]);
}

static inline void pacos_write_list_candidate(pacos_writer *w, const pacos_list_candidate *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_candidate(w, &value->items[i]);
}

typedef struct pacos_list_verdict {
    pacos_verdict *items;
    size_t len;
} pacos_list_verdict;

static inline void pacos_read_list_verdict(pacos_reader *r, pacos_list_verdict *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_verdict *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_verdict(r, &value->items[i]);
}

static inline void pacos_write_list_verdict(pacos_writer *w, const pacos_list_verdict *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_verdict(w, &value->items[i]);
}

/* What one model answered. */
typedef struct pacos_answer {
    /* Name of the model: a role, such as `student` or `student.base`. */
    pacos_string model;
    /* Its answer. */
    pacos_string text;
} pacos_answer;

static inline void pacos_read_answer(pacos_reader *r, pacos_answer *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_string(r, &value->model);
    pacos_read_string(r, &value->text);
}

static inline void pacos_write_answer(pacos_writer *w, const pacos_answer *value)
{
    pacos_write_string(w, value->model);
    pacos_write_string(w, value->text);
}

typedef struct pacos_list_answer {
    pacos_answer *items;
    size_t len;
} pacos_list_answer;

static inline void pacos_read_list_answer(pacos_reader *r, pacos_list_answer *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_answer *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_answer(r, &value->items[i]);
}

static inline void pacos_write_list_answer(pacos_writer *w, const pacos_list_answer *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_answer(w, &value->items[i]);
}

/* A task of the evaluation set; its `output` is the reference answer. */
typedef struct pacos_item {
    /* Counted from 0 over the evaluation set. */
    uint64_t index;
    /* For evaluators that need randomness: derived from the content. */
    uint64_t seed;
    /* The task, with the reference answer. */
    pacos_task task;
    /* What the models answered. */
    pacos_list_answer answers;
} pacos_item;

static inline void pacos_read_item(pacos_reader *r, pacos_item *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_u64(r, &value->index);
    pacos_read_u64(r, &value->seed);
    pacos_read_task(r, &value->task);
    pacos_read_list_answer(r, &value->answers);
}

static inline void pacos_write_item(pacos_writer *w, const pacos_item *value)
{
    pacos_write_u64(w, value->index);
    pacos_write_u64(w, value->seed);
    pacos_write_task(w, &value->task);
    pacos_write_list_answer(w, &value->answers);
}

/* How a comparison ended. */
/* The first answer is better. */
#define PACOS_OUTCOME_FIRST 0u
/* The second answer is better. */
#define PACOS_OUTCOME_SECOND 1u
/* Neither is. */
#define PACOS_OUTCOME_TIE 2u
/* The judge answered, and the answer could not be read. */
#define PACOS_OUTCOME_UNPARSED 3u
/* The judge would not answer. */
#define PACOS_OUTCOME_REFUSED 4u
typedef uint8_t pacos_outcome;

static inline void pacos_read_outcome(pacos_reader *r, pacos_outcome *value)
{
    pacos_read_tag(r, value);
    if (*value >= 5u)
        pacos_fail(r);
}

static inline void pacos_write_outcome(pacos_writer *w, pacos_outcome value)
{
    pacos_write_u32(w, value);
}

/* One comparison of two answers to one task. */
typedef struct pacos_judgement {
    /* Index of the item. */
    uint64_t item;
    /* Name of the model whose answer is the first. */
    pacos_string first;
    /* Name of the model whose answer is the second. */
    pacos_string second;
    /* How it ended. */
    pacos_outcome outcome;
    /* The judge changed its mind when the answers changed places. */
    bool flipped;
    /* Figures that explain it. */
    pacos_list_score scores;
    /* What else there is to say, such as the judge's words. */
    pacos_list_attribute attributes;
} pacos_judgement;

static inline void pacos_read_judgement(pacos_reader *r, pacos_judgement *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_u64(r, &value->item);
    pacos_read_string(r, &value->first);
    pacos_read_string(r, &value->second);
    pacos_read_outcome(r, &value->outcome);
    pacos_read_bool(r, &value->flipped);
    pacos_read_list_score(r, &value->scores);
    pacos_read_list_attribute(r, &value->attributes);
}

static inline void pacos_write_judgement(pacos_writer *w, const pacos_judgement *value)
{
    pacos_write_u64(w, value->item);
    pacos_write_string(w, value->first);
    pacos_write_string(w, value->second);
    pacos_write_outcome(w, value->outcome);
    pacos_write_bool(w, value->flipped);
    pacos_write_list_score(w, &value->scores);
    pacos_write_list_attribute(w, &value->attributes);
}

/* One figure of the report. */
typedef struct pacos_metric {
    /* Kebab-case, such as `win-rate`. */
    pacos_string name;
    /* The figure. */
    double value;
    /* Its standard error, where it has one. */
    pacos_option_f64 standard_error;
    /* How many observations it rests on. */
    uint64_t n;
    /* What it is about, such as the models compared. */
    pacos_list_attribute attributes;
} pacos_metric;

static inline void pacos_read_metric(pacos_reader *r, pacos_metric *value)
{
    memset(value, 0, sizeof *value);
    pacos_read_string(r, &value->name);
    pacos_read_f64(r, &value->value);
    pacos_read_option_f64(r, &value->standard_error);
    pacos_read_u64(r, &value->n);
    pacos_read_list_attribute(r, &value->attributes);
}

static inline void pacos_write_metric(pacos_writer *w, const pacos_metric *value)
{
    pacos_write_string(w, value->name);
    pacos_write_f64(w, value->value);
    pacos_write_option_f64(w, &value->standard_error);
    pacos_write_u64(w, value->n);
    pacos_write_list_attribute(w, &value->attributes);
}

typedef struct pacos_list_judgement {
    pacos_judgement *items;
    size_t len;
} pacos_list_judgement;

static inline void pacos_read_list_judgement(pacos_reader *r, pacos_list_judgement *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_judgement *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_judgement(r, &value->items[i]);
}

static inline void pacos_write_list_judgement(pacos_writer *w, const pacos_list_judgement *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_judgement(w, &value->items[i]);
}

typedef struct pacos_list_metric {
    pacos_metric *items;
    size_t len;
} pacos_list_metric;

static inline void pacos_read_list_metric(pacos_reader *r, pacos_list_metric *value)
{
    memset(value, 0, sizeof *value);
    size_t i;
    value->items = (pacos_metric *)pacos_read_items(r, sizeof *value->items, &value->len);
    for (i = 0; i < value->len; i++)
        pacos_read_metric(r, &value->items[i]);
}

static inline void pacos_write_list_metric(pacos_writer *w, const pacos_list_metric *value)
{
    size_t i;
    pacos_write_u64(w, value->len);
    for (i = 0; i < value->len; i++)
        pacos_write_metric(w, &value->items[i]);
}

/* ---- short ways -------------------------------------------------------------------------- */

/* Ends a call with an error of the plugin's own. `code` is kebab-case, for programs. */
static inline int32_t pacos_give_error(pacos_buffer *output, const char *code, const char *message)
{
    pacos_writer w;
    pacos_error error;
    memset(&w, 0, sizeof w);
    error.code = pacos_str(code);
    error.message = pacos_str(message);
    error.retryable = false;
    pacos_write_error(&w, &error);
    return pacos_give(&w, output, PACOS_STATUS_ERROR);
}

/* Ends a call whose function is unknown, or whose arguments cannot be read. */
static inline int32_t pacos_give_malformed(pacos_buffer *output, const char *what)
{
    pacos_writer w;
    memset(&w, 0, sizeof w);
    pacos_write_bytes(&w, what, strlen(what));
    return pacos_give(&w, output, PACOS_STATUS_MALFORMED);
}

/* Asks the host. `arguments` are used up. The caller reads `result` and then releases it. */
static inline int32_t pacos_ask(const pacos_host_table *host, uint32_t function,
                                pacos_writer *arguments, pacos_buffer *result)
{
    pacos_bytes input;
    int32_t status = PACOS_STATUS_MALFORMED;
    memset(result, 0, sizeof *result);
    input.ptr = arguments->ptr;
    input.len = arguments->len;
    if (!arguments->failed)
        status = host->call(host->context, function, input, result);
    pacos_discard(arguments);
    return status;
}

#ifdef __cplusplus
}
#endif

#endif
