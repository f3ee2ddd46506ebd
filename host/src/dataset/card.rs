//! `dataset/README.md`: the card that the Hugging Face hub shows, and a person reads first.
//!
//! Only what is the same however often a run was interrupted goes into it: figures of the
//! funnel, none of attempts, money or time.

use std::fmt::Write;

use super::About;
use crate::ledger::{Ledger, LedgerError};

/// Examples written.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) examples: u64,
    pub(super) alpaca_examples: u64,
}

const LIMITS: &str = "\
- Language models wrote the tasks and the answers, and no person has checked them. Expect false
  statements, wrong calculations, code that does not run, made-up names, links and sources, and
  answers that miss the question.
- A model trained on them learns their errors and the teacher's bias, style and refusals.
- Repetitions and bad examples were taken out only as far as the filters above recognise them.
- Nothing was done to keep out tasks of public benchmarks, personal data, or text that the
  teacher knows by heart from a protected work.
- An example is no advice: least of all in medicine, law, money or safety.
";

const COLUMNS: &str = "\
| Column | In `dataset.parquet` | Meaning |
| --- | --- | --- |
| `id` | string | `UNIT-N`: candidate N of unit UNIT, as in the run's ledger |
| `unit`, `n` | int64 | the same as numbers (Parquet only) |
| `instruction`, `input`, `output` | string | the task; an empty `input` means that there is none. Absent for conversations |
| `messages` | JSON string | the conversation: a list of `role` and `content`. Absent for tasks |
| `parents` | JSON string | what it was made from: `seed-LINE` (counted from 0) or the `id` of a candidate |
| `attributes` | JSON string | what the generator noted: a list of `name` and `value` |
| `verdicts` | JSON string | what each filter said, in order: `plugin`, `decision`, `code`, `scores`, and `nearest`, the neighbour it came nearest to |
| `edited` | boolean | a filter changed what the teacher wrote |
| `source` | `source_*` | the reply that it was read from: `model`, `request_key` in the ledger, `ordinal` of the request in its unit, and the bytes `start` to `end` of the reply |
";

const LOADING: &str = r#"
```python
from datasets import load_dataset
dataset = load_dataset("PATH/TO/dataset", split="train")

import pandas
frame = pandas.read_parquet("PATH/TO/dataset/dataset.parquet")

import json
with open("PATH/TO/dataset/alpaca_data.json") as file:
    tasks = json.load(file)
```
"#;

/// The whole card.
pub(super) fn text(ledger: &Ledger, about: &About, counts: Counts) -> Result<String, LedgerError> {
    let funnel = ledger.read("reading the funnel", |c| {
        c.prepare(
            "SELECT stage, what, code, count FROM funnel ORDER BY step, what, count DESC, stage, code",
        )?
        .query_map([], |r| {
            let count: i64 = r.get(3)?;
            Ok([r.get(0)?, r.get(1)?, r.get(2)?, count.to_string()])
        })?
        .collect::<Result<Vec<[String; 4]>, _>>()
    })?;
    let mut card = String::new();
    write_card(&mut card, about, counts, &funnel).expect("a string takes all that is written");
    Ok(card)
}

fn write_card(
    card: &mut String,
    about: &About,
    counts: Counts,
    funnel: &[[String; 4]],
) -> std::fmt::Result {
    front_matter(card, about, counts.examples)?;
    let Counts {
        examples,
        alpaca_examples,
    } = counts;
    let (recipe, version) = (inline(&about.recipe), env!("CARGO_PKG_VERSION"));
    writeln!(
        card,
        "\n# {recipe}\n\n\
         Examples for teaching a language model to follow instructions: {examples}, written by a\n\
         machine and checked by nobody.\n\n\
         ## How they were made\n\n\
         The recipe `{recipe}` was run with Pacos {version}. A generator plugin asked a teacher model\n\
         for new tasks and their answers and read them out of its replies; filter plugins judged\n\
         each one, in the order below. What every filter kept is here, in the order in which it was\n\
         made.\n\n\
         Seed tasks: {}\n",
        or(&inline(&about.seeds), "not described")
    )?;
    let made_by = about.plugins.iter();
    let made_by = made_by.filter(|plugin| !plugin.stage.starts_with("evaluators"));
    table(
        card,
        ["Stage", "Plugin", "SHA-256 of its file"],
        made_by.map(|plugin| {
            [
                plugin.stage.as_str(),
                &plugin.title,
                &format!("`{}`", plugin.sha256),
            ]
            .map(inline)
        }),
    )?;
    card.push_str("\nWhat became of what the teacher wrote:\n\n");
    table(
        card,
        ["Stage", "What", "Reason", "Count"],
        funnel
            .iter()
            .map(|row| row.each_ref().map(|text| inline(text))),
    )?;
    card.push_str("\n## Licence and terms\n\n");
    match &about.license {
        Some(license) => writeln!(card, "Licence: {}.\n", inline(license))?,
        None => card.push_str(
            "The recipe states no licence; whoever gives this dataset on has to choose one.\n\n",
        ),
    }
    card.push_str(
        "These models took part. Their licences and their providers' terms can limit what may be\n\
         done with their replies, training other models included: read them before you train on\n\
         this dataset or give it on.\n\n",
    );
    table(
        card,
        ["Role", "Model", "Provider", "Licence or terms"],
        about.models.iter().map(|model| {
            [
                &model.roles.join(", "),
                &model.model,
                &model.provider,
                model.terms.as_deref().unwrap_or("not stated in the recipe"),
            ]
            .map(inline)
        }),
    )?;
    write!(card, "\n## Known limits\n\n{LIMITS}\n")?;
    writeln!(
        card,
        "## Files\n\n\
         - `dataset.parquet`: {examples} examples with their provenance\n\
         - `dataset.jsonl`: the same, one JSON object a line, with `source` and the JSON columns nested\n\
         - `alpaca_data.json`: {alpaca_examples} examples in the form of Stanford's file of that name{}\n",
        match examples - alpaca_examples {
            0 => String::new(),
            left => format!(
                ".\n  Left out: {left}, conversations other than one question and one answer"
            ),
        }
    )?;
    write!(card, "{COLUMNS}{LOADING}")?;
    let fence = "`".repeat(longest_run(&about.manifest, '`').max(2) + 1);
    let manifest = about.manifest.trim_end();
    write!(
        card,
        "\n## The recipe in full\n\n{fence}toml\n{manifest}\n{fence}\n"
    )
}

