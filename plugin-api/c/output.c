/*
 * A component of a plugin has no files. What it prints goes to the host's log, line by line.
 */
#include <stdint.h>

#include "pacos_stage.h"

/* Numbers of WASI preview 1. */
#define BAD_FILE 8
#define STANDARD_OUTPUT 1
#define STANDARD_ERROR 2

/* Takes the place of the system's function, which every C library for WASI calls by this name. */
int32_t __imported_wasi_snapshot_preview1_fd_write(int32_t file, int32_t vectors, int32_t count,
                                                   int32_t written);

int32_t __imported_wasi_snapshot_preview1_fd_write(int32_t file, int32_t vectors, int32_t count,
                                                   int32_t written)
{
    /* Addresses and lengths of 32 bits each, as those of a string. */
    const pacos_string *texts = (const pacos_string *)(uintptr_t)vectors;
    uint32_t sum = 0;
    int32_t i;
    if (file != STANDARD_OUTPUT && file != STANDARD_ERROR)
        return BAD_FILE;
    for (i = 0; i < count; i++) {
        pacos_string line = texts[i];
        sum += line.len;
        while (line.len > 0 && line.ptr[line.len - 1] == '\n')
            line.len--;
        if (line.len > 0)
            pacos_log(NULL, file == STANDARD_OUTPUT ? PACOS_LEVEL_INFO : PACOS_LEVEL_WARN, line);
    }
    *(uint32_t *)(uintptr_t)written = sum;
    return 0;
}
