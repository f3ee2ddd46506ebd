//! Between the types that wasmtime generates and those that plugins and the host share. Both
//! come from the same WIT package; wasmtime cannot lift into a type that it did not generate.

use pacos_plugin as plain;

use super::bindings::{
    evaluator::exports::pacos::plugin::evaluator,
    filter::exports::pacos::plugin::filter,
    generator::exports::pacos::plugin::generator,
    guest::pacos::plugin::{accepted, http, log, models, types},
};

/// Conversion of a whole list.
pub(super) fn all<A, B: From<A>>(list: Vec<A>) -> Vec<B> {
    list.into_iter().map(B::from).collect()
}

/// Two records with the same fields, converted field by field.
macro_rules! record {
    ($from:path => $to:path { $($field:ident),* $(; $($inner:ident),*)? $(=> $($list:ident),*)? }) => {
        impl From<$from> for $to {
            fn from(value: $from) -> Self {
                Self {
                    $($field: value.$field,)*
                    $($($inner: value.$inner.into(),)*)?
                    $($($list: all(value.$list),)*)?
                }
            }
        }
    };
}

/// Two enumerations with the same cases.
macro_rules! cases {
    ($from:path => $to:path { $($case:ident),* }) => {
        impl From<$from> for $to {
            fn from(value: $from) -> Self {
                type Source = $from;
                match value {
                    $(Source::$case => Self::$case,)*
                }
            }
        }
    };
}

record!(types::Error => plain::Error { code, message, retryable });
record!(plain::Error => types::Error { code, message, retryable });
record!(types::Diagnostic => plain::Diagnostic { path, message, help; severity });
cases!(types::Severity => plain::Severity { Error, Warning });
record!(types::Description => plain::Description {
    name, version, capabilities, config_schema, stateful, batch_limit
});
record!(types::Task => plain::Task { instruction, input, output });
record!(plain::Task => types::Task { instruction, input, output });
record!(types::Message => plain::Message { role, content });
record!(plain::Message => types::Message { role, content });
record!(types::CandidateId => plain::CandidateId { unit, n });
record!(plain::CandidateId => types::CandidateId { unit, n });
record!(types::Score => plain::Score { name, value });
record!(plain::Score => types::Score { name, value });
record!(types::Attribute => plain::Attribute { name, value });
record!(plain::Attribute => types::Attribute { name, value });
record!(types::Place => plain::Place { ordinal, start, end });

macro_rules! payload {
    ($from:path => $to:path) => {
        impl From<$from> for $to {
            fn from(value: $from) -> Self {
                // A path that came as a macro's argument cannot be extended; an alias can.
                type Source = $from;
                match value {
                    Source::Task(task) => Self::Task(task.into()),
                    Source::Chat(messages) => Self::Chat(all(messages)),
                }
            }
        }
    };
}
payload!(types::Payload => plain::Payload);
payload!(plain::Payload => types::Payload);

macro_rules! origin {
    ($from:path => $to:path) => {
        impl From<$from> for $to {
            fn from(value: $from) -> Self {
                // A path that came as a macro's argument cannot be extended; an alias can.
                type Source = $from;
                match value {
                    Source::Seed(index) => Self::Seed(index),
                    Source::Candidate(id) => Self::Candidate(id.into()),
                }
            }
        }
    };
}
origin!(types::Origin => plain::Origin);
origin!(plain::Origin => types::Origin);

// Models.

impl From<models::Prompt> for plain::Prompt {
    fn from(prompt: models::Prompt) -> Self {
        match prompt {
            models::Prompt::Completion(text) => Self::Completion(text),
            models::Prompt::Chat(messages) => Self::Chat(all(messages)),
        }
    }
}

impl From<models::Format> for plain::Format {
    fn from(format: models::Format) -> Self {
        match format {
            models::Format::JsonSchema(schema) => Self::JsonSchema(schema),
            models::Format::Grammar(grammar) => Self::Grammar(grammar),
        }
    }
}

