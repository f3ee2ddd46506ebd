/* An evaluator that shows the judge two answers in both orders and asks which is better. */
#include "pacos_config.h"
#include "pacos_stage.h"

#define CONFIG_SCHEMA                                                                              \
    "{\"type\":\"object\",\"properties\":{"                                                        \
    "\"first\":{\"type\":\"string\",\"default\":\"student\","                                      \
    "\"description\":\"The model whose wins are counted.\"},"                                      \
    "\"second\":{\"type\":\"string\",\"default\":\"student.base\","                                \
    "\"description\":\"The model that it is compared with.\"}},\"additionalProperties\":false}"

/* The role that is asked. Its capability is declared by plugin_describe; the recipe grants it. */
#define ROLE "judge"

/* The evaluator, with the plugin's own table of the manifest. */
struct plugin {
    pacos_string first;
    pacos_string second;
    /* Holds the names. */
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
    self->first = pacos_str("student");
    self->second = pacos_str("student.base");
    pacos_free_all(&self->kept);
    while (pacos_next_setting(&settings, &setting)) {
        pacos_string *name = NULL;
        if (pacos_is(setting.key, "first"))
            name = &self->first;
        else if (pacos_is(setting.key, "second"))
            name = &self->second;
        if (name == NULL)
            pacos_diagnose(call, diagnostics, setting.key,
                           pacos_print(call, "unknown key `%.*s`, expected `first` or `second`",
                                        PACOS_TEXT(setting.key)),
                           NULL);
        else if (setting.kind != PACOS_SETTING_STRING)
            pacos_diagnose(call, diagnostics, setting.key,
                           pacos_str("expected the name of a model"), NULL);
        else
            *name = pacos_keep(&self->kept, setting.text);
    }
    if (pacos_same(self->first, self->second))
        pacos_diagnose(call, diagnostics, pacos_str("second"),
                       pacos_str("expected another model than `first`"),
                       "second = \"student.base\"");
}

static bool answer_of(pacos_call *call, const pacos_item *item, pacos_string model,
                      pacos_string *answer)
{
    size_t i;
    for (i = 0; i < item->answers.len; i++) {
        if (pacos_same(item->answers.items[i].model, model)) {
            *answer = item->answers.items[i].text;
            return true;
        }
    }
    return pacos_refuse(call, "no-such-answer",
                        pacos_print(call, "there is no answer of `%.*s`", PACOS_TEXT(model)));
}

static void ask(pacos_call *call, const pacos_task *task, pacos_string a, pacos_string b,
                pacos_message *message, pacos_request *request)
{
    message->role = pacos_str("user");
    message->content = pacos_print(
        call,
        "Which of two answers to this task is better? Reply with one word: A, B or TIE.\n\n"
        "Task: %.*s\n%.*s\n\nAnswer A: %.*s\n\nAnswer B: %.*s",
        PACOS_TEXT(task->instruction), PACOS_TEXT(task->input), PACOS_TEXT(a), PACOS_TEXT(b));
    request->prompt.tag = PACOS_PROMPT_CHAT;
    request->prompt.as.chat.items = message;
    request->prompt.as.chat.len = 1;
    request->temperature.present = true;
    request->temperature.value = 0.0;
    request->max_tokens.present = true;
    request->max_tokens.value = 8;
}

/* Who won, as far as the judge says; FIRST is the answer that was shown as A. */
static bool read_outcome(pacos_call *call, const pacos_result_reply_error *reply,
                         pacos_outcome *outcome)
{
    pacos_string text;
    if (reply->failed) {
        call->error = reply->as.error;
        *outcome = PACOS_OUTCOME_REFUSED;
        return pacos_is(reply->as.error.code, "request-refused");
    }
    text = reply->as.ok.text;
    while (text.len > 0 && strchr(" \t\r\n.", text.ptr[text.len - 1]) != NULL)
        text.len--;
    while (text.len > 0 && strchr(" \t\r\n", text.ptr[0]) != NULL) {
        text.ptr++;
        text.len--;
    }
    *outcome = PACOS_OUTCOME_UNPARSED;
    if (pacos_is(text, "A"))
        *outcome = PACOS_OUTCOME_FIRST;
    else if (pacos_is(text, "B"))
        *outcome = PACOS_OUTCOME_SECOND;
    else if (pacos_is(text, "TIE"))
        *outcome = PACOS_OUTCOME_TIE;
    return true;
}

