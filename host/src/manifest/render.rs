//! Problems as text for people.
//!
//! ```text
//! recipe.toml:12:10: error: `target` is 0, expected at least 1
//!    |
//! 12 | target = 0
//!    |          ^
//!    = help: write `target = 64`
//! ```

use unicode_width::UnicodeWidthChar;

use super::diagnostic::{Excerpt, Problem, Severity};

/// Columns of a source line that are shown; wrapped lines would tear carets from what they mark.
const MOST_COLUMNS: usize = 100;

/// All problems, a blank line between them, and their number if there is more than one.
pub(super) fn problems(problems: &[Problem], colour: bool) -> String {
    let paint = Paint { colour };
    let mut blocks: Vec<String> = problems.iter().map(|one| problem(one, paint)).collect();
    if let [first, _, ..] = problems {
        let one_file = problems.iter().all(|problem| problem.file == first.file);
        let place = if one_file {
            format!(" in {}", first.file)
        } else {
            String::new()
        };
        blocks.push(format!("{} problems{place}", problems.len()));
    }
    blocks.join("\n\n")
}

fn problem(problem: &Problem, paint: Paint) -> String {
    let place = match (&problem.override_text, &problem.span) {
        (Some(text), _) => format!("--set {text}"),
        (None, Some(span)) => format!("{}:{}:{}", problem.file, span.line, span.column),
        (None, None) => problem.file.clone(),
    };
    let severity = match problem.severity {
        Severity::Error => paint.red("error"),
        Severity::Warning => paint.yellow("warning"),
    };
    let number = match (&problem.override_text, &problem.span) {
        (None, Some(span)) => span.line.to_string(),
        _ => String::new(),
    };
    let gutter = " ".repeat(number.len() + 1);
    let mut text = format!(
        "{}: {severity}: {}",
        paint.bold(&printable(&place)),
        paint.bold(&printable(&problem.message).replace('\n', &format!("\n{gutter}  ")))
    );
    if let Some(excerpt) = &problem.excerpt {
        let bar = paint.blue("|");
        let (line, padding, carets) = marked_line(excerpt);
        let padding = " ".repeat(padding);
        let carets = paint.red(&"^".repeat(carets));
        let number = paint.blue(&number);
        text += &format!("\n{gutter}{bar}\n{number} {bar} {line}\n{gutter}{bar} {padding}{carets}");
    }
    if let Some(help) = &problem.help {
        let sign = paint.blue("=");
        let help = printable(help).replace('\n', &format!("\n{gutter}        "));
        text += &format!("\n{gutter}{sign} {}: {help}", paint.cyan("help"));
    }
    text
}

/// The line as shown, the columns before the mark, and those of the mark.
fn marked_line(excerpt: &Excerpt) -> (String, usize, usize) {
    let cells: Vec<(usize, String)> = excerpt
        .line
        .char_indices()
        .map(|(at, c)| (at, cell(c)))
        .collect();
    let width = |cells: &[(usize, String)]| -> usize {
        cells
            .iter()
            .flat_map(|(_, text)| text.chars())
            .map(|c| c.width().unwrap_or(0))
            .sum()
    };
    let before = cells.partition_point(|(at, _)| *at < excerpt.marked.start);
    let after = cells.partition_point(|(at, _)| *at < excerpt.marked.end);
    // Long lines lose their beginning first, then their end.
    let mut from = 0;
    while from < before && width(&cells[from..after.min(before + 20)]) > MOST_COLUMNS {
        from += 1;
    }
    let mut to = cells.len();
    while to > before + 1 && width(&cells[from..to]) > MOST_COLUMNS {
        to -= 1;
    }
    let shown: String = cells[from..to]
        .iter()
        .map(|(_, text)| text.as_str())
        .collect();
    let (head, tail) = (
        if from > 0 { "…" } else { "" },
        if to < cells.len() { "…" } else { "" },
    );
    let padding = width(&cells[from..before]) + head.chars().count();
    let carets = width(&cells[before..after.clamp(before, to.max(before))]).max(1);
    (format!("{head}{shown}{tail}"), padding, carets)
}

fn cell(c: char) -> String {
    match c {
        '\t' => "    ".to_owned(),
        c if c.is_control() => '\u{fffd}'.to_string(),
        c => c.to_string(),
    }
}

/// Text without the control characters that could steer a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

#[derive(Clone, Copy)]
struct Paint {
    colour: bool,
}

impl Paint {
    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn red(self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn yellow(self, text: &str) -> String {
        self.with("1;33", text)
    }

    fn blue(self, text: &str) -> String {
        self.with("1;34", text)
    }

    fn cyan(self, text: &str) -> String {
        self.with("36", text)
    }

    /// Wraps in "select graphic rendition" (ECMA-48, 8.3.117).
    fn with(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(line: &str, marked: &str) -> (String, usize, usize) {
        let start = line.find(marked).unwrap();
        marked_line(&Excerpt {
            line: line.to_owned(),
            marked: start..start + marked.len(),
        })
    }

    #[test]
    fn carets_stand_under_what_they_mark_in_any_script() {
        assert_eq!(excerpt("名前 = 5", "5"), ("名前 = 5".to_owned(), 7, 1));
        assert_eq!(excerpt("\tx = 55", "55"), ("    x = 55".to_owned(), 8, 2));
    }

    #[test]
    fn long_lines_are_cut_around_the_mark() {
        let line = format!("terms = \"{}\" # BAD {}", "a".repeat(300), "b".repeat(300));
        let (shown, padding, carets) = excerpt(&line, "BAD");
        assert!(shown.chars().count() <= MOST_COLUMNS + 2, "{shown}");
        assert_eq!(carets, 3);
        let marked: String = shown.chars().skip(padding).take(3).collect();
        assert_eq!(marked, "BAD");
        assert!(shown.starts_with('…') && shown.ends_with('…'), "{shown}");
    }

    #[test]
    fn nothing_in_a_manifest_steers_the_terminal() {
        assert_eq!(excerpt("x = \u{1b}[2J!", "!").0, "x = \u{fffd}[2J!");
        assert_eq!(printable("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }
}