record!(models::TokenBias => plain::TokenBias { token, bias });
record!(plain::Usage => models::Usage { prompt_tokens, completion_tokens });
record!(plain::Alternative => models::Alternative { token, logprob });
record!(plain::TokenLogprob => models::TokenLogprob { token, logprob=> top });
cases!(plain::FinishReason => models::FinishReason { Stop, Length, ContentFilter, Other });
record!(plain::Likelihood => models::Likelihood { sum, tokens });
record!(plain::ModelDescription => models::ModelDescription {
    model, context_length, completion, chat, json_schema, grammar, logprobs, logit_bias,
    count_tokens, log_likelihood
});

impl From<models::Request> for plain::Request {
    fn from(request: models::Request) -> Self {
        plain::Request {
            prompt: request.prompt.into(),
            temperature: request.temperature,
            top_p: request.top_p,
            max_tokens: request.max_tokens,
            stop: request.stop,
            logit_bias: all(request.logit_bias),
            seed: request.seed,
            logprobs: request.logprobs,
            format: request.format.map(Into::into),
        }
    }
}

impl From<plain::Reply> for models::Reply {
    fn from(reply: plain::Reply) -> Self {
        models::Reply {
            text: reply.text,
            finish_reason: reply.finish_reason.into(),
            usage: reply.usage.map(Into::into),
            logprobs: all(reply.logprobs),
        }
    }
}

// Servers.

cases!(http::HttpMethod => plain::HttpMethod { Get, Head, Post, Put, Patch, Delete });
record!(http::HttpHeader => plain::HttpHeader { name, value });
record!(plain::HttpHeader => http::HttpHeader { name, value });
record!(http::HttpRequest => plain::HttpRequest { url, body; method=> headers });
record!(plain::HttpResponse => http::HttpResponse { status, body=> headers });

// Log, and what was accepted.

cases!(log::Level => plain::Level { Debug, Info, Warn, Error });
record!(plain::Example => accepted::Example {; id, payload });

// Generator.

record!(plain::Unit => generator::Unit { index, seed, accepted });

impl From<generator::Proposal> for plain::Proposal {
    fn from(proposal: generator::Proposal) -> Self {
        plain::Proposal {
            payload: proposal.payload.into(),
            attributes: all(proposal.attributes),
            parents: all(proposal.parents),
            place: proposal.place.map(Into::into),
        }
    }
}

impl From<generator::Reject> for plain::Reject {
    fn from(reject: generator::Reject) -> Self {
        plain::Reject {
            code: reject.code,
            message: reject.message,
            place: reject.place.map(Into::into),
        }
    }
}

record!(generator::Proposals => plain::Proposals {=> candidates, rejects });

// Filter.

record!(plain::Candidate => filter::Candidate { seed; id, payload=> attributes, parents });
record!(plain::Judged => filter::Judged {; candidate, verdict });

macro_rules! verdict {
    ($from:ident => $to:ident) => {
        impl From<$from::Decision> for $to::Decision {
            fn from(decision: $from::Decision) -> Self {
                match decision {
                    $from::Decision::Keep => Self::Keep,
                    $from::Decision::Drop => Self::Drop,
                    $from::Decision::Edit(payload) => Self::Edit(payload.into()),
                }
            }
        }

        impl From<$from::Verdict> for $to::Verdict {
            fn from(verdict: $from::Verdict) -> Self {
                $to::Verdict {
                    decision: verdict.decision.into(),
                    code: verdict.code,
                    message: verdict.message,
                    scores: all(verdict.scores),
                    nearest: verdict.nearest.map(|nearest| $to::Neighbour {
                        origin: nearest.origin.into(),
                        score: nearest.score,
                    }),
                }
            }
        }
    };
}
verdict!(filter => plain);
verdict!(plain => filter);

// Evaluator.

record!(plain::Answer => evaluator::Answer { model, text });
record!(plain::Item => evaluator::Item { index, seed; task=> answers });
cases!(evaluator::Outcome => plain::Outcome { First, Second, Tie, Unparsed, Refused });
cases!(plain::Outcome => evaluator::Outcome { First, Second, Tie, Unparsed, Refused });
record!(evaluator::Judgement => plain::Judgement {
    item, first, second, flipped; outcome=> scores, attributes
});
record!(plain::Judgement => evaluator::Judgement {
    item, first, second, flipped; outcome=> scores, attributes
});
record!(evaluator::Metric => plain::Metric { name, value, standard_error, n=> attributes });
