//! `pacos plugin run`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, anyhow};
use clap::Args;
use pacos_plugin::{Candidate, Item};
use serde_json::{Value, json};

use super::subject::{self, PLUGIN, SubjectArgs, USAGE};
use crate::{
    cli::{Failed, output},
    counted::counted,
    kit::{Driver, Judging, lines},
    plugin::{Loaded, Stage},
};

/// Feed a plugin JSON Lines and print what it makes of them
///
/// A filter takes records, {"instruction": …, "input": …, "output": …} or {"messages": […]}, and
/// brings a verdict for each; an evaluator takes tasks with "answers", and brings judgements, and
/// at the end metrics; a generator takes no lines and does --units units. Each line that comes out
/// names the line that it is about. A line that cannot be read, and a record that breaks the
/// plugin, bring a line with "error", and the rest goes on; the exit code then is 2 or 4.
#[derive(Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    subject: SubjectArgs,
    /// The lines; standard input if absent or -
    input: Option<PathBuf>,
    /// Generators: how many units
    #[arg(long, default_value_t = 1)]
    units: u64,
    /// Seed tasks, as JSON Lines; `bundled` are those inside this binary
    #[arg(long, value_name = "FILE")]
    seeds: Option<PathBuf>,
    /// What the models say, one reply a line: "…", {"text": …, "finish_reason": "length"} or
    /// {"error": "no-answer", "message": …}
    #[arg(long, value_name = "FILE")]
    replies: Option<PathBuf>,
    /// How long a component may compute over one record; a record that takes longer is tried once
    /// more with four times the time. Recipes allow 30, or what their `limits` say
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    compute_seconds: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().ok().filter(|seconds| *seconds > 0.0);
    number
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "expected a number of seconds above 0, such as 2.5".to_owned())
}

pub(super) async fn run(args: RunArgs) -> Result<(), Failed> {
    let seeds = subject::seeds(args.seeds.as_deref())?;
    let replies = subject::replies(args.replies.as_deref())?;
    let loaded = args.subject.load_within(args.compute_seconds).await?;
    if args.replies.is_none() && !loaded.description.capabilities.is_empty() {
        eprintln!(
            "note: {} uses {}; without --replies FILE every request fails",
            loaded.title(),
            loaded.description.capabilities.join(", ")
        );
    }
    let driver = Driver {
        plugin: &loaded,
        seeds: &seeds,
        replies,
    };
    let mut output = Output {
        out: io::stdout().lock(),
        bad_lines: 0,
        broken: 0,
    };
    match loaded.stage {
        Stage::Generator => {
            if args.input.is_some() {
                let text = "a generator takes no lines: say how many units with --units";
                return Err(Failed::Other(anyhow!(text), USAGE));
            }
            generate(&driver, args.units, &mut output).await?;
        }
        Stage::Filter => filter(driver, Input::open(args.input)?, &mut output).await?,
        Stage::Evaluator => evaluate(&driver, Input::open(args.input)?, &mut output).await?,
    }
    output.outcome(&loaded)
}

/// Lines with their numbers.
struct Input {
    name: String,
    lines: Box<dyn BufRead>,
    number: usize,
    /// How many records there were, bad ones and all.
    records: usize,
}

/// A line of the input: its number, and what was read in it.
struct Line<T> {
    number: usize,
    read: Result<T, String>,
}

impl Input {
    fn open(path: Option<PathBuf>) -> Result<Self, Failed> {
        let (name, lines): (_, Box<dyn BufRead>) = match path {
            Some(path) if path.as_os_str() != "-" => {
                let file = File::open(&path)
                    .with_context(|| format!("cannot read {}", path.display()))
                    .map_err(|error| Failed::Other(error, USAGE))?;
                (path.display().to_string(), Box::new(BufReader::new(file)))
            }
            _ => ("standard input".into(), Box::new(io::stdin().lock())),
        };
        Ok(Input {
            name,
            lines,
            number: 0,
            records: 0,
        })
    }

    /// The next line that is not blank.
    fn next<T>(
        &mut self,
        read: impl Fn(&Value, usize) -> Result<T, String>,
    ) -> Result<Option<Line<T>>, Failed> {
        loop {
            let mut bytes = Vec::new();
            let count = self
                .lines
                .read_until(b'\n', &mut bytes)
                .with_context(|| format!("cannot read {}", self.name))
                .map_err(|error| Failed::Other(error, USAGE))?;
            if count == 0 {
                return Ok(None);
            }
            self.number += 1;
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let record = self.records;
            self.records += 1;
            let text = str::from_utf8(bytes.trim_ascii()).map_err(|_| "not UTF-8".to_owned());
            let read = text
                .and_then(lines::parse)
                .and_then(|value| read(&value, record));
            if let Err(error) = &read {
                eprintln!("{}:{}: {error}", self.name, self.number);
            }
            return Ok(Some(Line {
                number: self.number,
                read,
            }));
        }
    }
}

