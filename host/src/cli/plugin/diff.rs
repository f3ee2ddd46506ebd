//! `pacos plugin diff`.

use std::{collections::BTreeMap, fmt::Write, path::PathBuf, sync::Arc};

use anyhow::anyhow;
use clap::Args;
use pacos_plugin::{Candidate, Error, Judged, Origin, Payload, Task, Verdict};
use serde_json::json;

use super::subject::{PLUGIN, SubjectArgs, USAGE};
use crate::{
    cli::{Failed, recorded},
    counted::counted,
    kit::{Disagreement, Driver, Judging, Recorded, Verdicts, script::Replies},
    ledger::{Ledger, LedgerError},
    plugin::{CallError, Stage},
};

/// Compare two filters over the candidates of a run: what each keeps that the other drops
///
/// Nothing is asked, paid or written: a filter that asks models or servers is answered from the
/// run's record, and where it asks what the run never asked, that is said. A filter is the name of a bundled one, a path, or
/// `filters.N`: what the filter at that place of the recipe, counted from 0, said in the run
/// itself; the other filter is then given what that one saw. Otherwise both are given everything
/// that was proposed.
#[derive(Args)]
pub(super) struct DiffArgs {
    /// A filter
    a: String,
    /// Another filter
    b: String,
    /// Directory of the run, or its manifest [default: the newest under runs]
    #[arg(long)]
    run: Option<PathBuf>,
    /// The first filter's own table, as TOML: 'words = 3'
    #[arg(long, value_name = "TOML")]
    config_a: Option<String>,
    /// The second filter's own table
    #[arg(long, value_name = "TOML")]
    config_b: Option<String>,
    /// The files are dynamic libraries, and may do anything that you may do
    #[arg(long)]
    trust_native: bool,
    /// How many candidates to show of each kind
    #[arg(long, default_value_t = 5)]
    show: usize,
    /// Print every candidate that they disagree on as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn diff(args: DiffArgs) -> Result<(), Failed> {
    let (dir, ledger) = recorded::open(args.run.as_deref())?;
    let disk = |error: LedgerError| Failed::Other(error.into(), 5);
    let places = [place(&args.a)?, place(&args.b)?];
    let recorded: Option<Vec<Judged>> = match places {
        [Some(_), Some(_)] => {
            let text = "two filters of the run itself saw different candidates: name one of them, and a plugin";
            return Err(Failed::Other(anyhow!(text), USAGE));
        }
        [Some(place), None] | [None, Some(place)] => {
            let history = ledger.history(place).map_err(disk)?;
            if history.is_empty() {
                let text = format!(
                    "the run in {} has no verdicts of filters.{place}",
                    dir.display()
                );
                return Err(Failed::Other(anyhow!(text), USAGE));
            }
            Some(history)
        }
        [None, None] => None,
    };
    let candidates = match &recorded {
        Some(history) => history
            .iter()
            .map(|judged| judged.candidate.clone())
            .collect(),
        None => ledger.candidates().map_err(disk)?,
    };
    if candidates.is_empty() {
        let text = format!("the run in {} has no candidates yet", dir.display());
        return Err(Failed::Other(anyhow!(text), USAGE));
    }
    let seeds = seeds(&ledger).map_err(disk)?;
    let mut sides = Vec::new();
    for (name, config, place) in [
        (&args.a, &args.config_a, places[0]),
        (&args.b, &args.config_b, places[1]),
    ] {
        sides.push(match (place, &recorded) {
            (Some(_), Some(history)) => {
                let verdicts = history.iter().map(|judged| Ok(judged.verdict.clone()));
                (format!("{name}, as recorded"), verdicts.collect())
            }
            _ => {
                let subject = SubjectArgs::of(name, config.clone(), args.trust_native);
                judge(&subject, &seeds, &candidates, &ledger).await?
            }
        });
    }
    let (b, a) = (sides.pop(), sides.pop());
    let (Some((a_title, a)), Some((b_title, b))) = (a, b) else {
        unreachable!("there are two sides");
    };
    let found = Disagreement::between(&candidates, &a, &b);
    if args.json {
        println!(
            "{}",
            as_json(&candidates, [(&a_title, &a), (&b_title, &b)], &found)
        );
        return Ok(());
    }
    println!("A  {a_title}\nB  {b_title}");
    let count = counted(candidates.len(), "candidate", "candidates");
    println!("{count} of {}\n", dir.display());
    println!("{:12} {:>9} {:>9}", "", "B keeps", "B drops");
    let both = found.both_keep + found.other_form.len();
    println!("{:12} {both:>9} {:>9}", "A keeps", found.only_a.len());
    println!(
        "{:12} {:>9} {:>9}",
        "A drops",
        found.only_b.len(),
        found.both_drop
    );
    let show = |title: &str, places: &[usize], why: &Verdicts| {
        if !places.is_empty() {
            print!("{}", section(title, places, &candidates, why, args.show));
        }
    };
    show("A keeps, B drops", &found.only_a, &b);
    show("B keeps, A drops", &found.only_b, &a);
    show("Kept by both, in different forms", &found.other_form, &b);
    if !found.broken.is_empty() {
        println!(
            "\nBreak a filter, or have it ask what the run never asked, and are counted nowhere above: {}",
            found.broken.len()
        );
        for &place in found.broken.iter().take(args.show) {
            let error = a[place].as_ref().err().or(b[place].as_ref().err());
            let error = error.map(ToString::to_string).unwrap_or_default();
            println!("  {}  {error}", title(&candidates[place]));
        }
    }
    Ok(())
}

