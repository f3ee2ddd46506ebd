/* A generator that shows the teacher one seed task and asks for another of its kind. */
#include "pacos_config.h"
#include "pacos_stage.h"

#define CONFIG_SCHEMA                                                                              \
    "{\"type\":\"object\",\"properties\":{"                                                        \
    "\"temperature\":{\"type\":\"number\",\"minimum\":0,\"maximum\":2,\"default\":0.7,"            \
    "\"description\":\"How far the teacher may stray, from 0 to 2.\"},"                            \
    "\"max_tokens\":{\"type\":\"integer\",\"minimum\":1,\"default\":512,"                          \
    "\"description\":\"Longest reply, in tokens.\"}},\"additionalProperties\":false}"

/* The role that is asked. Its capability is declared by plugin_describe; the recipe grants it. */
#define ROLE "teacher"

/* The generator, with the plugin's own table of the manifest. */
struct plugin {
    double temperature;
    uint32_t max_tokens;
    pacos_list_task seeds;
    /* Holds the seeds. */
    pacos_arena kept;
};

plugin *plugin_create(void)
{
    return calloc(1, sizeof(plugin));
}

void plugin_destroy(plugin *self)
{
    pacos_free_all(&self->kept);
    free(self);
}

void plugin_describe(pacos_call *call, pacos_description *description)
{
    pacos_string *capability = pacos_room(call, 1, sizeof *capability);
    description->name = pacos_str("my-plugin");
    description->version = pacos_str("0.1.0");
    description->config_schema = pacos_str(CONFIG_SCHEMA);
    if (capability != NULL) {
        *capability = pacos_str("models:" ROLE);
        description->capabilities.items = capability;
        description->capabilities.len = 1;
    }
}

void plugin_configure(plugin *self, pacos_call *call, pacos_string config,
                      pacos_list_diagnostic *diagnostics)
{
    pacos_settings settings = pacos_settings_of(call, config);
    pacos_setting setting;
    self->temperature = 0.7;
    self->max_tokens = 512;
    while (pacos_next_setting(&settings, &setting)) {
        bool number = setting.kind == PACOS_SETTING_NUMBER;
        if (pacos_is(setting.key, "temperature")) {
            if (number && setting.number >= 0 && setting.number <= 2)
                self->temperature = setting.number;
            else
                pacos_diagnose(call, diagnostics, setting.key,
                               pacos_str("expected a number from 0 to 2"), "temperature = 0.7");
        } else if (pacos_is(setting.key, "max_tokens")) {
            if (number && setting.number >= 1 && setting.number <= UINT32_MAX)
                self->max_tokens = (uint32_t)setting.number;
            else
                pacos_diagnose(call, diagnostics, setting.key,
                               pacos_str("expected a number of tokens"), "max_tokens = 512");
        } else {
            pacos_diagnose(call, diagnostics, setting.key,
                           pacos_print(call,
                                        "unknown key `%.*s`, expected `temperature` or `max_tokens`",
                                        PACOS_TEXT(setting.key)),
                           NULL);
        }
    }
}

bool plugin_start(plugin *self, pacos_call *call, const pacos_list_task *seeds)
{
    size_t i;
    if (seeds->len == 0)
        return pacos_refuse(call, "no-seeds", pacos_str("expected at least one seed task"));
    pacos_free_all(&self->kept);
    self->seeds.items = pacos_alloc(&self->kept, seeds->len * sizeof(pacos_task));
    if (self->seeds.items == NULL)
        return pacos_no_memory(call);
    self->seeds.len = seeds->len;
    for (i = 0; i < seeds->len; i++) {
        const pacos_task *seed = &seeds->items[i];
        pacos_task *kept = &self->seeds.items[i];
        kept->instruction = pacos_keep(&self->kept, seed->instruction);
        kept->input = pacos_keep(&self->kept, seed->input);
        kept->output = pacos_keep(&self->kept, seed->output);
    }
    return true;
}

