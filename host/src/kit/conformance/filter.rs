//! What is asked of filters.

use std::{collections::BTreeSet, sync::Arc};

use pacos_plugin::{Candidate, CandidateId, Judged, Origin, Payload, Task, Verdict};

use super::{Check, Report, corpus};
use crate::{
    kit::{
        compare::differences,
        lines,
        script::{Asked, Replies, ScriptedCalls},
    },
    plugin::{CallError, Instance, Loaded, check_verdicts, is_kebab_case},
};

const ANY_RECORD: Check = Check::new(
    "filter-any-record",
    "Every record has a verdict: empty, huge, in any script, task or conversation.",
);
const EMPTY_BATCH: Check = Check::new(
    "filter-empty-batch",
    "A batch without records brings no verdicts.",
);
const FORM: Check = Check::new(
    "filter-verdict-form",
    "Codes are kebab-case, scores have names and finite values, and what is nearest exists.",
);
const BATCHES: Check = Check::new(
    "filter-batches",
    "The verdicts are the same at batches of 1, 7 and 256.",
);
const REPEATABLE: Check = Check::new(
    "filter-repeatable",
    "A fresh instance gives the same verdicts, and asks the same of models.",
);
const RESTORE: Check = Check::new(
    "filter-restore",
    "Stateful: an instance rebuilt from its verdicts goes on as the one that gave them.",
);
const ORDER: Check = Check::new(
    "filter-order",
    "Stateless: a record has the same verdict whatever came before it.",
);
const ROLES: Check = Check::new(
    "filter-roles",
    "It asks no model and no server whose capability it does not declare.",
);

pub(super) const CHECKS: [Check; 8] = [
    ANY_RECORD,
    EMPTY_BATCH,
    FORM,
    BATCHES,
    REPEATABLE,
    RESTORE,
    ORDER,
    ROLES,
];

/// Batches that verdicts must not depend on.
const SIZES: [usize; 3] = [1, 7, 256];

/// A filter, and the seeds that it starts with.
struct Subject<'a> {
    plugin: &'a Loaded,
    seeds: &'a [Task],
    replies: Arc<Replies>,
}

/// What an instance said of records, and asked on the way.
struct Said {
    verdicts: Vec<Verdict>,
    asked: Vec<Asked>,
    denied: Vec<String>,
}

impl Subject<'_> {
    async fn instance(&self) -> Result<Box<dyn Instance>, String> {
        let instance = self.plugin.instance(self.seeds).await;
        instance.map_err(|error| format!("a fresh instance: {error}"))
    }

    /// Most records in a call that a run makes.
    fn limit(&self) -> usize {
        match self.plugin.description.batch_limit as usize {
            _ if self.asks_models() => 1,
            0 => usize::MAX,
            limit => limit,
        }
    }

    fn asks_models(&self) -> bool {
        !self.plugin.description.capabilities.is_empty()
    }

    async fn batch(
        &self,
        instance: &mut dyn Instance,
        batch: &[Candidate],
    ) -> Result<Said, CallError> {
        let calls = Arc::new(ScriptedCalls::new(self.plugin, &self.replies));
        let verdicts = instance
            .judge_batch(batch.to_vec(), calls.clone(), 1)
            .await?;
        check_verdicts(&verdicts, batch.len())?;
        Ok(Said {
            verdicts,
            asked: calls.asked(),
            denied: calls.denied(),
        })
    }

    /// Judges records on one instance, in batches of `size`.
    async fn judge(
        &self,
        instance: &mut dyn Instance,
        records: &[Candidate],
        size: usize,
    ) -> Result<Said, String> {
        let size = size.min(self.limit());
        let mut all = Said {
            verdicts: Vec::with_capacity(records.len()),
            asked: Vec::new(),
            denied: Vec::new(),
        };
        for batch in records.chunks(size) {
            let said = self.batch(instance, batch).await.map_err(|error| {
                let (first, count) = (all.verdicts.len() + 1, batch.len());
                format!("the batch of {count} from record {first} on: {error}")
            })?;
            all.verdicts.extend(said.verdicts);
            all.asked.extend(said.asked);
            all.denied.extend(said.denied);
        }
        Ok(all)
    }

    async fn judge_afresh(&self, records: &[Candidate], size: usize) -> Result<Said, String> {
        let mut instance = self.instance().await?;
        self.judge(&mut *instance, records, size).await
    }
}

pub(super) async fn check(plugin: &Loaded, seeds: &[Task], report: &mut Report) {
    let subject = Subject {
        plugin,
        seeds,
        replies: corpus::replies(),
    };
    report.add(ANY_RECORD, any_record(&subject).await);
    report.add(EMPTY_BATCH, empty_batch(&subject).await);
    let records = corpus::ordinary();
    let first = match subject.judge_afresh(&records, SIZES[0]).await {
        Ok(said) => said,
        Err(error) => {
            report.add(FORM, Err(error));
            report.skip_all(&CHECKS[3..], "the records of these checks broke the filter");
            return;
        }
    };
    report.add(FORM, form(&records, seeds, &first.verdicts));
    if subject.asks_models() {
        report.skip(
            BATCHES,
            "a filter that asks models is given one record at a time",
        );
    } else {
        report.add(BATCHES, batches(&subject, &records, &first).await);
    }
    report.add(REPEATABLE, repeatable(&subject, &records, &first).await);
    if plugin.description.stateful {
        report.add(RESTORE, restore(&subject, &records, &first).await);
        report.skip(ORDER, "the filter is stateful");
    } else {
        report.skip(RESTORE, "the filter is stateless");
        report.add(ORDER, order(&subject, &records, &first).await);
    }
    report.add(
        ROLES,
        match first.denied.first() {
            Some(capability) => Err(format!("it uses `{capability}` and does not declare it")),
            None => Ok(()),
        },
    );
}

