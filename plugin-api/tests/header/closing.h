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