static pacos_string prompt(pacos_call *call, const pacos_task *seed)
{
    return pacos_print(call,
                        "Write one more task of this kind, about something else. Begin each part "
                        "with its name, as here, and leave the input empty where none is needed.\n\n"
                        "Instruction: %.*s\nInput: %.*s\nOutput: %.*s",
                        PACOS_TEXT(seed->instruction), PACOS_TEXT(seed->input),
                        PACOS_TEXT(seed->output));
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static pacos_string trimmed(pacos_string text)
{
    while (text.len > 0 && is_space(text.ptr[text.len - 1]))
        text.len--;
    while (text.len > 0 && is_space(text.ptr[0])) {
        text.ptr++;
        text.len--;
    }
    return text;
}

/* What stands before `name` in `rest`, which then begins behind it; false if it is not there. */
static bool part(pacos_string *rest, const char *name, pacos_string *before)
{
    size_t len = strlen(name), i;
    for (i = 0; i + len <= rest->len; i++) {
        if (memcmp(rest->ptr + i, name, len) == 0) {
            before->ptr = rest->ptr;
            before->len = i;
            *before = trimmed(*before);
            rest->ptr += i + len;
            rest->len -= i + len;
            return true;
        }
    }
    return false;
}

/* The task in a reply, or the code and the message of a reject. */
static bool read_task(const pacos_reply *reply, pacos_task *task, const char **code,
                      const char **message)
{
    pacos_string rest = reply->text, before;
    if (reply->finish_reason == PACOS_FINISH_REASON_LENGTH) {
        *code = "cut-off";
        *message = "the reply ends at its token limit";
        return false;
    }
    if (!part(&rest, "Instruction:", &before) || !part(&rest, "Input:", &task->instruction) ||
        !part(&rest, "Output:", &task->input)) {
        *code = "not-a-task";
        *message = "expected `Instruction:`, `Input:` and `Output:` in this order";
        return false;
    }
    task->output = trimmed(rest);
    if (task->instruction.len == 0 || task->output.len == 0) {
        *code = "empty-field";
        *message = "the instruction or the output is empty";
        return false;
    }
    return true;
}

static bool propose(pacos_call *call, uint32_t line, pacos_task task, pacos_option_place place,
                    pacos_proposals *proposals)
{
    pacos_proposal *proposal = pacos_room(call, 1, sizeof *proposal);
    pacos_origin *parent = pacos_room(call, 1, sizeof *parent);
    if (proposal == NULL || parent == NULL)
        return pacos_no_memory(call);
    parent->tag = PACOS_ORIGIN_SEED;
    parent->as.seed = line;
    proposal->payload.tag = PACOS_PAYLOAD_TASK;
    proposal->payload.as.task = task;
    proposal->parents.items = parent;
    proposal->parents.len = 1;
    proposal->place = place;
    proposals->candidates.items = proposal;
    proposals->candidates.len = 1;
    return true;
}

static bool reject(pacos_call *call, const char *code, const char *message,
                   pacos_option_place place, pacos_proposals *proposals)
{
    pacos_reject *reject = pacos_room(call, 1, sizeof *reject);
    if (reject == NULL)
        return pacos_no_memory(call);
    reject->code = pacos_str(code);
    reject->message = pacos_str(message);
    reject->place = place;
    proposals->rejects.items = reject;
    proposals->rejects.len = 1;
    return true;
}

bool plugin_generate(plugin *self, pacos_call *call, const pacos_unit *unit,
                     pacos_proposals *proposals)
{
    /* The unit's seed is all the randomness there is, so that the unit can be done again. */
    uint32_t line = (uint32_t)(unit->seed % self->seeds.len);
    pacos_message message = {pacos_str("user"), prompt(call, &self->seeds.items[line])};
    pacos_request request = {0};
    pacos_reply reply = {0};
    pacos_task task = {0};
    pacos_option_place place = {true, {0, 0, 0}};
    const char *code, *why;

    request.prompt.tag = PACOS_PROMPT_CHAT;
    request.prompt.as.chat.items = &message;
    request.prompt.as.chat.len = 1;
    request.temperature.present = true;
    request.temperature.value = self->temperature;
    request.max_tokens.present = true;
    request.max_tokens.value = self->max_tokens;
    if (!pacos_complete(call, pacos_str(ROLE), &request, &reply))
        return false;
    place.value.end = (uint32_t)reply.text.len;
    if (read_task(&reply, &task, &code, &why))
        return propose(call, line, task, place, proposals);
    return reject(call, code, why, place, proposals);
}
