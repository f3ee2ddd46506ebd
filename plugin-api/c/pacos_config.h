/*
 * Reads a configuration: the keys of a JSON object, one after the other.
 *
 *     pacos_settings settings = pacos_settings_of(call, config);
 *     pacos_setting setting;
 *     while (pacos_next_setting(&settings, &setting))
 *         ...
 *
 * The host made the text from the recipe, so that it is JSON; what is not ends the reading.
 */
#ifndef PACOS_CONFIG_H
#define PACOS_CONFIG_H

#include "pacos_stage.h"

typedef enum pacos_setting_kind {
    PACOS_SETTING_NULL,
    PACOS_SETTING_BOOL,
    PACOS_SETTING_NUMBER,
    PACOS_SETTING_STRING,
    PACOS_SETTING_LIST,
    PACOS_SETTING_TABLE
} pacos_setting_kind;

typedef struct pacos_setting {
    pacos_string key;
    pacos_setting_kind kind;
    bool truth;
    double number;
    /* Of a string its text; of a list or a table its JSON; a table's is read by
     * pacos_settings_of again. */
    pacos_string text;
} pacos_setting;

typedef struct pacos_settings {
    pacos_call *call;
    const char *at;
    const char *end;
} pacos_settings;

static inline pacos_settings pacos_settings_of(pacos_call *call, pacos_string config)
{
    pacos_settings settings;
    settings.call = call;
    settings.at = config.ptr;
    settings.end = config.len == 0 ? config.ptr : config.ptr + config.len;
    return settings;
}

/* Past blanks, and past what separates; returns the next byte, or 0 at the end. */
static inline char pacos_json_next(pacos_settings *s, const char *separators)
{
    while (s->at < s->end && (strchr(" \t\n\r", *s->at) != NULL || strchr(separators, *s->at) != NULL))
        s->at++;
    return s->at < s->end ? *s->at : 0;
}

static inline uint32_t pacos_json_hex(const char *digits)
{
    uint32_t value = 0;
    int i;
    for (i = 0; i < 4; i++) {
        char c = digits[i];
        value = 16 * value +
                (uint32_t)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    }
    return value;
}

static inline char *pacos_json_utf8(char *to, uint32_t c)
{
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xc0 | c >> 6);
        *to++ = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *to++ = (char)(0xe0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 63));
        *to++ = (char)(0x80 | (c & 63));
    } else {
        *to++ = (char)(0xf0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 63));
        *to++ = (char)(0x80 | (c >> 6 & 63));
        *to++ = (char)(0x80 | (c & 63));
    }
    return to;
}

/* One escape, of which the backslash has been read. */
static inline char *pacos_json_escape(pacos_settings *s, char *to)
{
    static const char names[] = "bfnrt", meant[] = "\b\f\n\r\t";
    char name = *s->at++;
    const char *found = strchr(names, name);
    if (name != 'u') {
        *to++ = found != NULL && name != 0 ? meant[found - names] : name;
    } else if (s->end - s->at >= 4) {
        uint32_t c = pacos_json_hex(s->at);
        s->at += 4;
        if ((c & 0xfc00) == 0xd800 && s->end - s->at >= 6 && s->at[0] == '\\' && s->at[1] == 'u') {
            c = 0x10000 + ((c & 0x3ff) << 10 | (pacos_json_hex(s->at + 2) & 0x3ff));
            s->at += 6;
        }
        to = pacos_json_utf8(to, c);
    }
    return to;
}

/* A string, at its opening quotation mark. Its escapes are never shorter than what they mean. */
static inline pacos_string pacos_json_string(pacos_settings *s)
{
    pacos_string text = {"", 0};
    char *room = (char *)pacos_room(s->call, (size_t)(s->end - s->at), 1), *to = room;
    s->at++;
    if (room == NULL)
        s->at = s->end;
    while (s->at < s->end && *s->at != '"') {
        if (*s->at == '\\' && s->end - s->at >= 2) {
            s->at++;
            to = pacos_json_escape(s, to);
        } else {
            *to++ = *s->at++;
        }
    }
    if (s->at < s->end)
        s->at++;
    if (room != NULL) {
        text.ptr = room;
        text.len = (size_t)(to - room);
    }
    return text;
}

/* A list or a table, as it is written. */
static inline pacos_string pacos_json_nested(pacos_settings *s)
{
    pacos_string text = {s->at, 0};
    int depth = 0;
    do {
        char c = *s->at;
        if (c == '"') {
            pacos_json_string(s);
            continue;
        }
        depth += c == '[' || c == '{';
        depth -= c == ']' || c == '}';
        s->at++;
    } while (depth > 0 && s->at < s->end);
    text.len = (size_t)(s->at - text.ptr);
    return text;
}

/* The next key and its value; false at the end. */
static inline bool pacos_next_setting(pacos_settings *s, pacos_setting *setting)
{
    char number[64] = {0};
    size_t len = 0;
    memset(setting, 0, sizeof *setting);
    if (pacos_json_next(s, "{,") != '"')
        return false;
    setting->key = pacos_json_string(s);
    switch (pacos_json_next(s, ":")) {
    case 0:
        return false;
    case '"':
        setting->kind = PACOS_SETTING_STRING;
        setting->text = pacos_json_string(s);
        return true;
    case '[':
        setting->kind = PACOS_SETTING_LIST;
        setting->text = pacos_json_nested(s);
        return true;
    case '{':
        setting->kind = PACOS_SETTING_TABLE;
        setting->text = pacos_json_nested(s);
        return true;
    default:
        break;
    }
    while (s->at < s->end && strchr(",} \t\n\r", *s->at) == NULL && len + 1 < sizeof number)
        number[len++] = *s->at++;
    if (strcmp(number, "null") == 0) {
        setting->kind = PACOS_SETTING_NULL;
    } else if (strcmp(number, "true") == 0 || strcmp(number, "false") == 0) {
        setting->kind = PACOS_SETTING_BOOL;
        setting->truth = number[0] == 't';
    } else {
        setting->kind = PACOS_SETTING_NUMBER;
        setting->number = strtod(number, NULL);
    }
    return true;
}

#endif