static pacos_outcome swapped(pacos_outcome outcome)
{
    if (outcome == PACOS_OUTCOME_FIRST)
        return PACOS_OUTCOME_SECOND;
    return outcome == PACOS_OUTCOME_SECOND ? PACOS_OUTCOME_FIRST : outcome;
}

static bool decided(pacos_outcome outcome)
{
    return outcome == PACOS_OUTCOME_FIRST || outcome == PACOS_OUTCOME_SECOND ||
           outcome == PACOS_OUTCOME_TIE;
}

/* Who wins in one order only has not won. */
static pacos_outcome together(pacos_outcome one, pacos_outcome other)
{
    if (one == PACOS_OUTCOME_REFUSED || other == PACOS_OUTCOME_REFUSED)
        return PACOS_OUTCOME_REFUSED;
    if (one == PACOS_OUTCOME_UNPARSED || other == PACOS_OUTCOME_UNPARSED)
        return PACOS_OUTCOME_UNPARSED;
    return one == other ? one : PACOS_OUTCOME_TIE;
}

bool plugin_judge_item(plugin *self, pacos_call *call, const pacos_item *item,
                       pacos_list_judgement *judgements)
{
    pacos_string first, second;
    pacos_message messages[2];
    pacos_request asked[2];
    pacos_list_request requests = {asked, 2};
    pacos_list_result_reply_error replies = {0};
    pacos_outcome as_asked, turned;
    pacos_judgement *judgement = pacos_room(call, 1, sizeof *judgement);
    pacos_score *votes = pacos_room(call, 1, sizeof *votes);

    if (judgement == NULL || votes == NULL)
        return pacos_no_memory(call);
    if (!answer_of(call, item, self->first, &first) ||
        !answer_of(call, item, self->second, &second))
        return false;
    memset(asked, 0, sizeof asked);
    ask(call, &item->task, first, second, &messages[0], &asked[0]);
    ask(call, &item->task, second, first, &messages[1], &asked[1]);
    if (!pacos_complete_many(call, pacos_str(ROLE), &requests, &replies))
        return false;
    if (replies.len != 2)
        return pacos_refuse(call, "no-verdicts", pacos_str("expected two replies to two requests"));
    if (!read_outcome(call, &replies.items[0], &as_asked) ||
        !read_outcome(call, &replies.items[1], &turned))
        return false;
    turned = swapped(turned);
    votes->name = pacos_str("votes");
    votes->value = (as_asked == PACOS_OUTCOME_FIRST) + (turned == PACOS_OUTCOME_FIRST);
    judgement->item = item->index;
    judgement->first = self->first;
    judgement->second = self->second;
    judgement->outcome = together(as_asked, turned);
    judgement->flipped = as_asked != turned && decided(as_asked) && decided(turned);
    judgement->scores.items = votes;
    judgement->scores.len = 1;
    judgements->items = judgement;
    judgements->len = 1;
    return true;
}

bool plugin_summarise(plugin *self, pacos_call *call, const pacos_list_judgement *judgements,
                      pacos_list_metric *metrics)
{
    pacos_metric *win_rate = pacos_room(call, 1, sizeof *win_rate);
    pacos_attribute *models = pacos_room(call, 2, sizeof *models);
    double points = 0;
    size_t n = 0, i;
    if (win_rate == NULL || models == NULL)
        return pacos_no_memory(call);
    for (i = 0; i < judgements->len; i++) {
        pacos_outcome outcome = judgements->items[i].outcome;
        n += decided(outcome);
        points += outcome == PACOS_OUTCOME_FIRST ? 1.0 : outcome == PACOS_OUTCOME_TIE ? 0.5 : 0.0;
    }
    if (n == 0)
        return true;
    models[0].name = pacos_str("first");
    models[0].value = self->first;
    models[1].name = pacos_str("second");
    models[1].value = self->second;
    win_rate->name = pacos_str("win_rate");
    win_rate->value = 100.0 * points / (double)n;
    win_rate->n = n;
    win_rate->attributes.items = models;
    win_rate->attributes.len = 2;
    metrics->items = win_rate;
    metrics->len = 1;
    return true;
}
