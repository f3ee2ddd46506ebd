/* A filter that drops answers too short to teach anything. */
#include "pacos_config.h"
#include "pacos_stage.h"

#define CONFIG_SCHEMA                                                                              \
    "{\"type\":\"object\",\"properties\":{\"words\":{\"type\":\"integer\",\"minimum\":1,"          \
    "\"default\":3,\"description\":\"Fewest words that an answer may have.\"}},"                   \
    "\"additionalProperties\":false}"

/* The filter, with the plugin's own table of the manifest. */
struct plugin {
    size_t words;
};

plugin *plugin_create(void)
{
    return calloc(1, sizeof(plugin));
}

void plugin_destroy(plugin *self)
{
    free(self);
}

void plugin_describe(pacos_call *call, pacos_description *description)
{
    (void)call;
    description->name = pacos_str("my-plugin");
    description->version = pacos_str("0.1.0");
    description->config_schema = pacos_str(CONFIG_SCHEMA);
}

void plugin_configure(plugin *self, pacos_call *call, pacos_string config,
                      pacos_list_diagnostic *diagnostics)
{
    pacos_settings settings = pacos_settings_of(call, config);
    pacos_setting setting;
    self->words = 3;
    while (pacos_next_setting(&settings, &setting)) {
        if (!pacos_is(setting.key, "words"))
            pacos_diagnose(call, diagnostics, setting.key,
                           pacos_print(call, "unknown key `%.*s`, expected `words`",
                                        PACOS_TEXT(setting.key)),
                           NULL);
        else if (setting.kind != PACOS_SETTING_NUMBER || setting.number < 1 ||
                 setting.number > 1e9 || setting.number != (double)(size_t)setting.number)
            pacos_diagnose(call, diagnostics, setting.key,
                           pacos_str("expected a whole number from 1 on"), "words = 3");
        else
            self->words = (size_t)setting.number;
    }
}

bool plugin_start(plugin *self, pacos_call *call, const pacos_list_task *seeds)
{
    (void)self, (void)call, (void)seeds;
    return true;
}

bool plugin_restore(plugin *self, pacos_call *call, const pacos_list_judged *history)
{
    (void)self, (void)call, (void)history;
    return true;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static size_t count_words(pacos_string text)
{
    size_t words = 0, i;
    for (i = 0; i < text.len; i++)
        words += !is_space(text.ptr[i]) && (i == 0 || is_space(text.ptr[i - 1]));
    return words;
}

/* What the model is to learn to say. */
static pacos_string answer(const pacos_payload *payload)
{
    size_t i;
    if (payload->tag == PACOS_PAYLOAD_TASK)
        return payload->as.task.output;
    for (i = payload->as.chat.len; i > 0; i--)
        if (pacos_is(payload->as.chat.items[i - 1].role, "assistant"))
            return payload->as.chat.items[i - 1].content;
    return pacos_str("");
}

bool plugin_judge(plugin *self, pacos_call *call, const pacos_list_candidate *batch,
                  pacos_list_verdict *verdicts)
{
    size_t i;
    verdicts->items = pacos_room(call, batch->len, sizeof(pacos_verdict));
    if (verdicts->items == NULL)
        return pacos_no_memory(call);
    verdicts->len = batch->len;
    for (i = 0; i < batch->len; i++) {
        size_t words = count_words(answer(&batch->items[i].payload));
        pacos_verdict *verdict = &verdicts->items[i];
        pacos_score *score = pacos_room(call, 1, sizeof *score);
        if (score == NULL)
            return pacos_no_memory(call);
        score->name = pacos_str("words");
        score->value = (double)words;
        verdict->scores.items = score;
        verdict->scores.len = 1;
        if (words < self->words) {
            verdict->decision.tag = PACOS_DECISION_DROP;
            verdict->code = pacos_str("answer-too-short");
            verdict->message = pacos_print(call, "%zu of %zu words", words, self->words);
        } else {
            verdict->decision.tag = PACOS_DECISION_KEEP;
            verdict->code = pacos_str("kept");
        }
    }
    return true;
}