/// What the hub reads: <https://huggingface.co/docs/hub/datasets-cards>.
fn front_matter(card: &mut String, about: &About, examples: u64) -> std::fmt::Result {
    // A JSON string is a YAML string.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    card.push_str("---\n");
    match &about.license {
        None => card.push_str("license: unknown\n"),
        Some(license) if is_identifier(license) => {
            writeln!(card, "license: {}", license.to_ascii_lowercase())?;
        }
        Some(license) => writeln!(card, "license: other\nlicense_name: {}", quoted(license))?,
    }
    writeln!(
        card,
        "pretty_name: {}\n\
         task_categories:\n- text-generation\n\
         tags:\n- instruction-tuning\n- synthetic\n- alpaca\n- pacos\n\
         size_categories:\n- {}\n\
         configs:\n- config_name: default\n  data_files: dataset.parquet\n---",
        quoted(&about.recipe),
        size_category(examples)
    )
}

/// Whether a licence can be a value of the hub's `license`, such as `apache-2.0`.
fn is_identifier(license: &str) -> bool {
    license.starts_with(|c: char| c.is_ascii_alphabetic())
        && license
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
}

/// The hub's classes of size.
fn size_category(examples: u64) -> &'static str {
    match examples {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        _ => "n>10M",
    }
}

fn table<const N: usize>(
    card: &mut String,
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> std::fmt::Result {
    writeln!(card, "| {} |\n|{}", head.join(" | "), " --- |".repeat(N))?;
    for row in rows {
        writeln!(card, "| {} |", row.join(" | "))?;
    }
    Ok(())
}

/// Text from a plugin or a manifest, on one line, unable to end a table's cell or begin HTML.
fn inline(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('|', "\\|").replace('<', "&lt;")
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

fn longest_run(text: &str, of: char) -> usize {
    text.split(|c| c != of).map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_break_the_card() {
        let about = About {
            recipe: "a: \"b\"\n---\n# |c| <script>".into(),
            license: Some("My own: terms\nx".into()),
            manifest: "x = '''````\n# not a heading'''\n\n".into(),
            ..About::default()
        };
        let mut card = String::new();
        let row = ["f|1\n", "drop", "<b>", "2"].map(str::to_owned);
        write_card(&mut card, &about, Counts::default(), &[row]).unwrap();
        assert!(card.starts_with(
            "---\nlicense: other\nlicense_name: \"My own: terms\\nx\"\npretty_name: \"a: \\\"b\\\"\\n---\\n# |c| <script>\"\n"
        ));
        assert!(card.contains("\n# a: \"b\" --- # \\|c\\| &lt;script>\n"));
        assert!(card.contains("\n| f\\|1 | drop | &lt;b> | 2 |\n"));
        assert!(card.ends_with("\n`````toml\nx = '''````\n# not a heading'''\n`````\n"));
    }

    #[test]
    fn a_licence_of_the_hub_is_named_as_the_hub_names_it() {
        let license = |license: Option<&str>| {
            let mut card = String::new();
            let about = About {
                license: license.map(str::to_owned),
                ..About::default()
            };
            front_matter(&mut card, &about, 52_002).unwrap();
            assert!(card.contains("\nsize_categories:\n- 10K<n<100K\n"));
            card.lines().nth(1).unwrap().to_owned()
        };
        assert_eq!(license(Some("CC-BY-NC-4.0")), "license: cc-by-nc-4.0");
        assert_eq!(license(Some("see the file")), "license: other");
        assert_eq!(license(None), "license: unknown");
    }
}
