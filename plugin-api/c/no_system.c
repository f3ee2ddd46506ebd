/*
 * A component of a plugin has no files, no clock and no environment. What the C library would ask
 * the system for is answered here, with "no": so the component imports nothing of the system. What
 * is printed goes to the host's log.
 */
#include <stdint.h>

#include "pacos_stage.h"

/* Numbers of WASI preview 1. */
#define BAD_FILE 8
#define NO_SYSTEM 52

int32_t __imported_wasi_snapshot_preview1_fd_write(int32_t file, int32_t vectors, int32_t count,
                                                   int32_t written)
{
    const pacos_string *texts = (const pacos_string *)(uintptr_t)vectors;
    uint32_t sum = 0;
    int32_t i;
    if (file != 1 && file != 2)
        return BAD_FILE;
    for (i = 0; i < count; i++) {
        pacos_string line = texts[i];
        sum += line.len;
        while (line.len > 0 && line.ptr[line.len - 1] == '\n')
            line.len--;
        if (line.len > 0)
            pacos_log(NULL, file == 1 ? PACOS_LEVEL_INFO : PACOS_LEVEL_WARN, line);
    }
    *(uint32_t *)(uintptr_t)written = sum;
    return 0;
}

int32_t __imported_wasi_snapshot_preview1_fd_close(int32_t file)
{
    (void)file;
    return BAD_FILE;
}

int32_t __imported_wasi_snapshot_preview1_fd_seek(int32_t file, int64_t by, int32_t from, int32_t at)
{
    (void)file, (void)by, (void)from, (void)at;
    return BAD_FILE;
}

int32_t __imported_wasi_snapshot_preview1_fd_fdstat_get(int32_t file, int32_t state)
{
    (void)file, (void)state;
    return BAD_FILE;
}

void __imported_wasi_snapshot_preview1_proc_exit(int32_t code)
{
    (void)code;
    __builtin_trap();
}