struct Output {
    out: io::StdoutLock<'static>,
    bad_lines: usize,
    broken: usize,
}

impl Output {
    /// Prints one line: its number, then what is said of it.
    fn print(&mut self, key: &str, number: u64, said: Value) -> Result<(), Failed> {
        let mut line = serde_json::Map::new();
        line.insert(key.into(), number.into());
        if let Value::Object(fields) = said {
            line.extend(fields);
        }
        self.write(&Value::Object(line))
    }

    fn write(&mut self, line: &Value) -> Result<(), Failed> {
        match writeln!(self.out, "{line}") {
            Ok(()) => Ok(()),
            Err(error) => output::ended(&error),
        }
    }

    fn bad_line(&mut self, number: usize, error: String) -> Result<(), Failed> {
        self.bad_lines += 1;
        self.print(
            "line",
            number as u64,
            json!({ "error": "bad-line", "message": error }),
        )
    }

    /// Whether all went well.
    fn outcome(&self, loaded: &Loaded) -> Result<(), Failed> {
        let (broken, bad) = (self.broken, self.bad_lines);
        let title = loaded.title();
        match (broken, bad) {
            (0, 0) => Ok(()),
            (0, bad) => Err(Failed::Other(
                anyhow!(
                    "{} could not be read; the others went through",
                    counted(bad, "line", "lines")
                ),
                USAGE,
            )),
            (broken, _) => Err(Failed::Other(
                anyhow!(
                    "{title} failed {}; the lines with \"error\" say how",
                    counted(broken, "time", "times")
                ),
                PLUGIN,
            )),
        }
    }
}

async fn generate(driver: &Driver<'_>, units: u64, output: &mut Output) -> Result<(), Failed> {
    for index in 0..units {
        let said = match driver.unit(lines::unit_number(index), Vec::new()).await {
            Ok((proposals, requests)) => lines::proposals(&proposals, requests),
            Err(error) => {
                output.broken += 1;
                lines::failure(&error)
            }
        };
        output.print("unit", index, said)?;
    }
    Ok(())
}

async fn filter(driver: Driver<'_>, mut input: Input, output: &mut Output) -> Result<(), Failed> {
    let mut judging = Judging::new(driver);
    let limit = judging.batch_limit();
    loop {
        let mut batch: Vec<Line<Candidate>> = Vec::new();
        while batch.len() < limit {
            match input.next(lines::candidate)? {
                Some(line) => batch.push(line),
                None => break,
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let records: Vec<Candidate> = batch
            .iter()
            .filter_map(|line| line.read.as_ref().ok().cloned())
            .collect();
        let mut verdicts = judging.judge(&records).await.into_iter();
        for line in batch {
            if let Err(error) = line.read {
                output.bad_line(line.number, error)?;
                continue;
            }
            let verdict = verdicts
                .next()
                .expect("there is a verdict or an error for each record");
            let said = match verdict {
                Ok(verdict) => lines::verdict(&verdict),
                Err(error) => {
                    output.broken += 1;
                    lines::failure(&error)
                }
            };
            output.print("line", line.number as u64, said)?;
        }
    }
}

async fn evaluate(
    driver: &Driver<'_>,
    mut input: Input,
    output: &mut Output,
) -> Result<(), Failed> {
    let mut all = Vec::new();
    while let Some(Line { number, read }) = input.next::<Item>(lines::item)? {
        let item = match read {
            Ok(item) => item,
            Err(error) => {
                output.bad_line(number, error)?;
                continue;
            }
        };
        let said = match driver.item(item).await {
            Ok(judgements) => {
                let written: Vec<Value> = judgements.iter().map(lines::judgement).collect();
                all.extend(judgements);
                json!({ "judgements": written })
            }
            Err(error) => {
                output.broken += 1;
                lines::failure(&error)
            }
        };
        output.print("line", number as u64, said)?;
    }
    let said = match driver.summary(all).await {
        Ok(metrics) => {
            let written: Vec<Value> = metrics.iter().map(lines::metric).collect();
            json!({ "metrics": written })
        }
        Err(error) => {
            output.broken += 1;
            lines::failure(&error)
        }
    };
    output.write(&said)
}
