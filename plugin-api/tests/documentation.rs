//! Everything in the contract has its sentence: the documentation of this crate's types, and the
//! comments of the C header, come from there.

use std::path::Path;

use wit_parser::{Docs, Resolve, TypeDefKind};

#[test]
fn nothing_in_the_contract_is_without_a_word() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("wit")
        .join(pacos_plugin::CONTRACT);
    let mut resolve = Resolve::default();
    resolve.push_dir(folder).unwrap();
    let mut silent = Vec::new();
    let mut look = |name: String, docs: &Docs| {
        if docs
            .contents
            .as_ref()
            .is_none_or(|text| text.trim().is_empty())
        {
            silent.push(name);
        }
    };
    for (_, interface) in &resolve.interfaces {
        let own = interface.name.clone().unwrap();
        look(own.clone(), &interface.docs);
        for (name, function) in &interface.functions {
            look(format!("{own}.{name}"), &function.docs);
        }
        for (name, id) in &interface.types {
            let def = &resolve.types[*id];
            let path = format!("{own}.{name}");
            let mut part = |part: &str, docs: &Docs| look(format!("{path}.{part}"), docs);
            match &def.kind {
                // Taken over by `use` from where it is defined.
                TypeDefKind::Type(_) => continue,
                TypeDefKind::Record(record) => {
                    record.fields.iter().for_each(|f| part(&f.name, &f.docs));
                }
                TypeDefKind::Variant(variant) => {
                    variant.cases.iter().for_each(|c| part(&c.name, &c.docs));
                }
                TypeDefKind::Enum(cases) => {
                    cases.cases.iter().for_each(|c| part(&c.name, &c.docs));
                }
                other => panic!("teach this test {other:?}"),
            }
            look(path, &def.docs);
        }
    }
    assert!(silent.is_empty(), "without a word: {silent:?}");
}