async fn any_record(subject: &Subject<'_>) -> Result<(), String> {
    let mut instance = subject.instance().await?;
    for (name, record) in corpus::odd() {
        let said = subject.batch(&mut *instance, std::slice::from_ref(&record));
        match said.await {
            // A model that was not there is not the record's fault.
            Err(CallError::Plugin(_)) if subject.asks_models() => {}
            Err(error) => return Err(format!("{name}: {error}")),
            Ok(_) => {}
        }
    }
    Ok(())
}

async fn empty_batch(subject: &Subject<'_>) -> Result<(), String> {
    let mut instance = subject.instance().await?;
    let said = subject.batch(&mut *instance, &[]).await;
    said.map(|_| ()).map_err(|error| error.to_string())
}

/// A record for a person: its number and how it begins.
fn named(number: usize, record: &Candidate) -> String {
    let text = match &record.payload {
        Payload::Task(task) => &task.instruction,
        Payload::Chat(messages) => messages.first().map_or("", |message| &message.content),
    };
    format!("record {} (\"{:.60}\")", number + 1, text)
}

fn form(records: &[Candidate], seeds: &[Task], verdicts: &[Verdict]) -> Result<(), String> {
    let mut before: BTreeSet<(u64, u32)> = BTreeSet::new();
    for (number, (record, verdict)) in records.iter().zip(verdicts).enumerate() {
        let wrong = |what: String| Err(format!("{}: {what}", named(number, record)));
        if !is_kebab_case(&verdict.code) {
            return wrong(format!("the code is \"{}\"", verdict.code));
        }
        for (place, score) in verdict.scores.iter().enumerate() {
            if score.name.is_empty() {
                return wrong("a score has no name".into());
            }
            if verdict.scores[..place].iter().any(|s| s.name == score.name) {
                return wrong(format!("two scores are called `{}`", score.name));
            }
        }
        match verdict.nearest.as_ref().map(|nearest| &nearest.origin) {
            Some(Origin::Seed(line)) if *line as usize >= seeds.len() => {
                let count = seeds.len();
                return wrong(format!(
                    "nearest is seed {line}, and there are {count} seeds"
                ));
            }
            Some(Origin::Candidate(CandidateId { unit, n })) if !before.contains(&(*unit, *n)) => {
                return wrong(format!(
                    "nearest is candidate {unit}.{n}, which did not come before it"
                ));
            }
            _ => {}
        }
        before.insert((record.id.unit, record.id.n));
    }
    Ok(())
}

/// The first record of which two instances do not say the same.
fn same(records: &[Candidate], expected: &[Verdict], actual: &[Verdict]) -> Result<(), String> {
    let pairs = expected.iter().zip(actual).zip(records).enumerate();
    for (number, ((expected, actual), record)) in pairs {
        if expected != actual {
            let found = differences(&lines::verdict(expected), &lines::verdict(actual));
            return Err(format!("{}: {}", named(number, record), found.join("; ")));
        }
    }
    Ok(())
}

async fn batches(subject: &Subject<'_>, records: &[Candidate], first: &Said) -> Result<(), String> {
    for size in &SIZES[1..] {
        let said = subject.judge_afresh(records, *size).await;
        said.and_then(|said| same(records, &first.verdicts, &said.verdicts))
            .map_err(|error| format!("batches of {size}: {error}"))?;
    }
    Ok(())
}

async fn repeatable(
    subject: &Subject<'_>,
    records: &[Candidate],
    first: &Said,
) -> Result<(), String> {
    let again = subject.judge_afresh(records, SIZES[0]).await?;
    same(records, &first.verdicts, &again.verdicts)?;
    if again.asked == first.asked {
        return Ok(());
    }
    let differ = first
        .asked
        .iter()
        .zip(&again.asked)
        .position(|(a, b)| a != b);
    let number = differ.unwrap_or(first.asked.len().min(again.asked.len()));
    Err(format!(
        "request {} differs from that of the first instance",
        number + 1
    ))
}

async fn restore(subject: &Subject<'_>, records: &[Candidate], first: &Said) -> Result<(), String> {
    let history = records.iter().zip(&first.verdicts);
    let history: Vec<Judged> = history
        .map(|(candidate, verdict)| Judged {
            candidate: candidate.clone(),
            verdict: verdict.clone(),
        })
        .collect();
    for cut in [0, 1, 7, records.len() / 2, records.len() - 1] {
        let after = |error: String| format!("rebuilt after {cut} records: {error}");
        let mut instance = subject.instance().await?;
        let restored = instance.restore(history[..cut].to_vec()).await;
        restored.map_err(|error| after(error.to_string()))?;
        let said = subject
            .judge(&mut *instance, &records[cut..], SIZES[0])
            .await;
        said.and_then(|said| same(&records[cut..], &first.verdicts[cut..], &said.verdicts))
            .map_err(after)?;
    }
    Ok(())
}

async fn order(subject: &Subject<'_>, records: &[Candidate], first: &Said) -> Result<(), String> {
    let mut backwards = records.to_vec();
    backwards.reverse();
    let mut said = subject.judge_afresh(&backwards, SIZES[0]).await?;
    said.verdicts.reverse();
    same(records, &first.verdicts, &said.verdicts)
        .map_err(|error| format!("in the reverse order: {error}"))
}
