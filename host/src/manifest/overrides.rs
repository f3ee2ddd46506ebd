//! `--set KEY=VALUE`: values of the command line, laid over those of the file.

use toml::de::{DeTable, DeValue};

use super::tree::{Entry, Node, Origin, Place, Source, Value, from_toml};

/// What cannot be applied.
#[derive(Debug)]
pub(super) struct Refused {
    pub place: Place,
    pub message: String,
    pub help: String,
}

/// Lays `KEY=VALUE` over the tree. `index` is its place among the overrides.
pub(super) fn apply(root: &mut Node, text: &str, index: usize) -> Result<(), Refused> {
    let origin = Origin {
        source: Source::Override(index),
        offset: 0,
    };
    let refused = |span, message: String, help: &str| Refused {
        place: origin.place(span),
        message,
        help: help.to_owned(),
    };
    let Some(equals) = text.find('=') else {
        return Err(refused(
            0..text.len(),
            "an override is `KEY=VALUE`, this one has no `=`".to_owned(),
            "write `--set dataset.target=64`",
        ));
    };
    let segments = segments(&text[..equals]).ok_or_else(|| {
        refused(
            0..equals,
            format!("`{}` is not a dotted key", &text[..equals]),
            "write the key as in the manifest, its tables before it: `--set dataset.target=64`",
        )
    })?;
    let value = value(text, equals + 1, origin)?;
    place_value(root, &segments, value, origin)
}

/// A segment of a dotted key.
struct Segment {
    name: String,
    span: std::ops::Range<usize>,
}

/// Reads a dotted key as TOML reads one, quoted parts included.
fn segments(key: &str) -> Option<Vec<Segment>> {
    let line = format!("{key}=0");
    let document = DeTable::parse(&line).ok()?;
    let mut segments = Vec::new();
    let mut table = document.get_ref();
    loop {
        let (key, value) = table.iter().next()?;
        segments.push(Segment {
            name: key.get_ref().to_string(),
            span: key.span(),
        });
        match value.get_ref() {
            DeValue::Table(below) => table = below,
            _ => return Some(segments),
        }
    }
}

/// A TOML value; what is none stands for itself, so that words need no quotes in a shell.
fn value(text: &str, start: usize, origin: Origin) -> Result<Node, Refused> {
    let written = text[start..].trim();
    let offset = start + text[start..].find(written).unwrap_or(0);
    let origin = Origin { offset, ..origin };
    let Ok(value) = DeValue::parse(written) else {
        return Ok(Node {
            place: origin.place(0..written.len()),
            value: Value::String(written.to_owned()),
        });
    };
    let mut unfit = Vec::new();
    let node = from_toml(value.get_ref(), 0..written.len(), origin, &mut unfit);
    match unfit.first() {
        Some(place) => Err(Refused {
            place: *place,
            message: "the number does not fit in 64 bits".to_owned(),
            help: "write a smaller number".to_owned(),
        }),
        None => Ok(node),
    }
}

fn place_value(
    root: &mut Node,
    segments: &[Segment],
    value: Node,
    origin: Origin,
) -> Result<(), Refused> {
    let mut node = root;
    for (depth, segment) in segments.iter().enumerate() {
        let key = origin.place(segment.span.clone());
        let parent = || {
            let names: Vec<&str> = segments[..depth].iter().map(|s| s.name.as_str()).collect();
            names.join(".")
        };
        node = match &mut node.value {
            Value::Table(entries) => {
                // A table that the file does not have begins here.
                let entry = entries
                    .entry(segment.name.clone())
                    .or_insert_with(|| Entry {
                        key,
                        node: Node {
                            place: key,
                            value: Value::Table(Default::default()),
                        },
                    });
                &mut entry.node
            }
            Value::Array(items) => {
                let length = items.len();
                let item = segment
                    .name
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get_mut(index));
                item.ok_or_else(|| Refused {
                    place: key,
                    message: format!(
                        "`{}` has {length} {}, and none is number `{}`",
                        parent(),
                        if length == 1 { "entry" } else { "entries" },
                        segment.name
                    ),
                    help: match length {
                        0 => format!("add `[[{}]]` to the manifest", parent()),
                        1 => format!("write `{}.0`", parent()),
                        _ => format!("write `{0}.0` to `{0}.{1}`", parent(), length - 1),
                    },
                })?
            }
            other => {
                return Err(Refused {
                    place: key,
                    message: format!(
                        "`{}` is {}, so it has no `{}`",
                        parent(),
                        other.kind(),
                        segment.name
                    ),
                    help: format!("write `--set {}=VALUE`", parent()),
                });
            }
        };
    }
    *node = value;
    Ok(())
}