/// `filters.N`.
fn place(name: &str) -> Result<Option<u32>, Failed> {
    let Some(number) = name.strip_prefix("filters.") else {
        return Ok(None);
    };
    number.parse().map(Some).map_err(|_| {
        let text = format!("`{name}`: expected filters.N, N being a number from 0");
        Failed::Other(anyhow!(text), USAGE)
    })
}

fn seeds(ledger: &Ledger) -> Result<Vec<Task>, LedgerError> {
    let Some(text) = ledger.meta("seeds")? else {
        return Ok(Vec::new());
    };
    serde_json::from_str(&text).map_err(|error| LedgerError::Damaged(format!("seeds: {error}")))
}

/// Runs a filter over candidates, with nobody to ask but the record of the run.
async fn judge(
    subject: &SubjectArgs,
    seeds: &[Task],
    candidates: &[Candidate],
    ledger: &Ledger,
) -> Result<(String, Verdicts), Failed> {
    let loaded = subject.load().await?;
    if loaded.stage != Stage::Filter {
        let text = format!(
            "{} is a {}, and filters are compared",
            loaded.title(),
            loaded.stage
        );
        return Err(Failed::Other(anyhow!(text), PLUGIN));
    }
    let recorded = Recorded::of(ledger).map_err(|error| Failed::Other(error.into(), 5))?;
    let replies = Arc::new(Replies::Recorded(recorded));
    let driver = Driver {
        plugin: &loaded,
        seeds,
        replies: replies.clone(),
    };
    let mut judging = Judging::new(driver);
    let mut verdicts = Vec::with_capacity(candidates.len());
    for batch in candidates.chunks(judging.batch_limit()) {
        let judged = judging.judge(batch).await;
        // One that asks has batches of one. What it makes of a reply that is not there is nothing
        // that it would say in a run.
        match &*replies {
            Replies::Recorded(recorded) if batch.len() == 1 => {
                let missing = recorded.take_missing();
                verdicts.extend(judged.into_iter().map(|verdict| match &missing {
                    Some(what) => Err(CallError::Plugin(Error::new("not-recorded", what.clone()))),
                    None => verdict,
                }));
            }
            _ => verdicts.extend(judged),
        }
    }
    Ok((loaded.title(), verdicts))
}

/// The candidates of one kind: the reasons with their counts, then the first few.
fn section(
    heading: &str,
    places: &[usize],
    candidates: &[Candidate],
    why: &Verdicts,
    show: usize,
) -> String {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for &place in places {
        if let Ok(verdict) = &why[place] {
            *reasons.entry(&verdict.code).or_default() += 1;
        }
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let reasons: Vec<String> = reasons
        .iter()
        .map(|(code, count)| format!("{count} {code}"))
        .collect();
    let mut text = format!("\n{heading}: {}\n", reasons.join(", "));
    for &place in places.iter().take(show) {
        let why = why[place].as_ref().map(reason).unwrap_or_default();
        let candidate = &candidates[place];
        // A line each, in writing that cannot fail.
        let _ = writeln!(
            text,
            "  {:>8}  {}\n            {why}",
            id(candidate),
            title(candidate)
        );
    }
    if places.len() > show {
        let _ = writeln!(text, "  and {} more (--show, --json)", places.len() - show);
    }
    text
}

fn id(candidate: &Candidate) -> String {
    format!("{}.{}", candidate.id.unit, candidate.id.n)
}

/// The beginning of what the candidate asks, on one line.
fn title(candidate: &Candidate) -> String {
    let text = match &candidate.payload {
        Payload::Task(task) => &task.instruction,
        Payload::Chat(messages) => match messages.iter().find(|m| m.role == "user") {
            Some(message) => &message.content,
            None => "",
        },
    };
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(90) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn reason(verdict: &Verdict) -> String {
    let mut text = verdict.code.clone();
    if !verdict.message.is_empty() {
        text = format!("{text}: {}", verdict.message);
    }
    if let Some(nearest) = &verdict.nearest {
        let origin = match nearest.origin {
            Origin::Seed(index) => format!("seed {index}"),
            Origin::Candidate(id) => format!("{}.{}", id.unit, id.n),
        };
        text = format!("{text} ({:.3} of {origin})", nearest.score);
    }
    text
}

fn as_json(
    candidates: &[Candidate],
    sides: [(&str, &Verdicts); 2],
    found: &Disagreement,
) -> serde_json::Value {
    let verdict = |verdicts: &Verdicts, place: usize| match &verdicts[place] {
        Ok(verdict) => json!(verdict),
        Err(error) => json!({ "error": error.to_string() }),
    };
    let list = |places: &[usize]| -> Vec<_> {
        let entry = |&place: &usize| {
            json!({
                "unit": candidates[place].id.unit,
                "n": candidates[place].id.n,
                "payload": candidates[place].payload,
                "a": verdict(sides[0].1, place),
                "b": verdict(sides[1].1, place),
            })
        };
        places.iter().map(entry).collect()
    };
    json!({
        "a": sides[0].0,
        "b": sides[1].0,
        "candidates": candidates.len(),
        "both_keep": found.both_keep,
        "both_drop": found.both_drop,
        "only_a": list(&found.only_a),
        "only_b": list(&found.only_b),
        "other_form": list(&found.other_form),
        "broken": list(&found.broken),
    })
}
