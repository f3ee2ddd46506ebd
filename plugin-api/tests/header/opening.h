/*
 * The native ABI of Pacos plugins: the contract pacos:plugin@{{contract}} in a dynamic library.
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

{{constants}}
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

{{layout}}
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

